"""What every record on disk has in common: a schema name, a version, strict and frozen fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from siccs_net.errors import RecordError

_NUMBERS = {int, float}
_encode = json.JSONEncoder(ensure_ascii=False).encode


class Record(BaseModel):
    """A frozen value that is validated when it is made and when it is read.

    Subclasses that are files of their own set `SCHEMA` and `VERSION`; both are written into the file and
    checked on reading. Unknown keys are refused, so that a misspelt setting is never ignored.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)
    SCHEMA: ClassVar[str] = ""
    VERSION: ClassVar[int] = 1

    def to_json(self) -> str:
        """Return the record as JSON text with its schema and version first; ends with a newline."""
        body = self.model_dump(mode="json")
        head = {"schema": self.SCHEMA, "version": self.VERSION} if self.SCHEMA else {}
        return _pretty({**head, **body}) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, *, path: Path | str | None = None) -> Self:
        """Return the record that `to_json` wrote.

        Raises RecordError, naming `path`, for text that is not JSON, another schema, another version, a missing,
        unknown or wrongly typed key.
        """
        try:
            body = json.loads(text)
        except (ValueError, UnicodeDecodeError) as error:
            raise RecordError("not readable as JSON", path=path, found=str(error)) from error
        if not isinstance(body, dict):
            raise RecordError("not a JSON object", path=path, found=type(body).__name__)
        if cls.SCHEMA:
            _check_schema(cls, body.pop("schema", None), body.pop("version", None), path)
        try:
            return cls.model_validate_json(json.dumps(cls._upgrade(body)))
        except ValueError as error:
            found = explain(error) if isinstance(error, ValidationError) else str(error)
            raise RecordError("does not follow its schema", path=path, found=found) from error

    @classmethod
    def _upgrade(cls, body: dict[str, Any]) -> dict[str, Any]:
        """Return the body with keys of older formats renamed."""
        return body


def _pretty(value: Any, indent: str = "\n") -> str:
    """Return what json.dumps(value, indent=1) does, faster: json's C code writes the lists of numbers.

    Asked to indent, json takes its Python code instead, which holds up every other thread.
    """
    inside = indent + " "
    if isinstance(value, dict) and value:
        members = [f"{_encode(key)}: {_pretty(item, inside)}" for key, item in value.items()]
        return "{" + inside + ("," + inside).join(members) + indent + "}"
    if not isinstance(value, list) or not value:
        return _encode(value)
    if set(map(type, value)) <= _NUMBERS:
        return "[" + inside + _encode(value)[1:-1].replace(", ", "," + inside) + indent + "]"
    return "[" + inside + ("," + inside).join([_pretty(item, inside) for item in value]) + indent + "]"


def _check_schema(cls: type[Record], schema: object, version: object, path: Path | str | None) -> None:
    if schema != cls.SCHEMA:
        raise RecordError("is another kind of file", path=path, found=f"schema {schema!r}", expected=repr(cls.SCHEMA))
    if version != cls.VERSION:
        raise RecordError(
            "was written by another version of siccs_net",
            path=path,
            found=f"version {version!r}",
            expected=f"version {cls.VERSION}",
            hint="Make it again with this version",
        )


def explain(error: ValidationError) -> str:
    """Return pydantic's findings as one line: 'key: what is wrong; key: what is wrong'."""
    return "; ".join(f"{'.'.join(map(str, item['loc'])) or 'the record'}: {item['msg']}" for item in error.errors())
