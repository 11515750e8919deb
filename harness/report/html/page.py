"""Owns the frame of every HTML page: templates, escaping, and what is inlined into the one file.

A page is one file: style, script and pictures are inside, and its content security policy forbids
everything else. A template extends `frame.html.j2` and fills its blocks `title`, `lead` and
`content`; `macros.html.j2` has the table that every page uses. Another page than the report of runs
is made by a template of its own in `harness/data/html/`:

    text = page("history.html.j2", history=view)

Whatever a template prints is escaped: markup by Jinja2, control characters by `report.safe_text`.
Only a `Markup` is printed as it is, which charts are.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from harness.report.safe_text import safe_lines

FOLDER = "data/html"  # inside the package
STYLE, SCRIPT = "page.css", "page.js"


def page(template: str, **values: object) -> str:
    """Return a page as the text of one file.

    Args:
        template: The name of a template in `harness/data/html/`.
        values: What it prints.
    """
    return _environment().get_template(template).render(**values)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("harness", FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = _content(SCRIPT)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals["style"] = Markup(_content(STYLE))  # noqa: S704 (a file of the package)
    environment.globals["script"] = Markup(script)  # noqa: S704 (a file of the package)
    environment.globals["script_digest"] = f"sha256-{digest}"
    return environment


def _printable(value: object) -> object:
    """Return what a template prints, with the control characters of a text written out."""
    if isinstance(value, str) and not isinstance(value, Markup):
        return safe_lines(value)
    return value


def _content(name: str) -> str:
    path = files("harness").joinpath(FOLDER, name)
    return path.read_text(encoding="utf-8")
