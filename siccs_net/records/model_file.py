"""manifest.json of an exported model: what the file holds, and the hashes that prove it whole."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from siccs_net.records.base import Record


class Member(Record):
    """One file of the model folder, by its name in the zip."""

    name: str
    sha256: str
    size: int = Field(ge=0)


class Manifest(Record):
    """Every member of the file but the manifest itself."""

    SCHEMA: ClassVar[str] = "siccs_net.model_file"

    members: tuple[Member, ...]
