"""JSON read into types: what fits comes back equal, everything else is refused with its path."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path

import builders
import pytest

from harness.errors import FileError
from harness.records import (
    AccuracyReason,
    AccuracyVerdict,
    Against,
    Appearance,
    BatchCertificate,
    Change,
    ChangeKind,
    Check,
    Comparison,
    Conditions,
    ContractKind,
    ContractOutcome,
    ContractState,
    Cost,
    CostFigures,
    CostReason,
    CostVerdict,
    Counterexample,
    DetectionRate,
    Difference,
    DifferenceKind,
    Drift,
    Effect,
    EnvironmentChange,
    Flip,
    JudgedBy,
    Metric,
    Outcome,
    OutputKind,
    PixelChange,
    Reason,
    Stage,
    StageAccuracy,
    StageDrift,
    StageError,
    StructuralSimilarity,
    Verdict,
)
from harness.store import typed_json
from harness.store.typed_json import (
    NOT_IN_JSON,
    MalformedError,
    decode,
    encode,
    line_of,
    parse_json,
    read_json,
    to_text,
)


class Colour(StrEnum):
    """An enumeration of words."""

    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    """A part of `Sample`."""

    size: int
    width: float = 1.0


@dataclass(frozen=True)
class Sample:
    """One field of each type that a file may hold."""

    name: str
    ready: bool
    inner: Inner
    colour: Colour
    many: tuple[Inner, ...]
    words: list[str]
    by_name: dict[str, float]
    anything: dict[str, object]
    maybe: float | None = None
    deeper: Inner | None = None
    path: Path = field(default=Path("unset"), metadata=NOT_IN_JSON)


SAMPLE = Sample(
    name="größe ✓",
    ready=True,
    inner=Inner(7, 1 / 3),
    colour=Colour.BLUE,
    many=(Inner(1), Inner(2, 5e-324)),
    words=["a", ""],
    by_name={"x": 1.7976931348623157e308, "": -0.0},
    anything={"list": [1, "a", None, True, {"b": 2.5}]},
    maybe=0.1 + 0.2,
    deeper=Inner(3),
)
PLAIN = json.loads(to_text(SAMPLE))


def test_a_value_of_each_type_is_written_and_read_back_equal():
    """With every digit; a field that is not for the file is left out."""
    assert decode(Sample, PLAIN) == SAMPLE
    assert "path" not in PLAIN
    assert json.loads(to_text(SAMPLE)) == encode(SAMPLE)


def test_keys_with_a_default_may_be_left_out():
    """So that a file of an earlier version can still be read."""
    required = {
        each.name: PLAIN[each.name]
        for each in fields(Sample)
        if each.default is MISSING and each.default_factory is MISSING
    }
    assert decode(Sample, required) == replace(SAMPLE, maybe=None, deeper=None)


def without(key: str) -> dict[str, object]:
    return {name: value for name, value in PLAIN.items() if name != key}


WRONG: dict[str, tuple[object, str]] = {
    "no-object": ([], "$: expected an object, found []"),
    "null": (None, "$: expected an object, found None"),
    "missing": (without("name"), "$: the key `name` is missing"),
    "unknown": ({**PLAIN, "nmae": 1}, "$: unknown key `nmae`"),
    "not-in-json": ({**PLAIN, "path": "/etc"}, "$: unknown key `path`"),
    "missing-inside": ({**PLAIN, "inner": {}}, "$.inner: the key `size` is missing"),
    "unknown-inside": (
        {**PLAIN, "many": [{"size": 1}, {"size": 1, "x": 2}]},
        "$.many[1]: unknown key `x`",
    ),
    "number-for-text": ({**PLAIN, "name": 7}, "$.name: expected a string, found 7"),
    "null-for-text": ({**PLAIN, "name": None}, "$.name: expected a string, found None"),
    "number-for-truth": ({**PLAIN, "ready": 1}, "$.ready: expected true or false, found 1"),
    "truth-for-whole": (
        {**PLAIN, "inner": {"size": True}},
        "$.inner.size: expected a whole number, found True",
    ),
    "fraction-for-whole": (
        {**PLAIN, "inner": {"size": 1.0}},
        "$.inner.size: expected a whole number, found 1.0",
    ),
    "null-for-whole": (
        {**PLAIN, "inner": {"size": None}},
        "$.inner.size: expected a whole number, found None",
    ),
    "text-for-number": ({**PLAIN, "maybe": "1"}, "$.maybe: expected a number, found '1'"),
    "truth-for-number": (
        {**PLAIN, "by_name": {"x": False}},
        "$.by_name.x: expected a number, found False",
    ),
    "number-beyond-float": (
        {**PLAIN, "maybe": 10**400},
        "$.maybe: the number 1" + "0" * 56 + "... is too large",
    ),
    "unknown-word": (
        {**PLAIN, "colour": "green"},
        "$.colour: expected one of red, blue, found 'green'",
    ),
    "name-of-a-word": (
        {**PLAIN, "colour": "RED"},
        "$.colour: expected one of red, blue, found 'RED'",
    ),
    "number-for-a-word": (
        {**PLAIN, "colour": 0},
        "$.colour: expected one of red, blue, found 0",
    ),
    "list-for-a-word": (
        {**PLAIN, "colour": ["red"]},
        "$.colour: expected one of red, blue, found ['red']",
    ),
    "text-for-a-list": ({**PLAIN, "words": "ab"}, "$.words: expected a list, found 'ab'"),
    "object-for-a-list": ({**PLAIN, "many": {}}, "$.many: expected a list, found {}"),
    "null-for-a-list": ({**PLAIN, "many": None}, "$.many: expected a list, found None"),
    "number-in-a-list": (
        {**PLAIN, "words": ["a", 1]},
        "$.words[1]: expected a string, found 1",
    ),
    "list-for-an-object": (
        {**PLAIN, "by_name": []},
        "$.by_name: expected an object, found []",
    ),
    "list-for-anything-by-name": (
        {**PLAIN, "anything": [1]},
        "$.anything: expected an object, found [1]",
    ),
    "wrong-where-nothing-may-stand": (
        {**PLAIN, "deeper": 0},
        "$.deeper: expected an object, found 0",
    ),
    "long-value": (
        {**PLAIN, "colour": "x" * 10**6},
        "$.colour: expected one of red, blue, found '" + "x" * 56 + "...",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_value_that_does_not_fit_is_refused_with_its_path(name):
    """And with what was expected, and the beginning of what was found."""
    value, message = WRONG[name]
    with pytest.raises(MalformedError) as caught:
        decode(Sample, value)
    assert str(caught.value) == message


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_is_null_and_read_back_as_nan(number):
    """JSON has no word for it; a field that may be empty reads nothing."""
    inner = Inner(1, number)
    assert encode(inner) == {"size": 1, "width": None}
    assert math.isnan(decode(Inner, encode(inner)).width)
    assert decode(Sample, {**PLAIN, "maybe": None}).maybe is None
    assert encode({"a": [number, 1.0]}) == {"a": [None, 1.0]}


def test_a_whole_number_is_a_float_where_one_is_due():
    """Writers of other languages drop the `.0`."""
    width = decode(Inner, {"size": 1, "width": 2}).width
    assert (width, type(width)) == (2.0, float)


FROM_PYTHON = ""  # its own messages, which differ from version to version


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": 1, "a": 1}', "the key `a` stands twice in one object"),
        ('{"b": [{"a": 1, "c": 2, "a": 3}]}', "the key `a` stands twice in one object"),
        ('{"a": 1, "\\u0061": 2}', "the key `a` stands twice in one object"),
        ("NaN", "the literal `NaN` is no JSON"),
        ('{"a": Infinity}', "the literal `Infinity` is no JSON"),
        ('{"a": [-Infinity]}', "the literal `-Infinity` is no JSON"),
        ("1e999", "the number '1e999' is too large"),
        ('{"a": -1e999}', "the number '-1e999' is too large"),
        ("9" * 5000, FROM_PYTHON),
        ("[" * 100_000, "it is nested too deeply"),
        ('{"a":' * 100_000, "it is nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "it is nested too deeply"),
        ("", FROM_PYTHON),
        ("{", FROM_PYTHON),
        ('{"a": 1,}', FROM_PYTHON),
        ("{} {}", FROM_PYTHON),
        ("{'a': 1}", FROM_PYTHON),
        ("01", FROM_PYTHON),
        ('"a\nb"', FROM_PYTHON),
        ("// a\n1", FROM_PYTHON),
        ("\ufeff{}", FROM_PYTHON),
    ],
    ids=[
        "repeated",
        "repeated-inside",
        "repeated-by-escape",
        "nan",
        "infinity",
        "minus-infinity",
        "too-large",
        "too-small",
        "too-many-digits",
        "brackets",
        "braces",
        "closed-brackets",
        "empty",
        "unclosed",
        "trailing-comma",
        "two-values",
        "single-quotes",
        "leading-zero",
        "newline-in-a-string",
        "comment",
        "byte-order-mark",
    ],
)
def test_a_text_that_the_harness_would_not_write_is_refused(tmp_path, text, problem):
    """Two readers could understand it in two ways, or it exhausts the one that there is."""
    with pytest.raises(MalformedError) as caught:
        parse_json(text)
    assert str(caught.value).startswith(problem)
    path = tmp_path / "file.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(FileError, match="is not the JSON that the harness writes: ") as refused:
        read_json(path)
    assert refused.value.path == path


def test_a_file_beyond_the_limit_is_refused_before_it_is_read(tmp_path, monkeypatch):
    """Up to the limit it is read."""
    path = tmp_path / "file.json"
    path.write_text('"' + "x" * (2 << 20) + '"', encoding="utf-8")
    monkeypatch.setattr(typed_json, "MOST_BYTES", path.stat().st_size)
    assert len(str(read_json(path))) == 2 << 20
    monkeypatch.setattr(typed_json, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(Path, "read_text", None)
    with pytest.raises(FileError, match="is larger than 1 MiB"):
        read_json(path)


def no_file(path: Path) -> None:
    """Leave the path as it is."""


def bytes_that_are_no_text(path: Path) -> None:
    path.write_bytes(b"\xff")


def link_to_itself(path: Path) -> None:
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (no_file, "does not exist"),
        (Path.mkdir, "is no file"),
        (bytes_that_are_no_text, "cannot be read: 'utf-8' codec"),
        (link_to_itself, "does not exist"),
    ],
    ids=["absent", "folder", "no-text", "link-to-itself"],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, make, problem):
    """The error names the path and says why."""
    path = tmp_path / "file.json"
    make(path)
    with pytest.raises(FileError) as caught:
        read_json(path)
    assert caught.value.path == path
    assert caught.value.problem.startswith(problem)


DRIFT = Drift(0.5, 0.25, 2.5, 2.25, 3, 4, (0, 1, 1, 0), 0.75, 0.25, finite=False)
STAGE_DRIFT = StageDrift(Stage("scheduler.step", 3), "sample", 0.5, 0.25)
OUTCOME = Outcome(
    case="digits[cuda-bfloat16]",
    scenario="digits",
    target=builders.target("cuda-bfloat16"),
    verdict=Verdict.DRIFTED,
    reason=Reason.OVER_BOUND,
    message="The drift is over its bound.",
    tags=("guide", "slow"),
    device_kind="nvidia-h200",
    numerics_class="nvidia-h200-a",
    baseline=JudgedBy(
        numerics_class="cpu-a",
        comparison=Comparison.CROSS_CLASS,
        reference="cpu-float32",
        digest="d" * 32,
        file="digits/cuda-bfloat16/cpu-a.json",
        detection_rate=DetectionRate(5, 4, 3, 2, ("scale",), "avx2", "2026-01-02"),
        run="runs/old",
    ),
    outputs={"image": DRIFT, "audio": replace(DRIFT, finite=False, l_inf=1 / 3)},
    appearance=(
        Appearance(
            output="frame",
            index=1,
            kind=OutputKind.VIDEO,
            pixels=PixelChange(1024, 20, 9, 8, 1, 12, 48.5),
            frame=3,
            ssim=StructuralSimilarity(0.99, 0.5, (3, 4)),
            flip=Flip(0.01, 0.25, 0.75),
            signal_to_noise=61.5,
        ),
    ),
    checks=(
        Check("image", Metric.REL_L2, 0.25, 0.125, Against.FIRST_IMAGE, 2.5, 2.25, "a paper"),
        Check("unet#7/sample", Metric.LOCAL_L_INF, 0.5, 1.0, Against.PUBLISHED, 1.0, 1.5, "R"),
    ),
    first_difference=Difference(
        DifferenceKind.STAGE_OUTPUT, "unet#0", ("sample",), 2, "float32", "float16"
    ),
    free=(STAGE_DRIFT, StageDrift(Stage("noise", 1), "x", 1e-9, 1e-10)),
    local=(STAGE_DRIFT,),
    accuracy=(
        StageAccuracy(
            Stage("scheduler.step", 3),
            "sample",
            AccuracyVerdict.UNKNOWN,
            StageError(2e-7, 1e-7),
            StageError(4e-7, 2e-7),
            1e-7,
            AccuracyReason.LOWER_PRECISION,
            "aten.conv2d.default",
        ),
    ),
    cost=Cost(
        figures=CostFigures(
            load_seconds=1.5,
            first_seconds=4.0,
            seconds=2.0,
            peak_bytes=3 << 20,
            rounds_seconds=(2.0, 2.5),
            step_seconds={"scheduler": 0.5},
            conditions=(Conditions(0.5, 1980.0, 2100.0, 0.25, ("power",), 60.0, 350.5),),
        ),
        verdict=CostVerdict.UNKNOWN,
        reason=CostReason.SLOWED_DOWN,
        side="this run",
        detail="power",
        ratio=1.25,
        baseline_seconds=1.6,
        baseline_step_seconds={"scheduler": 0.4},
    ),
    repeat_l_inf=1e-7,
    effects=(Effect("compile: unet", "1 graph, no break", took_effect=True),),
    environment_changes=(EnvironmentChange("torch", "2.9.1", "2.10.0", ChangeKind.LIBRARY),),
    output_digests={"image": "i" * 32},
    terms="t" * 16,
    test="tests/test_own.py::test_ramp",
    evidence="e" * 16,
    log="Traceback …",
    recording="recordings/digits/cuda-bfloat16",
    path="scenarios/digits.yaml",
    store="baselines",
    fingerprint="c4c2b59b102a68f4",
    origins=(Difference(DifferenceKind.NOISE, "noise#0", ("x",), 1, "a", "b"),),
    edits=(Change("seed", "0", "1"),),
    variant="compiled",
)
OUTCOME = replace(
    OUTCOME,
    contract=ContractOutcome(
        kind=ContractKind.TOLERANCE,
        terms='{"l_inf": 0.125}',
        against="digits[cuda-bfloat16]",
        state=ContractState.BROKEN,
        message="The contract is broken.",
        same_bits=False,
        outputs=OUTCOME.outputs,
        checks=OUTCOME.checks,
        first_difference=OUTCOME.first_difference,
        free=OUTCOME.free,
        local=OUTCOME.local,
        accuracy=OUTCOME.accuracy,
        cost=OUTCOME.cost,
        peak_bytes_expected=3 << 20,
    ),
    batch=BatchCertificate(
        compositions=16,
        largest=4,
        is_exhaustive=True,
        runs=19,
        seconds=6.0,
        counterexample=Counterexample((0, 0, 2), 2, "pipe(['a', 'a', 'c'])", is_smallest=True),
    ),
)


def test_changes_that_an_older_file_states_as_text_can_be_read():
    """Their line stays as it was written; a number in its place is still refused."""
    outcome = json.loads(to_text(OUTCOME))
    outcome["environment_changes"] = ["torch 2.9.1 -> 2.10.0"]
    (change,) = decode(Outcome, outcome).environment_changes
    assert (change.kind, change.name) == (ChangeKind.STATED, "torch 2.9.1 -> 2.10.0")
    outcome["environment_changes"] = [7]
    with pytest.raises(MalformedError, match=r"environment_changes\[0\]: expected an object"):
        decode(Outcome, outcome)


def unset(value: object, where: str) -> Iterator[str]:
    """Yield the path of every field inside `value` that has its default."""
    if is_dataclass(value):
        for each in fields(value):
            inner = getattr(value, each.name)
            if inner == default_of(each):
                yield f"{where}.{each.name}"
            yield from unset(inner, f"{where}.{each.name}")
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from unset(item, f"{where}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from unset(item, f"{where}.{key}")


def default_of(each: Field[object]) -> object:
    """Return the default of a field; `MISSING` where it has none."""
    return each.default if each.default_factory is MISSING else each.default_factory()


def test_an_outcome_with_everything_filled_is_written_and_read_back_equal():
    """No field has its default, so that none can be forgotten by either direction."""
    assert list(unset(OUTCOME, "outcome")) == []
    text = to_text(OUTCOME)
    assert decode(Outcome, parse_json(text)) == OUTCOME
    assert to_text(decode(Outcome, parse_json(text))) == text


def test_an_outcome_with_nothing_filled_is_written_and_read_back_equal():
    """A case that left no recording."""
    outcome = builders.outcome("error")
    assert decode(Outcome, parse_json(to_text(outcome))) == outcome


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        (("verdict",), "fine", "$.verdict: expected one of identical, within, varies, drifted"),
        (("reason",), "because", "$.reason: expected one of same-bits, inside-tolerance"),
        (("target", "device"), "tpu", "$.target.device: expected one of cpu, cuda, ascend"),
        (("checks", 0, "metric"), "L_INF", "$.checks[0].metric: expected one of l_inf, rel_l2"),
        (("free", 1, "stage"), "noise#1", "$.free[1].stage: expected an object, found 'noise#1'"),
        (("outputs", "image", "size"), 4.5, "$.outputs.image.size: expected a whole number"),
        (("cost", "figures", "conditions"), [7], "$.cost.figures.conditions[0]: expected an"),
        (("baseline", "detection_rate", "faults"), "5", "$.baseline.detection_rate.faults: exp"),
    ],
    ids=[
        "verdict",
        "reason",
        "device",
        "metric",
        "stage-as-text",
        "fraction-for-a-size",
        "number-for-conditions",
        "text-for-a-count",
    ],
)
def test_a_wrong_member_of_an_outcome_is_refused_with_its_path(path, value, problem):
    """However deep it lies."""
    content = json.loads(to_text(OUTCOME))
    inner = content
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    with pytest.raises(MalformedError) as caught:
        decode(Outcome, content)
    assert str(caught.value).startswith(problem)


def test_a_type_that_has_no_reader_is_a_defect_of_the_harness():
    """It is noticed when the reader is made, not when a file happens to hold it."""
    with pytest.raises(TypeError, match="no reader for the type"):
        decode(set, [])


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("$", 1),
        ("$.a", 2),
        ("$.a[1]", 4),
        ("$.a[1].b.c", 6),
        ("$.a.b", 9),
        ("$.a[7]", 0),
        ("$.nothing", 0),
        ("", 1),
    ],
)
def test_the_line_of_a_value_is_found_by_its_path(where, line):
    """A key may hold a dot; what is not there has no line."""
    text = """{"a": "",
 "a": [
  1,
  {
   "x": [{"b": 2}, "]}"],
   "b": {"c": 3}
  }
 ],
 "a.b": 4}
"""
    assert line_of(text.replace('"a": "",', "", 1), where) == line


def test_no_path_and_no_text_breaks_the_search_for_a_line():
    """Whatever a message quotes."""
    for text in ("", "{", "[1", '{"a"', "7", '"a'):
        for where in ("", "$", "$.a", "$[0]", "$.a[0].b"):
            assert line_of(text, where) in (0, 1)


def test_a_malformed_error_knows_where_it_is():
    """The path of a value, or the line of a text."""
    with pytest.raises(MalformedError) as caught:
        decode(list[int], [1, "two"])
    assert (caught.value.where, caught.value.line) == ("$[1]", 0)
    with pytest.raises(MalformedError) as caught:
        parse_json("{\n1}")
    assert (caught.value.where, caught.value.line) == ("", 2)
