"""Makes the pages of the site that code says better, and fits links to where pages lie there.

The README and its neighbours become pages; the reference of commands is that of the parser, of keys
that of the JSON Schema, of pytest's options that of the plugin. mkdocs calls the functions `on_…`.
"""

from __future__ import annotations

import argparse
import json
import os
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

import harness
import harness.api
from harness.commands.main import build_parser
from harness.pytest_plugin import options

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
# Pages that lie outside of docs/, by their path in the repository.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "attacks/README.md": "attacks.md",
    "fuzz/README.md": "fuzz.md",
}
HOME = {page: path for path, page in OUTSIDE.items()}
LINK = re.compile(r"(!?)\[([^\]\n]*(?:\n[^\]\n]+)?)\]\(([^)\s#]*)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
SCHEMA = ROOT / "harness" / "data" / "scenario.schema.json"
COLUMNS = "88"
INNER = ("Session", "Store")  # their methods serve the harness itself


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not lie in docs/."""
    made = {page: (ROOT / path).read_text(encoding="utf-8") for path, page in OUTSIDE.items()}
    made["reference/commands.md"] = commands_page()
    made["reference/scenario-keys.md"] = keys_page()
    made["reference/pytest-options.md"] = options_page()
    made["reference/api.md"] = api_page()
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages of measurements in the navigation, below the page that sums them up."""
    folder = ROOT / DOCS / "measurements"
    pages = sorted(f"measurements/{path.name}" for path in folder.glob("*.md"))
    for section in config.nav or []:
        if "Measurements" in section:
            section["Measurements"] += pages
    return config


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let links lead to pages of the site; one to a file that is no page becomes plain text."""
    here = page.file.src_uri
    source = HOME.get(here, f"{DOCS}/{here}")
    kept: list[str] = []

    def keep(found: re.Match[str]) -> str:
        kept.append(found[0])
        return f"\0{len(kept) - 1}\0"

    def fit(found: re.Match[str]) -> str:
        return _fitted(found, source, here)

    text = LINK.sub(fit, FENCE.sub(keep, markdown))
    return re.sub(r"\0(\d+)\0", lambda found: kept[int(found[1])], text)


def _fitted(found: re.Match[str], source: str, here: str) -> str:
    """Return a link of the page `here`, whose text lies at `source` in the repository."""
    picture, text, target, anchor = found.groups()
    if "://" in target or not target or target.startswith("mailto:"):
        return found[0]
    path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    is_page = path.startswith(f"{DOCS}/") and not path.startswith(
        (f"{DOCS}/releases/", f"{DOCS}/upgrades/")
    )
    to = OUTSIDE.get(path) or (path.removeprefix(f"{DOCS}/") if is_page else "")
    if not to:
        if not (ROOT / path).exists():
            raise PluginError(f"{source}: the link to {target} leads nowhere")
        return f"{text} (`{path}`)"
    where = posixpath.relpath(to, posixpath.dirname(here) or ".")
    return f"{picture}[{text}]({where}{anchor or ''})"


# Reference.


def commands_page() -> str:
    """Return what `harness COMMAND --help` prints, of every command."""
    os.environ["COLUMNS"] = COLUMNS
    parser = build_parser()
    (subparsers,) = (
        action for action in parser._actions if isinstance(action, argparse._SubParsersAction)
    )
    helps = {choice.dest: choice.help or "" for choice in subparsers._choices_actions}
    lines = ["# Commands", "", "What `harness COMMAND --help` prints, made from the parser.", ""]
    lines += [parser.description or "", "", "| command | does |", "|---|---|"]
    lines += [f"| [`{name}`](#harness-{name}) | {text} |" for name, text in helps.items()]
    for name in helps:
        printed = subparsers.choices[name].format_help().rstrip()
        without_codes = printed.partition("\n\nexit codes:")[0]
        lines += ["", f"## harness {name}", "", "```text", without_codes, "```"]
    return "\n".join([*lines, "", "## Exit codes", "", "```text", parser.epilog or "", "```", ""])


def keys_page() -> str:
    """Return every key of a scenario with what it takes, from the JSON Schema."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    lines = [
        "# The schema of scenarios",
        "",
        "Every key that a scenario may have, made from the JSON Schema that editors use.",
        "[Keys of a scenario](../scenarios.md) explains them, with examples.",
        "",
        "| key | takes | meaning |",
        "|---|---|---|",
    ]
    for key, value in schema["properties"].items():
        needed = ", **needed**" if key in schema["required"] else ""
        meaning = value.get("description", "").replace("|", "\\|")
        lines.append(f"| `{key}` | {takes(value)}{needed} | {meaning} |")
        for path, inner in below(key, value):
            meaning = inner.get("description", "").replace("|", "\\|")
            lines.append(f"| `{path}` | {takes(inner)} | {meaning} |")
    return "\n".join([*lines, ""])


def below(key: str, value: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the keys of a mapping that a key takes, each with its schema."""
    for inner, schema in value.get("properties", {}).items():
        yield f"{key}.{inner}", schema
        yield from below(f"{key}.{inner}", schema)


def takes(value: dict[str, Any]) -> str:
    """Return the values that a schema admits, in words."""
    if "anyOf" in value:
        return " or ".join(dict.fromkeys(takes(one) for one in value["anyOf"]))
    if "enum" in value:
        return ", ".join(f"`{json.dumps(one).strip(chr(34))}`" for one in value["enum"])
    kind = value.get("type", "any value")
    if kind == "array":
        return f"a list of: {takes(value.get('items', {}))}"
    if kind == "object":
        return "a mapping"
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    said = [f"{word} {value[name]}" for name, word in limits.items() if name in value]
    return " ".join([{"string": "text", "integer": "whole number"}.get(kind, kind), *said])


def options_page() -> str:
    """Return the options of the pytest plugin with their ini keys, from the plugin's own tables."""
    lines = [
        "# Options of pytest",
        "",
        "Made from the plugin. [In pytest](../pytest.md) explains what they are for.",
        "An option of the command line comes first, then the ini key, then `[tool.harness]`.",
        "",
        "| option | ini key | meaning |",
        "|---|---|---|",
    ]
    rows = [(f"{name} {value[0]}", name, value[2]) for name, value in options.TEXTS.items()]
    rows += [(name, name, text) for name, text in options.SWITCHES.items()]
    for shown, name, text in rows:
        key = "" if name in options.ONLY_ON_THE_COMMAND_LINE else f"`harness_{name}`"
        lines.append(f"| `{options.PREFIX}{shown}` | {key} | {text} |")
    lines.append(f"| | `harness_scenarios` | {options.SCENARIOS_HELP} |")
    return "\n".join([*lines, ""])


def api_page() -> str:
    """Return the public names, whose docstrings mkdocstrings puts in their places."""
    names = sorted(set(harness.__all__) - {"__version__"}, key=str.swapcase)  # functions first
    _, _, text = (harness.api.__doc__ or "").partition("\n\n")
    lines = ["# Python API", "", text.rstrip(), ""]
    for name in names:
        lines.append(f"::: {harness._MODULES[name]}.{name}")
        if name in INNER:
            lines += ["    options:", "      members: false"]
        lines.append("")
    return "\n".join(lines)
