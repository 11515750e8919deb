"""Sealed JSON files: a format, typed content, and a digest over all of it.

Recordings, baselines and results are such files. A seal shows damage and careless editing; it is no
signature.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from harness.errors import FileError
from harness.store.typed_json import (
    MalformedError,
    decode,
    encode,
    line_of,
    parse_json,
    read_json,
)
from harness.worker.files import digest_json, dumps, write_file

T = TypeVar("T")


@dataclass(frozen=True)
class SealedFormat(Generic[T]):
    """One kind of sealed file.

    Attributes:
        name: The format that its content states.
        kind: The dataclass of its content.
        what: What such a file holds, for messages, such as `a baseline`.
        remedy: What to do about a file that is damaged.
    """

    name: str
    kind: type[T]
    what: str
    remedy: str

    def read(self, path: Path) -> T:
        """Return the content of a file.

        Raises:
            FileError: It is missing, damaged, or of another format.
        """
        return self._checked(read_json(path), path, lambda: path.read_text(encoding="utf-8"))

    def parse(self, data: bytes, place: Path | str) -> T:
        """Return the content of a file whose bytes were read from `place`.

        Raises:
            FileError: It is damaged, or of another format.
        """
        try:
            content = parse_json(data.decode())
        except (MalformedError, UnicodeDecodeError) as error:
            problem = f"is not the JSON that the harness writes: {error}"
            raise FileError(place, problem, line=getattr(error, "line", 0)) from error
        return self._checked(content, place, data.decode)

    def _checked(self, content: object, path: Path | str, text: Callable[[], str]) -> T:
        """Return the content as its type; `text` gives the file's text, to name a line of it."""
        found = content.get("format") if isinstance(content, dict) else None
        if found != self.name:
            raise FileError(
                path,
                f"has format {found!r}; this version of the harness reads {self.name!r}",
                "read it with the version that wrote it, or run again",
            )
        if not _is_sealed(content):
            problem = "was changed or cut short: its digest does not fit"
            raise FileError(path, problem, self.remedy)
        try:
            return decode(self.kind, content)
        except MalformedError as error:
            line = 0
            with suppress(OSError, UnicodeDecodeError):  # the file may have gone since
                line = line_of(text(), error.where)
            problem = f"is not {self.what}: {error}"
            raise FileError(path, problem, self.remedy, line) from error


def write_sealed(path: Path, content: object) -> None:
    """Write a dataclass as a JSON file with the digest over it.

    Raises:
        OSError: The file cannot be written; the old one stays.
    """
    write_file(path, sealed_bytes(content))


def sealed_bytes(content: object) -> bytes:
    """Return a dataclass as the bytes of a JSON file with the digest over it."""
    plain = encode(content)
    assert isinstance(plain, Mapping)  # noqa: S101 (for the type checker: a dataclass was encoded)
    sealed = {**plain, "digest": digest_json(plain)}
    return dumps(sealed).encode()


def _is_sealed(content: object) -> bool:
    """Whether the digest that a content states is the one over it."""
    try:
        return isinstance(content, dict) and content.get("digest") == digest_json(content)
    except (ValueError, RecursionError):  # text that is no Unicode, or deep nesting
        return False
