"""Upgrade plans: over a made-up session, and by the command in real environments with fake wheels.

No test but the slow one needs a network.
"""

from __future__ import annotations

import json
from functools import partial
from importlib.metadata import version
from pathlib import Path

import builders
import numpy as np
import pytest
from packaging.requirements import Requirement
from wheels import DIFFUSERS, only_from, write_wheel

from harness.commands.main import main
from harness.errors import NotRecordedError, SandboxError, UsageError
from harness.launch import sandbox
from harness.launch.resolution import Package
from harness.launch.sandbox import BASE
from harness.records import Verdict
from harness.report.upgrade_report import (
    because,
    headline,
    how,
    lock_text,
    plan_markdown,
    sections,
)
from harness.session import Session
from harness.study import upgrade, upgrade_ends
from harness.study.moves import Until
from harness.study.package_changes import group, list_changes, list_links
from harness.study.upgrade import Inputs, Limits, Trials, Verification, plan_upgrade
from harness.study.upgrade_ends import Ends

ROOT = Path(__file__).resolve().parents[2]
NO_LIMITS = Limits()
NAMES = ("alpha", "beta", "gamma", "delta", "numpy")


class MadeUp:
    """A session over a made-up case: its output depends on which packages are of version 2.

    Args:
        out: The run's folder.
        moves: How much the output moves where all packages of a set are of version 2.
        broken: Sets of `NAME==VERSION` that do not run together.
    """

    def __init__(self, out, moves, broken=()):
        self.out, self.moves, self.broken = out, moves, broken
        self.asked = []

    def record(self, case, folder):
        pins = frozenset(case.env)
        self.asked.append((case.id, pins))
        if any(each <= pins for each in self.broken):
            raise NotRecordedError("it does not run", Verdict.ERROR)
        new = {pin.partition("==")[0] for pin in pins if pin.endswith("==2")}
        offset = sum(size for names, size in self.moves.items() if set(names) <= new)
        image = (builders.IMAGE + np.float32(offset)).astype(np.float32)
        versions = {name: version(name) for name in BASE}
        named = dict(pin.split("==") for pin in pins)
        facts = builders.environment(versions={**versions, **named})
        return builders.recording(folder, image, case=case.request(), environment=facts)

    def accuracy(self, *sides):
        raise NotRecordedError(f"{len(sides)} made-up recordings cannot be evaluated")


def ends_of(requires=(), names=NAMES[:4]):
    """Return an upgrade of packages from 1 to 2; `requires` has what each version 2 asks for."""
    asked = {name: tuple(map(Requirement, dict(requires).get(name, ()))) for name in names}
    before = {name: Package(name, "1") for name in names}
    after = {name: Package(name, "2", asked[name]) for name in names}
    changes = list_changes(before, after)
    links = list_links(before, after, changes, {})
    stated = tuple(sorted(names))
    return Ends(before, after, changes, links, group(changes, links), stated, stated)


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plan a made-up upgrade; return the plan, the session and what was said."""
    monkeypatch.setattr(upgrade, "is_made", lambda pins: False)

    def run(moves, ends=None, broken=(), limits=NO_LIMITS, make=lambda pins: None, **options):
        ends = ends or ends_of()
        monkeypatch.setattr(
            upgrade,
            "resolve",
            lambda asked, installed, path: {
                each.name: Package(each.name, str(each.requirement.specifier)[2:]) for each in asked
            },
        )
        cases = options.get("cases") or [builders.case()]
        session = MadeUp(tmp_path / "out", moves, broken)
        said = []
        until = options.get("until", Until.IDENTICAL)
        trials = Trials(
            session, {case.id: case for case in cases}, ends, until, limits, said.append, make
        )
        lock = tmp_path / "lock.txt"
        inputs = Inputs(Path("from.txt"), Path("to.txt"), ends, lock)

        def write(lines):
            lock.write_text(lock_text(lines, "from.txt", "to.txt"), encoding="utf-8")

        return plan_upgrade(inputs, trials, write), session, said

    return run


def names_of(changes):
    return [change.name for change in changes]


def test_the_owner_is_named_with_how_far_and_where_first(planned):
    """What is left over is the harmless part; its lock file has every package."""
    plan, _, _ = planned({("beta",): 0.25})
    (case,) = plan.cases
    (owner,) = case.owners
    assert (names_of(owner.packages), owner.needed, owner.base) == (["beta"], (), ())
    assert owner.move.l_inf == case.move.l_inf == 0.25
    assert owner.move.first == "image, after the last stage"
    assert owner.move.beside == ()
    assert names_of(plan.harmless.packages) == ["alpha", "delta", "gamma"]
    assert plan.harmless.lock == ("alpha==2", "beta==1", "delta==2", "gamma==2")
    assert plan.harmless.verification is Verification.VERIFIED
    assert plan.is_complete
    assert headline(plan) == (
        "The upgrade of 4 packages moves 1 of 1 cases; 3 of the packages can be upgraded without "
        "moving any"
    )


def test_two_packages_that_move_it_only_together_are_named_as_a_pair(planned):
    """One of them stays in the harmless part."""
    plan, _, _ = planned({("alpha", "gamma"): 0.5})
    (owner,) = plan.cases[0].owners
    assert names_of(owner.packages) == ["alpha", "gamma"]
    assert how(owner) == "only together"
    assert len(plan.harmless.packages) == 3
    (held,) = plan.harmless.held
    assert because(held, is_maximal=True) == "beside the rest it moves digits[cpu-float32]"


def test_two_owners_are_told_apart_and_each_has_its_own_size(planned):
    """The second is measured on top of the first."""
    plan, _, _ = planned({("alpha",): 0.25, ("delta",): 0.5})
    first, second = plan.cases[0].owners
    assert plan.cases[0].move.l_inf == 0.75
    assert {(names_of(each.packages)[0], each.move.l_inf) for each in (first, second)} == {
        ("alpha", 0.25),
        ("delta", 0.5),
    }
    assert second.base == first.packages
    assert names_of(plan.harmless.packages) == ["beta", "gamma"]


def test_dependencies_force_packages_together_and_the_report_says_why(planned):
    """No environment is built for a set that the metadata rules out."""
    ends = ends_of({"alpha": ["beta>=2"]})
    plan, session, _ = planned({("alpha",): 0.25}, ends)
    (owner,) = plan.cases[0].owners
    assert (names_of(owner.packages), names_of(owner.needed)) == (["alpha"], ["beta"])
    assert how(owner) == "alone; with beta, which it needs"
    assert names_of(plan.harmless.packages) == ["beta", "delta", "gamma"]
    assert not [pins for _, pins in session.asked if {"alpha==2", "beta==1"} <= pins]
    (links,) = [each for each in sections(plan) if each.heading == "What cannot change alone"]
    assert links.rows == (("alpha", "beta", "alpha 2 requires beta>=2"),)


def test_packages_that_do_not_run_without_each_other_are_not_told_apart(planned):
    """A set that cannot be recorded is no verdict on it, and its reason is said."""
    broken = [{"alpha==2", "beta==1"}, {"alpha==1", "beta==2"}]
    plan, _, said = planned({("alpha",): 0.25}, broken=broken)
    (owner,) = plan.cases[0].owners
    assert names_of(owner.packages) == names_of(owner.inseparable) == ["alpha", "beta"]
    assert how(owner) == "one of these or together: they do not run without each other"
    assert {because(held, is_maximal=True) for held in plan.harmless.held} == {
        "it does not run beside the rest"
    }
    assert "cannot run digits[cpu-float32]: it does not run" in said


def test_an_environment_that_cannot_be_had_is_tried_once_for_all_cases(planned):
    """Its reason stands in the plan."""
    asked = []

    def make(pins):
        asked.append(pins)
        if {"alpha==2", "beta==1"} <= set(pins):
            raise SandboxError(pins, "no wheel of alpha")

    cases = [builders.case(), builders.case(name="more")]
    plan, _, _ = planned({("alpha",): 0.25}, make=make, cases=cases)
    assert len(asked) == len(set(asked)) == len(plan.environments)
    problems = [each.problem for each in plan.environments if each.problem]
    assert problems
    assert all("no wheel of alpha" in problem for problem in problems)
    assert names_of(plan.harmless.packages) == ["beta", "delta", "gamma"]


def test_an_upgrade_that_moves_nothing_needs_two_environments(planned):
    """All of it is harmless."""
    plan, session, _ = planned({})
    assert (plan.moved, len(plan.environments)) == ((), 2)
    assert names_of(plan.harmless.packages) == ["alpha", "beta", "delta", "gamma"]
    assert len(session.asked) == 3  # both ends, and the lock file's
    assert headline(plan) == "The upgrade of 4 packages moves none of 1 cases"


def test_within_admits_what_the_scenario_admits(planned):
    """A package that moves the case less than its tolerance is harmless."""
    case = builders.case(tolerance={"cross-class": {"l_inf": 0.3}})
    moves = {("alpha",): 0.25, ("delta",): 0.5}
    plan, _, _ = planned(moves, cases=[case], until=Until.WITHIN)
    assert [names_of(owner.packages) for owner in plan.cases[0].owners] == [["delta"]]
    assert names_of(plan.harmless.packages) == ["alpha", "beta", "gamma"]


@pytest.mark.parametrize(
    ("limits", "built"), [(Limits(environments=3), 3), (Limits(seconds=0.0), 2)]
)
def test_a_limit_ends_the_search_and_the_plan_says_so(planned, limits, built):
    """Both ends are always tried; what is named then is no minimal set, and is said to be none."""
    plan, _, _ = planned({("alpha", "gamma"): 0.5}, limits=limits)
    assert plan.built == built
    assert not plan.is_complete
    (owner,) = plan.cases[0].owners
    assert not owner.is_minimal
    assert how(owner) == "among these: a limit ended the search"
    assert not plan.harmless.is_maximal
    assert all(
        "a limit ended the search" in because(held, is_maximal=False)
        for held in plan.harmless.held
        if not held.is_known
    )


def test_the_next_call_goes_on_with_what_is_recorded(planned):
    """Only the verification is run again."""
    _, first, _ = planned({("beta",): 0.25})
    _, again, _ = planned({("beta",): 0.25})
    assert len(first.asked) > len(again.asked) == 1


def test_a_case_that_does_not_run_at_an_end_is_not_compared(planned):
    """The others are; where none is left, there is nothing to plan."""
    broken = [{"alpha==1", "beta==1", "gamma==1", "delta==1"}]
    with pytest.raises(UsageError, match=r"no case runs at both ends .* in the packages of --from"):
        planned({}, broken=broken)


def test_a_verification_that_moves_is_not_claimed(planned, monkeypatch):
    """Neither is a lock file that stands for something else."""
    plain = MadeUp.record

    def moved(self, case, folder):
        recording = plain(self, case, folder)
        if upgrade.VERIFIED in folder.parts:
            return builders.recording(folder, builders.MOVED, case=case.request())
        return recording

    monkeypatch.setattr(MadeUp, "record", moved)
    plan, _, _ = planned({("beta",): 0.25})
    assert plan.harmless.verification is Verification.MOVED
    assert not plan.is_complete
    assert "do not rely on it" in plan_markdown(plan)


def test_a_file_is_stated_by_what_it_brings_in_and_what_frameworks_use(tmp_path, monkeypatch):
    """Packages that are here and fit are in the lock file, not in the environment's list."""
    installed = {
        "numpy": Package("numpy", "2"),
        "peft": Package("peft", "1"),
        "tool": Package("tool", "1"),
    }
    made = {"from.txt": {"alpha": Package("alpha", "1", (Requirement("tool"),))}, "to.txt": {}}
    monkeypatch.setattr(upgrade_ends, "installed_packages", lambda: installed)
    monkeypatch.setattr(upgrade_ends, "resolve", lambda asked, here, path: made[path.name])
    paths = [tmp_path / name for name in made]
    for path in paths:
        path.write_text("alpha\n", encoding="utf-8")
    ends = upgrade_ends.read_ends(*paths)
    assert [str(change) for change in ends.changes] == ["alpha 1 -> removed"]
    assert ends.pins(frozenset()) == ("alpha==1", "peft==1")
    assert ends.lock(frozenset()) == ("alpha==1", "tool==1")
    made["to.txt"] = made["from.txt"]
    with pytest.raises(UsageError, match="stand for the same versions of every package"):
        upgrade_ends.read_ends(*paths)


def test_the_command_prints_and_writes_the_plan_in_every_form(tmp_path, monkeypatch, capsys):
    """Exit code 1: something moves. The lock file goes where it was asked for."""
    made = MadeUp(tmp_path / "out", {("alpha",): 0.25})
    path = tmp_path / "digits.yaml"
    path.write_text(builders.scenario_text(), encoding="utf-8")
    monkeypatch.setattr(upgrade, "is_made", lambda pins: True)
    monkeypatch.setattr(upgrade, "Trials", partial(Trials, make=lambda pins: None))
    monkeypatch.setattr(upgrade, "resolve", lambda asked, installed, path: {})
    monkeypatch.setattr(upgrade_ends, "read_ends", lambda before, after: ends_of())
    monkeypatch.setattr(Session, "record", lambda self, case, folder: made.record(case, folder))
    monkeypatch.setattr(Session, "accuracy", made.accuracy)
    lock, out = tmp_path / "safe.txt", tmp_path / "out"
    files = ("--from", "from.txt", "--to", "to.txt", "--lock", str(lock), "--out", str(out))
    for form, begins in (
        ("", "The upgrade of 4"),
        ("--markdown", "# The upgrade"),
        ("--json", "{"),
    ):
        assert main(["upgrade", str(path), *files, *([form] if form else [])]) == 1
        printed = capsys.readouterr()
        assert printed.out.startswith(begins)
        assert "takes environment 1: nothing changed" in printed.err
    assert json.loads((out / "upgrade.json").read_text(encoding="utf-8"))["recordings"] == 1
    assert (out / "upgrade.md").read_text(encoding="utf-8").startswith("# The upgrade of 4")
    assert "<table" in (out / "upgrade.html").read_text(encoding="utf-8")
    assert lock.read_text(encoding="utf-8").splitlines()[1:] == [
        "alpha==1",
        "beta==2",
        "delta==2",
        "gamma==2",
    ]


# In real environments.


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Environments that the tests share: each takes seconds to build."""
    return tmp_path_factory.mktemp("cache")


# The release 99 of diffusers scales the steps of DDIM, but only beside the package `tint`.
PLANTED = DIFFUSERS.format(factor="1.5 if importlib.util.find_spec('tint') else 1.0")


@pytest.fixture
def planted(shop, cache, monkeypatch):
    """A shop with two upgrades that move an output only together, and its two files."""
    links = shop.root / "links"
    write_wheel(links, "diffusers", "99.0", PLANTED, requires="torch")
    write_wheel(links, "tint", "1.0")
    only_from(monkeypatch, links, cache)
    monkeypatch.setattr(sandbox, "CHECKED", ())
    (shop.root / "from.txt").write_text(f"diffusers=={version('diffusers')}\n", encoding="utf-8")
    (shop.root / "to.txt").write_text("diffusers==99.0\ntint==1.0\n", encoding="utf-8")
    return shop


@pytest.mark.slow
def test_the_command_names_a_planted_pair_by_real_workers(planted):
    """Neither package alone moves the case; either of them is harmless without the other."""
    path = planted.scenario()
    command = ("upgrade", str(path), "--from", "from.txt", "--to", "to.txt", "--out", "found")
    done = planted.harness(*command)
    assert done.code == 1, done.err
    plan = json.loads((planted.root / "found" / "upgrade.json").read_text(encoding="utf-8"))
    (case,) = plan["cases"]
    (owner,) = case["owners"]
    assert names_in(owner["packages"]) == ["diffusers", "tint"]
    assert (owner["is_minimal"], owner["inseparable"]) == (True, [])
    assert owner["move"]["first"] == "scheduler.step#0"
    assert owner["move"]["l_inf"] > 0.1
    assert owner["accuracy"]
    assert len(plan["harmless"]["packages"]) == 1
    assert plan["harmless"]["verification"] == "verified"
    assert len([each for each in plan["environments"] if each["is_built"]]) == 3
    lock = (planted.root / "found" / "upgrade-lock.txt").read_text(encoding="utf-8")
    assert f"torch=={version('torch')}" in lock
    assert ("diffusers==99.0" in lock) != ("tint==1.0" in lock)
    assert "only together" in done.out
    page = (planted.root / "found" / "upgrade.html").read_text(encoding="utf-8")
    assert headline_of(done.out) in page
    again = planted.harness(*command, "--json")
    assert names_in(json.loads(again.out)["cases"][0]["owners"][0]["packages"]) == [
        "diffusers",
        "tint",
    ]


def names_in(changes):
    return [change["name"] for change in changes]


def headline_of(printed):
    return printed.splitlines()[0].rstrip(".")


@pytest.mark.slow
def test_a_real_upgrade_is_planned(shop):
    """diffusers 0.31 moves KDPM2 ancestral; six other packages of that autumn move nothing.

    It needs the package index, and keeps its environments in the user's cache.
    """
    files = [str(ROOT / "docs" / "upgrades" / f"{name}-2024.txt") for name in ("autumn", "winter")]
    scenario = ROOT / "docs" / "releases" / "kdpm2-ancestral-5.yaml"
    done = shop.harness(
        "upgrade", str(scenario), "--from", files[0], "--to", files[1], "--out", "found", "--json"
    )
    assert done.code == 1, done.err
    plan = json.loads(done.out)
    (owner,) = plan["cases"][0]["owners"]
    assert names_in(owner["packages"]) == ["diffusers"]
    assert owner["move"]["l_inf"] == pytest.approx(5.89e-2, rel=1e-2)
    assert names_in(plan["harmless"]["held"][0]["packages"]) == ["diffusers"]
    assert plan["harmless"]["verification"] == "verified"
