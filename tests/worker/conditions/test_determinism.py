"""Deterministic mode: it sets every switch, restores each one, and is in the recording."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness.launch.events import Described
from harness.launch.process import FULL, Worker, variables
from harness.scenario.fields import Determinism
from harness.worker.conditions import determinism

FULL_STATE = {
    "deterministic_algorithms": [True, False],
    "fill_uninitialized_memory": True,
    "cudnn.deterministic": True,
    "cudnn.benchmark": False,
    "mkldnn.deterministic": True,
    "cuda.matmul.fp32_precision": "ieee",
    "cudnn.conv.fp32_precision": "ieee",
    "cudnn.rnn.fp32_precision": "ieee",
    "mkldnn.matmul.fp32_precision": "ieee",
    "mkldnn.conv.fp32_precision": "ieee",
    "mkldnn.rnn.fp32_precision": "ieee",
    "cuda.matmul.fp16_reduction": False,
    "cuda.matmul.bf16_reduction": False,
    "sdpa.flash": False,
    "sdpa.mem_efficient": False,
    "sdpa.cudnn": False,
    "sdpa.math": True,
    "sdpa.math.reduced_precision": False,
    "num_threads": 1,
}


class CutShort(Exception):
    """Ends a block early."""


@pytest.fixture
def unusual() -> Iterator[dict[str, Any]]:
    """Set switches to values that are neither torch's nor deterministic mode's; restore them."""
    found = determinism.effective()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.cuda.enable_math_sdp(False)
    torch.set_num_threads(2)
    yield determinism.effective()
    for switch in determinism.switches():
        value = found[switch.name]
        switch.write(tuple(value) if isinstance(value, list) else value)


def test_full_mode_sets_every_switch_that_torch_documents():
    """The whole state is compared, as this torch names it."""
    with determinism.settings("full"):
        assert determinism.effective() == FULL_STATE


def test_full_mode_is_what_torch_itself_reports():
    """Here torch's own functions read it, not the harness's."""
    with determinism.settings("full"):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert torch.backends.cudnn.deterministic
        assert torch.backends.mkldnn.deterministic
        assert torch.backends.cuda.matmul.fp32_precision == "ieee"
        assert torch.backends.mkldnn.conv.fp32_precision == "ieee"
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert torch.get_num_threads() == 1


def test_full_mode_makes_torch_refuse_an_operator_without_a_deterministic_form():
    """`put_` without accumulation has none; in default mode it runs."""
    tensor, index, values = torch.zeros(4), torch.tensor([1]), torch.tensor([2.0])
    with determinism.settings("default"):
        tensor.put_(index, values)
    assert tensor[1] == 2.0
    with (
        determinism.settings("full"),
        pytest.raises(RuntimeError, match="does not have a deterministic implementation"),
    ):
        tensor.put_(index, values)


def test_full_mode_puts_everything_back(unusual: dict[str, Any]):
    """Values that somebody set before are restored."""
    with determinism.settings("full"):
        assert determinism.effective() != unusual
    assert determinism.effective() == unusual


def test_full_mode_puts_everything_back_after_an_exception(unusual: dict[str, Any]):
    """A pipeline that fails leaves no switch behind."""
    with pytest.raises(CutShort), determinism.settings("full"):
        raise CutShort
    assert determinism.effective() == unusual


def test_full_mode_puts_everything_back_when_a_switch_cannot_be_set(
    unusual: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    """The switches before the one that fails are restored as well."""

    def refuse(value: object) -> None:
        if value == "wanted":
            raise CutShort

    broken = determinism.Switch("broken", lambda: "found", refuse, "wanted")
    own = determinism.switches()
    with monkeypatch.context() as patch:
        patch.setattr(determinism, "switches", lambda: [*own, broken])
        with pytest.raises(CutShort), determinism.settings("full"):
            pass
    assert determinism.effective() == unusual


def test_default_mode_changes_nothing(unusual: dict[str, Any]):
    """The libraries stay as the user left them."""
    with determinism.settings("default"):
        assert determinism.effective() == unusual


def test_a_torch_without_fp32_precision_is_set_by_its_older_interface(
    monkeypatch: pytest.MonkeyPatch,
):
    """Both must not be mixed: torch raises when one is read after the other was written."""
    monkeypatch.setattr(torch.backends.cuda, "matmul", SimpleNamespace(allow_tf32=True))
    monkeypatch.setattr(torch.backends, "cudnn", SimpleNamespace(allow_tf32=True))
    found = {switch.name: switch for switch in determinism.switches()}
    assert not [name for name in found if "fp32_precision" in name]
    for name in ("cuda.matmul.allow_tf32", "cudnn.allow_tf32"):
        assert found[name].read() is True
        found[name].write(found[name].wanted)
        assert found[name].read() is False


def draws() -> tuple[float, float, float]:
    """Draw a number from each global stream: python's, numpy's and torch's."""
    return (
        random.random(),  # noqa: S311 (the stream that is meant)
        float(np.random.random()),  # noqa: NPY002 (the stream that is meant)
        float(torch.rand(())),
    )


def test_seeding_makes_every_global_stream_repeat():
    """A stray `randn_like` in a pipeline repeats then."""
    determinism.seed_global_streams(7)
    first = draws()
    determinism.seed_global_streams(7)
    assert draws() == first
    determinism.seed_global_streams(8)
    assert not set(draws()) & set(first)


def test_a_seed_that_numpy_cannot_take_is_folded():
    """torch takes a seed of 64 bits, numpy one of 32."""
    determinism.seed_global_streams(2**32 + 7)
    expected = np.random.RandomState(7).random()
    assert np.random.random() == expected  # noqa: NPY002 (the stream that is meant)


def test_scattering_makes_no_global_stream_repeat():
    """The control cases must differ from run to run."""
    determinism.seed_global_streams(7)
    first = draws()
    determinism.seed_global_streams(7)
    determinism.scatter_global_streams()
    assert not set(draws()) & set(first)


@pytest.mark.parametrize("mode", Determinism)
def test_blocking_launches_are_never_asked_for(mode: Determinism):
    """`CUDA_LAUNCH_BLOCKING` changes cost, not bits."""
    assert "CUDA_LAUNCH_BLOCKING" not in variables(mode, {})


def test_full_mode_sets_what_libraries_read_at_import_and_default_mode_leaves_it():
    """That is threads, the cuBLAS workspace and hashing; a case's own settings win."""
    assert FULL.items() <= variables(Determinism.FULL, {}).items()
    assert FULL.keys().isdisjoint(variables(Determinism.DEFAULT, {}))
    assert variables(Determinism.FULL, {"OMP_NUM_THREADS": "2"})["OMP_NUM_THREADS"] == "2"


def test_a_worker_does_not_inherit_blocking_launches(
    pretender: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """This variable is taken away, the mode's are added, and all others reach the worker."""
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "1")
    monkeypatch.setenv("SOMEBODYS_OWN", "kept")
    worker = Worker(variables(Determinism.FULL, {}), tmp_path / "worker.log")
    try:
        event = worker.ask({"describe": {}}, 10.0, lambda doing: None)
    finally:
        worker.close()
    assert isinstance(event, Described)
    seen = event.environment.variables
    assert "CUDA_LAUNCH_BLOCKING" not in seen
    assert seen["SOMEBODYS_OWN"] == "kept"
    assert FULL.items() <= seen.items()
    assert os.environ["CUDA_LAUNCH_BLOCKING"] == "1"


def test_the_effective_state_is_in_the_recording(take):
    """A reader of a baseline sees under which switches and variables it was made."""
    environment = take().environment
    assert FULL_STATE.items() <= environment.flags.items()
    assert FULL.items() <= environment.variables.items()
    assert "CUDA_LAUNCH_BLOCKING" not in environment.variables
