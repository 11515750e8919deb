"""Hostile YAML: no file exhausts the machine, makes an object, or ends in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import scenario_text

from harness.errors import ScenarioError, ScenarioErrors, UsageError
from harness.scenario import reading
from harness.scenario.fields import SHAPE
from harness.scenario.located_yaml import (
    MOST_BYTES,
    MOST_LEVELS,
    Day,
    Flag,
    Number,
    OneOrMore,
    Record,
    Table,
    Text,
    load,
)

SECONDS = 10  # of processor time; importing the reader takes a fraction of one
BYTES = 1 << 29  # of memory, which the interpreter, numpy and the reader share

READER = """
import resource, sys
from pathlib import Path

resource.setrlimit(resource.RLIMIT_CPU, ({seconds}, {seconds}))
resource.setrlimit(resource.RLIMIT_AS, ({bytes}, {bytes}))
from harness.errors import ScenarioError, ScenarioErrors, UsageError
from harness.scenario.reading import read

try:
    print("read", len(repr(read(Path(sys.argv[1])))))
except ScenarioError as error:
    print("refused", str(error)[len(sys.argv[1]):], sep="")
"""


def read_in_bounds(path: Path) -> str:
    """Read a scenario in a process with little time and memory; return what it said."""
    program = READER.format(seconds=SECONDS, bytes=BYTES)
    command = [sys.executable, "-c", program, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(done.stdout) < 1000
    return done.stdout


def refusal(path: Path) -> ScenarioError:
    """Return the error with which a scenario is refused."""
    with pytest.raises(ScenarioError) as caught:
        reading.read(path)
    return caught.value


def written(folder: Path, text: str | bytes) -> Path:
    """Write a file with this text."""
    path = folder / "digits.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def alias_bomb() -> str:
    """Return eleven short lines that stand for ten thousand million values."""
    levels = ["  a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, 10):
        aliases = ", ".join([f"*a{level - 1}"] * 10)
        levels.append(f"  a{level}: &a{level} [{aliases}]")
    return scenario_text(call="\n" + "\n".join(levels))


def text_bomb() -> str:
    """Return a text of half a mebibyte and ninety thousand aliases of it: 45 GiB as JSON."""
    text, aliases = "x" * (MOST_BYTES // 2), ", ".join(["*a"] * 90_000)
    return scenario_text(call=f"{{a: &a {text}, b: [{aliases}]}}")


def nested(levels: int) -> str:
    """Return a call with a list in a list in a list."""
    return scenario_text(call="{a: " + "[" * levels + "]" * levels + "}")


BOMBS = {
    "alias-bomb": (alias_bomb(), "at most 100000 values, counting what aliases stand for"),
    "text-bomb": (text_bomb(), "at most 100000 values, counting what aliases stand for"),
    "many-values": (
        scenario_text(seed="[" + "0, " * 200_000 + "0]"),
        "at most 100000 values, counting what aliases stand for",
    ),
    "more-than-a-mebibyte": ("#" * MOST_BYTES + "\n", "a file of at most 1048576 bytes"),
    "900-levels": (nested(900), "at most 40 levels"),
    "100000-levels": (nested(100_000), "at most 40 levels"),
    "100000-levels-unclosed": ("[" * 100_000, "at most 40 levels"),
    "100000-levels-of-blocks": ("- " * 100_000 + "x\n", "at most 40 levels"),
    "number-of-a-million-digits": (
        scenario_text(seed="1" * 1_000_000),
        "a number of at most 400 characters",
    ),
    "hexadecimal-of-a-million-digits": (
        scenario_text(seed="0x" + "f" * 1_000_000),
        "a number of at most 400 characters",
    ),
    "base-sixty": (scenario_text(seed="1" + ":1" * 500_000), "a number of at most 400 characters"),
    "base-sixty-fraction": (
        scenario_text(timeout="1" + ":1" * 500_000 + ".5"),
        "a number of at most 400 characters",
    ),
    "almost-a-number": (scenario_text(timeout="1" * 1_000_000 + "x"), "a number > 0"),
    "almost-a-date": (scenario_text(timeout="2026-01-02" + " " * 900_000 + "x"), "a number > 0"),
    "long-word": (scenario_text(generator="cpu" * 300_000), "one of `cpu`, `device`"),
    "long-key": (
        scenario_text(cost='\n  ? "' + "slower" * 100_000 + '"\n  : 2'),
        "one of `slower`",
    ),
    "long-hint": (
        scenario_text(timeout="0" * 900_000 + "1e0"),
        "a number > 0",
    ),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_would_exhaust_the_machine_is_refused_in_little_time_and_memory(tmp_path, name):
    """A process with 10 seconds and 512 MiB says in a few lines what was expected."""
    text, expected = BOMBS[name]
    said = read_in_bounds(written(tmp_path, text))
    assert said.startswith("refused:")
    assert f"expected: {expected}" in said


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "link-to-a-device"])
def test_what_is_no_regular_file_is_refused_before_it_is_opened(tmp_path, kind):
    """Opening a pipe waits for its other end, and `/dev/zero` never ends."""
    path = tmp_path / "digits.yaml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link-to-a-device":
        path.symlink_to("/dev/zero")
    else:
        path = Path("/dev/zero")
    said = read_in_bounds(path)
    assert "expected: a regular file" in said
    assert "found:    a folder, a pipe or a device" in said


def test_a_file_of_the_largest_size_is_read_and_one_byte_more_is_not(tmp_path):
    """A megabyte of prompts is a scenario still."""
    text = scenario_text()
    path = written(tmp_path, text + "#" * (MOST_BYTES - len(text)))
    assert reading.read(path).name == "digits"
    path.write_bytes(path.read_bytes() + b"#")
    assert refusal(path).found == "more"


def test_the_deepest_and_the_longest_values_that_are_allowed_are_read(tmp_path):
    """The limits refuse what is beyond them, and nothing before them."""
    levels = MOST_LEVELS - 3  # inside the document, its mapping and that of the call
    scenario = reading.read(written(tmp_path, nested(levels)))
    value = scenario.call["a"]
    for _ in range(levels - 1):
        (value,) = value
    assert value == []
    assert refusal(written(tmp_path, nested(levels + 1))).found == "deeper nesting"
    zeros = reading.read(written(tmp_path, scenario_text(seed="[" + "0, " * 99_000 + "0]")))
    assert len(zeros.seeds) == 99_001


@pytest.mark.parametrize(
    "call",
    ["&a {b: *a}", "{b: &a [*a]}", "{b: &a [{c: [*a]}]}", "{b: &a 1, c: &a [*a]}"],
)
def test_an_alias_of_what_it_stands_in_is_refused(tmp_path, call):
    """It would be an endless value."""
    error = refusal(written(tmp_path, scenario_text(call=call)))
    assert (error.line, error.found) == (4, "an alias of itself")


def test_an_alias_stands_for_its_value(tmp_path):
    """What is harmless stays allowed."""
    text = scenario_text(call="{a: &a [1, 2], b: *a, c: &c x, d: [*c, *c]}")
    assert reading.read(written(tmp_path, text)).call == {
        "a": [1, 2],
        "b": [1, 2],
        "c": "x",
        "d": ["x", "x"],
    }


@pytest.mark.parametrize(
    ("value", "tag"),
    [
        ("!!int 7", "tag:yaml.org,2002:int"),
        ("!!bool x", "tag:yaml.org,2002:bool"),
        ("!!str 7", "tag:yaml.org,2002:str"),
        ("!!timestamp x", "tag:yaml.org,2002:timestamp"),
        ("!!binary eA==", "tag:yaml.org,2002:binary"),
        ("!!set {a, b}", "tag:yaml.org,2002:set"),
        ("!!seq [a]", "tag:yaml.org,2002:seq"),
        (
            "!!python/object/apply:os.system [touch OWNED]",
            "tag:yaml.org,2002:python/object/apply:os.system",
        ),
        ("!!python/name:os.system ''", "tag:yaml.org,2002:python/name:os.system"),
        ("!seconds 3", "!seconds"),
        ("!<tag:example.org,2026:x> 3", "tag:example.org,2026:x"),
        ("! x", "!"),
    ],
)
@pytest.mark.parametrize(
    "more",
    [
        "timeout: {value}\n",
        "scheduler: {{eta: {value}}}\n",
        "tags: [{value}]\n",
        "? {value}\n: 1\n",
    ],
    ids=["value", "member", "item", "key"],
)
def test_every_tag_is_refused_on_its_line(tmp_path, monkeypatch, value, tag, more):
    """A tag asks for an object; nothing is made of it, wherever it stands."""
    monkeypatch.chdir(tmp_path)
    error = refusal(written(tmp_path, scenario_text() + more.format(value=value)))
    assert (error.line, error.expected) == (7, "values without a tag")
    assert error.found == f"the tag `{tag}`"
    assert not (tmp_path / "OWNED").exists()


@pytest.mark.parametrize(
    ("folder", "problem"),
    [
        (r'"a\0b"', "null"),
        ("x" * 5000, "too long"),
        ("/".join(["x" * 200] * 100), "too long"),
        ("circle/weights", "Too many levels of symbolic links"),
    ],
    ids=["nul", "long-name", "long-path", "links-in-a-circle"],
)
def test_a_path_that_no_system_can_have_is_refused_in_few_words(tmp_path, folder, problem):
    """The message names the field and shows the beginning of the path alone."""
    (tmp_path / "circle").symlink_to("circle")
    error = refusal(written(tmp_path, scenario_text(checkpoint=f"{{path: {folder}}}")))
    assert (error.line, error.field) == (3, "checkpoint.path")
    assert error.expected == "a path of a folder"
    assert problem in error.found
    assert len(str(error)) < 500


def test_a_second_document_is_refused_on_its_line(tmp_path):
    """A file is one scenario; a second one would be passed over in silence."""
    error = refusal(written(tmp_path, scenario_text() + "---\n" + scenario_text()))
    assert (error.line, error.found) == (7, "but found another document")


@pytest.mark.parametrize(
    ("before", "newline"),
    [(b"", b"\r\n"), (b"\xef\xbb\xbf", b"\n"), (b"\xef\xbb\xbf", b"\r\n"), (b"", b"\r")],
    ids=["crlf", "byte-order-mark", "both", "cr"],
)
def test_an_editor_of_another_system_changes_nothing(tmp_path, before, newline):
    """Line ends and a byte order mark are no part of a value, and lines are counted the same."""
    plain = reading.read(written(tmp_path, scenario_text()))
    text = before + scenario_text().encode().replace(b"\n", newline)
    assert reading.read(written(tmp_path, text)) == plain
    text = before + scenario_text(seed="-1").encode().replace(b"\n", newline)
    error = refusal(written(tmp_path, text))
    assert (error.line, error.field) == (5, "seed")


@pytest.mark.parametrize(
    "content",
    [
        "description: für\n".encode("latin-1"),
        b"\xff\xfe" + scenario_text().encode("utf-16-le"),
        scenario_text().encode("utf-32"),
        b"\xed\xa0\x80",
        b"description: \xc0\xaf\n",
    ],
    ids=["latin-1", "utf-16", "utf-32", "half-a-pair", "overlong"],
)
def test_a_file_that_is_not_utf_8_is_refused(tmp_path, content):
    """Guessing another encoding would guess the text of a prompt."""
    error = refusal(written(tmp_path, content))
    assert (error.line, error.expected) == (1, "a readable text file in UTF-8")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("description: A digit.\ncall:\n\tprompt: x\n", 3),
        ("description: A digit.\ncall:\n  prompt: x\n\tsteps: 2\n", 4),
        ("\tdescription: A digit.\n", 1),
    ],
    ids=["indentation", "later-indentation", "first-character"],
)
def test_a_tab_as_indentation_is_refused_on_its_line(tmp_path, text, line):
    """YAML admits blanks alone."""
    error = refusal(written(tmp_path, text))
    assert (error.line, error.expected) == (line, "YAML")


@pytest.mark.parametrize(
    "content",
    ["\0", "description: \x07\n", "description: \x1b[31m\n", "\x7f", "a: \x9b\n"],
    ids=["nul", "bell", "escape", "delete", "c1"],
)
def test_a_control_character_is_refused(tmp_path, content):
    """YAML has escapes for those who mean one."""
    error = refusal(written(tmp_path, content))
    assert (error.line, error.expected) == (1, "YAML")


@pytest.mark.parametrize(
    "name", ["two words", "quo'te", 'quo"te', "brac[ket", "brac]ket", "new\nline", "-k", ".hidden"]
)
def test_a_file_name_that_cannot_be_a_name_is_refused_before_the_file_is_read(tmp_path, name):
    """It becomes a folder of baselines, a word of -k and a part of an id."""
    path = tmp_path / f"{name}.yaml"
    path.write_text(scenario_text(), encoding="utf-8")
    error = refusal(path)
    assert error.expected == "a file name of letters, digits, `-`, `_`, `+` and `.`"
    assert error.found == repr(name)
    assert error.hint == "rename the file"


@pytest.mark.parametrize("name", ["digits", "sd-1.5", "a_b+c", "größe", "7"])
def test_a_file_name_that_can_be_a_name_is_one(tmp_path, name):
    """Letters of every script are letters."""
    path = tmp_path / f"{name}.yaml"
    path.write_text(scenario_text(), encoding="utf-8")
    assert reading.read(path).name == name


def test_a_file_that_is_not_there_is_refused_with_its_path(tmp_path):
    """It may have gone between the search and the reading."""
    path = tmp_path / "absent.yaml"
    with pytest.raises(UsageError, match=r"absent\.yaml: does not exist"):
        load(path, SHAPE)


def test_all_mistakes_of_a_file_are_told_at_once(tmp_path):
    """Each with its line, in the order in which a reader meets them; a long list is cut short."""
    shape = Record({"name": Text(), "sizes": OneOrMore(Number(least=0)), "by": Table(Flag())})
    path = tmp_path / "file.yaml"
    path.write_text("name: [1]\nsizes: [1, -1, two]\nby:\n  a: yes\n  b: 7\nother: 1\n")
    with pytest.raises(ScenarioErrors) as caught:
        load(path, shape)
    assert [each.line for each in caught.value.mistakes] == [1, 2, 2, 5, 6]
    assert [each.field for each in caught.value.mistakes] == [
        "name",
        "sizes[1]",
        "sizes[2]",
        "by.b",
        "other",
    ]
    assert str(caught.value).count(f"{path}:") == 5
    assert caught.value.line == 1
    path.write_text("sizes:\n" + "- -1\n" * 25)
    with pytest.raises(ScenarioErrors) as caught:
        load(path, shape)
    assert str(caught.value).endswith(f"and 5 more mistakes in {path}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-12-31", "2026-12-31"),
        ("'2026-12-31'", "2026-12-31"),
        ("2026-13-31", None),
        ("2026-12-31T10:00:00", None),
        ("soon", None),
        ("20261231", None),
        ("[2026-12-31]", None),
    ],
)
def test_a_day_is_a_date_without_a_time(tmp_path, text, value):
    """With or without quotes."""
    path = tmp_path / "file.yaml"
    path.write_text(f"day: {text}\n")
    if value is None:
        with pytest.raises(ScenarioError):
            load(path, Record({"day": Day()}))
    else:
        assert load(path, Record({"day": Day()}))[0]["day"].isoformat() == value
