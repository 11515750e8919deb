"""Owns the fixture `baseline`: objects of a user's own test, held against stored baselines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from harness.errors import UsageError
from harness.pytest_plugin import options, running
from harness.records import Outcome, Verdict
from harness.report.safe_text import safe_lines
from harness.scenario.fields import Determinism
from harness.scenario.given import LONGEST_NAME, Bounds, Given, GivenSpec, of_array, of_pipeline

_TESTS = pytest.StashKey[dict[str, str]]()  # the test that uses each name of a baseline


class BaselineFixture:
    """What one test holds against stored baselines.

    A baseline is called after its test: `test_faces.test_portrait` for `test_portrait` in
    `test_faces.py`, and `test_faces.test_portrait.latents` where the check has a name. A second
    check without a name is `test_faces.test_portrait.2`.
    """

    def __init__(self, node: pytest.Item) -> None:
        self._node = node
        self._checks: list[str] = []

    def __repr__(self) -> str:
        return f"baseline of {self._node.nodeid}"

    def check(
        self,
        value: object,
        name: str = "",
        *,
        rel_l2: float | None = None,
        l_inf: float | None = None,
    ) -> Outcome:
        """Hold an array, a tensor, an image, or a list or mapping of these against its baseline.

        On a machine of the baseline's numerics class the same bits are owed. On any other one, the
        drift must be inside the bounds; without a bound, the same bits are owed there too.

        Args:
            value: What the test computed.
            name: Tells the checks of one test apart.
            rel_l2: Largest L2 norm of the difference over the L2 norm of the baseline.
            l_inf: Largest difference of any element, in the array's own unit.

        Raises:
            DriftError: It does not pass.
        """
        __tracebackhide__ = True
        bounds = {"rel_l2": rel_l2, "l_inf": l_inf}
        given = {key: bound for key, bound in bounds.items() if bound is not None}
        return self._held(of_array(value, self._spec(name, given)))

    def run(
        self,
        pipeline: object,
        name: str = "",
        *,
        seed: int | Sequence[int] = 0,
        tolerance: Bounds | None = None,
        determinism: str = Determinism.FULL,
        **call: object,
    ) -> Outcome:
        """Call a pipeline, and hold its outputs and every stage against the baseline.

        It is called in this process, in deterministic mode, with one thread unless
        `OMP_NUM_THREADS` says otherwise. Its schedulers are put back afterwards.

        Args:
            pipeline: A pipeline of diffusers, on its device.
            name: Tells the checks of one test apart.
            seed: Of a fresh generator on the CPU, or one for each image of a batch. A `generator`
                among the call's arguments stands in its place.
            tolerance: Cross-class bounds: `rel_l2`, `l_inf`, and for stages `local_rel_l2` and
                `local_l_inf`, as in a scenario.
            determinism: `full`, or `default` to leave torch's switches as they are.
            call: The arguments of the call.

        Raises:
            DriftError: It does not pass.
        """
        __tracebackhide__ = True
        mode = _mode(determinism)
        spec = self._spec(name, tolerance or {})
        return self._held(of_pipeline(pipeline, call, spec, seed=seed, determinism=mode))

    def _held(self, given: Given) -> Outcome:
        __tracebackhide__ = True
        config = self._node.config
        run = running.of(config)
        outcome = run.run_given(given)
        self._node.user_properties += running.properties(outcome)
        if outcome.verdict is Verdict.UNVERIFIED and not options.switch(config, "strict"):
            pytest.skip(safe_lines(outcome.message))
        if not run.passes(given.case, outcome):
            raise DriftError(outcome, run.session.out)
        return outcome

    def _spec(self, name: str, bounds: Mapping[str, float | Mapping[str, float]]) -> GivenSpec:
        if name in self._checks and name:
            raise UsageError(f"this test has two checks called {name!r}; give them different names")
        self._checks.append(name)
        unnamed = self._checks.count("")
        part = name or (str(unnamed) if unnamed > 1 else "")
        whole = ".".join(filter(None, [name_of(self._node.nodeid), part]))
        tests = self._node.config.stash.setdefault(_TESTS, {})
        if tests.setdefault(whole, self._node.nodeid) != self._node.nodeid:
            raise UsageError(
                f"{tests[whole]} and {self._node.nodeid} would share the baseline {whole}: rename "
                "one, or give its parameters ids of letters and digits"
            )
        return GivenSpec(whole, Path(self._node.path), bounds, self._node.nodeid)


class DriftError(AssertionError):
    """Raised in a test whose object does not pass; its text is what the harness reports."""

    __module__ = "harness"  # where it is found; pytest prints it before the text

    def __init__(self, outcome: Outcome, run: Path) -> None:
        self.outcome = outcome
        super().__init__(running.failure_text(outcome, run))


def name_of(test: str) -> str:
    """Return what the baselines of a test are called.

    `tests/test_faces.py::TestInk::test_bold[3]` gives `tests.test_faces.TestInk.test_bold-3`. Of a
    name that is too long the end is kept.
    """
    file, _, inside = test.partition("::")
    dotted = ".".join([*Path(file).with_suffix("").parts, *inside.split("::")])
    name = re.sub(r"[^\w.+-]+", "-", dotted, flags=re.ASCII).strip("-.")
    return name[-(LONGEST_NAME - 30) :].lstrip("-.+")


def _mode(word: str) -> Determinism:
    try:
        return Determinism(word)
    except ValueError:
        words = ", ".join(Determinism)
        raise UsageError(f"`determinism`: expected one of {words}, found {word!r}") from None
