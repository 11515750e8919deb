"""What a gate decides in every situation that docs/gate.md lists, by the command itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from gate_situations import SITUATIONS, Situation, table
from gate_world import World

from harness.gate.record import read_record

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def world(tmp_path, monkeypatch, capsys) -> World:
    """A project in the current folder, and the command line in this process."""
    from conftest import Shop

    monkeypatch.chdir(tmp_path)
    shop = Shop(tmp_path, capsys, tmp_path / "shelf")
    return World(tmp_path, shop.harness)


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda each: each.name)
def test_a_situation_has_its_word_its_exit_code_and_its_finding(situation: Situation, world):
    """A usage error names a file, and neither prints a word nor writes a record."""
    situation.arrange(world)
    done = world.gate("--record", "gate.json")
    assert done.code == situation.code, done.out + done.err
    assert "Traceback" not in done.err
    if situation.code == 2:
        assert done.out == ""
        assert re.match(r"harness: \S+", done.err)
        assert not Path("gate.json").exists()
        return
    assert done.out.splitlines()[0] == situation.word
    decision = read_record(Path("gate.json")).decision
    told = (*decision.blocking, *decision.waived, *decision.notes)
    assert situation.problem in ("", *(each.problem for each in told)), done.out
    assert decision.is_open is (situation.code == 0)


def test_the_table_of_the_docs_is_the_list_of_situations():
    """Print it with `python tests/gate_situations.py`."""
    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    shown = re.search(r"<!-- situations -->\n((?:\|.*\n)+)", text)
    assert shown, "docs/gate.md has no table of situations"
    assert shown[1] == table()
    assert len(SITUATIONS) >= 40
    assert len({each.text for each in SITUATIONS}) == len(SITUATIONS)
