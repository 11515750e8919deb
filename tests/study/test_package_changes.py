"""Which packages differ between two made-up environments, and which of them hang together."""

from __future__ import annotations

from packaging.requirements import Requirement

from harness.launch.resolution import Package
from harness.study.package_changes import (
    closure,
    extras_of,
    group,
    list_changes,
    list_links,
    reachable,
)


def side(**packages):
    """Return packages by name: each is a version, then what it requires."""
    return {
        name: Package(name, number, tuple(map(Requirement, requires)))
        for name, (number, *requires) in packages.items()
    }


def links_of(before, after, extras=None):
    return list_links(before, after, list_changes(before, after), extras or {})


def test_only_packages_whose_version_differs_are_changes():
    """One may be new, another one may go."""
    changes = list_changes(
        side(a=("1",), b=("1",), gone=("1",)), side(a=("1",), b=("2",), new=("3",))
    )
    assert [str(change) for change in changes] == [
        "b 1 -> 2",
        "gone 1 -> removed",
        "new absent -> 3",
    ]


def test_a_new_release_that_needs_another_new_one_is_linked_to_it():
    """The other one can change by itself."""
    (link,) = links_of(side(a=("1",), b=("1",)), side(a=("2", "b>=2"), b=("2",)))
    assert (link.change, link.needs, str(link)) == ("a", "b", "a 2 requires b>=2")


def test_an_old_release_that_refuses_a_new_one_is_linked_from_it():
    """`b` can change only if `a` does, whose old release does not admit it."""
    (link,) = links_of(side(a=("1", "b<2"), b=("1",)), side(a=("2",), b=("2",)))
    assert (link.change, link.needs, str(link)) == ("b", "a", "a 1 requires b<2")


def test_a_new_dependency_must_be_there_before_what_requires_it():
    """A package that is absent meets no requirement."""
    (link,) = links_of(side(a=("1",)), side(a=("2", "b"), b=("1",)))
    assert (link.change, link.needs) == ("a", "b")


def test_what_one_side_breaks_itself_binds_nobody():
    """Its user lives with it; so do requirements that both versions meet, and foreign markers."""
    before = side(a=("1", "b>=5"), b=("1",))
    after = side(a=("2", "b", 'b>=2; sys_platform == "no-such-system"'), b=("2",))
    assert links_of(before, after) == ()


def test_requirements_of_an_extra_count_where_it_is_asked_for():
    """By a file or by a package."""
    before, after = side(a=("1",), b=("1",)), side(a=("2", 'b>=2; extra == "x"'), b=("2",))
    assert links_of(before, after) == ()
    extras = extras_of([Requirement("a[x]")], before, after)
    assert [link.needs for link in links_of(before, after, extras)] == ["b"]


def test_packages_that_need_each_other_are_a_group():
    """A group comes after those that it needs."""
    before = side(hub=("0",), models=("4", "hub<1"), pipes=("1",), free=("1",))
    after = side(hub=("2",), models=("5", "hub>=1"), pipes=("2", "hub>=1"), free=("2",))
    changes = list_changes(before, after)
    links = list_links(before, after, changes, {})
    assert group(changes, links) == (("free",), ("hub", "models"), ("pipes",))
    assert reachable("pipes", links) == {"pipes", "hub", "models"}


def test_the_closure_of_some_packages_is_all_that_they_bring_along():
    """With the extras that are asked for; names that are not installed are left out."""
    packages = side(a=("1", "b", 'c; extra == "x"'), b=("1", "a"), c=("1",), d=("1",))
    names = [package.name for package in closure(["a", "missing"], packages, {"a": {"x"}})]
    assert names == ["a", "b", "c"]
