"""`--harness-out`: where the results of a session go."""

from __future__ import annotations

from inner import Run
from printed import verdicts


def test_the_folder_holds_results_and_the_page(run: Run, shop):
    """Named at the end, with the page of pictures where something fails."""
    shop.recorded()
    result = run("--harness-out", "night/cpu")
    result.stdout.fnmatch_lines(["results and recordings: night/cpu"])
    result.stdout.no_fnmatch_line("pictures: *")
    assert verdicts(shop.root / "night" / "cpu") == {"digits[cpu-float32]": "identical"}
    assert (shop.root / "night" / "cpu" / "report.html").is_file()
    shop.scenario(seed="1")
    run("--harness-out", "failed").stdout.fnmatch_lines(["pictures: failed/report.html"])


def test_without_it_each_session_has_a_folder_of_its_own(run: Run, shop):
    """Below `runs`, named after the time."""
    shop.recorded()
    run()
    run()
    found = [path for path in (shop.root / "runs").iterdir() if (path / "results.json").exists()]
    assert len([path for path in found if path.name.startswith("20")]) >= 1


def test_a_file_in_its_place_is_an_error(run: Run, shop):
    """It is named, and nothing runs."""
    shop.recorded()
    (shop.root / "taken").write_text("mine", encoding="utf-8")
    result = run("--harness-out", "taken")
    assert result.ret != 0
    assert "taken" in result.stdout.str() + result.stderr.str()
    assert (shop.root / "taken").read_text(encoding="utf-8") == "mine"
