"""A case with an emulation: chosen stages move, the recording proves it, and nothing stays."""

from __future__ import annotations

from dataclasses import replace

import pytest

from harness.errors import NotRecordedError
from harness.records import Verdict
from harness.scenario.model import Case
from harness.scenario.reading import read
from harness.session import Session
from harness.store.baselines import Store
from harness.store.recording import Recording

SCENARIO = """
description: A model small enough to be emulated in seconds.
pipeline: DDIMPipeline
checkpoint: {bundled: digits-ddpm}
call: {num_inference_steps: 3, output_type: np}
"""


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("emulated")
    with Session(Store(folder / "baselines"), folder / "run") as session:
        yield session


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    path = tmp_path_factory.mktemp("scenarios") / "small.yaml"
    path.write_text(SCENARIO, encoding="utf-8")
    return read(path).cases()[0]


@pytest.fixture(scope="module")
def base(session: Session, case: Case) -> Recording:
    return session.record(case, folder=session.out / "base")


def record(session: Session, case: Case, name: str, stages: list[str]) -> Recording:
    asked = replace(case, emulation={"name": name, "stages": stages})
    return session.record(asked, folder=session.out / "emulated")


def moved(actual: Recording, base: Recording) -> list[str]:
    """Return the stages of one run whose results are not those of the other."""
    pairs = zip(actual.stages, base.stages, strict=True)
    return [one.name for one, other in pairs if one.outputs != other.outputs]


def test_the_stages_that_were_asked_for_move_and_no_other(
    session: Session, case: Case, base: Recording
):
    """Teacher-forced, so that what is not emulated has the inputs of the base, and its bits."""
    assert base.tensors_path is not None
    forced = replace(case, teacher_tensors=base.tensors_path.resolve())
    found = record(session, forced, "tree-sums", ["unet#1"])
    assert moved(found, base) == ["unet#1", "scheduler.step#1"]
    (effect,) = found.effects
    assert effect.asked == "emulation: tree-sums"
    assert effect.took_effect
    assert "native_group_norm" in effect.seen
    # And the same worker then has its own arithmetic again.
    again = session.record(forced, folder=session.out / "again")
    assert moved(again, base) == []
    assert again.effects == ()


def test_the_same_emulation_has_the_same_bits(session: Session, case: Case):
    """Nothing in it is random."""
    once = record(session, case, "ulp", ["unet#0"])
    twice = record(session, case, "ulp", ["unet#0"])
    assert once.output_digests == twice.output_digests


@pytest.mark.parametrize(
    ("name", "stages", "said"),
    [
        ("tensor-core", ["unet#0"], "has no effect"),  # the case is of float32
        ("fma", ["unet#7"], "has no effect"),  # there is no such stage
        ("quantum", ["unet#0"], "no emulation `quantum`; there are fma, split-k"),
    ],
)
def test_an_emulation_without_effect_is_an_error(
    session: Session, case: Case, name: str, stages: list[str], said: str
):
    """A drift of zero would otherwise be taken for a forecast."""
    with pytest.raises(NotRecordedError, match=said) as raised:
        record(session, case, name, stages)
    assert raised.value.verdict is Verdict.ERROR


def test_a_case_without_an_emulation_asks_as_before(case: Case):
    """The key is there only where a study asks for an emulation; such a run is not timed."""
    assert "emulation" not in case.request()
    asked = replace(case, emulation={"name": "fma", "stages": []})
    assert asked.request()["emulation"] == {"name": "fma", "stages": []}
    assert asked.request()["rounds"] == 0
    assert asked.scenario.fingerprint == case.scenario.fingerprint
