"""The pages of the site: what they show is typed and compared, and the site builds."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from printed import shape_of

from harness.commands.main import COMMANDS, build_parser

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(
    r"<!-- (?P<kind>runs|file): (?P<name>\S+) -->\n```\w+\n(?P<text>.*?)```", re.DOTALL
)
# Which platform of a calibration is the worst differs from machine to machine.
PLATFORM = re.compile(r"(?:aten|onednn|mkl|all|threads|channels)-[\w-]+|oldest|portable")


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def typed(command: str, folder: Path) -> str:
    """Type a command in a folder, as a user with the environment of the tests does."""
    environment = {name: text for name, text in os.environ.items() if name != "CI"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.stdout


def walk(name: str, folder: Path) -> list[str]:
    """Write the files of a page, type its commands in their order, and compare what they print.

    Every line that the page shows must be printed, in that order; the page may leave lines out.

    Returns:
        The lines that a command did not print, with its output; none after the first such command.
    """
    for block in BLOCK.finditer(page(name)):
        if block["kind"] == "file":
            (folder / block["name"]).write_text(block["text"], encoding="utf-8")
            continue
        command, _, shown = block["text"].partition("\n")
        printed = typed(command.removeprefix("$ "), folder)
        left = iter(shape_of(PLATFORM.sub("PLATFORM", printed)))
        missing = [line for line in shape_of(PLATFORM.sub("PLATFORM", shown)) if line not in left]
        if missing:
            return [*missing, printed]
    return []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["first-steps.md", "tolerances.md"])
def test_what_a_page_shows_is_what_happens(name: str, tmp_path: Path):
    """Its files and commands, from the first to the last, in an empty folder."""
    assert walk(name, tmp_path) == []


def test_the_sums_of_the_page_on_numerics_are_right(tmp_path: Path):
    """Python is asked."""
    assert walk("numerics.md", tmp_path) == []


def test_a_page_that_shows_what_is_not_printed_fails(tmp_path: Path, monkeypatch):
    """What the other tests rest on: another word, another order."""
    text = "<!-- runs: x -->\n```console\n$ printf 'one\\ntwo\\n'\n{}\n```\n"
    for shown, holds in (("one", True), ("one\ntwo", True), ("two\none", False), ("x", False)):
        monkeypatch.setitem(globals(), "page", lambda _, shown=shown: text.format(shown))
        assert (walk("x.md", tmp_path) == []) == holds


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the site, as CI does: a link that leads nowhere is an error."""
    pytest.importorskip("mkdocs", reason="the extra `docs` is not installed")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_reference_names_every_command_key_and_function(site: Path):
    """It is made from the parser, the JSON Schema, the plugin and the docstrings."""
    commands = (site / "reference" / "commands.html").read_text(encoding="utf-8")
    assert all(f'id="harness-{command.name}"' in commands for command in COMMANDS)
    keys = (site / "reference" / "scenario-keys.html").read_text(encoding="utf-8")
    schema = json.loads((ROOT / "harness/data/scenario.schema.json").read_text(encoding="utf-8"))
    assert all(f"<code>{key}</code>" in keys for key in schema["properties"])
    api = (site / "reference" / "api.html").read_text(encoding="utf-8")
    assert all(f'id="harness.api.{name}"' in api for name in ("check", "compare", "load", "run"))
    assert "Raises:" in api
    options = (site / "reference" / "pytest-options.html").read_text(encoding="utf-8")
    assert "--harness-accept" in options


@pytest.mark.slow
def test_no_page_of_the_site_loads_anything_from_elsewhere(site: Path):
    """Whoever reads it tells nobody; it opens from a folder too."""
    loaded = re.compile(
        r"""(?:<script[^>]*src|<link[^>]*rel="stylesheet"[^>]*href)="(https?:[^"]+)"""
    )
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    assert {
        path.name: found
        for path in pages
        if (found := loaded.findall(path.read_text(encoding="utf-8")))
    } == {}


def test_every_page_of_the_documentation_is_in_the_navigation():
    """A page that nobody finds is not there; the measurements are listed by the hooks."""
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert [
        name for name in pages if not re.search(rf": {re.escape(name)}$", text, re.MULTILINE)
    ] == []


def test_the_parser_can_be_asked_for_the_help_of_every_command():
    """The reference is made from it."""
    assert {command.name for command in COMMANDS} <= set(build_parser().format_help().split())
