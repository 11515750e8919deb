"""Hostile input: a stranger's pull request adds a scenario, a checkpoint and a baseline.

Each promise of docs/security.md is attacked here. The worker of these tests stands in a folder full
of code that must not run, with secrets in its environment that must not appear anywhere.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import pickle
import shutil
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import builders
import numpy as np
import pytest
from hub_server import HubServer
from safetensors.numpy import save_file

from harness.errors import BaselineError, FileError, HarnessError, ScenarioError
from harness.launch.events import Failed, Recorded, Unverified
from harness.launch.process import variables
from harness.scenario.fields import Determinism
from harness.scenario.model import Reference
from harness.scenario.reading import read
from harness.scenario.weights import DATA
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.worker.files import digest_json, dumps
from harness.worker.observe.digest import digest_bytes

SECRETS = {
    "HF_TOKEN": "hf_S3CRETxTOKENxOFxTHExHUB",
    "AWS_SECRET_ACCESS_KEY": "S3CRETxOFxTHExSTORE",
    "PIP_INDEX_URL": "https://somebody:S3CRETxOFxTHExINDEX@index.example/simple",
}
HUB_REPOSITORY = "acme/carries-code"
DIGITS = DATA / "bundled" / "digits-ddpm"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
ESCAPE = "\x1b"


@dataclasses.dataclass(frozen=True)
class Trap:
    """What must not happen, and how it would be seen.

    Attributes:
        folder: Where the worker was started; it holds modules that a name could import.
        mark: The file that any code of a stranger writes.
        code: Python that writes it.
        requests: What was asked of a server that nobody may ask.
        address: Of that server.
    """

    folder: Path
    mark: Path
    code: str
    requests: list[str]
    address: str

    def pickled(self) -> bytes:
        """Return a pickle that writes the mark when it is loaded."""
        return pickle.dumps(_Touches(str(self.mark)))

    def check(self) -> None:
        """Fail if anything of a stranger's ran, or asked the network."""
        assert not self.mark.exists()
        assert self.requests == []


class _Touches:
    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trap]:
    """A folder of code that must not run, and a server that must not be asked."""
    folder = tmp_path_factory.mktemp("trap")
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    mark = folder / "ran"
    code = f"open({str(mark)!r}, 'w').close()\nclass Evil:\n    pass\n"
    (folder / "evil_module.py").write_text(code, encoding="utf-8")
    yield Trap(folder, mark, code, requests, f"http://127.0.0.1:{server.server_port}")
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _nothing_ran(trap: Trap) -> Iterator[None]:
    """Check after every test here that no code of a stranger ran."""
    yield
    trap.check()


@pytest.fixture(scope="module")
def hub(trap: Trap, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubServer]:
    """A Hub with one repository that carries code."""
    folder = tmp_path_factory.mktemp("hub") / "checkpoint"
    shutil.copytree(DIGITS, folder)
    edit(folder / "model_index.json", _class_name=["pipeline", "Evil"], unet=["evil", "Evil"])
    (folder / "pipeline.py").write_text(trap.code, encoding="utf-8")
    (folder / "unet" / "evil.py").write_text(trap.code, encoding="utf-8")
    with HubServer(HUB_REPOSITORY, {"main": folder}) as server:
        yield server


@pytest.fixture(scope="module")
def pool(trap: Trap, hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One worker that was started among the traps, with secrets, for every test here."""
    workers = sys.modules["tests.conftest"].Pool(tmp_path_factory.mktemp("workers"))
    with pytest.MonkeyPatch.context() as patch:
        for name, secret in SECRETS.items():
            patch.setenv(name, secret)
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(trap.folder / "hf"))
        patch.chdir(trap.folder)
        workers.lend(variables(Determinism.FULL, {})).close()
    yield workers
    workers.close()


def edit(path: Path, **changes: object) -> None:
    """Change members of a JSON object; None as a value is kept."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **changes}), encoding="utf-8")


def rewrite(path: Path, changes: dict[str, object]) -> None:
    edit(path, **changes)


def contains(folder: Path, words: tuple[str, ...]) -> list[str]:
    """Return the files below a folder that hold one of the words."""
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(word.encode() in path.read_bytes() for word in words)
    ]


# No code from YAML: what a scenario may name.

SCENARIOS = {
    "a-tag-that-calls": {"description": "!!python/object/apply:os.system [touch ran]"},
    "a-tag-that-names": {"description": "!!python/name:os.system"},
    "a-tag-that-imports": {"description": "!!python/module:evil_module"},
    "a-tag-that-makes": {"call": "{a: !!python/object/new:os.system [touch ran]}"},
    "a-tag-of-binary": {"call": "{a: !!binary aGk=}"},
    "a-tag-of-its-own": {"call": "{a: !evil x}"},
    "a-function": {"pipeline": "os.system"},
    "a-dotted-class": {"pipeline": "diffusers.DDIMPipeline"},
    "a-path-of-a-class": {"pipeline": "../evil_module"},
    "a-dunder": {"pipeline": "__import__"},
    "a-dunder-of-the-library": {"pipeline": "__builtins__"},
    "a-module-of-the-library": {"pipeline": "pipelines"},
    "a-model": {"pipeline": "UNet2DModel"},
    "a-scheduler-as-pipeline": {"pipeline": "DDIMScheduler"},
    "a-pipeline-as-scheduler": {"scheduler": "{class: DDIMPipeline}"},
    "a-function-as-scheduler": {"scheduler": "{class: os.system}"},
    "a-method-to-enable": {"enable": "[from_pretrained]"},
    "a-dunder-to-enable": {"enable": "[__init__]"},
    "a-saver-that-is-none": {"enable": "[lora_weights]"},
    "a-generator-of-its-own": {"generator": "os.urandom"},
    "an-attention-of-its-own": {"attention": "evil_module"},
    "a-dtype-of-its-own": {"cases": "{dtype: [__class__]}"},
    "a-device-of-its-own": {"cases": "{device: ['cuda; touch ran']}"},
    "a-framework-of-its-own": {"framework": "evil_module"},
    "a-bundled-path": {"checkpoint": "{bundled: ../synthetic/ldm-small}"},
    "a-synthetic-path": {"checkpoint": "{synthetic: ../../../evil}"},
    "a-repository-above": {"checkpoint": "{hub: ../..}"},
    "a-repository-as-url": {"checkpoint": "{hub: 'https://example.org/a/b'}"},
    "a-repository-as-option": {"checkpoint": "{hub: --evil/-x}"},
    "a-revision-above": {"checkpoint": "{hub: a/b, revision: ../../../../evil}"},
    "a-revision-as-path": {"checkpoint": "{hub: a/b, revision: /etc/passwd}"},
    "custom-code": {"checkpoint": "{hub: a/b, custom_pipeline: evil_module}"},
    "trusted-code": {"checkpoint": "{hub: a/b, trust_remote_code: true}"},
    "an-image-above": {"call": "{image: {image: ../../../../../../etc/hostname}}"},
    "an-absolute-image": {"call": "{image: {image: /etc/hostname}}"},
    "an-image-of-the-network": {"call": "{image: {image: 'http://127.0.0.1/x.png'}}"},
    "a-video-of-the-network": {"call": "{video: {video: 'https://127.0.0.1/x.mp4'}}"},
    "an-image-by-a-link": {"call": "{image: {image: link.png}}"},
    "a-frame-by-a-link": {"call": "{video: {video: frames}}"},
    "an-array-inside-a-condition": {"call": "{a: {object: X, b: {array: /etc/passwd}}}"},
    "a-generator-argument": {"call": "{generator: 0}"},
    "an-alias-bomb": {"call": "{a: &a [x,x,x,x,x,x,x,x,x], b: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a], "
                      "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b], d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c], "
                      "e: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d], f: [*e,*e,*e,*e,*e,*e,*e,*e,*e]}"},
    "deep-nesting": {"call": "{a: " + "[" * 5000 + "]" * 5000 + "}"},
    "a-number-in-base-sixty": {"call": "{a: 1" + ":0" * 185 + ".5}"},
    "a-number-too-long": {"call": "{a: " + "9" * 5000 + "}"},
    "an-expression": {"timeout": "${{ secrets.TOKEN }}"},
}  # fmt: skip


@pytest.mark.parametrize("changes", SCENARIOS.values(), ids=SCENARIOS)
def test_a_hostile_scenario_is_refused_when_it_is_read(
    changes: dict[str, str], tmp_path: Path, trap: Trap
):
    """On its line, before any worker starts; what it names is neither imported nor opened."""
    project = tmp_path / "project"
    (project / "frames").mkdir(parents=True)
    (tmp_path / "outside.png").write_bytes(b"outside")
    (project / "link.png").symlink_to(tmp_path / "outside.png")
    (project / "frames" / "0.png").symlink_to(tmp_path / "outside.png")
    path = project / "hostile.yaml"
    path.write_text(builders.scenario_text(**changes), encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        read(path)
    assert caught.value.line >= 1
    assert len(str(caught.value)) < 8000
    assert "outside" not in path.read_text(encoding="utf-8")


LONG_KEY = '{"' + "k" * 200_000 + '": {' + ", ".join(f"a{i}: 1" for i in range(20_000)) + "}}"
MANY_TAGS = "[" + ", ".join(f"t{i}" for i in range(40_000)) + "]"


@pytest.mark.parametrize(
    "changes",
    [{"call": f"\n  ? {LONG_KEY}\n  : 1"}, {"call": LONG_KEY.replace('": {', '"\n : {', 1)}],
    ids=["a-mapping-as-key", "a-long-key"],
)
def test_a_long_key_does_not_multiply_in_memory(changes: dict[str, str], tmp_path: Path):
    """Each of its 20,000 members once kept a copy of it: 4 GB."""
    import tracemalloc

    path = tmp_path / "hostile.yaml"
    path.write_text(builders.scenario_text(**changes), encoding="utf-8")
    tracemalloc.start()
    try:
        with pytest.raises(ScenarioError):
            read(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 200 << 20


def test_many_tags_are_read_in_linear_time(tmp_path: Path):
    """Each was once held against all before it: a minute for 30,000."""
    import time

    path = tmp_path / "tags.yaml"
    path.write_text(builders.scenario_text(tags=MANY_TAGS), encoding="utf-8")
    started = time.process_time()
    assert len(read(path).tags) == 40_000
    assert time.process_time() - started < 15


@pytest.mark.parametrize(
    "name",
    [
        f"a{ESCAPE}[31m", "a b", "a\nb", "a`b", "a;b", "$(touch ran)", "a|b", "-k", ".hidden",
        "a'b", 'a"b', "a[b]", "a\u202eb", "<b>", "a\\b",
    ],
)  # fmt: skip
def test_a_scenario_whose_name_could_be_more_than_a_name_is_refused(name: str, tmp_path: Path):
    """Names become folders, words of commands that reports print, and cells of tables."""
    path = tmp_path / f"{name}.yaml"
    path.write_text(builders.scenario_text(), encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        read(path)
    assert caught.value.expected.startswith("a file name of letters")


@pytest.mark.parametrize("kind", ["scenario", "policy"])
def test_a_link_to_a_file_outside_is_not_quoted(kind: str, tmp_path: Path):
    """The message of a YAML file that does not fit shows what stands there."""
    from harness.gate.policy_file import POLICY
    from harness.scenario.located_yaml import load

    secret = tmp_path / "netrc"
    secret.write_text(f"machine example login me password {SECRETS['HF_TOKEN']}\n")
    project = tmp_path / "project"
    project.mkdir()
    path = project / "linked.yaml"
    path.symlink_to(secret)
    with pytest.raises(ScenarioError, match="a file inside") as caught:
        read(path) if kind == "scenario" else load(path, POLICY)
    assert SECRETS["HF_TOKEN"] not in str(caught.value)


# No code of a checkpoint, and no pickle: folders that carry some.

Attack = Callable[[Path, Trap], None]


def names_class(component: str, *entry: object) -> Attack:
    """Return the attack whose index says that a component is of another class."""
    return lambda folder, trap: rewrite(folder / "model_index.json", {component: list(entry)})


def with_code(attack: Attack, *files: str) -> Attack:
    """Return an attack that also puts code into the checkpoint."""

    def carry(folder: Path, trap: Trap) -> None:
        attack(folder, trap)
        for name in files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(trap.code, encoding="utf-8")

    return carry


def configured(file: str, **changes: object) -> Attack:
    """Return the attack that changes a configuration."""
    return lambda folder, trap: rewrite(folder / file, changes)


def pickled_as(name: str, *, index: str = "") -> Attack:
    """Return the attack whose weights are a pickle of this name, and which an index may name."""

    def put(folder: Path, trap: Trap) -> None:
        (folder / WEIGHTS).unlink()
        (folder / "unet" / name).write_bytes(trap.pickled())
        if index:
            content = {"metadata": {}, "weight_map": {"conv_in.weight": name}}
            (folder / "unet" / index).write_text(json.dumps(content), encoding="utf-8")

    return put


def weights_outside(folder: Path, trap: Trap) -> None:
    """Name weights above the checkpoint in the index of shards."""
    outside = folder.parent / "outside.bin"
    outside.write_bytes(trap.pickled())
    (folder / WEIGHTS).unlink()
    content = {"metadata": {}, "weight_map": {"conv_in.weight": "../../outside.bin"}}
    index = folder / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps(content), encoding="utf-8")


def linked_weights(folder: Path, trap: Trap) -> None:
    """Link the weights to a pickle elsewhere."""
    outside = folder.parent / "linked.bin"
    outside.write_bytes(trap.pickled())
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(outside)


def header(text: bytes, length: int | None = None, data: bytes = b"") -> Attack:
    """Return the attack whose weights have this header."""
    size = struct.pack("<Q", len(text) if length is None else length)
    return lambda folder, trap: put_weights(folder, size + text + data)


def put_weights(folder: Path, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)


def index_is(content: str) -> Attack:
    """Return the attack whose index is this text."""
    return lambda folder, trap: put_index(folder, content)


def put_index(folder: Path, content: str) -> None:
    (folder / "model_index.json").write_text(content, encoding="utf-8")


REMOTE = {"auto_map": {"AutoModel": "evil.Evil"}, "trust_remote_code": True}
TENSOR = b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,4]}}'
CHECKPOINTS: dict[str, Attack] = {
    "a-component-of-os": names_class("unet", "os", "system"),
    "a-component-of-subprocess": names_class("unet", "subprocess", "Popen"),
    "a-component-of-builtins": names_class("unet", "builtins", "eval"),
    "a-component-where-the-worker-stands": names_class("unet", "evil_module", "Evil"),
    "a-component-of-a-dotted-module": names_class("unet", "os.path", "join"),
    "a-component-of-a-relative-module": names_class("unet", "..evil_module", "Evil"),
    "a-component-of-torch": names_class("unet", "torch", "load"),
    "a-component-of-pickle": names_class("unet", "pickle", "loads"),
    "a-component-by-a-dunder": names_class("unet", "diffusers", "__builtins__"),
    "a-component-by-a-dotted-class": names_class("unet", "diffusers", "utils.os"),
    "a-component-of-numbers": names_class("unet", 1, 2),
    "a-component-of-three-words": names_class("unet", "diffusers", "UNet2DModel", "evil"),
    "code-beside-the-index": with_code(names_class("unet", "evil", "Evil"), "evil.py"),
    "code-beside-the-component": with_code(names_class("unet", "evil", "Evil"), "unet/evil.py"),
    "one-component-more": with_code(names_class("evil", "evil", "Evil"), "evil/evil.py"),
    "a-hidden-component": with_code(names_class("_evil", "evil", "Evil"), "_evil/evil.py"),
    "a-pipeline-of-its-own": with_code(
        names_class("_class_name", "pipeline", "Evil"), "pipeline.py"
    ),
    "a-named-pipeline": with_code(
        configured("model_index.json", _class_name="Evil"), "pipeline.py", "Evil.py"
    ),
    "a-custom-pipeline": with_code(
        configured("model_index.json", custom_pipeline="pipeline", trust_remote_code=True),
        "pipeline.py",
    ),
    "a-version-that-is-a-path": configured("model_index.json", _diffusers_version="../../evil"),
    "a-version-that-is-none": configured("model_index.json", _diffusers_version={"evil": []}),
    "a-model-with-remote-code": with_code(configured("unet/config.json", **REMOTE), "unet/evil.py"),
    "a-model-of-another-class": configured("unet/config.json", _class_name="evil.Evil"),
    "a-model-quantised-by-code": configured(
        "unet/config.json", quantization_config={"quant_method": "evil_module"}
    ),
    "a-scheduler-of-another-class": configured(
        "scheduler/scheduler_config.json", _class_name="os.system"
    ),
    "a-pickle-alone": pickled_as("diffusion_pytorch_model.bin"),
    "a-pickle-called-ckpt": pickled_as("model.ckpt"),
    "a-pickle-called-pt": pickled_as("pytorch_model.pt"),
    "a-pickle-called-safetensors": pickled_as("diffusion_pytorch_model.safetensors"),
    "a-pickle-as-a-shard": pickled_as(
        "evil.bin", index="diffusion_pytorch_model.safetensors.index.json"
    ),
    "a-pickle-as-a-shard-of-pickles": pickled_as(
        "evil.bin", index="diffusion_pytorch_model.bin.index.json"
    ),
    "a-shard-above-the-checkpoint": weights_outside,
    "weights-by-a-link": linked_weights,
    "a-header-of-exabytes": header(b"{}", 2**63),
    "a-header-that-is-cut": header(b"{}", 1000),
    "a-header-that-is-no-json": header(b"\x80\x04evil"),
    "a-header-of-brackets": header(b"[" * 100_000),
    "a-tensor-beyond-the-end": header(TENSOR, data=bytes(4)),
    "an-index-that-is-a-list": index_is("[]"),
    "an-index-of-brackets": index_is("[" * 100_000),
    "an-index-that-is-text": index_is('"os"'),
}
CODE = {
    *(name for name in CHECKPOINTS if name.startswith("a-component-")),
    "code-beside-the-index", "code-beside-the-component", "one-component-more",
    "a-pipeline-of-its-own",
} - {"a-component-of-numbers"}  # fmt: skip
HARMLESS = {  # what a library passes over, and which then changes nothing
    "a-hidden-component", "a-named-pipeline", "a-custom-pipeline", "a-version-that-is-a-path",
    "a-version-that-is-none", "a-model-with-remote-code", "a-model-of-another-class",
    "a-scheduler-of-another-class",
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_checkpoint_that_carries_code_runs_none_of_it(name: str, ask, trap: Trap, tmp_path: Path):
    """It is an error of its case, or the code is passed over; the next case is not affected."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(DIGITS, folder)
    CHECKPOINTS[name](folder, trap)
    answer = ask(checkpoint=f"{{path: {folder}}}")
    trap.check()
    if name in HARMLESS:
        assert isinstance(answer.event, Failed | Recorded)
    else:
        assert isinstance(answer.event, Failed), answer.event
    if name in CODE:  # whatever the release of diffusers does: 0.35.2 ran three of them
        assert "asks for code" in answer.event.reason


def test_the_same_checkpoint_without_an_attack_is_recorded(ask, tmp_path: Path):
    """Otherwise every attack would be refused for another reason."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(DIGITS, folder)
    assert isinstance(ask(checkpoint=f"{{path: {folder}}}").event, Recorded)


def test_a_pickle_would_have_left_its_mark(trap: Trap):
    """Otherwise no test here could fail."""
    import subprocess
    import sys

    code = "import pickle, sys; pickle.loads(sys.stdin.buffer.read())"
    subprocess.run([sys.executable, "-c", code], input=trap.pickled(), check=True)
    assert trap.mark.exists()
    trap.mark.unlink()


def test_a_repository_of_the_hub_that_carries_code_runs_none_of_it(ask, hub: HubServer):
    """Its index alone is read; nothing of it is recorded."""
    answer = ask(checkpoint=f"{{hub: {HUB_REPOSITORY}}}")
    assert isinstance(answer.event, Failed | Unverified), answer.event
    assert hub.requests
    assert not any(request.split()[1].endswith(".py") for request in hub.requests)


# What a call may ask for.

CALLS = {
    "a-callback": "callback_on_step_end: os.system",
    "an-unknown-argument": "evil: 1",
    "a-dunder": "__class__: os",
    "self": "self: 1",
    "a-pickled-array": "eta: {array: pickled.npy}",
    "a-pickled-archive": "eta: {array: pickled.npz, key: a}",
    "a-pickle-called-array": "eta: {array: raw.npy}",
    "a-pickle-called-safetensors": "eta: {array: raw.safetensors}",
    "a-picture-that-is-a-pickle": "eta: {image: raw.png}",
    "a-sound-that-is-a-pickle": "eta: {audio: raw.wav}",
    "a-class-that-is-no-condition": "eta: {object: UNet2DModel}",
    "a-function-as-condition": "eta: {object: load_image, a: x}",
    "a-module-as-condition": "eta: {object: os}",
    "a-dotted-condition": "eta: {object: subprocess.Popen, args: x}",
    "a-dunder-as-condition": "eta: {object: __builtins__}",
    "a-path-as-condition": "eta: {object: ../evil_module}",
    "noise-of-terabytes": "eta: {noise: {shape: [100000, 100000, 100], seed: 0}}",
    "steps-beyond-the-schedule": "num_inference_steps: 100000000",
    "more-images-than-memory": "batch_size: 1000000000000",
    "a-number-beyond-any-machine": "batch_size: 99999999999999999999",
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_a_hostile_call_is_an_error_of_its_case(call: str, ask, trap: Trap, tmp_path: Path):
    """No pickle is loaded, no name is imported, and the worker stays up for the next case."""
    np.save(tmp_path / "pickled.npy", np.array([_Touches(str(trap.mark))], object))
    np.savez(tmp_path / "pickled.npz", a=np.array([_Touches(str(trap.mark))], object))
    for suffix in ("npy", "safetensors", "png", "wav"):
        (tmp_path / f"raw.{suffix}").write_bytes(trap.pickled())
    first = "" if call.startswith("num_inference") else "num_inference_steps: 1, "
    answer = ask(call=f"{{{first}output_type: np, {call}}}")
    assert isinstance(answer.event, Failed), answer.event
    assert isinstance(ask().event, Recorded)


def test_an_address_in_a_call_is_not_fetched(ask, trap: Trap):
    """A pipeline gets the text as it is, and takes no text for an image."""
    call = f"{{image: '{trap.address}/x.png', prompt: a, num_inference_steps: 1}}"
    answer = ask(
        pipeline="StableDiffusionImg2ImgPipeline", checkpoint="{bundled: digits-sd}", call=call
    )
    assert isinstance(answer.event, Failed), answer.event
    trap.check()


# Baselines of a stranger.


def forged(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """Write a baseline, change its JSON, and seal it again; a seal is no signature."""
    store = Store(folder / "baselines")
    path = store.write(builders.case(), builders.recording(folder / "recording"), "R")
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(dumps({**content, "digest": digest_json(content)}), encoding="utf-8")
    return path


def tensors_named(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["tensors_file"].update(file=name)


FORGERIES: dict[str, Callable[[dict[str, Any]], None]] = {
    "tensors-above": tensors_named("../../../evil.safetensors"),
    "tensors-elsewhere": tensors_named("/etc/passwd"),
    "tensors-of-another-name": tensors_named("evil.safetensors"),
    "another-scenario": lambda content: content.update(scenario="other"),
    "a-scenario-above": lambda content: content.update(scenario="../../evil"),
    "another-class": lambda c: c["environment"]["numerics_class"].update(name="cpu-z"),
    "a-class-above": lambda c: c["environment"]["numerics_class"].update(name="../../evil"),
    "a-stage-that-is-none": lambda content: content["stages"].append(
        {"name": "evil", "inputs": {}, "outputs": {}}
    ),
    "a-shape-that-is-none": lambda content: content["outputs"]["image"].update(shape=["a"]),
    "one-key-more": lambda content: content.update(evil=1),
}


@pytest.mark.parametrize("change", FORGERIES.values(), ids=FORGERIES)
def test_a_forged_baseline_is_refused(change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its seal fits, and still it leads nowhere but to its own files."""
    monkeypatch.chdir(tmp_path)
    path = forged(tmp_path, change)
    with pytest.raises(BaselineError):
        Store(tmp_path / "baselines").read(path)


def test_a_reference_that_leads_out_of_the_store_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A scenario names the case whose baseline judges it, and a name may not be a way."""
    monkeypatch.chdir(tmp_path)
    elsewhere = Store(tmp_path / "elsewhere")
    elsewhere.write(builders.case(), builders.recording(tmp_path / "recording"), "R")
    (tmp_path / "baselines").mkdir()
    case = builders.case(reference=Reference(builders.CPU, "../elsewhere/digits"))
    with pytest.raises(BaselineError, match="out of the store"):
        Store(tmp_path / "baselines").match(case, builders.numerics_class("z"))


def with_tensors(folder: Path, arrays: dict[str, np.ndarray], **metadata: str) -> Recording:
    """Return a recording whose tensor file holds something else, and whose seals fit."""
    builders.recording(folder)
    path = folder / "tensors.safetensors"
    save_file(arrays, path, metadata)
    recorded = folder / "recording.json"
    content = json.loads(recorded.read_text(encoding="utf-8"))
    digest = digest_bytes(np.frombuffer(path.read_bytes(), np.uint8))
    content["tensors_file"]["digest"] = digest
    recorded.write_text(dumps({**content, "digest": digest_json(content)}), encoding="utf-8")
    return Recording.read(folder)


IMAGE = {"output/image": builders.IMAGE}


@pytest.mark.parametrize(
    "arrays",
    [
        {"output/other": builders.IMAGE},
        {"output/image": builders.IMAGE[0]},
        {**IMAGE, "noise/x": builders.NOISE},
        {**IMAGE, "stage/x": builders.NOISE},
        {**IMAGE, "../evil": builders.NOISE},
    ],
    ids=["no-output", "another-shape", "no-draw", "no-stage", "a-path"],
)
def test_tensors_that_are_not_those_of_the_recording_are_refused(arrays, tmp_path: Path):
    """The judge would end in a traceback, and with it the run of all other cases."""
    with pytest.raises(FileError, match="is damaged"):
        assert with_tensors(tmp_path, arrays).tensors


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"unet#0": 1}', '{"unet#0": [{}]}', "[" * 9000])
def test_metadata_of_a_stranger_is_refused(text: str, tmp_path: Path):
    """It is read where `explain` looks inside a stage."""
    with pytest.raises(FileError, match="has metadata that cannot be read"):
        with_tensors(tmp_path, IMAGE, modules=text).modules_inside("unet#0")


# Secrets, and text that is more than text.


def test_no_secret_of_the_environment_reaches_a_file_or_the_terminal(
    shop, pool: Any, monkeypatch: pytest.MonkeyPatch
):
    """Neither recordings, results, baselines and logs, nor what is printed."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    path = str(shop.scenario())
    broken = str(shop.scenario("broken", checkpoint=f"{{hub: {HUB_REPOSITORY}}}"))
    shop.harness("record", path)
    said = [
        shop.harness("run", path, broken, "--out", "runs/one"),
        shop.harness("report", "runs/one", "--markdown"),
        shop.harness("list", path),
    ]
    secrets = ("S3CRET", *SECRETS.values())
    assert (shop.root / "runs" / "one" / "results.json").is_file()
    assert contains(shop.root, secrets) == []
    assert contains(pool._logs, secrets) == []
    for done in said:
        assert not any(secret in done.out + done.err for secret in secrets)


HOSTILE_TEXT = '"\\e[2J\\e]0;evil\\a\\n::error::evil\\n| [x](javascript:evil) <script> `` \\u202e"'


def test_text_of_a_stranger_stays_text_on_the_terminal_and_in_reports(shop):
    """No escape sequence, no workflow command of GitHub, no line of Markdown that it ends."""
    path = str(
        shop.scenario(
            description=HOSTILE_TEXT,
            tags=f"[{HOSTILE_TEXT}]",
            call=f"{{num_inference_steps: 1, {HOSTILE_TEXT}: {HOSTILE_TEXT}}}",
        )
    )
    done = [
        shop.harness("list", path),
        shop.harness("run", path, "--out", "runs/one"),
        shop.harness("report", "runs/one"),
        shop.harness("report", "runs/one", "--markdown"),
    ]
    summaries = [file.read_text(encoding="utf-8") for file in shop.root.rglob("summary.md")]
    shown = [text for each in done for text in (each.out, each.err)] + summaries
    assert any("evil" in text for text in shown)
    for text in shown:
        assert not set(text) & {ESCAPE, "\x07", "\u202e"}
        assert not any(line.lstrip().startswith("::error") for line in text.splitlines())
    markdown = done[-1].out
    outside = markdown.split("```")[::2]
    assert not any("<script>" in part or "[x](" in part for part in outside)


def test_a_worker_that_writes_half_a_character_leaves_results(shop, monkeypatch):
    """A name of a file that is not in UTF-8 comes in messages as halves of surrogate pairs."""
    from harness.launch.events import parse_event
    from harness.store.run_folder import read_results, write_results

    event = parse_event(json.dumps({"event": "failed", "reason": "no file a\udcff"}))
    assert isinstance(event, Failed)
    write_results(shop.root, [builders.outcome("error", message=event.reason)], None)
    (outcome,) = read_results(shop.root).outcomes
    assert outcome.message == "no file a\\udcff"


@pytest.mark.parametrize("expression", ["(" * 100_000, "not " * 100_000, "a and " * 100_000])
def test_an_endless_expression_is_refused(expression: str):
    """It is an error of usage, and no traceback."""
    from harness.scenario.select import compile_expression

    with pytest.raises(HarnessError) as caught:
        compile_expression(expression)
    assert caught.value.exit_code == 2
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    "page",
    [{"files": None}, {"files": [{}]}, {"files": [1]}, {"releases": [1]}, {"releases": {"1": [1]}}],
)
def test_a_hostile_answer_of_an_index_tells_nothing(page, monkeypatch: pytest.MonkeyPatch):
    """pip names the releases; the index is asked for their days alone."""
    from harness.launch import package_index

    answers = [page] if "files" in page else [None, page]
    monkeypatch.setattr(package_index, "_json", lambda _: answers.pop(0))
    assert package_index._uploads("wobble", "https://index.example/simple") == {}


FORBIDDEN = {
    "eval", "exec", "os.system", "os.popen", "pickle.load", "pickle.loads", "torch.load",
    "yaml.load", "yaml.unsafe_load", "subprocess.getoutput",
}  # fmt: skip


def test_no_shell_is_ever_started():
    """Every command is a list of words; nothing evaluates text, and nothing reads a pickle."""
    package = DATA.parent
    calls = [
        (path, node)
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call)
    ]
    assert len(calls) > 1000
    for path, call in calls:
        keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
        where = f"{path}:{call.lineno}"
        assert ast.unparse(call.func) not in FORBIDDEN, where
        assert keywords.get("shell", "False") == "False", where
        assert keywords.get("allow_pickle", "False") == "False", where
        assert keywords.get("use_safetensors", "True") == "True", where
        assert "trust_remote_code" not in keywords, where
