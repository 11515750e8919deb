"""Which cases a command means: `-k` expressions, devices, and what is said when nothing is left."""

from __future__ import annotations

import builders
import pytest

from harness.errors import UsageError
from harness.records import Device, Dtype
from harness.scenario.fields import Profile
from harness.scenario.select import compile_expression, select

WORDS = ("ddim-digits[cpu-float32]", "guide", "slow")  # an id, and two tags


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("", True),
        ("   ", True),
        ("ddim", True),
        ("digits[cpu", True),
        ("float16", False),
        ("guide", True),
        ("guid", False),  # a tag is a word, not a text to search
        ("not guide", False),
        ("not not guide", True),
        ("ddim and slow", True),
        ("ddim and not slow", False),
        ("sd or ddpm", False),
        ("sd or ddim", True),
        ("sd and ddpm or ddim", True),  # `and` binds tighter
        ("ddim or sd and ddpm", True),
        ("(ddim or sd) and ddpm", False),
        ("not (sd or ddpm)", True),
        ("not sd and not ddpm", True),
        ("((ddim))and(slow)", True),
        ("DDIM", False),
        ("nothing", False),  # begins with an operator's letters
        ("android or ddim", True),
    ],
)
def test_an_expression_admits_what_it_says(expression, expected):
    """A word fits as a part of the id or as a whole tag; not, and, or and parentheses combine."""
    assert compile_expression(expression)(WORDS) is expected


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("ddim and", "expected a word, found the end"),
        ("not", "expected a word, found the end"),
        ("and ddim", "expected a word, found `and`"),
        ("ddim or or sd", "expected a word, found `or`"),
        ("()", "expected a word, found `)`"),
        ("(ddim", "expected ), found the end"),
        ("(ddim sd)", "expected ), found `sd`"),
        ("ddim)", "expected `and` or `or`, found `)`"),
        ("ddim sd", "expected `and` or `or`, found `sd`"),
        ("ddim not sd", "expected `and` or `or`, found `not`"),
    ],
)
def test_an_expression_that_cannot_be_read_says_what_was_expected(expression, problem):
    """The text names the whole expression, so that a quoting mistake of the shell shows."""
    with pytest.raises(UsageError) as caught:
        compile_expression(expression)
    assert str(caught.value) == f"-k {expression!r}: {problem}"


CPU_AND_CUDA = (Device.CPU, Device.CUDA)
SCENARIOS = [
    builders.scenario(name="ddim", devices=CPU_AND_CUDA),
    builders.scenario(
        name="sd", devices=CPU_AND_CUDA, dtypes=(Dtype.FLOAT32, Dtype.BFLOAT16), tags=("slow",)
    ),
]


@pytest.mark.parametrize(
    ("expression", "device", "expected"),
    [
        ("ddim", None, ["ddim[cpu-float32]", "ddim[cuda-float32]"]),
        ("not slow", Device.CUDA, ["ddim[cuda-float32]"]),
        ("bfloat16", Device.CPU, ["sd[cpu-bfloat16]"]),
        ("", Device.CPU, ["ddim[cpu-float32]", "sd[cpu-float32]", "sd[cpu-bfloat16]"]),
    ],
)
def test_cases_are_chosen_by_expression_and_device_in_their_order(expression, device, expected):
    """Both must admit a case; order is that of the scenarios."""
    assert [case.id for case in select(SCENARIOS, expression, device)] == expected


@pytest.mark.parametrize(
    ("expression", "device", "text"),
    [
        ("unclip", None, "none of 6 cases fits -k 'unclip'"),
        ("ddim and bfloat16", Device.CUDA, "none of 6 cases fits -k 'ddim and bfloat16' on cuda"),
    ],
)
def test_a_selection_that_leaves_nothing_is_a_usage_error(expression, device, text):
    """A misspelt word must not look like a run in which nothing fails."""
    with pytest.raises(UsageError) as caught:
        select(SCENARIOS, expression, device)
    assert str(caught.value) == text


@pytest.mark.parametrize("profile", [Profile.NATIVE, Profile.PORTABLE])
def test_a_profile_that_is_asked_for_replaces_the_scenarios_own(profile):
    """Every chosen case gets it, whatever its file says; without one, each keeps its own."""
    own = [
        builders.scenario(name=each, profile=each) for each in (Profile.NATIVE, Profile.PORTABLE)
    ]
    asked = select(own, "", None, profile)
    assert [case.scenario.profile for case in asked] == [profile, profile]
    assert [case.scenario.profile for case in select(own, "", None)] == list(Profile)
