"""The store: what is written is read back whole, the right baseline judges, damage is refused."""

from __future__ import annotations

import errno
import getpass
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import builders
import numpy as np
import pytest

from harness.errors import BaselineError, FileError
from harness.records import Comparison, DetectionRate, Device, Dtype, JudgedBy, Metric, Target
from harness.scenario.model import Reference
from harness.scenario.tolerance import Evidence, Tolerance
from harness.store import baselines, git
from harness.store.baselines import REMEDY, Provenance, Store
from harness.store.recording import Observed, Recording
from harness.store.typed_json import encode
from harness.worker.files import HOST, digest_json, dumps

CASE = builders.case()
CPU = builders.CPU
CUDA = Target(Device.CUDA, Dtype.FLOAT32)
OTHER_IMAGE = builders.IMAGE + 1


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


def content_of(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def edit(path: Path, **changes) -> None:
    """Change members of a baseline's JSON as a person with an editor would."""
    path.write_text(dumps({**content_of(path), **changes}), encoding="utf-8")


def forge(path: Path, **changes) -> None:
    """Change members of a baseline's JSON, and seal it again as somebody who means harm would."""
    content = {**content_of(path), **changes}
    path.write_text(dumps({**content, "digest": digest_json(content)}), encoding="utf-8")


def tensors_of(path: Path) -> Path:
    """Return the tensor file that a baseline names."""
    return path.with_name(content_of(path)["tensors_file"]["file"])


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Writing and reading.


def test_what_is_written_is_read_back_bit_for_bit(store, recorded):
    """Every number keeps its full precision, and every tensor its bits."""
    noise = np.array([np.float32(1) / 3, 1e-45, -0.0, 3e38], np.float32)
    awkward = (1 / 3, 0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0)
    cost = replace(builders.figures(1 / 3), rounds_seconds=awkward)
    recording = recorded(noise=[noise], cost=cost)
    baseline = store.read(store.write(CASE, recording, "first"))
    for field in {each.name for each in fields(Observed)} - {"format", "tensors_file", "digest"}:
        if field != "tensors_path":
            assert dumps(encode(getattr(baseline, field))) == dumps(
                encode(getattr(recording, field))
            )
    assert baseline.fingerprint == CASE.scenario.fingerprint
    assert baseline.decides == CASE.scenario.decides
    assert list(baseline.tensors) == list(recording.tensors)
    for name, array in recording.tensors.items():
        assert baseline.tensors[name].tobytes() == array.tobytes()


def test_a_baseline_is_two_files_for_review(store, recorded):
    """Sorted, indented JSON that names the tensors' file beside it; nothing else is left."""
    path = store.write(CASE, recorded(), "first")
    text = path.read_text(encoding="utf-8")
    content = json.loads(text)
    tensors = content["tensors_file"]
    assert text == json.dumps(content, indent=1, sort_keys=True) + "\n"
    assert names_in(path.parent) == sorted([path.name, tensors["file"]])
    assert path == store.root / "digits" / "cpu-float32" / "cpu-a.json"
    assert tensors["file"] == f"cpu-a.{tensors['digest'][:8]}.safetensors"


def test_git_ignores_the_locks_of_a_store(store, recorded):
    """They lie beside the baselines, which are committed."""
    store.write(CASE, recorded(), "first")
    assert names_in(store.root) == [".locks", "digits"]
    assert (store.root / ".locks" / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_who_wrote_a_baseline_and_why_is_kept(store, recorded):
    """Author from git, date, reason; no commit outside a repository, and no predecessor."""
    provenance = store.read(store.write(CASE, recorded(), "first on this GPU")).provenance
    assert provenance == Provenance("Ada L", provenance.date, "first on this GPU", None, None)
    assert provenance.date.endswith("+00:00")


def test_a_baseline_has_an_author_also_where_no_one_is_known(store, recorded, monkeypatch):
    """In a container without git, whose user has no entry in the system."""

    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr(git, "git", lambda *_arguments: None)
    monkeypatch.setattr(baselines, "git", lambda *_arguments: None)
    monkeypatch.setattr(getpass, "getuser", nobody)
    assert store.read(store.write(CASE, recorded(), "first")).provenance.author == "unknown"


def test_a_replaced_baseline_is_named_by_its_successor(store, recorded):
    """Each one holds the digest of the one before; old tensors go, and it stays the reference."""
    first = store.read(store.write(CASE, recorded(), "first"))
    second = store.read(store.write(CASE, recorded("other", OTHER_IMAGE), "second"))
    third = store.read(store.write(CASE, recorded("other", OTHER_IMAGE), "again"))
    replaced = [second.provenance.replaced, third.provenance.replaced]
    assert replaced == [first.digest, second.digest]
    assert [baseline.reference for baseline in (first, second, third)] == [True, True, True]
    assert [path.suffix for path in sorted(third.path.parent.iterdir())] == [
        ".safetensors",
        ".json",
    ]


def test_the_first_class_of_a_target_is_the_reference_and_later_ones_are_not(store, recorded):
    """Each device and dtype has one reference."""
    cases = [(CASE, "a"), (CASE, "b"), (builders.case("cuda"), "c")]
    written = [
        store.write(case, recorded(letter, letter=letter), "first") for case, letter in cases
    ]
    assert [store.read(path).reference for path in written] == [True, False, True]


def test_other_classes_are_those_that_other_machines_left_on_the_devices_asked_for(store, recorded):
    """Without the class itself, and without other versions of the scenario."""
    for device, letter in (("cpu", "a"), ("cpu", "b"), ("cuda", "c")):
        store.write(builders.case(device), recorded(letter, letter=letter), "first")
    store.write(builders.case("cuda", seeds=(7,)), recorded("d", letter="d"), "first")

    def others(*devices: Device) -> list[str]:
        found = store.of_other_classes(CASE, builders.numerics_class("a"), devices)
        return [baseline.numerics_class.name for baseline in found]

    assert others(Device.CPU) == ["cpu-b"]
    assert others(Device.CPU, Device.CUDA) == ["cpu-b", "cpu-c"]


def test_the_digests_of_every_class_are_known_before_a_run(store, recorded):
    """Of this version of the scenario alone; a damaged baseline is left out."""
    written = {letter: recorded(letter, OTHER_IMAGE, letter=letter) for letter in "ab"}
    for recording in written.values():
        store.write(CASE, recording, "first")
    store.write(builders.case(seeds=(7,)), recorded("c", letter="c"), "another version")
    cut(store.write(CASE, recorded("d", letter="d"), "damaged"))
    assert store.known(CASE) == {f"cpu-{letter}": written[letter].output_digests for letter in "ab"}


def test_what_a_study_measured_is_kept_and_the_recording_stays(store, recorded):
    """Evidence and detection rate, each without the other."""
    path = store.write(CASE, recorded(), "first")
    before = store.read(path)
    evidence = Evidence(Tolerance(free={Metric.REL_L2: 1e-6}), platforms=2, seeds=1)
    rate = DetectionRate(5, 5, 4, 3, ("scale",), "avx2")
    store.annotate(path, evidence=evidence)
    store.annotate(path, detection_rate=rate)
    after = store.read(path)
    assert (after.evidence, after.detection_rate) == (evidence.as_yaml(), rate)
    kept = {"evidence": None, "detection_rate": None, "digest": ""}
    assert replace(after, **kept) == replace(before, **kept)
    assert after.tensors_path.exists()


def test_the_evidence_of_a_scenario_goes_into_its_baseline(store, recorded):
    """Whoever reads the baseline later sees what its bounds came from."""
    evidence = {"bounds": {"rel_l2": 1e-6}, "platforms": 2, "seeds": 1}
    case = builders.case(tolerance={"cross-class": {"rel_l2": 1e-6}, "evidence": evidence})
    assert store.read(store.write(case, recorded(), "first")).evidence == evidence


# Which baseline judges.


@pytest.mark.parametrize(
    ("written", "reference", "expected"),
    [
        ([("cpu", "a"), ("cpu", "b")], None, ("a", None)),
        ([("cpu", "b"), ("cpu", "a")], CUDA, ("a", None)),
        ([("cpu", "b"), ("cpu", "c")], None, ("b", CPU)),
        ([("cpu", "b"), ("cuda", "d")], CUDA, ("b", CPU)),
        ([("cuda", "d"), ("cuda", "c")], CUDA, ("d", CUDA)),
        ([("cuda", "a")], CUDA, ("a", CUDA)),
        ([("cuda", "d")], None, None),
        ([], CPU, None),
    ],
    ids=[
        "same-class",
        "same-class-before-reference",
        "reference-of-the-target",
        "own-target-before-another",
        "reference-of-another-target",
        "another-target-is-never-the-same-class",
        "another-target-unasked",
        "none",
    ],
)
def test_the_same_class_judges_then_the_reference_then_nobody(
    store, recorded, written, reference, expected
):
    """There is no nearest match: the class, the target's reference, or the one that is named."""
    for index, (device, letter) in enumerate(written):
        store.write(builders.case(device), recorded(str(index), letter=letter), "first")
    named = None if reference is None else Reference(reference)
    found = store.match(builders.case(reference=named), builders.numerics_class("a"))
    if expected is None:
        assert found is None
        return
    letter, target = expected
    judging = None if target is None else Reference(target)
    assert (found.baseline.path.stem, found.reference) == (f"cpu-{letter}", judging)
    same_class = target is None
    assert found.same_class is same_class
    assert found.judged_by() == JudgedBy(
        numerics_class=f"cpu-{letter}",
        comparison=Comparison.SAME_CLASS if same_class else Comparison.CROSS_CLASS,
        reference="" if same_class else str(target),
        digest=found.baseline.digest,
        detection_rate=None,
        file=f"digits/{target or 'cpu-float32'}/cpu-{letter}.json",
    )


def test_the_reference_of_another_scenario_judges_where_it_is_named(store, recorded):
    """It is named by its id, and the class is never the same across scenarios."""
    store.write(builders.case(name="other"), recorded(), "first")
    case = builders.case(reference=Reference(CPU, "other"))
    found = store.match(case, builders.numerics_class("a"))
    assert found.comparison is Comparison.CROSS_CLASS
    assert found.judged_by().reference == "other[cpu-float32]"


def test_a_class_is_known_by_its_hash_not_by_its_name(store, recorded):
    """A class of the same name is another one where its operators gave other bits."""
    same_name = replace(builders.numerics_class("a"), hash="f" * 32)
    environment = builders.environment(numerics_class=same_name)
    store.write(CASE, recorded(environment=environment), "first")
    found = store.match(CASE, builders.numerics_class("a"))
    assert (found.baseline.path.stem, found.same_class) == ("cpu-a", False)


# Damage and misplacement.


def cut(path: Path) -> None:
    path.write_text(path.read_text(encoding="utf-8")[:10], encoding="utf-8")


def lose_tensors(path: Path) -> None:
    tensors_of(path).unlink()


def flip_a_bit(path: Path) -> None:
    tensors = tensors_of(path)
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)


def empty_tensors(path: Path) -> None:
    tensors_of(path).write_bytes(b"")


def folder_for_tensors(path: Path) -> None:
    tensors = tensors_of(path)
    tensors.unlink()
    tensors.mkdir()


def link_tensors(path: Path) -> None:
    tensors = tensors_of(path)
    tensors.symlink_to(tensors.rename(path.parents[3] / "elsewhere.safetensors"))


def link_tensors_inside(path: Path) -> None:
    tensors = tensors_of(path)
    tensors.symlink_to(tensors.rename(tensors.with_name("other.safetensors")))


def link_json(path: Path) -> None:
    path.symlink_to(path.rename(path.parents[3] / "elsewhere.json"))


def link_folder(path: Path) -> None:
    elsewhere = path.parents[3] / "elsewhere"
    path.parent.rename(elsewhere)
    path.parent.symlink_to(elsewhere, target_is_directory=True)


def link_json_to_itself(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def pipe_for_json(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def edit_by_hand(path: Path) -> None:
    edit(path, fingerprint="0" * 16)


def remove_digest(path: Path) -> None:
    edit(path, digest=None)


def not_text(path: Path) -> None:
    path.write_bytes(b"\xff\xfe")


def a_list(path: Path) -> None:
    path.write_text("[]", encoding="utf-8")


def earlier_format(path: Path) -> None:
    edit(path, format="harness-baseline/1")


def repeat_a_key(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("{", '{"reference": false,', 1), encoding="utf-8")


def nest_deeply(path: Path) -> None:
    path.write_text("[" * 100_000, encoding="utf-8")


def nest_below_the_limit_of_the_reader(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    deep = "[" * 900 + "]" * 900
    path.write_text(text.replace('"decides": {', f'"decides": {{"a": {deep},', 1), encoding="utf-8")


def half_a_character(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"digits"', '"\\ud800"'), encoding="utf-8")


def infinite_number(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace('"load_seconds": 1.0', '"load_seconds": 1e999'), encoding="utf-8")


def name_tensors_elsewhere(path: Path) -> None:
    tensors = content_of(path)["tensors_file"]
    forge(path, tensors_file={**tensors, "file": f"../{tensors['file']}"})


def another_key(path: Path) -> None:
    forge(path, colour="blue")


def no_target(path: Path) -> None:
    content = content_of(path)
    del content["target"]
    path.write_text(dumps({**content, "digest": digest_json(content)}), encoding="utf-8")


SEAL = "was changed or cut short: its digest does not fit"
FORMAT = "this version of the harness reads 'harness-baseline/2'"
LINK = "leads out of the store by a symbolic link"
JSON = "is not the JSON that the harness writes"

# What is done to a baseline, which file the error names, and how its problem begins.
DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "edited-by-hand": (edit_by_hand, "json", SEAL),
    "without-digest": (remove_digest, "json", SEAL),
    "half-a-character": (half_a_character, "json", SEAL),
    "nested-below-the-limit": (nest_below_the_limit_of_the_reader, "json", SEAL),
    "cut-short": (cut, "json", f"{JSON}: Expecting value: line 2 column 9 (char 10)"),
    "not-text": (not_text, "json", "cannot be read: 'utf-8' codec can't decode byte 0xff"),
    "a-list": (a_list, "json", f"has format None; {FORMAT}"),
    "earlier-format": (earlier_format, "json", f"has format 'harness-baseline/1'; {FORMAT}"),
    "repeated-key": (repeat_a_key, "json", f"{JSON}: the key `reference` stands twice"),
    "nested-deeply": (nest_deeply, "json", f"{JSON}: it is nested too deeply"),
    "infinite-number": (infinite_number, "json", f"{JSON}: the number '1e999' is too large"),
    "another-key": (another_key, "json", "is not a baseline: $: unknown key `colour`"),
    "no-target": (no_target, "json", "is not a baseline: $: the key `target` is missing"),
    "pipe": (pipe_for_json, "json", "is no file"),
    "linked": (link_json, "json", LINK),
    "folder-linked": (link_folder, "json", LINK),
    "tensors-named-elsewhere": (name_tensors_elsewhere, "json", "names tensors outside its folder"),
    "tensors-lost": (lose_tensors, "tensors", "cannot be read: No such file or directory"),
    "tensors-changed": (flip_a_bit, "tensors", "is damaged: its digest does not fit"),
    "tensors-empty": (empty_tensors, "tensors", "is damaged: its digest does not fit"),
    "tensors-a-folder": (folder_for_tensors, "tensors", "cannot be read: Is a directory"),
    "tensors-linked": (link_tensors, "tensors", "is a symbolic link; tensors must lie in the"),
    "tensors-linked-inside": (link_tensors_inside, "tensors", "is a symbolic link; tensors must"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_baseline_is_refused_and_says_what_to_do(store, recorded, name):
    """Neither file can change unnoticed; the error names the one that did, and the remedy."""
    damage, which, problem = DAMAGES[name]
    path = store.write(CASE, recorded(), "first")
    tensors = tensors_of(path)
    damage(path)
    with pytest.raises(BaselineError) as caught:
        store.match(CASE, builders.numerics_class("a"))
    assert caught.value.path == {"json": path, "tensors": tensors}[which]
    assert caught.value.problem.startswith(problem)
    other_version = "read it with the version that wrote it, or run again"
    assert caught.value.remedy == (other_version if "format" in problem else REMEDY)


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_baseline_is_replaced_by_the_next_write(store, recorded, name):
    """`harness accept` mends whatever it was, but never through a link out of the store."""
    damage = DAMAGES[name][0]
    path = store.write(CASE, recorded(), "first")
    damage(path)
    if name in ("folder-linked", "tensors-a-folder"):
        with pytest.raises(FileError):
            store.write(CASE, recorded(), "mended")
        return
    assert store.write(CASE, recorded("other", OTHER_IMAGE), "mended") == path
    mended = store.match(CASE, builders.numerics_class("a")).baseline
    assert mended.provenance.reason == "mended"
    assert mended.output_tensors["image"].tolist() == OTHER_IMAGE.tolist()
    assert mended.reference
    assert names_in(path.parent) == sorted([path.name, mended.tensors_path.name])
    assert not path.is_symlink()


def test_links_in_a_circle_are_refused(store, recorded):
    """They lead nowhere, and no baseline of another class may be judged by them."""
    path = store.write(CASE, recorded(letter="b"), "first")
    link_json_to_itself(path)
    with pytest.raises(BaselineError, match="does not exist"):
        store.match(CASE, builders.numerics_class("a"))


MISPLACED = {
    "another-target": ("digits/cuda-float32/cpu-a.json", builders.case("cuda")),
    "another-class": ("digits/cpu-float32/cpu-z.json", CASE),
    "another-scenario": ("other/cpu-float32/cpu-a.json", builders.case(name="other")),
}


@pytest.mark.parametrize("name", MISPLACED)
def test_a_baseline_that_was_copied_to_another_place_is_refused(store, recorded, name):
    """It would judge what it was never recorded for; the error says where it belongs."""
    place, case = MISPLACED[name]
    path = store.write(CASE, recorded(), "first")
    copy = store.root / place
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(path.read_bytes())
    tensors = tensors_of(path)
    copy.with_name(tensors.name).write_bytes(tensors.read_bytes())
    if name == "another-class":
        path.unlink()
    with pytest.raises(BaselineError) as caught:
        store.match(case, builders.numerics_class(copy.stem[-1]))
    assert caught.value.path == copy
    belongs = "digits/cpu-float32/cpu-a.json"
    assert caught.value.problem == f"is misplaced: its content belongs at {belongs}"


def test_a_store_may_itself_lie_behind_a_link(store, recorded, tmp_path):
    """A team may keep its baselines on another disk; only links out of the store are refused."""
    real = tmp_path / "disk"
    real.mkdir()
    store.root.symlink_to(real, target_is_directory=True)
    path = store.write(CASE, recorded(), "first")
    assert store.match(CASE, builders.numerics_class("a")).baseline.path == path


@pytest.mark.parametrize("name", ["../evil", "/evil", "..", "a/b", "", ".hidden", "nul\0", "a\n"])
def test_a_recording_whose_class_is_no_file_name_is_not_written(store, recorded, name):
    """Recordings come from other machines, and none may write outside the store."""
    numerics_class = replace(builders.numerics_class("a"), name=name)
    recording = recorded(environment=builders.environment(numerics_class=numerics_class))
    with pytest.raises(FileError, match="cannot be the name of a file"):
        store.write(CASE, recording, "first")
    assert not store.root.exists()


def test_a_damaged_recording_never_becomes_a_baseline(store, recorded):
    """Its tensors are checked before they are copied."""
    recording = recorded()
    recording.tensors_path.write_bytes(recording.tensors_path.read_bytes() + b"x")
    with pytest.raises(FileError, match="is damaged"):
        store.write(CASE, recording, "first")
    assert not store.root.exists()


def test_no_flipped_bit_of_a_baseline_goes_unnoticed(store, recorded):
    """Three hundred positions of both files, drawn with one seed."""
    path = store.write(CASE, recorded(kept={"scheduler.step#0/sample": builders.NOISE}), "first")
    draw = random.Random(0)  # noqa: S311 (nothing is secret)
    for file in (path, tensors_of(path)):
        content = file.read_bytes()
        for _ in range(150):
            changed = bytearray(content)
            changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            file.write_bytes(changed)
            with pytest.raises(BaselineError):
                store.read(path)
        file.write_bytes(content)
    assert store.read(path).provenance.reason == "first"


# Crashes, full disks and several writers.


class CrashError(Exception):
    """The machine stops here."""


@pytest.mark.parametrize("step", [0, 1], ids=["tensors", "json"])
@pytest.mark.parametrize("has_old", [True, False], ids=["replacing", "first"])
def test_a_crash_in_the_middle_of_a_write_leaves_the_old_baseline(
    store, recorded, monkeypatch, step, has_old
):
    """A reader finds the old one, or none where there was none; the next write succeeds."""
    old = store.read(store.write(CASE, recorded(), "old")) if has_old else None
    (store.root / ".locks").mkdir(parents=True, exist_ok=True)
    (store.root / ".locks" / ".gitignore").write_bytes(b"*\n")
    new = recorded("new", OTHER_IMAGE)
    calls = []

    def replace_or_crash(source, target, real=os.replace):
        calls.append(target)
        if len(calls) == step + 1:
            raise CrashError
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace_or_crash)
        with pytest.raises(CrashError):
            store.write(CASE, new, "new")
    found = store.match(CASE, builders.numerics_class("a"))
    assert (found and found.baseline) == old
    assert list(store.root.rglob("*.tmp")) == []
    assert store.read(store.write(CASE, new, "new")).provenance.reason == "new"


def test_a_crash_after_the_write_leaves_the_new_baseline(store, recorded, monkeypatch):
    """The old tensors go last: losing them by halves harms nobody."""
    store.write(CASE, recorded(), "old")

    def unlink_or_crash(path, *, missing_ok=False, real=Path.unlink):
        if path.suffix == ".safetensors":
            raise CrashError
        real(path, missing_ok=missing_ok)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", unlink_or_crash)
        with pytest.raises(CrashError):
            store.write(CASE, recorded("new", OTHER_IMAGE), "new")
    assert store.match(CASE, builders.numerics_class("a")).baseline.provenance.reason == "new"


@pytest.mark.parametrize("step", [0, 1], ids=["tensors", "json"])
def test_a_full_disk_is_an_error_that_says_what_to_do_and_the_old_baseline_still_reads(
    store, recorded, monkeypatch, step
):
    """Whichever of the two files did not fit."""
    old = store.read(store.write(CASE, recorded(), "old"))
    new = recorded("new", OTHER_IMAGE)
    calls = []

    def write_or_fail(descriptor, real=os.fsync):
        calls.append(descriptor)
        if len(calls) == step + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", write_or_fail)
        with pytest.raises(FileError) as caught:
            store.write(CASE, new, "new")
    assert caught.value.path == old.path.parent
    assert caught.value.problem == "cannot be written: No space left on device"
    assert caught.value.remedy.startswith("make room, or give this user the right to write there")
    assert store.match(CASE, builders.numerics_class("a")).baseline == old
    assert list(store.root.rglob("*.tmp")) == []


@pytest.mark.parametrize("place", ["", ".locks", "digits", "digits/cpu-float32"])
def test_a_file_where_a_folder_is_due_is_an_error_with_its_path(store, recorded, place):
    """As a folder would be in which this user may not write."""
    path = store.root / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("in the way", encoding="utf-8")
    with pytest.raises(FileError, match="cannot be written: ") as caught:
        store.write(CASE, recorded(), "first")
    assert caught.value.path.is_relative_to(store.root)
    assert "move away what stands there" in caught.value.remedy
    assert path.read_text(encoding="utf-8") == "in the way"


def test_a_study_that_cannot_write_leaves_the_baseline_as_it_was(store, recorded, monkeypatch):
    """The error names the baseline."""
    path = store.write(CASE, recorded(), "old")
    before = path.read_bytes()

    def refuse(_descriptor):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse)
        with pytest.raises(FileError, match="Read-only file system") as caught:
            store.annotate(path, detection_rate=DetectionRate(1, 1, 1, 1, (), "avx2"))
    assert caught.value.path == path
    assert path.read_bytes() == before


def check_whole(store: Store, recordings: dict[str, Recording]) -> None:
    """Check that the store holds one baseline, of one of the recordings, and nothing else."""
    baseline = store.match(CASE, builders.numerics_class("a")).baseline
    written = recordings[baseline.provenance.reason]
    assert baseline.output_digests == written.output_digests
    assert baseline.output_tensors["image"].tolist() == written.output_tensors["image"].tolist()
    assert names_in(baseline.path.parent) == sorted(
        [baseline.path.name, baseline.tensors_path.name]
    )


def test_sixteen_writers_of_one_case_leave_a_whole_store(store, recorded, monkeypatch):
    """The JSON of one once named tensors that another had removed: between its two files."""
    recordings = {
        name: recorded(name, image) for name, image in (("a", builders.IMAGE), ("b", OTHER_IMAGE))
    }
    start = threading.Barrier(16)

    def write_slowly(path, content, real=baselines.write_sealed):
        time.sleep(0.01)
        real(path, content)

    monkeypatch.setattr(baselines, "write_sealed", write_slowly)

    def write(index: int) -> None:
        name = "ab"[index % 2]
        start.wait()
        Store(store.root).write(CASE, recordings[name], name)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(write, range(16)))
    check_whole(store, recordings)


WRITER = """
import sys
from pathlib import Path

sys.path.insert(0, {tests!r})
import builders
from harness.store.baselines import Store
from harness.store.recording import Recording

folder, root, rounds = sys.argv[1:]
recording = Recording.read(Path(folder))
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(rounds)):
    Store(Path(root)).write(builders.case(), recording, Path(folder).name)
"""


def writing_process(recording: Path, root: Path, rounds: int) -> subprocess.Popen[str]:
    """Start a process that writes a recording again and again, once its input has a line."""
    program = WRITER.format(tests=str(Path(builders.__file__).parent))
    return subprocess.Popen(
        [sys.executable, "-c", program, str(recording), str(root), str(rounds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_writers_in_several_processes_leave_a_whole_store_and_a_reader_never_sees_damage(
    store, recorded
):
    """A reader beside them finds one of the two baselines, whole, each time that it looks."""
    recordings = {
        name: recorded(name, image) for name, image in (("a", builders.IMAGE), ("b", OTHER_IMAGE))
    }
    store.write(CASE, recordings["a"], "a")
    folders = [recordings[name].tensors_path.parent for name in "abab"]
    writers = [writing_process(folder, store.root, 8) for folder in folders]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    seen = []
    while any(writer.poll() is None for writer in writers):
        baseline = store.match(CASE, builders.numerics_class("a")).baseline
        assert baseline.output_digests == recordings[baseline.provenance.reason].output_digests
        seen.append(baseline.provenance.reason)
    assert [writer.wait() for writer in writers] == [0, 0, 0, 0]
    for writer in writers:
        writer.stdin.close()
        writer.stdout.close()
    assert seen
    check_whole(store, recordings)


def test_a_reader_looks_again_where_a_writer_replaced_the_tensors_meanwhile(
    store, recorded, monkeypatch
):
    """It had read the old JSON, whose tensors are gone by the time that it wants them."""
    path = store.write(CASE, recorded(), "old")
    new = recorded("new", OTHER_IMAGE)

    def slow_reader(baseline, real=baselines._tensors_problem):
        if baseline.provenance.reason == "old":
            store.write(CASE, new, "new")
        return real(baseline)

    with monkeypatch.context() as patched:
        patched.setattr(baselines, "_tensors_problem", slow_reader)
        patched.setattr(Store, "_replaced", lambda *_: None)
        assert store.read(path).provenance.reason == "new"


def test_what_dead_writers_left_is_removed_and_what_living_ones_write_is_kept(store, recorded):
    """By the next write into the same folder; other files are nobody's business."""
    path = store.write(CASE, recorded(), "first")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = path.with_name(f".{path.name}.{HOST}-{dead.pid}-0.tmp")
    folder = path.with_name(f".x.{HOST}-{dead.pid}-1.tmp")
    living = path.with_name(f".{path.name}.{HOST}-{os.getppid()}-0.tmp")
    mine = path.with_name(".notes.tmp")
    folder.mkdir()
    (folder / "inner").write_bytes(b"x")
    for file in (left, living, mine):
        file.write_bytes(b"x")
    store.write(CASE, recorded(), "second")
    assert [each.exists() for each in (left, folder, living, mine)] == [False, False, True, True]


def test_tensors_of_other_classes_stay_when_one_class_is_written(store, recorded):
    """Also where the baseline that names them cannot be read."""
    other = store.write(CASE, recorded("b", letter="b"), "first")
    tensors = tensors_of(other)
    store.write(CASE, recorded(), "first")
    assert tensors.exists()
    cut(other)
    store.write(CASE, recorded("new", OTHER_IMAGE), "second")
    assert tensors.exists()
