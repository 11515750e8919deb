"""Reading a release policy: patterns against scenario files, and every mistake at once."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import builders
import jsonschema
import pytest

from harness.errors import ScenarioError, ScenarioErrors
from harness.gate.policy import ALLOWED, CostBudget, JudgedAgainst, LeastDetectionRate, Place
from harness.gate.policy_file import json_schema, read_policy
from harness.records import Device, Verdict
from harness.scenario.model import Case

DATA = Path(__file__).resolve().parents[2] / "harness" / "data"
CPU = builders.case()
CASES = [
    CPU,
    builders.case("cuda"),
    builders.case(dtype="float16"),
    builders.case(variant="sliced"),
    builders.case(name="sd"),
]


@pytest.fixture
def read(tmp_path):
    """Return a function that reads a policy against `CASES`."""

    def read_text(text: str, cases: list[Case] = CASES):
        path = tmp_path / "policy.yaml"
        path.write_text(text, encoding="utf-8")
        return read_policy(path, cases)

    return read_text


def ids(text: str, read) -> list[tuple[str, tuple[str, ...]]]:
    found = read(f"require: {text}\n").requirements
    return [(str(each.place), each.cases) for each in found]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (
            "{scenarios: d*, on: cpu}",
            [("cpu", ("digits[cpu-float32]", "digits[cpu-float16]", "digits[cpu-float32,sliced]"))],
        ),
        (
            "{scenarios: [digits, sd], on: cpu, dtype: float32, variants: base}",
            [("cpu", ("digits[cpu-float32]", "sd[cpu-float32]"))],
        ),
        ("{scenarios: digits, on: nvidia-l4}", [("nvidia-l4", ("digits[cuda-float32]",))]),
        (
            "{scenarios: sd, on: cpu, machines: [Xeon*, EPYC*], classes: [a, b]}",
            [
                (f"cpu {machine} {name}", ("sd[cpu-float32]",))
                for machine in ("Xeon*", "EPYC*")
                for name in "ab"
            ],
        ),
    ],
)
def test_patterns_choose_among_the_cases_of_the_release(text, found, read):
    """On the device that each place means; every place is a requirement of its own."""
    assert ids(text, read) == found


def test_a_policy_is_read_with_all_that_it_may_say(read):
    """Each key becomes a value with a type."""
    policy = read(
        "max-age-days: 7\nversions: {torch: 2.13.*, numpy: '>=2'}\ncommit: any\n"
        "working-tree: any\n"
        "require: {scenarios: sd, on: cpu, verdicts: {cross-class: identical, published: none}, "
        "cost: {ratio: 1.5, peak-mib: 100}, accuracy: no-worse, detection-rate: 0.9}\n"
        "waive: {scenarios: digits, on: nvidia-l4, for: [drifted, slower], reason: R, owner: A, "
        "expires: 2026-12-31}\n"
    )
    (required,) = policy.requirements
    assert policy.max_age_days == 7
    assert (policy.any_commit, policy.any_tree) == (True, True)
    assert policy.versions["torch"].contains("2.13.1")
    assert not policy.versions["torch"].contains("2.14.0")
    assert required.allowed == {
        **ALLOWED,
        JudgedAgainst.CROSS_CLASS: (Verdict.IDENTICAL,),
        JudgedAgainst.PUBLISHED: (),
    }
    assert required.cost == CostBudget(ratio=1.5, peak_mib=100)
    assert required.detection_rate == LeastDetectionRate(0.9)
    assert required.wants_accuracy
    (waiver,) = policy.waivers
    assert waiver.cases == {"digits[cuda-float32]"}
    assert (waiver.owner, waiver.expires, waiver.line) == ("A", date(2026, 12, 31), 6)


def test_every_mistake_is_told_at_once_with_its_line(read, tmp_path):
    """Whoever mends the file sees all of them."""
    with pytest.raises(ScenarioErrors) as caught:
        read(
            "max-age-days: -1\nversions: {torch: two}\nrequire:\n"
            "  - {scenarios: digits, on: cpu, cost: good}\n  - {scenarios: digits}\n"
            "  - {scenarios: digits, on: cpu, devices: cuda}\n"
            "waive: {scenarios: digits, for: fine, reason: R, owner: A, expires: soon}\n"
        )
    assert [each.line for each in caught.value.mistakes] == [1, 2, 4, 5, 6, 7, 7]


def test_every_pattern_that_covers_no_case_is_told_at_once(read):
    """A misspelt name, a device without cases, a dtype and a variant that nothing has."""
    with pytest.raises(ScenarioErrors) as caught:
        read(
            "require:\n  - scenarios:\n      - digits\n      - didgits\n    on: [cpu, ascend]\n"
            "  - {scenarios: sd, on: cpu, dtype: bfloat16}\n"
            "  - {scenarios: sd, on: cpu, variants: [base, compiled]}\n"
            "waive: {scenarios: gone, for: drifted, reason: R, owner: A, expires: 2026-12-31}\n"
        )
    found = [(each.line, each.found) for each in caught.value.mistakes]
    nothing = "which covers none"
    assert found == [
        (3, f"`digits` on ascend, {nothing}"),
        (4, f"`didgits` on cpu, {nothing}"),
        (4, f"`didgits` on ascend, {nothing}"),
        (6, f"`sd` on cpu, {nothing}"),
        (6, f"`bfloat16`, {nothing}"),
        (7, f"`compiled`, {nothing}"),
        (8, f"`gone`, {nothing}"),
    ]
    assert "cases on cpu, cuda" in str(caught.value)


def test_a_policy_that_requires_nothing_is_refused(read):
    """A gate that asks for nothing would open on nothing."""
    for text in ("description: nothing\n", "require: []\n"):
        with pytest.raises(ScenarioError):
            read(text)


def test_the_schema_in_the_package_is_current_and_fits_what_is_read():
    """`make schema` writes it anew; what the reader refuses does not fit."""
    schema = json.loads((DATA / "policy.schema.json").read_text(encoding="utf-8"))
    assert schema == json.loads(json.dumps(json_schema()))
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    required = {"scenarios": "digits", "on": ["cpu"], "cost": {"seconds": 2}}
    validator.validate({"require": required})
    for wrong in ({}, {"scenarios": "a"}, {**required, "cost": "x"}):
        assert list(validator.iter_errors({"require": wrong}))
    assert list(validator.iter_errors({}))


def test_a_place_covers_what_ran_there():
    """A case without a recording knows no machine; it counts for all of them."""
    here = builders.environment("a", hardware={"cpu": "Xeon", "cores": 2})
    ran = builders.outcome(device_kind="cpu", numerics_class="cpu-a")
    lost = builders.outcome("error", on="cuda-float32")
    assert Place("cpu").covers(ran, here)
    assert Place("cpu", "Xeon*", "cpu-a").covers(ran, here)
    assert not Place("cpu", "EPYC*").covers(ran, here)
    assert not Place("cpu", "", "cpu-b").covers(ran, here)
    assert not Place("cpu", "", "cpu-a").covers(ran, None)
    assert not Place("cuda").covers(ran, here)
    assert Place("nvidia-l4", "H100*", "x").covers(lost, None)
    assert not Place("cpu").covers(lost, None)
    assert (Place("nvidia-l4").device, Place("cpu").device) == (Device.CUDA, Device.CPU)
