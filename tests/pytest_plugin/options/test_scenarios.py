"""The ini key `harness_scenarios`: folders whose YAML files are scenarios."""

from __future__ import annotations

from inner import Run


def test_the_named_folders_take_the_place_of_the_project_s(run: Run, shop):
    """Several may be named; each counts from the folder of the ini file."""
    shop.recorded("x", folder="first")
    shop.recorded("y", folder="second/deeper")
    shop.scenario("left-alone")
    text = "[pytest]\nharness_scenarios = first second\n"
    (shop.root / "pytest.ini").write_text(text, encoding="utf-8")
    result = run("-v")
    result.assert_outcomes(passed=2)
    assert "left-alone" not in result.stdout.str()
