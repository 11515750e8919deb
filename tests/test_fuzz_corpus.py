"""The corpus that fuzzing left: no reader lets an error escape that it does not document."""

from __future__ import annotations

import runpy
import time
from collections.abc import Callable
from pathlib import Path

import pytest

FUZZ = Path(__file__).resolve().parents[1] / "fuzz"
TARGETS: dict[str, Callable[[bytes, Path], None]] = runpy.run_path(str(FUZZ / "targets.py"))[
    "TARGETS"
]
MOST_FILES = 40
MOST_BYTES = 8192
SECONDS = 5.0  # far more than any input takes, and far less than one that does not end


def corpus(name: str) -> list[Path]:
    """Return the committed inputs of a target."""
    return sorted((FUZZ / "corpus" / name).iterdir())


@pytest.mark.parametrize("name", TARGETS)
def test_no_input_of_the_corpus_makes_a_reader_fall(name: str, tmp_path: Path):
    """Each input is read, and used as far as it can be, in bounded time."""
    for number, path in enumerate(corpus(name)):
        folder = tmp_path / str(number)
        folder.mkdir()
        started = time.perf_counter()
        try:
            TARGETS[name](path.read_bytes(), folder)
        except Exception as error:
            pytest.fail(f"{path.name}: {type(error).__name__}: {error}")
        assert time.perf_counter() - started < SECONDS, path.name


def test_every_corpus_belongs_to_a_target_and_stays_small():
    """A file in a folder without a target would never be replayed."""
    assert {folder.name for folder in (FUZZ / "corpus").iterdir()} == set(TARGETS)
    for name in TARGETS:
        sizes = [path.stat().st_size for path in corpus(name)]
        assert 3 <= len(sizes) <= MOST_FILES, name
        assert max(sizes) <= MOST_BYTES, name


def test_a_target_lets_an_error_escape_that_is_not_documented(tmp_path: Path, monkeypatch):
    """Otherwise the replay could not fail."""
    target = TARGETS["expression"]

    def broken(_text: str) -> None:
        raise KeyError("x")

    monkeypatch.setitem(target.__globals__, "compile_expression", broken)
    with pytest.raises(KeyError):
        target(b"word", tmp_path)
