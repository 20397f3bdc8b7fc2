"""Ensembles of models: the mean of their saved class probabilities, decided once, on the exact grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import DataError, MissingPathError, RecordError, SiccsError, UsageError
from siccs_net.inference.postprocess import postprocess
from siccs_net.io import files
from siccs_net.io.formats import endings, stem
from siccs_net.io.image import Segmentation, check_same_grid, read_label
from siccs_net.io.probabilities import (
    SavedProbabilities,
    cases_with_probabilities,
    open_probabilities,
    probabilities_path,
    save_probabilities,
)
from siccs_net.preprocessing.probabilities import LEVELS, most_probable
from siccs_net.records.postprocessing import PostStep
from siccs_net.records.prediction import EnsembleRecord

_PLANES = 8
"""So many planes of all classes are averaged at once, so that no volume of floating point is needed."""


@dataclass(frozen=True)
class Merged:
    """What became of one case."""

    case: str
    status: Literal["written", "kept", "refused"]
    output: Path
    error: SiccsError | None = None
    record: EnsembleRecord | None = None


def ensemble_folders(
    folders: Sequence[Path],
    output: Path,
    *,
    weights: Sequence[float] | None = None,
    postprocessing: Sequence[PostStep] = (),
    keep_probabilities: bool = False,
    overwrite: bool = False,
    on_merged: Callable[[Merged], None] = lambda merged: None,
) -> list[Merged]:
    """Average the saved probabilities of the same cases in several folders into masks in `output`.

    The mean is weighted by `weights` (one a folder; equal by default); the lowest class wins a tie. A case that a
    folder lacks, on another grid or with other classes is refused and the others go on; an existing output is kept
    when it was made from the same arrays in the same way, else refused unless `overwrite`. Raises UsageError for
    fewer than two folders, wrong weights or an output that is one of the folders; MissingPathError for a folder that
    does not exist or holds no probabilities.
    """
    shares = check_sources(folders, output, weights)
    there = {folder: set(cases_with_probabilities(folder)) for folder in folders}
    for folder in [folder for folder, cases in there.items() if not cases]:
        hint = "Predict with siccs_predict --save-probabilities"
        raise MissingPathError("the folder holds no saved probabilities", path=folder, hint=hint)
    output.mkdir(parents=True, exist_ok=True)
    job = _Job(shares, output, tuple(postprocessing), keep_probabilities, overwrite)
    merged = []
    for case in sorted(set().union(*there.values())):
        outcome = _merge(job, case, folders, [folder for folder in folders if case not in there[folder]])
        on_merged(outcome)
        merged.append(outcome)
    return merged


def ensemble_out_of_fold(cases: Mapping[str, Sequence[Path]], output: Path) -> None:
    """Average the probabilities of cases that lie in different folders: for each case one folder a member.

    Masks in `output` are replaced. Raises the error of the first case that cannot be averaged.
    """
    for case, folders in cases.items():
        job = _Job((1 / len(folders),) * len(folders), output, (), keep_probabilities=False, overwrite=True)
        outcome = _merge(job, case, folders, [])
        if outcome.error is not None:
            raise outcome.error


@dataclass(frozen=True)
class _Job:
    shares: tuple[float, ...]
    output: Path
    postprocessing: tuple[PostStep, ...]
    keep_probabilities: bool
    overwrite: bool


def check_sources(sources: Sequence[Path], output: Path, weights: Sequence[float] | None) -> tuple[float, ...]:
    """Return the weights of the sources, their sum 1. Raises UsageError for what cannot be an ensemble."""
    if len(sources) < 2:
        raise UsageError("an ensemble needs two members at least", found=len(sources))
    places = [source.resolve() for source in sources]
    if len(set(places)) < len(places):
        raise UsageError("a member is named twice", found=", ".join(map(str, sources)), hint="Weigh it with --weights")
    if output.resolve() in places:
        raise UsageError("the output is one of the members", path=output, hint="Choose another output folder")
    chosen = [1.0] * len(sources) if weights is None else [float(weight) for weight in weights]
    if len(chosen) != len(sources) or min(chosen) < 0 or not 0 < sum(chosen) < float("inf"):
        raise UsageError("wrong weights", found=chosen, expected=f"{len(sources)} numbers, none negative, not all 0")
    return tuple(weight / sum(chosen) for weight in chosen)


def _merge(job: _Job, case: str, folders: Sequence[Path], lacking: Sequence[Path]) -> Merged:
    target = job.output / case
    try:
        if lacking:
            listed = ", ".join(map(str, lacking))
            raise DataError(f"case {case!r} has no probabilities", path=lacking[0], found=f"none in {listed}")
        members = [open_probabilities(folder, case) for folder in folders]
        _check_members(members, folders, case)
        header, ending = _mask_beside(folders[0], case)
        target = job.output / f"{case}{ending}"
        if (kept := _existing(job, members, target)) is not None:
            return Merged(case, "kept", target, record=kept)
        return Merged(case, "written", target, record=_write(job, members, target, header))
    except (DataError, MissingPathError) as error:
        return Merged(case, "refused", target, error=error)


def _check_members(members: Sequence[SavedProbabilities], folders: Sequence[Path], case: str) -> None:
    first = members[0]
    for member, folder in zip(members[1:], folders[1:], strict=True):
        path = probabilities_path(folder, case)
        if (found := _meaning(member)) != (expected := _meaning(first)):
            raise DataError("has other classes", path=path, found=str(found), expected=str(expected))
        check_same_grid(member.orientation, first.orientation, path=path, other=str(folders[0]))


def _meaning(member: SavedProbabilities) -> list[tuple[str, int | tuple[int, ...]]]:
    """Return the classes or regions in the order of the array."""
    labels = member.labels
    return list(labels.regions.items()) or sorted(labels.plain.items(), key=lambda item: item[1])


def _mask_beside(folder: Path, case: str) -> tuple[Any, str]:
    """Return the file header and the ending of the mask beside the probabilities: the scan's own."""
    for ending in endings():
        if (path := folder / f"{case}{ending}").is_file():
            return read_label(path).header, ending
    raise MissingPathError("the mask beside the probabilities is missing", path=folder / f"{case}{endings()[0]}")


def _existing(job: _Job, members: Sequence[SavedProbabilities], target: Path) -> EnsembleRecord | None:
    if job.overwrite or not target.exists():
        return None
    try:
        record = files.read_record(_record_path(target), EnsembleRecord)
    except (MissingPathError, RecordError):
        record = None
    if record is not None and _made_so(record) == (_sources(members), job.shares, job.postprocessing):
        saved = not job.keep_probabilities or record.case in cases_with_probabilities(job.output)
        if saved and record.output_sha256 == files.file_sha256(target):
            return record
    hint = "--overwrite replaces it, or choose another output folder"
    raise DataError("the output exists and was not made from these members in this way", path=target, hint=hint)


def _made_so(record: EnsembleRecord) -> tuple[tuple[str, ...], tuple[float, ...], tuple[PostStep, ...]]:
    return record.sources_sha256, record.weights, record.postprocessing


def _sources(members: Sequence[SavedProbabilities]) -> tuple[str, ...]:
    return tuple(member.record.array_sha256 for member in members)


def _record_path(target: Path) -> Path:
    return target.with_name(f"{stem(target)}.json")


def _write(job: _Job, members: Sequence[SavedProbabilities], target: Path, header: Any) -> EnsembleRecord:
    record, orientation = members[0].record, members[0].orientation
    labels = members[0].labels
    mask, levels = average(members, job.shares, keep=job.keep_probabilities)
    mask = postprocess(mask, job.postprocessing, orientation.grid.spacing_mm) if job.postprocessing else mask
    if levels is not None:
        save_probabilities(job.output, record.case, levels, LEVELS, labels, orientation, _sources(members))
    segmentation = Segmentation(mask[None], orientation, labels.reported, header)
    made = EnsembleRecord(
        case=record.case,
        sources_sha256=_sources(members),
        weights=job.shares,
        output_sha256=segmentation.save(target),
        volumes_ml=segmentation.volumes_ml(),
        postprocessing=job.postprocessing,
    )
    files.write_record(_record_path(target), made)
    return made


def average(
    members: Sequence[SavedProbabilities], shares: Sequence[float], *, keep: bool = False
) -> tuple[NDArray[Any], NDArray[np.uint8] | None]:
    """Return the label map [z, y, x] of the weighted mean of members' probabilities, and with `keep` its levels."""
    shape = members[0].array.shape
    kept = np.empty(shape, dtype=np.uint8) if keep else None
    decided = []
    for planes in _slabs(shape[1]):
        mean = np.zeros((shape[0], planes.stop - planes.start, *shape[2:]), dtype=np.float32)
        for member, share in zip(members, shares, strict=True):
            mean += np.float32(share / member.record.levels) * member.array[:, planes]
        decided.append(most_probable(mean, members[0].labels))
        if kept is not None:
            kept[:, planes] = np.rint(mean * np.float32(LEVELS))
    return np.concatenate(decided), kept


def _slabs(depth: int) -> Iterator[slice]:
    return (slice(start, min(start + _PLANES, depth)) for start in range(0, depth, _PLANES))
