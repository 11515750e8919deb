"""Writing bounds into a scenario: they come back as they were, and every other line stays."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import scenario_text

from harness.errors import FileError, ScenarioError
from harness.records import Device, Metric
from harness.scenario.reading import read
from harness.scenario.tolerance import Evidence, Kind, Tolerance
from harness.scenario.write_tolerance import write_tolerance

CROSS_CLASS = Tolerance(
    free={Metric.L_INF: 6.1e-6, Metric.REL_L2: 0.0},
    local={Metric.LOCAL_REL_L2: {"noise": 4e-7, "scheduler.step#0": 6.5e-6, "unet_2": 1.0}},
)
BATCH = Tolerance(free={Metric.L_INF: 1e-5})
BOUNDS = {Kind.CROSS_CLASS: CROSS_CLASS}
EVIDENCE = Evidence(
    bounds=CROSS_CLASS,
    noise=Tolerance(free={Metric.L_INF: 7.6e-7}),
    platforms=2,
    seeds=3,
    device=Device.CPU,
    on="cpu-a",
    date="2026-11-21",
)
BLOCK = """\
tolerance:
  cross-class: {l_inf: 6.1e-06, rel_l2: 0.0, local_rel_l2: {noise: 4.0e-07, \
scheduler.step#0: 6.5e-06, unet_2: 1.0e+00}}
  evidence:  # written by `harness calibrate --write`
    bounds: {l_inf: 6.1e-06, rel_l2: 0.0, local_rel_l2: {noise: 4.0e-07, \
scheduler.step#0: 6.5e-06, unet_2: 1.0e+00}}
    noise: {l_inf: 7.6e-07}
    platforms: 2
    seeds: 3
    device: "cpu"
    on: "cpu-a"
    date: "2026-11-21"
"""
LAYOUTS = {
    "none-yet": ("# first\n{basics}", "# first\n{basics}{block}"),
    "without-a-newline-at-the-end": ("{basics}tags: [a]", "{basics}tags: [a]\n{block}"),
    "one-line": (
        "{basics}tolerance: {{cross-class: identical}}  # by hand\n\n# tags\ntags: [a]\n",
        "{basics}{block}\n# tags\ntags: [a]\n",
    ),
    "several-lines": (
        "{basics}tolerance:\n  cross-class:\n    l_inf: 1.0\n\n\n  # of tags\ntags:\n- a # a\n",
        "{basics}{block}\n\n  # of tags\ntags:\n- a # a\n",
    ),
    "flow-over-several-lines": (
        "{basics}tolerance: {{\n  cross-class: identical\n}}\ntags: [a]  # a\n",
        "{basics}{block}tags: [a]  # a\n",
    ),
    "first": (
        "tolerance:\n  cross-class: identical\n# basics\n{basics}",
        "{block}# basics\n{basics}",
    ),
    "last-without-a-newline": (
        "{basics}\ntags: [a]\ntolerance:\n  cross-class: identical",
        "{basics}\ntags: [a]\n{block}",
    ),
    "block-text-above": (
        "{basics}tags:\n  - >-\n    a b\n\n    c\n\ntolerance: {{same-class: identical}}\n",
        "{basics}tags:\n  - >-\n    a b\n\n    c\n\n{block_with_same_class}",
    ),
    "a-key-of-that-name-elsewhere": (
        "{basics}scheduler:\n  tolerance: 1\n",
        "{basics}scheduler:\n  tolerance: 1\n{block}",
    ),
}
WITH_SAME_CLASS = BLOCK.replace("  evidence", '  same-class: "identical"\n  evidence')


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_bounds_go_into_a_file_of_any_layout_and_every_other_line_stays(tmp_path, name, newline):
    """Comments, blank lines, the order of keys and line ends; writing again changes nothing."""
    before, after = (
        text.format(basics=scenario_text(), block=BLOCK, block_with_same_class=WITH_SAME_CLASS)
        for text in LAYOUTS[name]
    )
    path = tmp_path / "digits.yaml"
    path.write_bytes(before.replace("\n", newline).encode())
    old = read(path)
    for _ in range(2):
        write_tolerance(path, BOUNDS, EVIDENCE)
        assert path.read_bytes().decode() == after.replace("\n", newline)
    new = read(path)
    assert (new.tolerances.cross_class, new.tolerances.evidence) == (CROSS_CLASS, EVIDENCE)
    assert replace(new, tolerances=old.tolerances) == old


def test_a_byte_order_mark_stays(tmp_path):
    """An editor of another system put it there."""
    path = tmp_path / "digits.yaml"
    path.write_text(scenario_text(), encoding="utf-8-sig")
    write_tolerance(path, BOUNDS, EVIDENCE)
    assert path.read_text(encoding="utf-8") == "\ufeff" + scenario_text() + BLOCK


def test_settings_that_were_not_measured_keep_every_digit_and_every_word(tmp_path):
    """A bound that a person chose, and the reason; only what was measured has two digits."""
    path = tmp_path / "digits.yaml"
    reason = 'R: "quoted", {braces} # and ümlaut'
    quoted = "'" + reason + "'"
    tolerance = f"{{batch: {{l_inf: 0.00012345, rel_l2: 1.2345678901234567e-9}}, reason: {quoted}}}"
    path.write_text(scenario_text(tolerance=tolerance), encoding="utf-8")
    before = read(path).tolerances
    write_tolerance(path, BOUNDS, EVIDENCE)
    after = read(path).tolerances
    assert (after.batch, after.reason) == (before.batch, reason)
    assert before.batch.free == {Metric.L_INF: 0.00012345, Metric.REL_L2: 1.2345678901234567e-9}


def test_the_bounds_of_a_batch_are_replaced_where_images_were_compared(tmp_path):
    """Both kinds of comparison can be measured at once."""
    path = tmp_path / "digits.yaml"
    text = scenario_text(tolerance="{batch: identical, cross-class: identical}")
    path.write_text(text, encoding="utf-8")
    evidence = replace(EVIDENCE, batch=BATCH)
    write_tolerance(path, {**BOUNDS, Kind.BATCH: BATCH}, evidence)
    found = read(path).tolerances
    assert (found.cross_class, found.batch, found.evidence) == (CROSS_CLASS, BATCH, evidence)


def test_a_bound_of_a_stage_with_an_odd_name_comes_back(tmp_path):
    """A key that YAML would read otherwise is quoted."""
    names = ("a, b", "c: d", "{e", "", "7", "# f", "größe", 'quo"te', "- g")
    local = Tolerance(local={Metric.LOCAL_L_INF: dict.fromkeys(names, 1e-3)})
    path = tmp_path / "digits.yaml"
    path.write_text(scenario_text(), encoding="utf-8")
    write_tolerance(path, {Kind.CROSS_CLASS: local}, Evidence(local))
    assert read(path).tolerances.cross_class == local


@pytest.mark.parametrize(
    "text",
    [
        "{" + ", ".join(scenario_text().splitlines()) + ", tolerance: {cross-class: identical}}\n",
        "{" + ", ".join(scenario_text().splitlines()) + "}\n",
        scenario_text(
            tolerance="{cross-class: {l_inf: &bound 1.0e-5}}",
            published="{image: {abs_sum: 1.0, within: *bound, source: a paper}}",
        ),
        scenario_text() + "...\n",
    ],
    ids=["one-mapping-in-braces", "without-a-tolerance", "alias-into-the-tolerance", "ended"],
)
def test_a_layout_in_which_other_lines_would_change_is_refused_and_the_file_stays(tmp_path, text):
    """The error names the file and says how to lay it out."""
    path = tmp_path / "digits.yaml"
    path.write_text(text, encoding="utf-8")
    read(path)
    with pytest.raises(FileError, match="is laid out so that bounds cannot be written") as caught:
        write_tolerance(path, BOUNDS, EVIDENCE)
    assert (caught.value.path, caught.value.remedy[:19]) == (path, "write `tolerance:` ")
    assert path.read_text(encoding="utf-8") == text


def test_a_file_with_a_mistake_is_refused_and_stays(tmp_path):
    """It was edited after the measurement began."""
    path = tmp_path / "digits.yaml"
    path.write_text(scenario_text(seed="-1"), encoding="utf-8")
    with pytest.raises(ScenarioError):
        write_tolerance(path, BOUNDS, EVIDENCE)
    assert path.read_text(encoding="utf-8") == scenario_text(seed="-1")


def test_a_disk_that_is_full_leaves_the_old_file(tmp_path, monkeypatch):
    """The error names the file and says what to do."""
    path = tmp_path / "digits.yaml"
    path.write_text(scenario_text(), encoding="utf-8")

    def full(_path, _data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("harness.scenario.write_tolerance.write_file", full)
    with pytest.raises(FileError, match="cannot be written: No space left on device") as caught:
        write_tolerance(path, BOUNDS, EVIDENCE)
    assert caught.value.path == path
    assert path.read_text(encoding="utf-8") == scenario_text()
