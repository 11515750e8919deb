"""What changed in the environment: listed by how likely it matters, in words."""

from __future__ import annotations

import builders
import pytest

from harness.judge.environment_diff import changes_of, list_changes
from harness.judge.reasons import environment_changes
from harness.records import Change, ChangeKind, EnvironmentChange


def test_what_changed_in_the_environment_is_listed_by_how_likely_it_matters():
    """Frameworks, GPU and driver, flags, variables, machine, operators; other packages last."""
    expected = builders.environment("a")
    actual = builders.environment(
        "b",
        versions={"torch": "2.10.0", "diffusers": "0.36.0", "xformers": "1.0", "numpy": "2.4"},
        hardware={"cpu": "EPYC", "cores": 2, "gpu": {"name": "NVIDIA L4", "driver": "570"}},
        flags={"cudnn.benchmark": True},
        variables={},
    )
    assert environment_changes(list_changes(actual, expected)) == [
        "torch 2.9.1 -> 2.10.0",
        "driver unset -> 570",
        "name unset -> NVIDIA L4",
        "cudnn.benchmark False -> True",
        "OMP_NUM_THREADS 1 -> unset",
        "cpu Xeon -> EPYC",
        "operators with other bits: bmm",
        "numpy unset -> 2.4",
        "xformers unset -> 1.0",
    ]


def test_an_environment_has_not_changed_against_itself():
    """Nothing is listed."""
    assert list_changes(builders.environment("a"), builders.environment("a")) == ()


def test_torch_comes_before_diffusers_before_transformers():
    """By what computes most, not by the alphabet."""
    versions = {"transformers": "4", "diffusers": "4", "torch": "4", "accelerate": "4"}
    changes = list_changes(
        builders.environment(versions=versions), builders.environment(versions={})
    )
    assert [change.name for change in changes] == [
        "torch",
        "diffusers",
        "transformers",
        "accelerate",
    ]
    kinds = [change.kind for change in changes]
    assert kinds == [ChangeKind.LIBRARY] * 3 + [ChangeKind.PACKAGE]


def test_another_framework_and_what_was_not_observed_come_first():
    """They say what the comparison rests on at all."""
    expected = builders.environment(unobserved=("noise",))
    actual = builders.environment(framework="mindspore", variables={})
    assert environment_changes(list_changes(actual, expected)) == [
        "framework torch -> mindspore",
        "not observed in one of the two: noise",
        "OMP_NUM_THREADS 1 -> unset",
    ]


def test_operators_are_data_one_by_one_and_one_line_in_words():
    """A reader of results.json wants each; a person wants a line."""
    changes = [EnvironmentChange(name, "0a", "0b", ChangeKind.OPERATOR) for name in ("bmm", "silu")]
    assert environment_changes(changes) == ["operators with other bits: bmm, silu"]


@pytest.mark.parametrize(
    ("actual", "expected", "changes"),
    [
        ({}, {}, []),
        ({"a": 1}, {"a": 1}, []),
        ({"a": 2}, {"a": 1}, [Change("a", "1", "2")]),
        ({"a": 1}, {}, [Change("a", "unset", "1")]),
        ({}, {"a": 1}, [Change("a", "1", "unset")]),
        ({"a": None}, {}, [Change("a", "unset", "None")]),
        ({"b": 1, "a": 1}, {}, [Change("a", "unset", "1"), Change("b", "unset", "1")]),
    ],
    ids=["empty", "same", "other", "new", "gone", "none-is-a-value", "alphabetical"],
)
def test_facts_that_differ_are_named_with_both_sides(actual, expected, changes):
    """A fact that only one side has is `unset` on the other."""
    assert changes_of(actual, expected) == changes


def test_files_of_the_project_that_changed_are_named_by_package():
    """Data one by one, and in words one line for each package, cut short where it is long."""
    many = {f"{letter}.py": "0" for letter in "abcdefg"}
    expected = builders.environment(own_code={"inkworks": {"a.py": "0", "b.py": "1"}, "old": {}})
    actual = builders.environment(own_code={"inkworks": {"a.py": "2", "c.py": "1"}, "pens": many})
    changes = list_changes(actual, expected)
    assert {change.kind for change in changes} == {ChangeKind.OWN_CODE}
    assert environment_changes(changes) == [
        "own code changed: inkworks: 3 files: a.py, b.py, c.py",
        "own code changed: pens: 7 files: a.py, b.py, c.py, d.py, e.py and 2 more",
    ]
