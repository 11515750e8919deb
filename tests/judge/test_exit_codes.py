"""From many outcomes to the exit code of a run or of a step of `git bisect`."""

from __future__ import annotations

import builders
import pytest

from harness.judge.exit_codes import GIT_BAD, GIT_GOOD, GIT_SKIP, exit_code, git_code
from harness.records import Verdict

FAILING = tuple(verdict for verdict in Verdict if verdict.fails)
PASSING = tuple(verdict for verdict in Verdict if verdict.passes)


@pytest.mark.parametrize(
    ("verdicts", "code", "strict"),
    [
        (["identical"], 0, 0),
        (["identical", "within"], 0, 0),
        (["identical", "unverified"], 0, 3),
        (["unverified"], 3, 3),
        ([], 3, 3),
        (["unverified", "error"], 1, 1),
        *((["identical", verdict], 1, 1) for verdict in FAILING),
        *(([verdict], 0, 0) for verdict in PASSING),
    ],
)
def test_a_run_s_exit_code_follows_from_its_verdicts(verdicts, code, strict):
    """0: verified and passing; 1: something fails; 3: nothing fails but too little was seen."""
    outcomes = [builders.outcome(verdict, case=str(n)) for n, verdict in enumerate(verdicts)]
    assert (exit_code(outcomes, strict=False), exit_code(iter(outcomes), strict=True)) == (
        code,
        strict,
    )


def test_every_verdict_passes_or_fails_or_is_unverified():
    """What the exit codes rest on; a new verdict must be given its side."""
    assert PASSING == ("identical", "within", "varies")
    assert FAILING == ("drifted", "unrepeatable", "missing", "stale", "incomparable", "error")
    assert len(Verdict) == len(PASSING) + len(FAILING) + 1


@pytest.mark.parametrize(
    ("verdicts", "code"),
    [
        (["identical", "within"], GIT_GOOD),
        (["identical", "drifted"], GIT_BAD),
        (["unverified", "unrepeatable"], GIT_BAD),
        (["incomparable"], GIT_BAD),
        (["identical", "error"], GIT_SKIP),
        (["missing"], GIT_SKIP),
        (["stale"], GIT_SKIP),
        (["identical", "unverified"], GIT_SKIP),
    ],
)
def test_git_bisect_is_told_bad_only_where_an_output_moved(verdicts, code):
    """A commit on which the case does not run is skipped."""
    assert git_code(builders.outcome(verdict) for verdict in verdicts) == code
