"""Gzip with every check made: CRC and length of each member, nothing after the last one, a cap on the size.

nibabel and SimpleITK read damaged gzip files without a word in most cases, so the bytes are inflated here.
"""

from __future__ import annotations

import struct

from isal import igzip_lib

from siccs_net.errors import ImageError

_IsalError: type[Exception] = igzip_lib.IsalError  # type: ignore[assignment]  # its stub calls it an instance
_MAGIC = b"\x1f\x8b"
MAX_DECODED_BYTES = 16 << 30
_FIRST_PIECE = 1 << 17
"""Compressed bytes that surely hold a first header: a gzip header may carry 64 KiB of its own."""


def is_gzip(data: bytes) -> bool:
    """Say whether the bytes begin like a gzip file."""
    return data[:2] == _MAGIC


def gunzip_start(data: bytes, size: int) -> bytes:
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


def gunzip(data: bytes, *, limit: int = MAX_DECODED_BYTES) -> bytes:
    """Return the inflated bytes of a gzip file of one or more members.

    Raises ImageError for a truncated file, a wrong CRC or length, bytes that follow the last member, or more than
    `limit` bytes of content.
    """
    members: list[bytes] = []
    rest = data
    while rest:
        if not is_gzip(rest):
            if not rest.strip(b"\0"):  # tape padding after the last member is allowed by RFC 1952 readers
                break
            raise ImageError("holds bytes that are not gzip after its end", found=f"{len(rest)} bytes")
        content, rest = _inflate_member(rest, limit - sum(map(len, members)))
        members.append(content)
    return members[0] if len(members) == 1 else b"".join(members)


def _inflate_member(data: bytes, limit: int) -> tuple[bytes, bytes]:
    inflater = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP)
    try:
        content = inflater.decompress(data, limit + 1)
    except (_IsalError, EOFError, ValueError) as error:
        raise ImageError("is a damaged gzip file", found=str(error), hint="Copy or download the file again") from error
    if len(content) > limit:
        raise ImageError(
            "inflates to more bytes than its header and this version allow",
            found=f"more than {limit}",
            expected=f"at most {limit}",
            hint="The file is damaged, or was made to fill the memory",
        )
    if not inflater.eof:
        raise ImageError("is a truncated gzip file", found=f"{len(content)} bytes before its end", hint="Copy it again")
    rest = inflater.unused_data
    _check_length(data[: len(data) - len(rest)], content)
    return content, rest


def _check_length(member: bytes, content: bytes) -> None:
    (stored,) = struct.unpack("<I", member[-4:])
    if stored != len(content) & 0xFFFFFFFF:
        raise ImageError("is a damaged gzip file", found=f"{len(content)} bytes inside", expected=f"{stored} bytes")


def gzip(data: bytes) -> bytes:
    """Return the bytes as a gzip file without name or time, so that equal content gives equal files."""
    packed: bytes = igzip_lib.compress(data, level=2, flag=igzip_lib.COMP_GZIP)
    return packed
