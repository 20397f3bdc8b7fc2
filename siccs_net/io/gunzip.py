"""Gzip with every check made: CRC and length of each member, nothing after the last one, a cap on the size.

nibabel and SimpleITK read damaged gzip files without a word in most cases, so the bytes are inflated here.
"""

from __future__ import annotations

import struct

import numpy as np
from isal import igzip_lib

from siccs_net.errors import ImageError

_IsalError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # its stub calls it an instance
_MAGIC = b"\x1f\x8b"
MAX_DECODED_BYTES = 16 << 30
_FIRST_PIECE = 1 << 17
"""Compressed bytes that surely hold a first header: a gzip header may carry 64 KiB of its own."""

_PACKED_PIECE, _INFLATED_PIECE = 1 << 16, 1 << 17
"""Bytes inflated at a time: both fit the processor's second cache."""
_LARGEST_RATIO = 1032
"""Deflate makes at most so many bytes of one."""


def is_gzip(data: bytes | memoryview) -> bool:
    """Say whether the bytes begin like a gzip file."""
    return data[:2] == _MAGIC


def gunzip_start(data: bytes | memoryview, size: int) -> bytes:
    """Return the first `size` inflated bytes, or fewer for a shorter or damaged file: only `gunzip` checks it.

    It costs a few milliseconds whatever the file's size, so a header can say how much the whole file may hold.
    """
    content, rest = b"", data[:_FIRST_PIECE]
    while is_gzip(rest) and len(content) < size:
        inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
        try:
            content += inflater.decompress(rest, size - len(content))
        except (_IsalError, EOFError, ValueError):
            break
        rest = inflater.unused_data if inflater.eof else b""
    return content


def gunzip(data: bytes | memoryview, *, limit: int = MAX_DECODED_BYTES) -> memoryview:
    """Return the inflated bytes of a gzip file of one or more members.

    They are inflated in pieces that stay in the processor's cache, into one buffer of the size that the file states.
    Raises ImageError for a truncated file, a wrong CRC or length, bytes that
    follow the last member, or more than `limit` bytes of content.
    """
    content = _Content(_stated_size(data), limit)
    rest = memoryview(data)
    while rest:
        if not is_gzip(rest):
            if not bytes(rest).strip(b"\0"):  # tape padding after the last member is allowed by RFC 1952 readers
                break
            raise ImageError("holds bytes that are not gzip after its end", found=f"{len(rest)} bytes")
        rest = rest[_inflate_member(rest, content) :]
    return content.whole()


def _stated_size(data: bytes | memoryview) -> int:
    """Return the size that the last member's end states, if the file could hold so much: a guess, not to be trusted."""
    (stated,) = struct.unpack("<I", data[-4:]) if len(data) >= 4 else (0,)
    return min(int(stated), len(data) * _LARGEST_RATIO)


class _Content:
    """Inflated bytes, gathered in one buffer that grows only where more come than were expected."""

    def __init__(self, expected: int, limit: int) -> None:
        self._buffer = np.empty(min(expected, limit), np.uint8)
        self._limit = limit
        self.size = 0

    def append(self, piece: bytes) -> None:
        """Add bytes. Raises ImageError for more than the limit."""
        end = self.size + len(piece)
        if end > self._limit:
            raise ImageError(
                "inflates to more bytes than its header and this version allow",
                found=f"more than {self._limit}",
                expected=f"at most {self._limit}",
                hint="The file is damaged, or was made to fill the memory",
            )
        if end > len(self._buffer):
            grown = np.empty(min(max(2 * len(self._buffer), end), self._limit), np.uint8)
            grown[: self.size] = self._buffer[: self.size]
            self._buffer = grown
        self._buffer[self.size : end] = np.frombuffer(piece, np.uint8)
        self.size = end

    def whole(self) -> memoryview:
        """Return all bytes so far, without a copy."""
        return self._buffer[: self.size].data


def _inflate_member(data: memoryview, content: _Content) -> int:
    """Inflate one member into `content`, checked; return where it ends in `data`."""
    inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    before, position = content.size, 0
    try:
        while not inflater.eof and (position < len(data) or not inflater.needs_input):
            packed = data[position : position + _PACKED_PIECE] if inflater.needs_input else b""
            position += len(packed)
            content.append(inflater.decompress(packed, _INFLATED_PIECE))
    except (_IsalError, EOFError, ValueError) as error:
        raise ImageError("is a damaged gzip file", found=str(error), hint="Copy or download the file again") from error
    found = content.size - before
    if not inflater.eof:
        raise ImageError("is a truncated gzip file", found=f"{found} bytes before its end", hint="Copy it again")
    end = position - len(inflater.unused_data)
    _check_length(data[end - 4 : end], found)
    return end


def _check_length(ending: memoryview, found: int) -> None:
    (stored,) = struct.unpack("<I", ending)
    if stored != found & 0xFFFFFFFF:
        raise ImageError("is a damaged gzip file", found=f"{found} bytes inside", expected=f"{stored} bytes")


def gzip(data: bytes) -> bytes:
    """Return the bytes as a gzip file without name or time, so that equal content gives equal files."""
    packed: bytes = igzip_lib.compress(data, level=2, flag=igzip_lib.COMP_GZIP)
    return packed
