"""Which sets of changes own a move, and the largest set that moves nothing, over made-up worlds."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.study.delta import (
    NONE,
    Changes,
    Held,
    SearchEndedError,
    find_harmless,
    find_owner,
    find_owners,
)

CASE = "case"


class World:
    """An oracle: the output of a case is the set of those of its triggers whose changes are made.

    Args:
        changes: All changes, and what each needs.
        triggers: Of each case the sets of changes that move it, each in its own way.
        conflicts: Pairs of changes of which the first does not run without the second, although
            nothing says so beforehand.
        most: How many sets may be tried, beside none and all of the changes.
    """

    def __init__(self, changes, triggers, conflicts=(), most=10_000):
        self.changes, self.triggers, self.conflicts = changes, triggers, conflicts
        self.left = most
        self.tried = {NONE, changes.all}

    def output(self, case, names):
        return frozenset(trigger for trigger in self.triggers.get(case, ()) if trigger <= names)

    def runs(self, names):
        return not any(first in names and other not in names for first, other in self.conflicts)

    def differs(self, case, actual, expected):
        for names in (actual, expected):
            assert self.changes.closed(names) == names, "an open set was tried"
            if names not in self.tried:
                if not self.left:
                    raise SearchEndedError
                self.left -= 1
                self.tried.add(names)
        if not (self.runs(actual) and self.runs(expected)):
            return None
        return self.output(case, actual) != self.output(case, expected)


def world(names, triggers, needs=None, conflicts=(), most=10_000):
    """Return a world whose changes have names of one letter."""
    changes = Changes(names, needs or {})
    sets = {case: [frozenset(each) for each in of_case] for case, of_case in triggers.items()}
    return World(changes, sets, conflicts, most)


def owners_of(made, case=CASE):
    return list(find_owners(case, made.changes, made))


def sets_of(owners):
    return ["".join(sorted(owner.changes)) for owner in owners]


def harmless_of(made):
    cases = list(made.triggers)
    owners = [owner for case in cases for owner in owners_of(made, case)]
    return find_harmless(cases, made.changes, made, owners)


@pytest.mark.parametrize("mover", "abcdefghijklmnop")
def test_one_owner_among_sixteen_is_named_by_few_sets(mover):
    """Halving: two sets a level at most, and nothing more for the largest harmless set."""
    made = world("abcdefghijklmnop", {CASE: [mover]})
    assert sets_of(owners_of(made)) == [mover]
    assert harmless_of(made).changes == made.changes.all - {mover}
    assert len(made.tried) <= 2 + 2 * 4 + 1


def test_two_that_move_it_only_together_are_one_owner():
    """Either of them alone is harmless, so the largest harmless set leaves out one."""
    made = world("abcdef", {CASE: ["be"]})
    assert sets_of(owners_of(made)) == ["be"]
    harmless = harmless_of(made)
    assert len(harmless.changes) == 5
    (held,) = harmless.held
    assert held.moves == (CASE,)


def test_two_that_move_it_apart_are_two_owners():
    """The second comes on top of the first."""
    first, second = owners_of(world("abcdef", {CASE: ["b", "e"]}))
    assert {*first.changes, *second.changes} == {"b", "e"}
    assert (first.base, second.base) == (NONE, first.changes)


def test_a_change_that_counts_only_beside_another_owner_is_named_too():
    """`c` does nothing alone; beside `a`, which moves the case by itself, it moves it further."""
    made = world("abcd", {CASE: ["a", "ac"]})
    first, second = owners_of(made)
    assert (sets_of([first, second]), second.base) == (["a", "c"], frozenset("a"))
    assert harmless_of(made).changes == frozenset("bcd")


def test_what_a_change_needs_is_no_part_of_the_pair():
    """`a` cannot be made without `b`, and `b` alone moves nothing."""
    made = world("abcd", {CASE: ["a"]}, needs={"a": "b"})
    (owner,) = owners_of(made)
    assert (owner.changes, owner.needed) == (frozenset("a"), frozenset("b"))
    assert harmless_of(made).changes == frozenset("bcd")


def test_a_move_of_what_others_need_belongs_to_it_alone():
    """`b` moves the case; `a` needs it, so it is held back with it."""
    made = world("abcd", {CASE: ["b"]}, needs={"a": "b"})
    (owner,) = owners_of(made)
    assert (owner.changes, owner.needed) == (frozenset("b"), NONE)
    harmless = harmless_of(made)
    assert harmless.changes == frozenset("cd")
    assert {held.change: held.joins for held in harmless.held} == {"a": {"b"}, "b": NONE}


def test_a_set_that_does_not_run_is_no_verdict():
    """`a` fails beside the old `b`, which nothing declares: the two cannot be told apart."""
    made = world("abcd", {CASE: ["a"]}, conflicts=[("a", "b")])
    (owner,) = owners_of(made)
    assert owner.changes == frozenset("ab")
    assert owner.inseparable == frozenset("b")
    assert harmless_of(made).changes == frozenset("bcd")


def test_nothing_moved_means_that_all_is_harmless():
    """No other set is tried."""
    made = world("abcd", {CASE: []})
    assert owners_of(made) == []
    assert harmless_of(made).changes == made.changes.all
    assert made.tried == {NONE, made.changes.all}


def test_moves_that_cancel_each_other_leave_all_harmless():
    """Only the output counts: with every change made, it is what it was."""

    class Cancelling(World):
        def output(self, case, names):
            return case, len(names & frozenset("ab")) == 1

    made = Cancelling(Changes("abc", {}), {CASE: []})
    assert owners_of(made) == []
    assert harmless_of(made).changes == made.changes.all


def test_several_cases_share_one_harmless_set():
    """Each has its own owner; what is left moves neither."""
    made = world("abcdef", {"one": ["a"], "two": ["f"]})
    harmless = harmless_of(made)
    assert harmless.changes == frozenset("bcde")
    assert harmless.held == (Held("a", ("one",)), Held("f", ("two",)))


@pytest.mark.parametrize("most", range(8))
def test_a_search_that_is_ended_says_so_and_claims_nothing_wrong(most):
    """What it has is a set that moves the case, and a harmless set that was tried."""
    made = world("abcdefgh", {CASE: ["bg"]}, most=most)
    (owner,) = owners_of(made)
    assert frozenset("bg") <= owner.changes
    assert owner.is_minimal == (owner.changes == frozenset("bg"))
    harmless = find_harmless([CASE], made.changes, made, [owner])
    assert not frozenset("bg") <= harmless.changes
    assert not harmless.is_maximal
    assert {held.change for held in harmless.held} == made.changes.all - harmless.changes


NAMES = "abcdefgh"
pairs = st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=4, unique=True)
triggers = st.lists(st.frozensets(st.sampled_from(NAMES), min_size=1, max_size=3), max_size=4)


@st.composite
def worlds(draw):
    """A world of up to eight changes, with single owners, pairs, needs and conflicts."""
    names = NAMES[: draw(st.integers(1, len(NAMES)))]
    inside = set(names)
    needs = {}
    for first, other in draw(pairs):
        if {first, other} <= inside:
            needs.setdefault(first, set()).add(other)
    conflicts = [pair for pair in draw(pairs) if set(pair) <= inside]
    of_cases = {
        case: [each for each in draw(triggers) if each <= inside] for case in ("one", "two")
    }
    return World(Changes(names, needs), of_cases, conflicts)


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_owners_are_minimal_and_explain_the_whole_move(made):
    """Taking one change from an owner leaves what does not move the case, or does not run."""
    for case in made.triggers:
        base = NONE
        for owner in owners_of(made, case):
            assert owner.base == base
            assert owner.is_minimal
            assert made.differs(case, owner.all, base)
            for change in owner.all - base:
                smaller = made.changes.inside(owner.all - {change})
                assert not made.differs(case, smaller, base)
            base = owner.all
        assert made.output(case, base) == made.output(case, made.changes.all)


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_the_harmless_set_moves_nothing_and_no_change_can_be_added(made):
    """Each change that is left out moves a case that is named, or does not run."""
    harmless = harmless_of(made)
    assert harmless.is_maximal
    assert not any(made.differs(case, harmless.changes, NONE) for case in made.triggers)
    assert {held.change for held in harmless.held} == made.changes.all - harmless.changes
    for held in harmless.held:
        joined = made.changes.closed(harmless.changes | {held.change})
        answers = {case: made.differs(case, joined, NONE) for case in made.triggers}
        assert held.is_known == (None not in answers.values())
        if held.is_known:
            assert held.moves == tuple(case for case, answer in answers.items() if answer)
            assert held.moves
        assert held.joins == joined - harmless.changes - {held.change}


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(NAMES), unique=True, max_size=4),
    st.lists(st.sampled_from(NAMES), unique=True, max_size=4),
)
def test_disjoint_owners_are_named_exactly_and_the_harmless_set_is_the_largest(singles, others):
    """Without needs and conflicts, singles and pairs of their own are what was put in."""
    free = [name for name in others if name not in singles]
    paired = [free[index : index + 2] for index in range(0, len(free) - 1, 2)]
    made = world(NAMES, {CASE: [*singles, *paired]})
    named = {owner.changes for owner in owners_of(made)}
    assert named == {frozenset(each) for each in [*singles, *paired]}
    sizes = (
        size
        for size in range(len(NAMES), -1, -1)
        for chosen in combinations(NAMES, size)
        if not made.output(CASE, frozenset(chosen))
    )
    assert len(harmless_of(made).changes) == next(sizes)


def test_one_owner_can_be_searched_inside_any_set_that_moves():
    """The caller says where the search begins, and on top of what."""
    made = world("abcd", {CASE: ["a", "cd"]})
    owner = find_owner(CASE, made.changes, made, frozenset("acd"), frozenset("a"))
    assert owner.changes == frozenset("cd")
