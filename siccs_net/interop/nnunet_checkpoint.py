"""Read nnU-Net's checkpoint_*.pth without executing anything: torch's zip of a pickle, by a restricted unpickler.

A pickle names functions that its reader is to call. Here no name is looked up: each of the few names that nnU-Net's
checkpoints use stands for a function or class of this file, and any other is refused. What comes out are tensors,
numpy numbers and arrays, and plain containers. Tensors stay on disk until they are asked for, so that the state of
the optimizer, half of the file, is never read.
"""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from siccs_net.errors import MissingPathError, ModelError

MAX_PICKLE_BYTES = 64 << 20
"""The pickle holds names, plans and curves, not weights: a few megabytes."""
_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_UNREADABLE = (
    *(pickle.UnpicklingError, zipfile.BadZipFile, EOFError, ValueError, TypeError, KeyError, IndexError),
    *(AttributeError, OverflowError, MemoryError, RecursionError, NotImplementedError, RuntimeError, UnicodeError),
    *(OSError, struct.error, zlib.error),
)
"""What a damaged or hostile archive or pickle makes its readers raise."""


class _ForbiddenError(Exception):
    """A pickle names something that is not on the list."""


class _Sealed:
    """What a pickle made it cannot change afterwards (its BUILD instruction sets attributes of any object)."""

    def __setstate__(self, state: Any) -> NoReturn:
        raise _ForbiddenError(f"attributes of a {type(self).__name__}")


@dataclass(frozen=True)
class _Storage(_Sealed):
    dtype: str
    member: str
    count: int


@dataclass(frozen=True)
class StoredTensor(_Sealed):
    """A tensor that still lies in its file; `read` returns it."""

    archive: Path
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> NDArray[Any]:
        """Return the tensor as an array of its shape; bfloat16 becomes float32. Raises ModelError when damaged."""
        last = self.offset + sum((size - 1) * step for size, step in zip(self.shape, self.strides, strict=True))
        if 0 in self.shape:
            return np.zeros(self.shape, dtype=np.float32)
        if self.offset < 0 or min(self.strides, default=0) < 0 or last >= self.storage.count:
            raise ModelError("a tensor reaches beyond its storage", path=self.archive, found=f"shape {self.shape}")
        flat = self._flat()
        steps = [step * flat.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, steps).copy()

    def _flat(self) -> NDArray[Any]:
        narrow = self.storage.dtype == "bfloat16"
        kind = np.dtype("<u2" if narrow else self.storage.dtype)
        try:
            with zipfile.ZipFile(self.archive) as archive:
                member = archive.getinfo(self.storage.member)
                size = member.file_size
                if size != self.storage.count * kind.itemsize or member.compress_type != zipfile.ZIP_STORED:
                    raise ModelError(
                        "a tensor is not of its size",
                        path=self.archive,
                        found=f"{size} bytes",
                        expected=self.storage.count * kind.itemsize,
                    )
                data = np.frombuffer(archive.read(self.storage.member), dtype=kind)
        except _UNREADABLE as error:
            raise ModelError("is damaged", path=self.archive, found=str(error)) from error
        return (data.astype(np.uint32) << 16).view(np.float32) if narrow else data


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Return a checkpoint's dictionary: tensors as `StoredTensor`, the rest as plain Python and numpy values.

    Raises MissingPathError; ModelError for a file that is damaged, of the format before torch 1.6, or whose pickle
    names anything but tensors, numpy numbers and plain containers. Nothing in the file is executed.
    """
    if not path.is_file():
        raise MissingPathError("the checkpoint does not exist", path=path)
    try:
        with zipfile.ZipFile(path) as archive:
            member = _pickle_member(archive, path)
            _check_byteorder(archive, member.removesuffix("data.pkl"), path)
            content = archive.read(member)
        found = _Unpickler(content, path, member.removesuffix("data.pkl")).load()
    except _ForbiddenError as error:
        raise ModelError(
            "is refused: its pickle asks for more than tensors and plain containers",
            path=path,
            found=str(error),
            expected="a checkpoint that nnU-Net v2 wrote",
            hint="Nothing of it was executed. Do not load it elsewhere unless you trust its source",
        ) from None
    except _UNREADABLE as error:
        raise ModelError("is not a readable checkpoint", path=path, found=f"{type(error).__name__}: {error}") from error
    if not isinstance(found, dict):
        raise ModelError("is not a checkpoint of nnU-Net", path=path, found=type(found).__name__, expected="a dict")
    return found


def _pickle_member(archive: zipfile.ZipFile, path: Path) -> str:
    members = [item for item in archive.infolist() if item.filename.count("/") == 1]
    pickles = [item for item in members if item.filename.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ModelError("is not a torch checkpoint", path=path, found=f"{len(pickles)} members data.pkl", expected=1)
    if pickles[0].file_size > MAX_PICKLE_BYTES:
        raise ModelError(
            "holds too large a pickle", path=path, found=f"{pickles[0].file_size} bytes", expected=MAX_PICKLE_BYTES
        )
    return pickles[0].filename


def _check_byteorder(archive: zipfile.ZipFile, prefix: str, path: Path) -> None:
    name = f"{prefix}byteorder"
    if name in archive.namelist() and archive.getinfo(name).file_size < 64 and archive.read(name) != b"little":
        raise ModelError("was written on a machine of another byte order", path=path, expected="little-endian")


class _Unpickler(pickle.Unpickler):
    """Looks up no name: `find_class` hands out this file's own functions, behind objects that cannot be changed."""

    def __init__(self, content: bytes, path: Path, prefix: str) -> None:
        super().__init__(io.BytesIO(content))
        self._path = path
        self._prefix = prefix

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        maker = _makers(self._path).get((module, name))
        if maker is None:
            raise _ForbiddenError(f"{module}.{name}")
        return _Maker(maker)

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid
        if kind != "storage" or not isinstance(key, str) or not key.isdigit() or not isinstance(count, int):
            raise _ForbiddenError(f"a storage called {key!r}")
        if dtype not in _DTYPES.values():
            raise _ForbiddenError(f"a storage of {dtype!r}")
        return _Storage(dtype, f"{self._prefix}data/{key}", count)


class _Maker:
    """Something a pickle may call and nothing else: no attribute can be set, no subclass or instance made."""

    __slots__ = ("_function",)
    _function: Callable[..., Any]

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise _ForbiddenError(f"an attribute {name!r} of a function")


class _Mapping(dict[Any, Any]):
    """An OrderedDict of the file; the attributes that state dicts carry (their modules' versions) are left out."""

    def __setstate__(self, state: Any) -> None:
        pass


class _Dtype:
    """numpy's dtype: numbers of a fixed size only."""

    __slots__ = ("kind",)

    def __init__(self, kind: Any, *_: Any) -> None:
        self.kind = np.dtype("V1")
        if isinstance(kind, str) and kind in ("f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"):
            self.kind = np.dtype(kind)
        else:
            raise _ForbiddenError(f"numpy data of type {kind!r}")

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        if state[1] in ("<", ">"):
            self.kind = self.kind.newbyteorder(state[1])


class _Array:
    """numpy's ndarray between its two steps of unpickling; `value` is the array."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: NDArray[Any] = np.zeros(0)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, fortran, data = state
        flat = np.frombuffer(_bytes(data), dtype=dtype.kind)
        self.value = flat.reshape(shape, order="F" if fortran else "C").copy()


def _makers(path: Path) -> dict[tuple[str, str], Callable[..., Any]]:
    """What each admitted name stands for."""

    def tensor(storage: _Storage, offset: int, shape: Any, strides: Any, *_: Any) -> StoredTensor:
        if not isinstance(storage, _Storage):
            raise _ForbiddenError("a tensor without a storage")
        return StoredTensor(path, storage, int(offset), tuple(map(int, shape)), tuple(map(int, strides)))

    numpy_makers = {
        (f"numpy.{core}.multiarray", name): maker
        for core in ("core", "_core")
        for name, maker in (("scalar", _number), ("_reconstruct", lambda *_: _Array()))
    }
    return {
        ("torch._utils", "_rebuild_tensor_v2"): tensor,
        ("torch._utils", "_rebuild_parameter"): lambda value, *_: value,
        ("torch", "Size"): tuple,
        ("torch", "device"): lambda *parts: ":".join(map(str, parts)),
        ("collections", "OrderedDict"): _Mapping,
        ("numpy", "dtype"): _Dtype,
        ("numpy", "ndarray"): lambda *_: None,
        ("_codecs", "encode"): _encode,
        **numpy_makers,
    }


def _number(dtype: _Dtype, data: Any) -> Any:
    return np.frombuffer(_bytes(data), dtype=dtype.kind, count=1)[0]


def _bytes(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise _ForbiddenError(f"numpy data in a {type(data).__name__}")
    return data


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How pickles of protocol 2 write bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise _ForbiddenError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")
