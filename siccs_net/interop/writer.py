"""The one writer of datasets: verified files first, dataset.json last, so that a half-made dataset is not one."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import secrets
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from siccs_net.errors import DataError, UsageError
from siccs_net.interop.channels import split_channels
from siccs_net.interop.checking import CheckedCase, is_stack
from siccs_net.interop.draft import ENDING, Draft
from siccs_net.io import files
from siccs_net.io.gunzip import gzip, is_gzip
from siccs_net.parallel import run_all
from siccs_net.records.dataset import BACKGROUND, DatasetDescription

_TABLES = ("patients.csv", "pft.csv")
_FOLDERS = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")


@dataclass(frozen=True)
class Written:
    """A file of the dataset: `kept` was there already with the same bytes."""

    path: Path
    sha256: str
    status: Literal["written", "linked", "kept"]


def refuse_existing(folder: Path, draft: Draft, *, overwrite: bool) -> None:
    """Raise UsageError when the folder is a dataset already, or holds what the dataset would be made from."""
    if (folder / "dataset.json").exists() and not overwrite:
        hint = "Choose another -d or -o, or replace it with --overwrite"
        raise UsageError("is a dataset already", path=folder, hint=hint)
    inside = folder.resolve()
    for path in draft.sources:
        if path.resolve().is_relative_to(inside):
            raise UsageError("the dataset would be made from files inside its own folder", path=folder, found=path)


def refuse_leftovers(folder: Path, targets: Collection[str]) -> None:
    """Raise UsageError when the folder holds scans or tables that would become part of the dataset unasked."""
    found = [f"{part}/{path.name}" for part in _FOLDERS for path in sorted((folder / part).glob("[!.]*"))]
    found += [name for name in _TABLES if (folder / name).exists()]
    if leftovers := [name for name in found if name not in targets]:
        raise UsageError(
            "holds files that do not belong to the dataset to be made",
            path=folder,
            found=f"{len(leftovers)} files such as {', '.join(leftovers[:3])}",
            hint="Delete them, or choose another folder",
        )


def describe(draft: Draft, checked: Sequence[CheckedCase], path: Path) -> bytes:
    """Return dataset.json for these cases. Raises RecordError when the labels or channels make no sense."""
    labels = draft.labels
    if labels is None:
        found = sorted(frozenset().union(*(case.values for case in checked)) - {0})
        labels = {BACKGROUND: 0, **{f"label_{value}": value for value in found}}
    body: dict[str, Any] = {
        **draft.further_keys,
        "channel_names": {str(number): name for number, name in enumerate(draft.channel_names)},
        "labels": dict(labels),
        "numTraining": sum(case.case.label is not None for case in checked),
        "file_ending": ENDING,
        **({"siccs_groups": dict(draft.groups)} if draft.groups else {}),
    }
    text = (json.dumps(body, indent=2, ensure_ascii=False) + "\n").encode()
    DatasetDescription.from_json(text, path=path)
    return text


def write_cases(
    folder: Path,
    checked: Sequence[CheckedCase],
    channels: int,
    *,
    link: bool,
    overwrite: bool,
    workers: int | None = None,
) -> Iterator[list[Written]]:
    """Write the cases' images and labels; yield each case's files as they are done.

    A gzip file is copied byte for byte, or linked; another one is compressed, and a file of several channels is taken
    apart. Raises DataError when a source is no longer what was checked, UsageError when other content is in the way.
    """
    jobs = run_all(lambda case: _write_case(folder, case, channels, link, overwrite), checked, workers=workers)
    return (written for _, written in jobs)


def write_tables(folder: Path, draft: Draft, checked: Sequence[CheckedCase], *, overwrite: bool) -> list[Written]:
    """Write patients.csv and pft.csv for these cases."""
    names = [case.case.name for case in checked if case.case.label is not None]
    written = []
    for file_name, table in draft.tables.items():
        text = table_text(("case", *table.columns), [(case, *table.rows[case]) for case in names])
        written.append(write_file(folder / file_name, text, overwrite=overwrite))
    return written


def table_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """Return a CSV table in UTF-8."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return stream.getvalue().encode()


def write_file(path: Path, content: bytes, *, overwrite: bool) -> Written:
    """Write a file, unless it is there with this content. Raises UsageError when other content is in the way."""
    digest = files.sha256(content)
    if _is_there(path, digest, overwrite):
        return Written(path, digest, "kept")
    return Written(path, files.write_bytes(path, content), "written")


def _is_there(path: Path, digest: str, overwrite: bool) -> bool:
    if not path.exists():
        return False
    if files.file_sha256(path) == digest:
        return True
    if not overwrite:
        raise UsageError("is there with other content", path=path, hint="Replace it with --overwrite")
    return False


def _write_case(folder: Path, checked: CheckedCase, channels: int, link: bool, overwrite: bool) -> list[Written]:
    case = checked.case
    targets = [folder / name for name in case.targets(channels)]
    written = []
    sources = list(case.images)
    if is_stack(case, channels):
        parts = split_channels(_read_checked(checked, sources.pop()))
        written += [
            write_file(path, gzip(part), overwrite=overwrite)
            for path, part in zip(targets[:channels], parts, strict=True)
        ]
    sources += [case.label] if case.label else []
    for path, source in zip(targets[len(written) :], sources, strict=True):
        data = _read_checked(checked, source)
        if link and is_gzip(data):
            written.append(_link(path, source, checked.sha256[source], overwrite))
        else:
            written.append(write_file(path, data if is_gzip(data) else gzip(data), overwrite=overwrite))
    return written


def _read_checked(checked: CheckedCase, source: Path) -> bytes:
    data = files.read_bytes(source)
    if files.sha256(data) != checked.sha256[source]:
        raise DataError("was changed while it was converted", path=source, hint="Run the command again")
    return data


def _link(path: Path, source: Path, digest: str, overwrite: bool) -> Written:
    """Make a hard link: it needs no room, and stays when the source is moved or deleted."""
    if _is_there(path, digest, overwrite):
        return Written(path, digest, "kept")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{secrets.token_hex(6)}.tmp")
    try:
        os.link(source.resolve(), temporary)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
            hint = "Leave out --link to copy: links need one file system that allows them"
            raise UsageError("cannot be linked", path=source, found=error.strerror, hint=hint) from error
        raise files.disk_problem(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)
    return Written(path, digest, "linked")
