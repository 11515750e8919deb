"""`harness history`: runs are added and shown; nothing is verified by it unless asked for."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import builders
import pytest

from harness.commands.main import main
from harness.records import Check, Comparison, Drift, JudgedBy, Metric
from harness.store.history import add_run
from harness.store.run_folder import RESULTS_FORMAT, Results, write_results
from harness.store.shared_folder import open_folder

NOW = datetime.now(UTC)


def add_nights(folder, nights: int, *, step: int, name: str = "digits") -> None:
    """Add nights up to today, of which those from `step` on have twice the drift."""
    for night in range(nights):
        drift = 1e-6 if night < step else 2e-6
        outcome = builders.outcome(
            "within",
            name,
            numerics_class="cpu-a",
            device_kind="cpu",
            baseline=JudgedBy("cpu-b", Comparison.CROSS_CLASS, "cpu-float32", "d" * 32),
            outputs={"image": Drift(drift, drift, 1.0, 1.0, 1, 1, (0,), 1.0, 1.0)},
            checks=(Check("image", Metric.REL_L2, drift, 1e-5),),
            cost=builders.cost(0.5),
        )
        release = "0.36.0" if night < step else "0.37.0"
        environment = builders.environment(versions={"diffusers": release})
        written = (NOW - timedelta(days=nights - 1 - night)).isoformat()
        results = Results(
            RESULTS_FORMAT,
            (outcome,),
            written=written,
            digest=f"{name:>20}{night:012x}".replace(" ", "0")[::-1],
            environments={"cpu-a": environment},
        )
        add_run(open_folder(str(folder)), results, f"night-{night}")


@pytest.fixture
def history(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    add_nights(tmp_path / "history", 40, step=30)
    return tmp_path / "history"


def test_a_table_and_what_was_found_are_printed(history, capsys):
    """A step inside the tolerance is no failure, unless --strict asks."""
    assert main(["history", str(history)]) == 0
    printed = capsys.readouterr().out
    date = f"{NOW - timedelta(days=9):%Y-%m-%d}"
    assert "digits[cpu-float32]  cpu-a  40" in printed
    assert f"step on {date}: free drift 1.00e-06 -> 2.00e-06 (x2)" in printed
    assert f"changed:  diffusers 0.36.0 -> 0.37.0 (on {date})" in printed
    assert "x5 at the least since, inside its tolerance" in printed
    assert "40 runs from" in printed
    assert main(["history", str(history), "--strict"]) == 1


def test_only_the_last_days_are_read(history, capsys):
    """In the last eight nights nothing stepped."""
    assert main(["history", str(history), "--days", "8", "--strict"]) == 0
    assert "8 runs from" in capsys.readouterr().out


def test_json_and_html_hold_the_same(history, tmp_path, capsys):
    """The page needs no network, and its sparklines stand in the table."""
    page = tmp_path / "history.html"
    assert main(["history", str(history), "--json", "--html", str(page)]) == 0
    content = json.loads(capsys.readouterr().out)
    (series,) = content["series"]
    assert series["free_rel_l2"] == [1e-6] * 30 + [2e-6] * 10
    assert series["margin"][-1] == 5.0
    (trend,) = content["trends"]
    assert (trend["kind"], trend["changes"]) == ("step", ["diffusers 0.36.0 -> 0.37.0"])
    text = page.read_text()
    assert "The drift of 1 series grew" in text
    assert '<svg class="spark"' in text
    assert "http://" not in text.replace("http://www.w3.org", "")


def test_cases_without_recent_results_are_listed(history, capsys):
    """Those of other machines are still counted."""
    old = builders.outcome("within", "gone", numerics_class="cpu-a", device_kind="cpu")
    written = (NOW - timedelta(days=20)).isoformat()
    add_run(
        open_folder(str(history)),
        Results(RESULTS_FORMAT, (old,), written=written, digest="f" * 32),
        "old",
    )
    assert main(["history", str(history)]) == 0
    assert "gone[cpu-float32] on cpu: none for 20 days" in capsys.readouterr().out
    assert main(["history", str(history), "--silent", "30"]) == 0
    assert "gone[cpu-float32] on cpu" not in capsys.readouterr().out


def test_runs_are_added_later(tmp_path, monkeypatch, capsys):
    """By their folders."""
    monkeypatch.chdir(tmp_path)
    write_results(tmp_path / "nightly", [builders.outcome(numerics_class="cpu-a")], None)
    assert main(["history", "kept", "--add", "nightly"]) == 0
    assert "added to the history: kept/runs/" in capsys.readouterr().out
    assert main(["history", "kept"]) == 0
    assert "digits[cpu-float32]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nowhere"], "holds no run; `harness run --history nowhere` adds itself"),
        (["history", "-k", "other"], "no case in history that ran fits -k 'other'"),
        (["history", "--add", "nowhere"], "does not exist"),
        (["nosuch://place"], "diffusion-harness[remote]"),
    ],
)
def test_what_cannot_be_shown_is_a_usage_error(history, capsys, arguments, problem):
    """Each says what to do."""
    assert main(["history", *arguments]) == 2
    assert problem in capsys.readouterr().err


def test_markup_in_names_is_text_in_the_page(tmp_path, monkeypatch):
    """Names come from files that other machines wrote."""
    monkeypatch.chdir(tmp_path)
    add_nights(tmp_path / "history", 20, step=10, name="<script>alert(1)</script>")
    assert main(["history", "history", "--html", "page.html"]) == 0
    text = (tmp_path / "page.html").read_text()
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)" in text
