"""Tolerances and `-k` as properties: round trips, and a second evaluator of expressions."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import Device, Metric, Stage
from harness.scenario.select import compile_expression
from harness.scenario.tolerance import (
    ANY_STAGE,
    FREE_METRICS,
    LOCAL_METRICS,
    Evidence,
    Kind,
    Tolerance,
)

PROPERTY = settings(max_examples=100, deadline=None, derandomize=True)

BOUNDS = st.floats(min_value=0, allow_nan=False, allow_infinity=False)
PATTERNS = st.sampled_from(["unet", "unet#0", "scheduler.step", "scheduler.step#3", "vae.decode"])
LOCAL = st.one_of(
    st.dictionaries(st.just(ANY_STAGE), BOUNDS, min_size=1),
    st.dictionaries(PATTERNS, BOUNDS, min_size=1),
)
TOLERANCES = st.builds(
    Tolerance,
    free=st.dictionaries(st.sampled_from(FREE_METRICS), BOUNDS),
    local=st.dictionaries(st.sampled_from(LOCAL_METRICS), LOCAL),
)
EVIDENCE = st.builds(
    Evidence,
    bounds=TOLERANCES,
    batch=st.none() | TOLERANCES,
    noise=st.none() | TOLERANCES,
    worst=st.none() | TOLERANCES,
    platforms=st.integers(0, 9),
    seeds=st.integers(0, 9),
    device=st.none() | st.sampled_from(Device),
    on=st.text(max_size=3),
    date=st.text(max_size=3),
)


@PROPERTY
@given(st.one_of(TOLERANCES, st.just(Tolerance(exact=True))))
def test_a_tolerance_comes_back_from_yaml(tolerance: Tolerance):
    """What `calibrate` writes is what is read."""
    assert Tolerance.from_yaml(tolerance.as_yaml()) == tolerance


@PROPERTY
@given(TOLERANCES, st.sampled_from(Kind))
def test_a_tolerance_comes_back_from_its_keys(tolerance: Tolerance, kind: Kind):
    """Every bound has one key."""
    assert Tolerance.from_keys(tolerance.by_key(kind)) == tolerance


@PROPERTY
@given(EVIDENCE)
def test_evidence_comes_back_from_yaml(evidence: Evidence):
    """With all that is known of it, and nothing that is not."""
    assert Evidence.from_yaml(evidence.as_yaml()) == evidence


@PROPERTY
@given(
    st.dictionaries(st.one_of(PATTERNS, st.just(ANY_STAGE)), BOUNDS),
    st.sampled_from([Stage("unet", 0), Stage("unet", 1), Stage("scheduler.step", 3)]),
)
def test_the_most_particular_bound_covers_a_stage(patterns: dict[str, float], stage: Stage):
    """Its own, else that of its kind, else the general one."""
    tolerance = Tolerance(local={Metric.LOCAL_L_INF: patterns})
    fitting = [key for key in (str(stage), stage.kind, ANY_STAGE) if key in patterns]
    expected = fitting[0] if fitting else None
    assert tolerance.local_pattern(Metric.LOCAL_L_INF, stage) == expected


# Expressions of `-k`, held against Python's own evaluator.

CASE = ("sd-digits[cpu-float32]", "slow", "hub")
NAMES = ("sd", "digits", "slow", "slo", "hub", "cpu", "sd-digits[cpu-float32]", "digits[cpu]", "x")
TREES = st.recursive(
    st.sampled_from(NAMES),
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(["and", "or"]), inner, inner),
        st.tuples(st.just("group"), inner),
    ),
    max_leaves=8,
)
Tree = str | tuple[object, ...]


def written(tree: Tree) -> tuple[str, str]:
    """Return a tree as an expression of `-k`, and as one of Python with each word's truth.

    No parentheses are added, so that both parsers must agree on what binds more tightly.
    """
    if isinstance(tree, str):
        is_whole = tree.endswith("]")
        fits = tree == CASE[0] if is_whole else tree in CASE[0] or tree in CASE[1:]
        return tree, str(fits)
    word, *parts = tree
    both = [written(part) for part in parts]
    if word == "group":
        return f"( {both[0][0]} )", f"({both[0][1]})"
    if word == "not":
        return f"not {both[0][0]}", f"not {both[0][1]}"
    return f" {word} ".join(one for one, _ in both), f" {word} ".join(two for _, two in both)


@PROPERTY
@given(TREES)
def test_an_expression_means_what_it_means_in_python(tree: Tree):
    """`not` before `and` before `or`, and parentheses before all."""
    expression, python = written(tree)
    assert compile_expression(expression)(CASE) == eval(python)  # noqa: S307 (True, False, not, and, or)


@PROPERTY
@given(TREES)
def test_blanks_around_parentheses_change_nothing(tree: Tree):
    """`not (a)` and `not( a )` are one expression."""
    expression, _ = written(tree)
    tight = expression.replace("( ", "(").replace(" )", ")")
    assert compile_expression(tight)(CASE) == compile_expression(expression)(CASE)
