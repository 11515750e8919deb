"""Which release moved the output: the search over made-up releases, the command over fake ones.

No test needs a network but those of real releases and commits, which are slow.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import builders
import numpy as np
import pytest
from wheels import DIFFUSERS, only_from, write_wheel

from harness.commands import main as cli
from harness.errors import NotRecordedError, UsageError
from harness.launch import package_index as index
from harness.launch.sandbox import BASE
from harness.records import Verdict
from harness.study.bisect import Trials, bisect, search, walk


def found_at(place: int, count: int, unknown: tuple[int, ...] = ()) -> tuple[int, int, list[int]]:
    """Return where a search ends over `count` releases that moved at `place`, and what it asked."""
    asked: list[int] = []

    def has_moved(at: int) -> bool | None:
        asked.append(at)
        return None if at in unknown else at >= place

    low, high = bisect(count, has_moved, lambda low, high: None)
    return low, high, asked


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_every_place_of_the_change_is_found_in_few_steps(count):
    """At most the logarithm of the distance between the ends: 6 of 40 releases, and the ends."""
    for place in range(1, count):
        low, high, asked = found_at(place, count)
        assert (low, high) == (place - 1, place)
        assert len(asked) <= (count - 2).bit_length()


def test_what_cannot_be_told_is_skipped_and_stays_between_the_ends():
    """Every known release is on its right side, wherever the change and two unknown ones are."""
    count = 8
    for place, unknown in itertools.product(
        range(1, count), itertools.combinations(range(1, count - 1), 2)
    ):
        low, high, _ = found_at(place, count, unknown)
        assert low < place <= high
        assert set(range(low + 1, high)) <= set(unknown)


class Releases:
    """A session that records a made-up case, by the offset of its output in each release.

    A text in place of an offset is the reason why a release leaves no recording. A negative offset
    is that of a release whose runs differ.
    """

    def __init__(self, out: Path, offsets: dict[str, float | str]) -> None:
        self.out, self.offsets = out, offsets
        self.asked: list[str] = []

    def record(self, case, folder):
        (requirement,) = case.env
        release = requirement.removeprefix("diffusers==")
        self.asked.append(release)
        offset = self.offsets[release]
        if isinstance(offset, str):
            raise NotRecordedError(offset, Verdict.UNVERIFIED)
        image = (builders.IMAGE + np.float32(offset)).astype(np.float32)
        versions = {**{name: version(name) for name in BASE}, "diffusers": release}
        changes = {"repeat": builders.repeat(distinct=2)} if offset < 0 else {}
        facts = builders.environment(versions=versions)
        return builders.recording(folder, image, case=case.request(), environment=facts, **changes)


@pytest.fixture
def trials(tmp_path):
    """Trials over releases by their offsets, and what they said."""

    def made(offsets: dict[str, float | str], case=None):
        said: list[str] = []
        session = Releases(tmp_path / "out", offsets)
        return Trials(session, case or builders.case(), "diffusers", (), said.append), session, said

    return made


STEADY = {"1.0": 0.0, "1.1": 0.0, "1.2": 0.0, "1.3": 0.25, "1.4": 0.25, "1.5": 0.25}


def test_a_search_names_the_release_how_far_and_where_first(trials):
    """Two ends and two more are recorded of six."""
    these, session, said = trials(STEADY)
    found = search(these, list(STEADY))
    (change,) = found.changes
    assert (change.release, change.against) == ("1.3", "1.2")
    assert (change.move.l_inf, change.move.first) == (0.25, "image, after the last stage")
    assert change.move.rel_l2 == pytest.approx(0.5 / np.sqrt(1.875))
    assert change.move.beside == ()
    assert session.asked == ["1.0", "1.5", "1.2", "1.3"]
    assert found.suspects == ()
    assert (
        said[0]
        == "digits[cpu-float32]: diffusers 1.0 has not moved, 1.5 has; 4 between, about 3 to try"
    )


def test_skipped_releases_before_the_change_are_suspects(trials):
    """The reason is kept, and a release that does not repeat itself is skipped too."""
    these, _, said = trials({**STEADY, "1.2": "it does not import", "1.1": -1.0})
    found = search(these, list(STEADY))
    assert [change.release for change in found.changes] == ["1.3"]
    assert found.changes[0].against == "1.0"
    assert found.suspects == ("1.1", "1.2")
    assert found.skipped == {
        "1.2": "it does not import",
        "1.1": "two runs of the case differ in it",
    }
    assert "digits[cpu-float32]: diffusers 1.2 skipped: it does not import" in said


def test_ends_of_the_same_bits_need_nothing_between_them(trials):
    """No release is named; what moved and came back in between is for a walk."""
    these, session, _ = trials({**STEADY, "1.4": 0.0, "1.5": 0.0})
    assert search(these, list(STEADY)).changes == ()
    assert session.asked == ["1.0", "1.5"]


def test_a_change_of_shape_has_no_size_and_stays_json(tmp_path):
    """The drift is not a number, which JSON writes as null."""

    class Reshaped(Releases):
        def record(self, case, folder):
            size = 4 if case.env[0] == "diffusers==1.1" else 2
            return builders.recording(folder, np.zeros((1, size, size, 1), np.float32))

    trials = Trials(Reshaped(tmp_path, {}), builders.case(), "diffusers", (), lambda text: None)
    found = search(trials, ["1.0", "1.1"])
    (change,) = found.changes
    assert change.move.first == "output `image` has another shape: [1, 2, 2, 1] -> [1, 4, 4, 1]"
    assert math.isnan(change.move.l_inf)
    assert found.as_json()["changes"][0]["move"]["l_inf"] is None


def test_what_else_changed_stands_beside_the_release(tmp_path):
    """A scheduler's configuration first, then the environment, without the package itself."""

    class Upgraded(Releases):
        def record(self, case, folder):
            is_new = case.env[0] == "diffusers==1.1"
            versions = {"diffusers": "1.1", "numpy": "3"} if is_new else {"diffusers": "1.0"}
            configuration = builders.inputs(steps_offset=1 if is_new else 0)
            facts = builders.environment(versions=versions)
            image = builders.IMAGE + np.float32(is_new)
            return builders.recording(folder, image, environment=facts, inputs=configuration)

    trials = Trials(Upgraded(tmp_path, {}), builders.case(), "diffusers", (), lambda text: None)
    (change,) = search(trials, ["1.0", "1.1"]).changes
    assert change.move.beside == (
        "configuration of scheduler: steps_offset 0 -> 1",
        "numpy unset -> 3",
    )


def test_an_end_that_cannot_be_recorded_is_refused(trials):
    """There is nothing to hold the others against."""
    these, _, _ = trials({**STEADY, "1.0": "no wheel"})
    with pytest.raises(
        UsageError, match=r"diffusers 1\.0 cannot be an end of the search: no wheel"
    ):
        search(these, list(STEADY))


def test_within_admits_what_the_scenario_admits(trials):
    """The drift is that from the good end, since small steps add up."""
    creeping = {"1.0": 0.0, "1.1": 0.01, "1.2": 0.02, "1.3": 0.03, "1.4": 0.04}
    case = builders.case(tolerance={"cross-class": {"l_inf": 0.025}})
    these, _, _ = trials(creeping, case)
    (change,) = search(these, list(creeping), "within").changes
    assert (change.release, change.against) == ("1.3", "1.0")
    assert change.move.l_inf == pytest.approx(0.03, abs=1e-6)
    assert [change.release for change in search(these, list(creeping)).changes] == ["1.1"]


def test_within_needs_a_bound(trials):
    """A scenario that sets none admits nothing, and says so."""
    these, _, _ = trials(STEADY)
    with pytest.raises(
        UsageError, match=r"`--until within` needs `rel_l2` or `l_inf` in `tolerance\.cross-class`"
    ):
        search(these, list(STEADY), "within")


def test_a_walk_lists_every_release_that_moved_it(trials):
    """Each against the last one before it that could be recorded; what comes back is a move too."""
    offsets = {"1.0": 0.0, "1.1": 0.25, "1.2": "no wheel", "1.3": 0.25, "1.4": 0.0}
    these, session, _ = trials(offsets)
    found = walk(these, offsets)
    assert [(c.release, c.against, c.move.l_inf) for c in found.changes] == [
        ("1.1", "1.0", 0.25),
        ("1.4", "1.3", 0.25),
    ]
    assert session.asked == list(offsets)
    assert found.tried == ("1.0", "1.1", "1.3", "1.4")


def test_a_walk_over_nothing_is_refused(trials):
    """Fewer than two recordings answer nothing."""
    these, _, _ = trials({"1.0": 0.0, "1.1": "no wheel"})
    with pytest.raises(
        UsageError, match=r"fewer than two releases could be recorded; 1\.1: no wheel"
    ):
        walk(these, ["1.0", "1.1"])


def test_the_next_call_goes_on_with_what_is_recorded(trials):
    """Only what is missing is run; a skipped release gets another chance."""
    offsets = {**STEADY, "1.2": "no network"}
    first, _, _ = trials(offsets)
    search(first, list(offsets))
    again, session, _ = trials(STEADY)
    assert search(again, list(STEADY)).changes[0].release == "1.3"
    assert session.asked == ["1.2"]


def test_recordings_of_another_scenario_or_torch_are_made_anew(trials, monkeypatch):
    """They would show moves that no release made."""
    first, _, _ = trials(STEADY)
    search(first, list(STEADY))
    edited, session, _ = trials(STEADY, builders.case(seeds=(7,)))
    search(edited, list(STEADY))
    assert session.asked == ["1.0", "1.5", "1.2", "1.3"]
    monkeypatch.setattr("harness.study.moves.metadata.version", lambda name: "0")
    upgraded, session, _ = trials(STEADY, builders.case(seeds=(7,)))
    search(upgraded, list(STEADY))
    assert session.asked == ["1.0", "1.5", "1.2", "1.3"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Environments that the tests share: each takes seconds to build."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fake_releases(shop, cache, monkeypatch):
    """A shop with three releases of diffusers.

    The second does not import; the third moves the steps of DDIM.
    """
    folder = shop.root / "links"
    for number, factor in (("1.0", 1.0), ("1.3", 1.5)):
        write_wheel(folder, "diffusers", number, DIFFUSERS.format(factor=factor))
    write_wheel(folder, "diffusers", "1.2", "raise ImportError('not beside this torch')")
    only_from(monkeypatch, folder, cache)
    index.releases.cache_clear()
    yield shop
    index.releases.cache_clear()


def times_of_recordings(run: Path) -> dict[Path, int]:
    """Return when each recording in a folder was written."""
    return {path: path.stat().st_mtime_ns for path in run.rglob("recording.json")}


@pytest.mark.slow
def test_the_command_finds_the_release_and_goes_on_where_it_was(fake_releases):
    """By real workers in real environments; the second call records nothing."""
    path = fake_releases.scenario()
    command = ("bisect", str(path), "--good", "1.0", "--bad", "1.3", "--out", "found")
    done = fake_releases.harness(*command)
    assert done.code == 0, done.err
    tried = "2 of 3 releases recorded, 1 skipped"
    assert f"digits[cpu-float32], diffusers 1.0 to 1.3; {tried}" in done.out
    assert "or one of the skipped before it: 1.2" in done.out
    reason = "no environment with diffusers==1.2: ImportError: not beside this torch"
    assert f"skipped: 1.2: {reason}" in done.out
    run = fake_releases.root / "found"
    (found,) = json.loads((run / "bisect.json").read_text(encoding="utf-8"))
    assert (found["tried"], found["suspects"]) == (["1.0", "1.3"], ["1.2"])
    (change,) = found["changes"]
    assert (change["release"], change["against"]) == ("1.3", "1.0")
    assert (change["move"]["first"], change["move"]["beside"]) == ("scheduler.step#0", [])
    assert change["move"]["l_inf"] > 0.1
    before = times_of_recordings(run)
    assert fake_releases.harness(*command).out == done.out
    assert times_of_recordings(run) == before


def test_a_run_in_another_release_is_judged_by_todays_baseline(fake_releases):
    """What moved it stands among the changes; a release that cannot be had is `unverified`.

    No recording of another release can be accepted.
    """
    path = fake_releases.recorded()
    for release, options, code in (
        ("1.0", ["--git-bisect"], 0),
        ("1.3", ["--git-bisect"], 1),
        ("1.3", [], 1),
        ("1.2", ["--git-bisect"], 125),
        ("1.2", [], 3),
    ):
        command = ("run", str(path), "--env", f"diffusers=={release}", "--out", f"run-{release}")
        assert fake_releases.harness(*command, *options).code == code
    done = fake_releases.harness("report", "run-1.3")
    assert f"changed:  diffusers {version('diffusers')} -> 1.3" in done.out
    refused = fake_releases.harness("accept", "run-1.3", "--reason", "newer")
    assert refused.code == 2
    made_in = "ran with diffusers==1.3"
    assert f"{made_in}; a baseline comes from a run without --env or --with" in refused.err


def test_git_bisect_never_takes_a_mistake_for_a_verdict(shop):
    """128 ends `git bisect run`; a missing baseline is 125, which skips."""
    assert shop.harness("run", "nowhere.yaml", "--git-bisect").code == 128
    assert shop.harness("run", "--git-bisect", "--env", "diffusers").code == 128
    path = shop.scenario()
    assert shop.harness("run", str(path), "--git-bisect").code == 125


@pytest.mark.slow
def test_a_real_release_is_found_in_the_real_history(shop):
    """KDPM2AncestralDiscreteScheduler draws half as much noise since 0.31.0. Needs an index."""
    path = Path(__file__).parents[2] / "docs" / "releases" / "kdpm2-ancestral-5.yaml"
    done = shop.harness(
        "bisect", str(path), "--good", "0.30.2", "--bad", "0.32.0", "--out", "found"
    )
    assert done.code == 0, done.err
    (found,) = json.loads((shop.root / "found" / "bisect.json").read_text())
    assert [(c["release"], c["move"]["first"]) for c in found["changes"]] == [
        ("0.31.0", "count of noise draws: 10 -> 5")
    ]


@pytest.mark.slow
def test_git_finds_the_commit_of_a_checkout(shop, tmp_path):
    """Of four commits of a package, the second cannot be imported, the third moved the output."""
    checkout = tmp_path / "checkout"
    package = checkout / "diffusers" / "__init__.py"
    package.parent.mkdir(parents=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(checkout), str(Path(cli.__file__).parents[2])]),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def ran(*command: str, check: bool = True) -> str:
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=check
        )
        return done.stdout + done.stderr

    harness = (sys.executable, "-m", "harness")
    folders = ("--baselines", str(tmp_path / "good"), "--out", str(tmp_path / "run"))
    common = (str(shop.scenario()), *folders)
    author = ("-c", "user.name=a", "-c", "user.email=a@b")
    ran("git", "init", "--quiet")
    same, moved, more = (DIFFUSERS.format(factor=factor) for factor in (1.0, 1.5, 2.0))
    for number, source in enumerate([same, "import gone", moved, more]):
        package.write_text(source, encoding="utf-8")
        ran("git", "add", "--all")
        ran("git", *author, "commit", "--quiet", "-m", f"commit {number}")
        if number == 0:
            ran(*harness, "record", *common)
    ran("git", "bisect", "start", "HEAD", "HEAD~3")
    searched = ran("git", "bisect", "run", *harness, "run", *common, "--git-bisect", check=False)
    assert "There are only 'skip'ped commits left to test" in searched
    assert ran("git", "rev-parse", "bisect/bad~1").strip() in searched
    assert ran("git", "log", "-1", "--format=%s", "bisect/bad") == "commit 2\n"
