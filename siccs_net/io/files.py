"""Whole files in and out: read with a named error, written under a temporary name, verified, then renamed."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from siccs_net.errors import EnvironmentProblem, MissingPathError
from siccs_net.records.base import Record

AnyRecord = TypeVar("AnyRecord", bound=Record)


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of bytes as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces of 4 MiB. Raises MissingPathError."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as stream:
            while piece := stream.read(1 << 22):
                digest.update(piece)
    except FileNotFoundError as error:
        raise MissingPathError("the file does not exist", path=path) from error
    except OSError as error:
        raise EnvironmentProblem("cannot be read", path=path, found=error.strerror) from error
    return digest.hexdigest()


def read_bytes(path: Path) -> bytes:
    """Return a file's bytes. Raises MissingPathError, or EnvironmentProblem when it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise MissingPathError("the file does not exist", path=path) from error
    except OSError as error:
        raise EnvironmentProblem("cannot be read", path=path, found=error.strerror) from error


def read_buffer(path: Path) -> memoryview:
    """Return a file's bytes in memory of numpy's, which asks for large pages: faster for large files.

    Raises MissingPathError, or EnvironmentProblem when it cannot be read.
    """
    try:
        with open(path, "rb", buffering=0) as stream:
            buffer = np.empty(os.fstat(stream.fileno()).st_size, np.uint8)
            filled = 0
            while filled < len(buffer) and (count := stream.readinto(buffer[filled:].data)):
                filled += count
    except FileNotFoundError as error:
        raise MissingPathError("the file does not exist", path=path) from error
    except OSError as error:
        raise EnvironmentProblem("cannot be read", path=path, found=error.strerror) from error
    return buffer[:filled].data


def write_bytes(path: Path, data: bytes | memoryview, *, verify: bool = True) -> str:
    """Write a file so that it is either whole and new, or untouched; return its SHA-256.

    The bytes go to a temporary name in the same folder, are fsynced, read back and compared (`verify`), renamed
    over `path`, and the folder is fsynced. Raises EnvironmentProblem (full disk, no permission, bad read-back).
    """
    with _in_place_of(path) as temporary:
        _write_synced(temporary, data)
        digest = sha256(data)
        if verify and file_sha256(temporary) != digest:
            raise EnvironmentProblem("reads back other bytes than were written", path=path, hint="Check the disk")
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise disk_problem(error, path) from error
    return digest


def write_cache(path: Path, pieces: Sequence[bytes | memoryview]) -> str:
    """Write a file that can be made again, of several pieces, under its name at once; return its SHA-256.

    It is neither fsynced nor read back: a record with its hash is written after it, and a reader checks that, so that
    a file lost with the machine's power is made again. Raises EnvironmentProblem.
    """
    digest = hashlib.sha256()
    with _in_place_of(path) as temporary, open(temporary, "wb") as stream:
        for piece in pieces:
            stream.write(piece)
            digest.update(piece)
    return digest.hexdigest()


@contextlib.contextmanager
def _in_place_of(path: Path) -> Iterator[Path]:
    """Give a temporary name in the folder of `path` and rename that file over it, or delete it where that fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.tmp")
    try:
        try:
            yield temporary
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise disk_problem(error, path) from error


def _write_synced(path: Path, data: bytes | memoryview) -> None:
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def disk_problem(error: OSError, path: Path) -> EnvironmentProblem:
    """Return the named error for a failed write; a full disk is called a full disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return EnvironmentProblem("the disk is full", path=path, hint="Free some space and run the command again")
    return EnvironmentProblem("cannot be written", path=path, found=error.strerror)


def read_record(path: Path, kind: type[AnyRecord]) -> AnyRecord:
    """Read a record. Raises MissingPathError or RecordError, both naming the file."""
    return kind.from_json(read_bytes(path), path=path)


def write_record(path: Path, record: Record) -> str:
    """Write a record atomically, unless the file holds it already; return the SHA-256 of the file."""
    return write_unless_same(path, record.to_json().encode())


def write_unless_same(path: Path, data: bytes) -> str:
    """Write a file as `write_bytes` does, unless it holds these very bytes already; return its SHA-256."""
    if path.is_file() and path.stat().st_size == len(data) and read_bytes(path) == data:
        return sha256(data)
    return write_bytes(path, data)


@contextlib.contextmanager
def exclusive(folder: Path, work: str) -> Iterator[None]:
    """Hold a folder for this process. Raises EnvironmentProblem at once when another process holds it.

    The lock ends with the process, however it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as stream:
        try:
            # A record lock: unlike flock's it is not inherited by loader workers, which may outlive a killed process.
            fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            raise EnvironmentProblem(
                f"another process is {work} here", path=folder, hint="Wait for it, or end it, and run this again"
            ) from error
        yield
