"""The store: what is written is read back whole, the right baseline judges, and nothing damaged is ever used."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path

import builders
import numpy as np
import pytest

from harness.errors import BaselineError
from harness.records import open_tensors
from harness.store.baselines import KEPT, Store
from harness.worker.protocol import dumps

FORMAT = (
    "this harness reads 'harness-baseline/1'\n  do: use the harness that wrote it, or record again"
)
REMEDY = "\n  do: restore both files from version control, or delete them and record the case again"
CASE = builders.case()
AWKWARD = {
    "third": 1 / 3,
    "sum": 0.1 + 0.2,
    "smallest": 5e-324,
    "largest": 1.7976931348623157e308,
    "minus": -0.0,
}


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Return an empty store; git knows an author, and the folder is no repository."""
    for key, value in {
        "GIT_AUTHOR_NAME": "Ada L",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_CEILING_DIRECTORIES": "/",
    }.items():
        monkeypatch.setenv(key, value)
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "baselines")


@pytest.fixture
def recorded(tmp_path):
    """Return a function that writes a recording to a folder of its own."""

    def record(name: str = "recording", *arguments, **changes):
        return builders.recording(tmp_path / name, *arguments, **changes)

    return record


def edit(path: Path, **changes) -> None:
    """Change members of a baseline's JSON as a person with an editor would."""
    path.write_text(
        dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8"
    )


def test_what_is_written_is_read_back_bit_for_bit(store, recorded):
    """Every number keeps its full precision, and every tensor its bits."""
    noise = np.array([np.float32(1) / 3, 1e-45, -0.0, 3e38], np.float32)
    recording = recorded(noise=[noise], cost={**builders.cost(1 / 3), **AWKWARD})
    baseline = store.read(store.write(CASE, recording, "first"))
    assert dumps(baseline.recording.content) == dumps({key: recording.content[key] for key in KEPT})
    assert baseline.fingerprint == CASE.scenario.fingerprint
    tensors = baseline.recording.tensors()
    assert list(tensors) == list(recording.tensors())
    assert [tensors[name].tobytes() for name in tensors] == [
        array.tobytes() for array in recording.tensors().values()
    ]


def test_a_baseline_is_two_files_for_review(store, recorded):
    """Sorted, indented JSON with a newline at its end, which names the tensors' file beside it; nothing else is left."""
    path = store.write(CASE, recorded(), "first")
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    assert text == json.dumps(content, indent=1, sort_keys=True) + "\n"
    assert sorted(file.name for file in path.parent.iterdir()) == sorted(
        [path.name, content["tensors"]["file"]]
    )
    assert path == store.root / "digits" / "cpu-float32" / "cpu-a.json"
    assert content["tensors"]["file"] == f"cpu-a.{content['tensors']['digest'][:8]}.safetensors"


def test_who_wrote_a_baseline_and_why_is_kept(store, recorded):
    """Author from git, date, reason; no commit outside a repository, and no predecessor."""
    provenance = store.read(store.write(CASE, recorded(), "first on this GPU")).provenance
    date, digest = provenance.pop("date"), provenance.pop("digest")
    assert provenance == {
        "author": "Ada L",
        "reason": "first on this GPU",
        "commit": None,
        "replaced": None,
    }
    assert date.endswith("+00:00")
    assert len(digest) == 32


def test_a_replaced_baseline_is_named_by_its_successor(store, recorded):
    """Each baseline holds the digest of the one before it; the old tensors go, and the reference stays the reference."""
    first = store.read(store.write(CASE, recorded(), "first"))
    second = store.read(store.write(CASE, recorded("other", builders.IMAGE + 1), "second"))
    third = store.read(store.write(CASE, recorded("other", builders.IMAGE + 1), "again"))
    assert [second.provenance["replaced"], third.provenance["replaced"]] == [
        first.provenance["digest"],
        second.provenance["digest"],
    ]
    assert [baseline.reference for baseline in (first, second, third)] == [True, True, True]
    assert sorted(file.suffix for file in third.path.parent.iterdir()) == [".json", ".safetensors"]


def test_the_first_class_of_a_place_is_the_reference_and_later_ones_are_not(store, recorded):
    """Each device and dtype has one reference."""
    cases = [(CASE, "a"), (CASE, "b"), (builders.case(device="cuda"), "c")]
    written = [
        store.write(case, recorded(letter, letter=letter), "first") for case, letter in cases
    ]
    assert [store.read(path).reference for path in written] == [True, False, True]


def test_other_classes_are_those_that_other_machines_left_on_the_devices_asked_for(store, recorded):
    """Without the class itself, and without other versions of the scenario."""
    for device, letter in (("cpu", "a"), ("cpu", "b"), ("cuda", "c")):
        store.write(builders.case(device), recorded(letter, letter=letter), "first")
    store.write(builders.case("cuda", seeds=(7,)), recorded("d", letter="d"), "first")

    def others(*devices: str) -> list[str]:
        found = store.of_other_classes(CASE, builders.numerics_class("a"), devices)
        return [baseline.recording.numerics_class["name"] for baseline in found]

    assert others("cpu") == ["cpu-b"]
    assert others("cpu", "cuda") == ["cpu-b", "cpu-c"]


@pytest.mark.parametrize(
    ("written", "reference", "expected"),
    [
        ([("cpu", "a"), ("cpu", "b")], None, ("a", True, "the same class cpu-a")),
        ([("cpu", "b"), ("cpu", "a")], "cuda-float32", ("a", True, "the same class cpu-a")),
        (
            [("cpu", "b"), ("cpu", "c")],
            None,
            ("b", False, "class cpu-b, the reference of cpu-float32"),
        ),
        (
            [("cpu", "b"), ("cuda", "d")],
            "cuda-float32",
            ("b", False, "class cpu-b, the reference of cpu-float32"),
        ),
        (
            [("cuda", "d"), ("cuda", "c")],
            "cuda-float32",
            ("d", False, "class cpu-d, the reference of cuda-float32"),
        ),
        (
            [("cuda", "a")],
            "cuda-float32",
            ("a", False, "class cpu-a, the reference of cuda-float32"),
        ),
        ([("cuda", "d")], None, None),
        ([], "cpu-float32", None),
    ],
    ids=[
        "same-class",
        "same-class-before-reference",
        "reference-of-the-place",
        "own-place-before-another",
        "reference-of-another-place",
        "another-place-is-never-the-same-class",
        "another-place-unasked",
        "none",
    ],
)
def test_the_same_class_judges_then_the_reference_then_nobody(
    store, recorded, written, reference, expected
):
    """There is no nearest match: class, else the place's reference, else that of the scenario's `reference`."""
    for index, (device, letter) in enumerate(written):
        store.write(builders.case(device=device), recorded(str(index), letter=letter), "first")
    found = store.match(builders.case(reference=reference), builders.numerics_class("a"))
    assert (found and (found.baseline.path.stem[-1], found.same_class, found.why)) == expected


def test_a_class_is_known_by_its_hash_not_by_its_name(store, recorded):
    """A file renamed to another class does not become it."""
    path = store.write(CASE, recorded(letter="b"), "first")
    path.rename(path.with_name("cpu-a.json"))
    assert store.match(CASE, builders.numerics_class("a")).same_class is False


def cut(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8")[:10], encoding="utf-8")


def lose_tensors(path: Path) -> None:
    next(path.parent.glob("*.safetensors")).unlink()


def flip_a_bit(path: Path) -> None:
    tensors = next(path.parent.glob("*.safetensors"))
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)


def empty_tensors(path: Path) -> None:
    next(path.parent.glob("*.safetensors")).write_bytes(b"")


DAMAGES = {
    "edited-by-hand": (
        lambda path: edit(path, fingerprint="0" * 16),
        "{path}: was changed by hand or cut short: its digest does not fit" + REMEDY,
    ),
    "without-digest": (
        lambda path: edit(path, digest=None),
        "{path}: was changed by hand or cut short: its digest does not fit" + REMEDY,
    ),
    "cut-short": (
        cut,
        "{path}: cannot be read: Expecting value: line 2 column 9 (char 10)" + REMEDY,
    ),
    "not-text": (
        lambda path: path.write_bytes(b"\xff\xfe"),
        "{path}: cannot be read: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"
        + REMEDY,
    ),
    "no-baseline": (
        lambda path: path.write_text("[]", encoding="utf-8"),
        "{path}: has format None; " + FORMAT,
    ),
    "later-format": (
        lambda path: edit(path, format="harness-baseline/2"),
        "{path}: has format 'harness-baseline/2'; " + FORMAT,
    ),
    "tensors-lost": (
        lose_tensors,
        "{tensors}: is missing or damaged: its digest does not fit" + REMEDY,
    ),
    "tensors-changed": (
        flip_a_bit,
        "{tensors}: is missing or damaged: its digest does not fit" + REMEDY,
    ),
    "tensors-empty": (
        empty_tensors,
        "{tensors}: is missing or damaged: its digest does not fit" + REMEDY,
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_baseline_is_refused_and_says_what_to_do(store, recorded, name):
    """Neither file can change unnoticed, and the text names the one that did."""
    damage, text = DAMAGES[name]
    path = store.write(CASE, recorded(), "first")
    tensors = next(path.parent.glob("*.safetensors"))
    damage(path)
    with pytest.raises(BaselineError) as caught:
        store.match(CASE, builders.numerics_class("a"))
    assert str(caught.value) == text.format(path=path, tensors=tensors)


class CrashError(Exception):
    """The machine stops here."""


@pytest.mark.parametrize("step", [0, 1], ids=["tensors", "json"])
@pytest.mark.parametrize("has_old", [True, False], ids=["replacing", "first"])
def test_a_crash_in_the_middle_of_a_write_leaves_the_old_baseline(
    store, recorded, monkeypatch, step, has_old
):
    """A reader finds the old one, or none where there was none; the next write succeeds."""
    old = store.read(store.write(CASE, recorded(), "old")) if has_old else None
    calls = []

    def replace(source, target, real=os.replace):
        calls.append(target)
        if len(calls) == step + 1:
            raise CrashError
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(CrashError):
            store.write(CASE, recorded("new", builders.IMAGE + 1), "new")
    found = store.match(CASE, builders.numerics_class("a"))
    assert (found and found.baseline) == old
    assert list(store.root.rglob("*.tmp")) == []
    assert (
        store.read(store.write(CASE, recorded("new", builders.IMAGE + 1), "new")).provenance[
            "reason"
        ]
        == "new"
    )


def test_a_crash_after_the_write_leaves_the_new_baseline(store, recorded, monkeypatch):
    """The old tensors go last: losing them by halves harms nobody."""
    store.write(CASE, recorded(), "old")

    def unlink(path, *, missing_ok=False, real=Path.unlink):
        if path.suffix == ".safetensors":
            raise CrashError
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink)
        with pytest.raises(CrashError):
            store.write(CASE, recorded("new", builders.IMAGE + 1), "new")
    assert store.match(CASE, builders.numerics_class("a")).baseline.provenance["reason"] == "new"


def test_tensors_of_every_kind_come_back(tmp_path):
    """bfloat16 comes as the float32 of the same value; empty and 0-d arrays keep their shape."""
    bits = np.array([0x3F80, 0xC000, 0x0001], np.uint16)
    header = {
        "__metadata__": {"format": "pt"},
        "brain": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]},
        "empty": {"dtype": "F32", "shape": [0, 2], "data_offsets": [6, 6]},
        "number": {"dtype": "I64", "shape": [], "data_offsets": [6, 14]},
        "pixels": {"dtype": "U8", "shape": [1, 2], "data_offsets": [14, 16]},
    }
    text = json.dumps(header).encode()
    path = tmp_path / "tensors.safetensors"
    path.write_bytes(
        struct.pack("<Q", len(text)) + text + bits.tobytes() + struct.pack("<q", -7) + b"\x00\xff"
    )
    found = open_tensors(path)
    assert {
        name: (array.dtype.name, array.shape, array.tolist()) for name, array in found.items()
    } == {
        "brain": ("float32", (3,), [1.0, -2.0, 2.0**-133]),
        "empty": ("float32", (0, 2), []),
        "number": ("int64", (), -7),
        "pixels": ("uint8", (1, 2), [[0, 255]]),
    }
