"""Owns how an upgrade plan is worded, and how it looks in a terminal, in Markdown and as a page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console

from harness.report import accuracy
from harness.report.markdown import markdown_table
from harness.report.safe_text import markdown_text
from harness.report.terminal import print_text, table
from harness.study.upgrade import (
    EnvironmentUse,
    HarmlessPart,
    HeldBack,
    OwnedMove,
    UpgradePlan,
    Verification,
)

if TYPE_CHECKING:
    from harness.study.moves import Move
    from harness.study.package_changes import PackageChange

MOVE_HEADINGS = ("case", "owner", "how", "L-inf", "rel L2", "first difference", "accuracy")
HELD_HEADINGS = ("package", "because")
CHANGE_HEADINGS = ("package", "from", "to")
LINK_HEADINGS = ("package", "needs", "because")
ENVIRONMENT_HEADINGS = ("environment", "changed in it", "", "seconds", "problem")
WHOLE = "the whole upgrade"
SHOWN_CHANGED = 6  # packages of an environment in a table; upgrade.json has all
SHOWN_PROBLEM = 160  # characters
VERIFICATION = {
    Verification.VERIFIED: "All cases were recorded once more from the lock file, and none moved.",
    Verification.MOVED: "Recorded once more from the lock file, a case moved: do not rely on it.",
    Verification.OTHER_VERSIONS: "pip resolves the lock file to other versions than were tried: do "
    "not rely on it.",
    Verification.NOT_RUN: "A case could not be recorded from the lock file: do not rely on it.",
}


@dataclass(frozen=True)
class Section:
    """A part of the report: a heading, a sentence or several, and a table."""

    heading: str
    lines: tuple[str, ...] = ()
    headings: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


# What is said.


def headline(plan: UpgradePlan) -> str:
    """Return in one sentence what the upgrade does."""
    part, every = len(plan.harmless.packages), len(plan.changes)
    if not plan.moved:
        return f"The upgrade of {every} packages moves none of {len(plan.cases)} cases"
    return (
        f"The upgrade of {every} packages moves {len(plan.moved)} of {len(plan.cases)} cases; "
        f"{part} of the packages can be upgraded without moving any"
    )


def sections(plan: UpgradePlan) -> list[Section]:
    """Return the parts of the report; those without content are left out."""
    found = [
        _moves(plan),
        _harmless(plan.harmless),
        _held(plan.harmless),
        _links(plan),
        Section("Not compared", tuple(f"{case}: {why}" for case, why in plan.unverified.items())),
        _environments(plan),
    ]
    return [section for section in found if section.lines or section.rows]


def how(owner: OwnedMove) -> str:
    """Return in words how packages own a move: alone or together, with what, on top of what."""
    if not owner.is_minimal:
        return "among these: a limit ended the search"
    words = [_together(owner)]
    if owner.needed:
        words.append(f"with {_names(owner.needed)}, which it needs")
    if owner.base:
        words.append(f"on top of {_names(owner.base)}")
    return "; ".join(words)


def _together(owner: OwnedMove) -> str:
    if len(owner.packages) == 1:
        return "alone"
    if not owner.inseparable:
        return "only together"
    if owner.inseparable == owner.packages:
        return "one of these or together: they do not run without each other"
    return f"together: without {_names(owner.inseparable)} the rest does not run"


def because(held: HeldBack, *, is_maximal: bool) -> str:
    """Return in words why packages are held back; `is_maximal` says that all were tried."""
    brings = f" (it brings {_names(held.joins)} along)" if held.joins else ""
    if held.moves:
        return f"beside the rest it moves {', '.join(held.moves)}{brings}"
    if is_maximal or held.is_known:
        return f"it does not run beside the rest{brings}"
    return f"not told, or it does not run beside the rest: a limit ended the search{brings}"


def _moves(plan: UpgradePlan) -> Section:
    rows: list[tuple[str, ...]] = []
    for case in plan.moved:
        if case.move is not None:
            rows.append((case.case, WHOLE, "", *_sizes(case.move), ""))
        for owner in case.owners:
            packages = ", ".join(map(str, owner.packages))
            judged = accuracy.line(owner.accuracy)
            rows.append((case.case, packages, how(owner), *_sizes(owner.move), judged))
    return Section("What moves, and which packages own it", (), MOVE_HEADINGS, tuple(rows))


def _sizes(move: Move) -> tuple[str, str, str]:
    return f"{move.l_inf:.2e}", f"{move.rel_l2:.2e}", move.first


def _harmless(part: HarmlessPart) -> Section:
    rows = tuple(
        (each.name, each.before or "absent", each.after or "removed") for each in part.packages
    )
    largest = "The largest part" if part.is_maximal else "A part"
    lines: tuple[str, ...] = ("No part of the upgrade was found that moves no case.",)
    if rows:
        first = f"{largest} of the upgrade that moves no case, by adding packages one by one."
        lines = (first, VERIFICATION[part.verification])
    return Section(
        "What can be upgraded without moving anything",
        lines,
        CHANGE_HEADINGS,
        rows,
    )


def _held(part: HarmlessPart) -> Section:
    rows = tuple(
        (", ".join(map(str, each.packages)), because(each, is_maximal=part.is_maximal))
        for each in part.held
    )
    return Section("Held back", (), HELD_HEADINGS, rows)


def _links(plan: UpgradePlan) -> Section:
    rows = tuple((link.change, link.needs, str(link)) for link in plan.links)
    return Section("What cannot change alone", (), LINK_HEADINGS, rows)


def _environments(plan: UpgradePlan) -> Section:
    tried = len(plan.environments)
    line = (
        f"{plan.built} environments built, {tried - plan.built} taken as they were, "
        f"{plan.recordings} runs of cases, {plan.seconds:.0f} s."
    )
    rows = tuple(
        _environment_row(number, each) for number, each in enumerate(plan.environments, start=1)
    )
    return Section("Environments", (line,), ENVIRONMENT_HEADINGS, rows)


def _environment_row(number: int, used: EnvironmentUse) -> tuple[str, ...]:
    shown = ", ".join(map(str, used.changed[:SHOWN_CHANGED])) or "nothing"
    more = len(used.changed) - SHOWN_CHANGED
    return (
        str(number),
        shown + (f" and {more} more" if more > 0 else ""),
        "built" if used.is_built else "was there",
        f"{used.seconds:.1f}",
        " ".join(used.problem.split())[:SHOWN_PROBLEM],
    )


def _names(changes: Iterable[PackageChange]) -> str:
    return ", ".join(change.name for change in changes)


# How it looks.


def print_plan(out: Console, plan: UpgradePlan) -> None:
    """Print a plan."""
    print_text(out, f"{headline(plan)}.")
    for section in sections(plan):
        out.print()
        print_text(out, f"{section.heading}:")
        for line in section.lines:
            print_text(out, line)
        if section.rows:
            out.print(table(section.headings, section.rows))


def plan_markdown(plan: UpgradePlan) -> str:
    """Return a plan as a Markdown document."""
    parts = [f"# {markdown_text(headline(plan))}"]
    for section in sections(plan):
        parts.append(f"## {section.heading}")
        parts += _markdown_lines(section.lines)
        if section.rows:
            parts.append(markdown_table(section.headings, section.rows))
    return "\n\n".join(parts) + "\n"


def _markdown_lines(lines: Sequence[str]) -> list[str]:
    return [markdown_text(line) for line in lines]


def lock_text(lock: Sequence[str], before: str, after: str) -> str:
    """Return the text of a lock file."""
    head = f"# The part of the upgrade from {before} to {after} that moves no case.\n"
    return head + "".join(f"{line}\n" for line in lock)
