"""Says why a case moved: the first input or stage that differs, the modules and operators inside it, and the setting.

Both sides run again only as far as needed, compared by digests: a root is what turned the same bits into others. Once a
root is found, its result on the one side is fed to the other, and the search goes on behind it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from harness.errors import NotRecordedError
from harness.judge import (
    checks as tolerance,
)
from harness.judge import (
    drift,
)
from harness.judge import (
    first_difference as divergence,
)
from harness.judge import (
    module_diff as inside,
)
from harness.records import Drift, Recording
from harness.scenario.model import Case
from harness.session import Session
from harness.study.revert import Knob, candidates, distance, share_of
from harness.worker.protocol import OWN_CODE


@dataclass(frozen=True)
class Operator:
    """The operator at a root: what it is, what it took, the line that called it, and which operator comes next."""

    name: str
    shapes: list[str]
    source: str
    moved: Drift | None
    next: str


@dataclass(frozen=True)
class Root:
    """A call that got the same bits on both sides and gave others.

    `module` is the module's path and call (`#0`: the stage's own code), `glue` says that the modules inside it agree, so
    that its own code differs; `moved` is how far its result lies apart, where both sides ran; `operator` is None where
    no single operator of its own turned the same bits into others; `share` is the part of the outputs' drift that goes when
    every result of the module, and of the roots before it, is the other side's.
    """

    stage: str
    module: str
    type: str
    glue: bool
    moved: Drift | None = None
    operator: Operator | None = None
    share: float | None = None


@dataclass(frozen=True)
class Explanation:
    """Why a case moved.

    `first` is what the recordings say by themselves; `roots` what was found inside, in the order of the run; `knobs` the
    settings tried; `values` what the sizes of drifts say, where everything differs from the first operator on; `notes` what
    could not be told, and why; `partly` says that the baseline's side has other bits here than the baseline, so that the
    roots explain what lies between the two sides here.
    """

    case: str
    first: str
    roots: list[Root] = field(default_factory=list)
    knobs: list[Knob] = field(default_factory=list)
    values: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    partly: bool = False


class Inquiry:
    """The search for the roots between two cases that should give the same bits.

    Args:
        session: Runs the cases; its folder keeps the recordings.
        now: The case that moved.
        then: The same case as it was.
        folder: Where recordings go.
        on_step: Called with what is being run.
    """

    def __init__(
        self,
        session: Session,
        now: Case,
        then: Case,
        folder: Path,
        on_step: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._session, self._now, self._then, self._folder, self._on_step = (
            session,
            now,
            then,
            folder,
            on_step,
        )
        self._found: list[str] = []  # modules that are roots, as `unet/conv_in`
        self._anchors: Path | None = None  # holds what they gave on the other side
        self.notes: list[str] = []

    def recorded_root(self, now: Recording, then: Recording) -> list[Root]:
        """Return the first root as far as the recordings alone tell, where the other side cannot run here."""
        stage = divergence.first_stage(now, then)
        if stage is None:
            return []
        mine, theirs = (side.inside("modules").get(stage, []) for side in (now, then))
        if _has_modules(stage) and not (mine and theirs):
            self.notes.append(
                f"which module of {stage} it was cannot be told: the recordings keep no digests of this call"
            )
            return [Root(stage, "", "", glue=False)]
        return [self._root(stage, mine, theirs)]

    def roots(
        self, now: Recording, then: Recording, limit: int, *, operators: bool = True
    ) -> list[Root]:
        """Return the roots in the order of the run, at most `limit`.

        Args:
            now: The recording of the case that moved.
            then: The recording of the same case as it was.
            limit: How many roots to look for.
            operators: Whether to look inside the modules, by running both sides again, and to tell every root's share.
        """
        roots: list[Root] = []
        far = distance(now, then)
        while len(roots) < limit:
            stage = divergence.first_stage(now, then)
            if stage is None:
                break
            root = self._module(stage, now, then)
            module = f"{tolerance.kind_of(stage)}/{root.module.rsplit('#', 1)[0]}"
            if module in self._found:
                self.notes.append(
                    f"{stage}, {root.module}: differs again although it was given the other side's result"
                )
                break
            if operators or len(roots) + 1 < limit:
                root = self._inside(root, module, operators=operators)
                now = self._again("now", self._now, {"feed": self._found}, f"fed-{len(roots) + 1}")
                root = replace(root, share=share_of(distance(now, then), far))
            roots.append(root)
        return roots

    def _module(self, stage: str, now: Recording, then: Recording) -> Root:
        """Return the module at fault in `stage`, or the stage's own code."""
        mine, theirs = now.inside("modules").get(stage), then.inside("modules").get(stage)
        if (mine is None or theirs is None) and _has_modules(stage):
            detail = {"stage": stage}
            mine = (
                self._again("now", self._now, {**detail, "feed": self._found}, "modules")
                .inside("modules")
                .get(stage)
            )
            theirs = self._again("then", self._then, detail, "modules").inside("modules").get(stage)
        return self._root(stage, mine or [], theirs or [])

    def _root(self, stage: str, mine: list[inside.Entry], theirs: list[inside.Entry]) -> Root:
        aligned = inside.align(mine, theirs, "module")
        if aligned.only_now or aligned.only_then:
            self.notes.append(f"{stage} has other modules than it had: {_in_place(aligned)}")
        suspect = inside.first_module(aligned)
        if suspect is None:
            return Root(stage, OWN_CODE, "", glue=bool(aligned.pairs))
        return Root(stage, suspect.module, suspect.type, suspect.glue)

    def _inside(self, root: Root, module: str, *, operators: bool) -> Root:
        """Run this side up to the root and the other to its end: how far it moved, and which of its operators moved it."""
        detail: dict[str, Any] = {
            "stage": root.stage,
            **({"operators": root.module} if operators else {}),
        }
        now = self._again(
            "now", self._now, {**detail, "keep": [module], "feed": self._found}, "inside"
        )
        self._found = [*self._found, module]
        then = self._again(
            "then",
            self._then,
            {**detail, "keep": self._found, "to_end": True},
            f"inside-{len(self._found)}",
        )
        self._anchors = then.tensors_path.resolve()
        mine, theirs = now.tensors(), then.tensors()
        own = f"module/{root.stage}/{root.module}/"
        names = [
            n
            for n in theirs
            if n.startswith(own) and n in mine and mine[n].shape == theirs[n].shape
        ]
        moved = max(
            (drift.measure(mine[n], theirs[n]) for n in names), key=lambda d: d.l_inf, default=None
        )
        alike = (
            str if self._now.scenario.framework == self._then.scenario.framework else inside.plain
        )
        aligned = inside.align(
            now.content["operators"], then.content["operators"], "operator", alike
        )
        if aligned.only_now or aligned.only_then:
            self.notes.append(
                f"{root.stage}, {root.module}, has other operators than it had: {_in_place(aligned)}"
            )
        return replace(root, moved=moved, operator=_operator(aligned, now, then))

    def _again(self, side: str, case: Case, detail: dict[str, Any], name: str) -> Recording:
        self._on_step(f"{name}, {side}")
        carrier = replace(
            case, detail=detail, anchors=self._anchors if detail.get("feed") else None
        )
        slot = self._session.slot(0 if side == "now" else 1)
        return self._session.record(carrier, slot, self._folder / f"{side}-{name}")


def _has_modules(stage: str) -> bool:
    return not stage.startswith("noise#") and ".step#" not in stage


def _in_place(aligned: inside.Aligned) -> str:
    return " in place of ".join(
        ", ".join(side[:3]) or "nothing" for side in (aligned.only_now, aligned.only_then)
    )


def _operator(aligned: inside.Aligned, now: Recording, then: Recording) -> Operator | None:
    index = inside.first_operator(aligned)
    if index is None:
        return None
    mine, theirs = aligned.pairs[index]
    place, other = now.content["operators"].index(mine), then.content["operators"].index(theirs)
    values, expected = now.tensors(), then.tensors()
    pairs = [
        (values.get(f"operator/{place}/{key}"), expected.get(f"operator/{other}/{key}"))
        for key in mine["outputs"]
    ]
    drifts = [
        drift.measure(a, b)
        for a, b in pairs
        if a is not None and b is not None and a.shape == b.shape
    ]
    moved = max(drifts, key=lambda d: d.l_inf, default=None)
    following = aligned.pairs[index + 1][0]["operator"] if index + 1 < len(aligned.pairs) else ""
    return Operator(mine["operator"], mine["shapes"], mine["source"], moved, following)


def explain(
    session: Session,
    case: Case,
    now: Recording,
    then: Recording,
    *,
    limit: int,
    on_step: Callable[[str], None],
    packages: bool = False,
) -> Explanation:
    """Explain why a recorded case differs from its baseline, by running both sides again as they were.

    Args:
        session: Runs the cases.
        case: The scenario's case, without knobs.
        now: What the run left.
        then: The baseline's recording.
        limit: How many roots to look for.
        on_step: Called with what is being run.
        packages: Whether the versions of packages are put back too.
    """
    first = divergence.first(now, then)
    if first is None or not distance(now, then):
        return Explanation(case.id, first or "", notes=["no bit of any output differs"])
    if divergence.other_weights(now, then):
        return Explanation(
            case.id,
            first,
            notes=["with other weights nothing after them can be held against the baseline"],
        )
    as_now, as_then, single = candidates(case, now, then, packages=packages)
    folder = session.out / "explain" / case.scenario.name / case.place

    def run(carrier: Case, name: str) -> Recording:
        on_step(name)
        slot = 0 if carrier == as_now else 1 if carrier == as_then else 2
        return session.record(replace(carrier, detail={}), session.slot(slot), folder / name)

    inquiry = Inquiry(session, as_now, as_then, folder, on_step)

    def attempt(carrier: Case, name: str, what: str) -> Recording | None:
        try:
            return run(carrier, name)
        except NotRecordedError as error:  # such as a package that does not fit the others
            inquiry.notes.append(f"{what}: {error.reason}")
            return None

    again = run(as_now, "now")
    before = attempt(as_then, "then", "the baseline's side does not run here")
    far = distance(again, then)
    if distance(again, now):
        inquiry.notes.append(
            "the run cannot be repeated here: its case gives other bits now than it gave then"
        )
    knobs = []
    for knob, carrier in single if far else ():
        back = attempt(carrier, f"back-{knob.name}", f"{knob.name} {knob.then} alone")
        if back:
            knobs.append(replace(knob, share=share_of(distance(back, then), far)))
    left = distance(before, then) if before else math.inf
    if left:
        part = f": {100 * share_of(left, far):.0f} % of the drift is between now and the case by its settings here"
        inquiry.notes.append(
            f"the baseline cannot be repeated here by its settings{part if before else ''}"
        )
    roots = (
        inquiry.roots(again, before, limit)
        if before and distance(again, before)
        else inquiry.recorded_root(now, then)
    )
    notes = list(dict.fromkeys([*inquiry.notes, *_unfinished(roots, limit)]))
    return Explanation(
        case.id,
        first,
        roots,
        sorted(knobs, key=lambda knob: -knob.share),
        notes=notes,
        partly=bool(left),
    )


def _unfinished(roots: list[Root], limit: int) -> list[str]:
    """Return a note where the search ended at its limit before all of the drift was explained."""
    rest = len(roots) == limit and roots[-1].share is not None and round(roots[-1].share, 2) < 1
    return [f"other causes come after these: `--roots {limit}` ended the search"] if rest else []
