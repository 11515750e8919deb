"""`harness record` and pipelines that keep state between two calls of one object."""

from __future__ import annotations

from pathlib import Path

import builders
import pytest

from harness.commands.main import main


@pytest.mark.parametrize(("options", "refused"), [([], True), (["--stateful"], False)])
def test_a_pipeline_that_keeps_state_is_recorded_only_where_somebody_says_so(
    options: list[str],
    refused: bool,
    pretender: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    """Its second call gives another output, which nobody else would notice."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits.yaml").write_text(builders.scenario_text(), encoding="utf-8")
    builders.recording(
        tmp_path / "made", repeat={**builders.repeat(), "reused_equals_fresh": False}
    )
    monkeypatch.setenv("PRETENDER_RECORDS", str(tmp_path / "made"))
    assert main(["record", "digits.yaml", "--out", "run", *options]) == int(refused)
    assert any((tmp_path / "baselines").rglob("*.json")) != refused
    said = "a second call of the same pipeline object" in capsys.readouterr().out
    assert said == refused
