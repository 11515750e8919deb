"""An emulation of what GPUs change in arithmetic, for chosen stages of one run."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ContextManager, Dict

from ...observe.stages import Stage
from ...protocol import CannotRunHere, CaseError, EmulationRequest
from .base import Execution, Seen, counted

SHOWN_OPERATORS = 6


class Emulated(Execution):
    """Lets the operators of chosen stages compute as an emulation says.

    Args:
        request: Its name, and the stages whose operators are emulated.
        device: Where the case runs.

    Raises:
        CannotRunHere: The case runs on a GPU, or this torch shows no operators.
        CaseError: There is no such emulation.
    """

    def __init__(self, request: EmulationRequest, device: str) -> None:
        if device != "cpu":
            raise CannotRunHere(f"emulations compute on the CPU, and this case runs on {device}")
        try:
            from ...conditions.emulation import operators
        except ImportError as error:
            raise CannotRunHere(f"this torch is too old for emulations: {error}") from error
        self.asked = f"emulation: {request['name']}"
        if request["name"] not in operators.EMULATIONS:
            known = ", ".join(operators.EMULATIONS)
            raise CaseError(f"no emulation `{request['name']}`; there are {known}")
        self._stages = frozenset(request["stages"])
        self._emulating = operators.emulating
        self._operators = operators.EmulatedOperators(operators.EMULATIONS[request["name"]])

    def around(self, stage: Stage) -> ContextManager[Any]:
        """Emulate the operators of the stages that were asked for."""
        return self._emulating(self._operators) if stage.name in self._stages else nullcontext()

    def seen(self) -> Seen:
        """Return how many operators were emulated, and which of their kinds were not.

        Raises:
            CaseError: None was: the emulation has no effect on this pipeline, and a drift of zero
                would say nothing.
        """
        emulated, left = self._operators.emulated, self._operators.left
        if not emulated:
            raise CaseError(
                f"{self.asked}: has no effect: no operator of {', '.join(sorted(self._stages))} "
                f"is one that it emulates{_left(left)}"
            )
        words = f"{counted(sum(emulated.values()), 'operator')} emulated: {_listed(emulated)}"
        return Seen(words + _left(left), took_effect=True)


def _listed(counts: Dict[str, int]) -> str:
    shown = sorted(counts.items(), key=lambda item: -item[1])
    words = [f"{count} {name}" for name, count in shown[:SHOWN_OPERATORS]]
    return ", ".join(words) + (" and others" if len(shown) > SHOWN_OPERATORS else "")


def _left(counts: Dict[str, int]) -> str:
    return f"; left as torch computes them: {_listed(counts)}" if counts else ""
