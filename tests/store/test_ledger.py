"""The ledger: how far a case has wandered from its first baseline, through all replacements."""

from __future__ import annotations

from dataclasses import replace

import builders
import numpy as np
import pytest

from harness.commands.baseline_writing import NewBaseline, write_baselines
from harness.errors import FileError
from harness.store import baselines
from harness.store.baselines import Store
from harness.store.ledger import LEDGER, Ledger, walks

CASE = builders.case()
STEP = np.float32(2.0**-10)


@pytest.fixture
def accept(tmp_path, monkeypatch):
    """Return a function that makes an image the baseline of a case, a second after the last."""
    store = Store(tmp_path / "baselines")
    made = []

    def write(image, case=CASE, **changes):
        made.append(image)
        provenance = baselines.Provenance
        stamp = f"2026-01-02T03:04:{len(made):02d}+00:00"
        monkeypatch.setattr(
            baselines,
            "_provenance",
            lambda reason, old: provenance(
                "Ada", stamp, reason, None, None if old is None else old.digest
            ),
        )
        recording = builders.recording(tmp_path / f"run-{len(made)}", image, **changes)
        write_baselines(store, [NewBaseline(case, recording)], f"reason {len(made)}", 100)
        return store

    return write


def moved(steps: float) -> np.ndarray:
    return builders.IMAGE + STEP * np.float32(steps)


def test_the_first_baseline_has_no_entry(accept):
    """It replaces nothing."""
    assert walks(accept(builders.IMAGE).root) == ([], [])


def test_many_small_steps_are_measured_from_the_first_baseline(accept):
    """Three steps up and one back lie two steps from the first, and four steps is the sum."""
    for steps in (0, 1, 2, 3, 2):
        store = accept(moved(steps))
    ((walk,), problems) = walks(store.root)
    assert problems == []
    assert walk.from_first.l_inf == 2 * STEP
    assert walk.at_most == 4 * STEP
    assert [step.l_inf for step in walk.steps] == [STEP] * 4
    assert [step.reason for step in walk.steps] == [f"reason {n}" for n in (2, 3, 4, 5)]
    folder = store.folder("digits", CASE.key) / LEDGER
    assert len(list(folder.glob("*.first.*.safetensors"))) == 1


def test_without_the_first_outputs_the_sum_of_steps_is_a_bound(accept):
    """Whoever removes the file to save room gets an upper bound in place of the distance."""
    accept(moved(0))
    store = accept(moved(1))
    folder = store.folder("digits", CASE.key) / LEDGER
    next(folder.glob("*.first.*")).unlink()
    ((walk,), _) = walks(accept(moved(2)).root)
    assert walk.from_first is None
    assert walk.at_most == 2 * STEP


def test_a_gap_in_the_ledger_gives_no_bound(accept):
    """A sum of steps from which one is missing is smaller than the way."""
    for steps in (0, 1, 2, 3):
        store = accept(moved(steps))
    folder = store.folder("digits", CASE.key) / LEDGER
    sorted(folder.glob("*.json"))[1].unlink()
    ((walk,), _) = walks(store.root)
    assert np.isnan(walk.at_most)
    assert walk.from_first.l_inf == 3 * STEP


def test_an_edited_scenario_starts_anew(accept):
    """Its output was meant to change, and is the first one of what follows."""
    edited = builders.case(seeds=(1,))
    accept(moved(0))
    accept(moved(50), case=edited)
    ((walk,), _) = walks(accept(moved(51), case=edited).root)
    assert walk.from_first.l_inf == STEP
    assert len(walk.steps) == 1


def test_other_weights_start_anew(accept):
    """As an edited scenario does."""
    accept(moved(0))
    store = accept(moved(50), inputs=builders.inputs(unet="other"))
    assert walks(store.root) == ([], [])


def test_another_shape_has_no_number(accept):
    """And so neither has the way from the first baseline."""
    accept(moved(0))
    ((walk,), _) = walks(accept(np.zeros((1, 4, 4, 1), np.float32)).root)
    assert walk.from_first is None
    assert np.isnan(walk.at_most)


def test_a_damaged_entry_is_named_and_the_others_count(accept):
    """An entry cannot be edited without being noticed."""
    accept(moved(0))
    store = accept(moved(1))
    folder = store.folder("digits", CASE.key) / LEDGER
    (path,) = folder.glob("*.json")
    path.write_text(path.read_text().replace("reason 2", "reason 9"))
    found, problems = walks(store.root)
    assert found == []
    assert str(path) in str(problems[0])
    with pytest.raises(FileError, match="was changed"):
        Ledger(store.folder("digits", CASE.key)).entries("cpu-a")


def test_first_outputs_that_were_changed_do_not_count(accept):
    """Their digest is in every entry."""
    accept(moved(0))
    store = accept(moved(1))
    ledger = Ledger(store.folder("digits", CASE.key))
    (entry,) = ledger.entries("cpu-a")
    kept = ledger.first_outputs(entry.first, entry.first_digest)
    np.testing.assert_array_equal(kept["image"], builders.IMAGE)
    assert ledger.first_outputs(entry.first, "0" * 32) is None
    assert ledger.first_outputs("../../x.safetensors", entry.first_digest) is None
    outside = replace(entry, first="")
    assert ledger.first_outputs(outside.first, "") is None
