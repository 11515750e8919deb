"""Which release moved the output: the search over made-up releases, and the command over fake ones. No network."""

from __future__ import annotations

import itertools
import json
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
from harness.study.bisect import Trials, bisect, search, walk


def found_at(place: int, count: int, unknown: tuple[int, ...] = ()) -> tuple[int, int, list[int]]:
    """Return where a search ends over `count` releases that moved at `place`, and what it asked."""
    asked: list[int] = []

    def moved(at: int) -> bool | None:
        asked.append(at)
        return None if at in unknown else at >= place

    return (*bisect(count, moved, lambda low, high: None), asked)


@pytest.mark.parametrize("count", [2, 3, 7, 40])
def test_every_place_of_the_change_is_found_in_few_steps(count):
    """At most the logarithm of the distance between the ends: 6 of 40 releases, and the ends."""
    for place in range(1, count):
        low, high, asked = found_at(place, count)
        assert (low, high) == (place - 1, place)
        assert len(asked) <= (count - 2).bit_length()


def test_what_cannot_be_told_is_skipped_and_stays_between_the_ends():
    """For every place and every pair of unknown releases: all known ones are on their right side."""
    count = 8
    for place, unknown in itertools.product(
        range(1, count), itertools.combinations(range(1, count - 1), 2)
    ):
        low, high, _ = found_at(place, count, unknown)
        assert low < place <= high
        assert set(range(low + 1, high)) <= set(unknown)


class Releases:
    """A session that records a made-up case: the output's offset by release; a text is the reason why it has none."""

    def __init__(self, out: Path, offsets: dict[str, float | str]) -> None:
        self.out, self.offsets = out, offsets
        self.asked: list[str] = []

    def record(self, case, folder):
        (requirement,) = case.env
        release = requirement.removeprefix("diffusers==")
        self.asked.append(release)
        offset = self.offsets[release]
        if isinstance(offset, str):
            raise NotRecordedError(offset, "unverified")
        image = (builders.IMAGE + np.float32(offset)).astype(np.float32)
        versions = {name: version(name) for name in ("torch", "numpy", "safetensors")} | {
            "diffusers": release
        }
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
    assert (change.release, change.against, change.l_inf, change.first) == (
        "1.3",
        "1.2",
        0.25,
        "image, after the last stage",
    )
    assert change.rel_l2 == pytest.approx(0.5 / np.sqrt(1.875))
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
    assert change.l_inf == pytest.approx(0.03, abs=1e-6)
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
    assert [(c.release, c.against, c.l_inf) for c in found.changes] == [
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
    monkeypatch.setattr("harness.study.bisect.metadata.version", lambda name: "0")
    upgraded, session, _ = trials(STEADY, builders.case(seeds=(7,)))
    search(upgraded, list(STEADY))
    assert session.asked == ["1.0", "1.5", "1.2", "1.3"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Environments that the tests share: each takes seconds to build."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def fake_releases(shop, cache, monkeypatch):
    """A shop in which diffusers has three releases; the second does not import, the third moves DDIM's steps."""
    folder = shop.root / "links"
    for number, factor in (("1.0", 1.0), ("1.3", 1.5)):
        write_wheel(folder, "diffusers", number, DIFFUSERS.format(factor=factor))
    write_wheel(folder, "diffusers", "1.2", "raise ImportError('not beside this torch')")
    only_from(monkeypatch, folder, cache)
    index.releases.cache_clear()
    yield shop
    index.releases.cache_clear()


def test_the_command_finds_the_release_and_goes_on_where_it_was(fake_releases):
    """By real workers in real environments; the second call records nothing."""
    path = fake_releases.scenario()
    command = ("bisect", str(path), "--good", "1.0", "--bad", "1.3", "--out", "found")
    done = fake_releases.harness(*command)
    assert done.code == 0, done.err
    assert (
        "digits[cpu-float32], diffusers 1.0 to 1.3; 2 of 3 releases recorded, 1 skipped" in done.out
    )
    assert "or one of the skipped before it: 1.2" in done.out
    assert (
        "skipped: 1.2: no environment with diffusers==1.2: ImportError: not beside this torch"
        in done.out
    )
    (found,) = json.loads((fake_releases.root / "found" / "bisect.json").read_text())
    (change,) = found["changes"]
    assert (change["release"], change["against"], change["first"]) == (
        "1.3",
        "1.0",
        "scheduler.step#0",
    )
    assert change["l_inf"] > 0.1
    assert change["beside"] == []
    recordings = fake_releases.root / "found" / "releases"
    before = {path: path.stat().st_mtime_ns for path in recordings.rglob("recording.json")}
    again = fake_releases.harness(*command)
    assert again.out == done.out
    assert {path: path.stat().st_mtime_ns for path in recordings.rglob("recording.json")} == before


def test_a_run_in_another_release_is_judged_by_todays_baseline(fake_releases, monkeypatch):
    """What moved it stands among the changes; a release that cannot be had is `unverified`; nothing of it can be accepted."""
    path = fake_releases.recorded()
    for number, code, git in (
        ("1.0", 0, True),
        ("1.3", 1, True),
        ("1.3", 1, False),
        ("1.2", 125, True),
        ("1.2", 3, False),
    ):
        command = ("run", str(path), "--env", f"diffusers=={number}", "--out", f"run-{number}")
        assert fake_releases.harness(*command, *(["--git-bisect"] if git else [])).code == code
    done = fake_releases.harness("report", "run-1.3")
    assert f"changed:  diffusers {version('diffusers')} -> 1.3" in done.out
    refused = fake_releases.harness("accept", "run-1.3", "--reason", "newer")
    assert refused.code == 2
    assert (
        "ran with diffusers==1.3; a baseline comes from a run without --env or --with"
        in refused.err
    )


def test_git_bisect_never_takes_a_mistake_for_a_verdict(shop):
    """128 ends `git bisect run`; a missing baseline is 125, which skips."""
    assert shop.harness("run", "nowhere.yaml", "--git-bisect").code == 128
    assert shop.harness("run", "--git-bisect", "--env", "diffusers").code == 128
    path = shop.scenario()
    assert shop.harness("run", str(path), "--git-bisect").code == 125


@pytest.mark.slow
def test_a_real_release_is_found_in_the_real_history(tmp_path, shop):
    """KDPM2AncestralDiscreteScheduler draws half as much noise since 0.31.0. Needs a package index."""
    path = Path(__file__).parents[2] / "docs" / "releases" / "kdpm2-ancestral-5.yaml"
    done = shop.harness(
        "bisect", str(path), "--good", "0.30.2", "--bad", "0.32.0", "--out", "found"
    )
    assert done.code == 0, done.err
    (found,) = json.loads((shop.root / "found" / "bisect.json").read_text())
    assert [(c["release"], c["first"]) for c in found["changes"]] == [
        ("0.31.0", "count of noise draws: 10 -> 5")
    ]


@pytest.mark.slow
def test_git_finds_the_commit_of_a_checkout(shop, tmp_path):
    """Four commits of a package on PYTHONPATH: the second cannot be imported, the third moved the output."""
    checkout, package = tmp_path / "checkout", tmp_path / "checkout" / "diffusers" / "__init__.py"
    package.parent.mkdir(parents=True)
    paths = os.pathsep.join([str(checkout), str(Path(cli.__file__).parents[2])])
    environment = {
        **os.environ,
        "PYTHONPATH": paths,
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }

    def ran(*command: str) -> str:
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    harness = (sys.executable, "-m", "harness")
    common = (
        str(shop.scenario()),
        "--baselines",
        str(tmp_path / "good"),
        "--out",
        str(tmp_path / "run"),
    )
    ran("git", "init", "--quiet")
    same, moved, more = (DIFFUSERS.format(factor=factor) for factor in (1.0, 1.5, 2.0))
    for number, source in enumerate([same, "import gone", moved, more]):
        package.write_text(source, encoding="utf-8")
        ran("git", "add", "--all")
        ran(
            "git",
            "-c",
            "user.name=a",
            "-c",
            "user.email=a@b",
            "commit",
            "--quiet",
            "-m",
            f"commit {number}",
        )
        if number == 0:
            ran(*harness, "record", *common)
    ran("git", "bisect", "start", "HEAD", "HEAD~3")
    search = ["git", "bisect", "run", *harness, "run", *common, "--git-bisect"]
    done = subprocess.run(
        search, cwd=checkout, env=environment, capture_output=True, text=True, check=False
    )
    assert "There are only 'skip'ped commits left to test" in done.stdout + done.stderr
    skipped, bad = (
        ran("git", "rev-parse", revision).strip() for revision in ("bisect/bad~1", "bisect/bad")
    )
    assert skipped in done.stdout
    assert ran("git", "log", "-1", "--format=%s", bad) == "commit 2\n"
