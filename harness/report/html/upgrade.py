"""Owns the page of an upgrade plan."""

from __future__ import annotations

from harness.report.html.page import page
from harness.report.html.tables import text_table
from harness.report.upgrade_report import headline, sections
from harness.study.upgrade import UpgradePlan

TEMPLATE = "upgrade.html.j2"


def upgrade_page(plan: UpgradePlan) -> str:
    """Return a plan as the text of one HTML file."""
    shown = [
        (
            section.heading,
            section.lines,
            text_table(section.heading, section.headings, list(section.rows)),
        )
        for section in sections(plan)
    ]
    style = "fails" if plan.moved else "passes"
    return page(TEMPLATE, plan=plan, headline=headline(plan), style=style, sections=shown)
