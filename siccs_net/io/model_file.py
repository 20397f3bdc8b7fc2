"""A model as one file: a zip, nothing compressed, of the model folder's records and weights, and a manifest.

manifest.json holds the SHA-256 and size of every other member. Names are those of a model folder and no others, so
none can lead elsewhere; everything is checked before it is used, and nothing in the file is executed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import struct
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from siccs_net.errors import MissingPathError, ModelError, RecordError
from siccs_net.io import files
from siccs_net.io.model_folder import chosen_folds, model_members
from siccs_net.records.model_file import Manifest, Member
from siccs_net.workspace import ModelFolder

MANIFEST = "manifest.json"
MAX_JSON_BYTES, MAX_WEIGHTS_BYTES = 64 << 20, 16 << 30
"""A member larger than this is refused before it is read."""
_NAMES = re.compile(r"(model|plan|dataset)\.json|fold_(\d{1,4}|full)/final\.(json|safetensors)")
_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The zip format's own zero: no time of writing, so that equal models give equal bytes."""
_PIECE = 1 << 22
_UNREADABLE = (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError, OverflowError, struct.error)


def is_model_file(path: Path) -> bool:
    """Say whether a file is a zip with a manifest at its root, whole or not."""
    try:
        with zipfile.ZipFile(path) as archive:
            return MANIFEST in archive.namelist()
    except (*_UNREADABLE, OSError):
        return False


def pack(model: ModelFolder, output: Path, *, folds: Sequence[int | str] | None = None) -> str:
    """Write a model folder as one file and check it; return the file's SHA-256.

    Raises MissingPathError for what is no model folder, ModelError for a fold whose weights are not its record's,
    UsageError for a fold that is not there.
    """
    members = model_members(model, chosen_folds(model, folds))
    manifest = Manifest(members=tuple(_describe(name, path) for name, path in members.items()))
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(MANIFEST, _EPOCH), manifest.to_json())
            for name, path in members.items():
                _add(archive, name, path)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        _check_whole(temporary)
        digest = files.file_sha256(temporary)
        os.replace(temporary, output)
    except OSError as error:
        raise files.disk_problem(error, output) from error
    finally:
        temporary.unlink(missing_ok=True)
    return digest


def _describe(name: str, path: Path) -> Member:
    return Member(name=name, sha256=files.file_sha256(path), size=path.stat().st_size)


def _add(archive: zipfile.ZipFile, name: str, path: Path) -> None:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.file_size = path.stat().st_size
    with open(path, "rb") as source, archive.open(info, "w") as target:
        while piece := source.read(_PIECE):
            target.write(piece)


def _check_whole(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        for member, info in _members(archive, path):
            with archive.open(info) as stream:
                _copy_checked(stream, member, None, path)


@contextlib.contextmanager
def unpacked(path: Path) -> Iterator[ModelFolder]:
    """Yield the model folder that a file holds, in a temporary place, every member checked against the manifest.

    Raises MissingPathError; ModelError naming the member for a file that is damaged, tampered with, or holds
    anything but a model.
    """
    if not path.is_file():
        raise MissingPathError("the model file does not exist", path=path)
    with tempfile.TemporaryDirectory(prefix="siccs_model_") as scratch:
        folder = Path(scratch) / "model"
        try:
            with zipfile.ZipFile(path) as archive:
                for member, info in _members(archive, path):
                    target = folder / member.name
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with archive.open(info) as stream, open(target, "wb") as out:
                        _copy_checked(stream, member, out, path)
        except _UNREADABLE as error:
            raise ModelError("is damaged", path=path, found=str(error), hint="Copy or export it again") from error
        except OSError as error:
            if error.errno == errno.EINVAL:  # a damaged directory points before the file
                raise ModelError("is damaged", path=path, found=str(error)) from error
            raise files.disk_problem(error, folder) from error
        yield ModelFolder(folder)


def _members(archive: zipfile.ZipFile, path: Path) -> list[tuple[Member, zipfile.ZipInfo]]:
    """Return the manifest's members with their places in the zip, if these are exactly what the zip holds."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if MANIFEST not in names:
        raise ModelError(
            "is not a model file", path=path, found="no manifest.json", expected="siccs_export_model's file"
        )
    for info in infos:
        _check_member(info, path)
    try:
        manifest = Manifest.from_json(archive.read(MANIFEST), path=path)
    except RecordError as error:
        raise ModelError("its manifest does not follow its schema", path=path, found=error.found) from error
    listed = [MANIFEST, *(member.name for member in manifest.members)]
    if sorted(names) != sorted(listed) or len(set(names)) < len(names):
        odd = sorted({name for name in [*names, *listed] if names.count(name) != 1 or listed.count(name) != 1})
        raise ModelError("its members are not those of its manifest", path=path, found=", ".join(map(repr, odd)))
    return [(member, archive.getinfo(member.name)) for member in manifest.members]


def _check_member(info: zipfile.ZipInfo, path: Path) -> None:
    name = info.filename
    if name != MANIFEST and not _NAMES.fullmatch(name):
        raise ModelError("holds a file that is no part of a model", path=path, found=repr(name))
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        raise ModelError("holds a member that is compressed or encrypted", path=path, found=name, expected="stored")
    largest = MAX_WEIGHTS_BYTES if name.endswith(".safetensors") else MAX_JSON_BYTES
    if info.file_size > largest:
        raise ModelError(
            "holds too large a member", path=path, found=f"{name}: {info.file_size} bytes", expected=largest
        )


def _copy_checked(stream: IO[bytes], member: Member, out: IO[bytes] | None, path: Path) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        while piece := stream.read(_PIECE):
            digest.update(piece)
            size += len(piece)
            if out is not None:
                out.write(piece)
    except _UNREADABLE as error:
        raise ModelError("a member is damaged", path=path, found=f"{member.name}: {error}") from error
    if size != member.size or digest.hexdigest() != member.sha256:
        raise ModelError(
            "a member is damaged or was tampered with: its SHA-256 is not the manifest's",
            path=path,
            found=member.name,
            hint="Copy or export the file again",
        )
