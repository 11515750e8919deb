"""An explanation in words: short enough for an issue tracker."""

from __future__ import annotations

from collections.abc import Sequence

from harness.records import Drift
from harness.study.explain import Explanation, Root
from harness.worker.protocol import OWN_CODE


def text(found: Explanation, changes: Sequence[str] = ()) -> str:
    """Return the explanation; `changes` are the differences of the environment, the likeliest first."""
    lines = [found.case]
    lines.append(f"  first:    {found.first or 'nothing differs'}")
    for root in found.roots:
        which = "with it" if root == found.roots[0] else "with it and those above"
        lines += _root(
            root, which, "what lies between the two sides here" if found.partly else "the drift"
        )
    for knob in found.knobs:
        back = f"{knob.name} {knob.now or 'unset'} -> {knob.then or 'unset'}"
        lines.append(f"  setting:  {back} explains {_share(knob.share)} of the drift")
    lines += [f"  values:   {said}" for said in found.values]
    if changes:
        lines.append(f"  changed:  {changes[0]}")
        lines += [f"            {change}" for change in changes[1:8]]
    lines += [f"  note:     {note}" for note in found.notes]
    return "\n".join(lines)


def _root(root: Root, which: str, drift: str) -> list[str]:
    lines = [f"  stage:    {root.stage}: the same bits in, others out"]
    if not root.module:
        return lines
    where = (
        f"own code of {root.stage}" if root.module == OWN_CODE else f"{root.module} ({root.type})"
    )
    lines.append(f"  module:   {where}{_moved(root.moved)}")
    if root.glue and root.module != OWN_CODE:
        lines.append(
            "            no module inside it turned the same bits into others: its own code did"
        )
    if root.operator:
        operator = root.operator
        lines.append(
            f"  operator: {operator.name} of {', '.join(operator.shapes) or 'no tensor'}{_moved(operator.moved)}"
        )
        lines.append(
            f"            called at {operator.source}"
            + (f"; next comes {operator.next}" if operator.next else "")
        )
    elif root.moved:
        lines.append(
            "  operator: none that both sides have: what it holds (weights, buffers, settings) differs, or its operators do"
        )
    if root.share is not None:
        lines.append(f"            {which} put back, {_share(root.share)} of {drift} goes")
    return lines


def _moved(moved: Drift | None) -> str:
    if moved is None:
        return ""
    return f": L-inf {moved.l_inf:.2e}, relative L2 {moved.rel_l2:.2e}, {moved.differing} of {moved.size} elements"


def _share(share: float) -> str:
    return "100 %" if share == 1 else f"{100 * share:.0f} %" if share < 0.995 else "over 99 %"
