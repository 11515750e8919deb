"""Weights from the Hub: `checkpoints.load` fetches, resumes, caches and refuses as it promises.

The Hub's real client runs in a process of its own. Only environment variables lead it to the
test's server.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hub_server import HubServer

ROOT = Path(__file__).resolve().parents[3]
REPOSITORY = "acme/tiny-ddpm"
HUB = {"kind": "hub", "repository": REPOSITORY, "revision": "main"}
Answer = dict[str, Any]
SECONDS = 120  # for one load, the imports of torch and diffusers included

LOAD = """
import json, sys
from harness.worker.pipeline import checkpoints, hub
from harness.worker.pipeline.torch_ import Torch

def fetched(function, *arguments):
    path = getattr(hub, function)(*arguments)
    files = [path] if path.is_file() else [each for each in path.rglob("*") if each.is_file()]
    return {"files": sorted(file.relative_to(path.parent).as_posix() for file in files)}

for line in sys.stdin:
    try:
        source = json.loads(line)
        dtypes = {"default": "float32"}
        if "fetch" in source:
            answer = fetched(*source["fetch"])
        else:
            loaded = checkpoints.load(source, "DDIMPipeline", dtypes, Torch("cpu"))
            answer = {"weights": loaded.weights, "commit": loaded.commit}
    except Exception as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(answer), flush=True)
"""


class Folders(NamedTuple):
    """One checkpoint in two layouts: its weights as safetensors, and as a pickle only."""

    safe: Path
    pickled: Path


class Loader:
    """A process that calls `checkpoints.load`; `home` holds its cache, which outlives it."""

    def __init__(self, home: Path, endpoint: str, **variables: str) -> None:
        self.cache = home / "hub"
        inherited = {
            key: value
            for key, value in os.environ.items()
            if not re.match("HF_|HUGGING|.*_OFFLINE", key)
        }
        own = {
            "HF_HOME": str(home),
            "HF_HUB_CACHE": str(self.cache),
            "HF_ENDPOINT": endpoint,
            "PYTHONPATH": str(ROOT),
        }
        own |= {"HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1,localhost", **variables}
        pipe = subprocess.PIPE
        command = [sys.executable, "-c", LOAD]
        self._process = subprocess.Popen(
            command, env={**inherited, **own}, stdin=pipe, stdout=pipe, text=True
        )

    def load(self, source: dict[str, Any]) -> Answer:
        """Return the digests and the commit of a source, or the error and its message.

        With `fetch`, a function of `hub` and its arguments, return the files that it fetched.
        """
        assert self._process.stdin
        assert self._process.stdout
        watchdog = threading.Timer(SECONDS, self._process.kill)
        watchdog.start()
        try:
            print(json.dumps(source), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        assert line, f"the process ended or took longer than {SECONDS} s"
        answer: Answer = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    """Save the checkpoint; of 17 MB, because the client writes pieces of 10 MiB.

    A smaller file would leave nothing to resume.
    """
    from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel

    down, up = ("DownBlock2D", "DownBlock2D"), ("UpBlock2D", "UpBlock2D")
    shape = {
        "sample_size": 8,
        "block_out_channels": (128, 128),
        "norm_num_groups": 8,
        "layers_per_block": 1,
    }
    pipeline = DDIMPipeline(
        UNet2DModel(**shape, down_block_types=down, up_block_types=up), DDIMScheduler()
    )
    root = tmp_path_factory.mktemp("served")
    pipeline.save_pretrained(root / "safe")
    pipeline.save_pretrained(root / "pickled", safe_serialization=False)
    return Folders(root / "safe", root / "pickled")


@pytest.fixture(scope="module")
def served(
    folders: Folders, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[HubServer, Loader]]:
    """Run one server and one loading process for all the tests here."""
    with HubServer(REPOSITORY, {"main": folders.safe, "pickled": folders.pickled}) as server:
        loader = Loader(tmp_path_factory.mktemp("home"), server.url)
        yield server, loader
        loader.close()


@pytest.fixture
def loader(served: tuple[HubServer, Loader]) -> Loader:
    """The loading process, with an empty cache."""
    shutil.rmtree(served[1].cache, ignore_errors=True)
    return served[1]


@pytest.fixture
def hub(served: tuple[HubServer, Loader]) -> Iterator[HubServer]:
    """The server, listening, with nothing asked yet."""
    server = served[0]
    server.requests.clear()
    yield server
    server.faults.clear()
    server.stop()
    server.start()


@pytest.fixture(scope="module")
def expected(served: tuple[HubServer, Loader], folders: Folders) -> Answer:
    """What every load from the server has to give: the folder's digests, the server's commit."""
    answer = served[1].load({"kind": "path", "folder": str(folders.safe)})
    assert set(answer["weights"]) == {"unet", "configuration"}
    return {"weights": answer["weights"], "commit": served[0].commits["main"]}


def downloads(hub: HubServer) -> list[int]:
    """Return the statuses of the answers that carried weights."""
    return [
        int(request.rsplit(" ", 1)[1])
        for request in hub.requests
        if request.startswith("GET /lfs/")
    ]


def test_weights_from_the_hub_are_those_of_the_served_folder(
    hub: HubServer, loader: Loader, expected: Answer
) -> None:
    """An empty cache is filled over HTTP, and the branch resolves to the server's commit."""
    assert loader.load(HUB) == expected
    assert downloads(hub) == [200]


def test_a_cached_checkpoint_loads_when_the_hub_is_gone(
    hub: HubServer, loader: Loader, expected: Answer
) -> None:
    """A second load downloads nothing, and after a refused connection the cache is used.

    The branch is then at its last known commit.
    """
    assert loader.load(HUB) == loader.load(HUB) == expected
    assert downloads(hub) == [200]
    hub.stop()
    assert loader.load(HUB) == expected


def test_offline_mode_loads_from_the_cache_and_asks_nothing(
    hub: HubServer, loader: Loader, expected: Answer
) -> None:
    """Another process with HF_HUB_OFFLINE=1 finds what the first one fetched."""
    assert loader.load(HUB) == expected
    hub.requests.clear()
    offline = Loader(loader.cache.parent, hub.url, HF_HUB_OFFLINE="1")
    try:
        assert offline.load(HUB) == expected
    finally:
        offline.close()
    assert hub.requests == []


def test_a_download_cut_in_the_middle_resumes_there(
    hub: HubServer, loader: Loader, expected: Answer
) -> None:
    """One lost connection costs a second request, for the rest of the file, and no wrong byte."""
    hub.faults.append("cut")
    assert loader.load(HUB) == expected
    assert downloads(hub) == [200, 206]


def test_an_interrupted_download_is_never_taken_for_a_checkpoint_and_the_next_call_completes_it(
    hub: HubServer, loader: Loader, expected: Answer
) -> None:
    """What a failed call leaves in the cache does not load, with a network or without.

    It does not spoil a later call either.
    """
    hub.faults.extend(["cut", "refuse"])
    assert loader.load(HUB)["error"] == "CannotRunHere"
    assert downloads(hub) == [200, 500]
    hub.stop()
    assert loader.load(HUB)["error"] == "CannotRunHere"
    hub.start()
    assert loader.load(HUB) == expected


def test_without_hub_and_cache_a_case_cannot_run_here_and_is_told_how_to_fetch_the_weights(
    hub: HubServer, loader: Loader
) -> None:
    """The message names the repository and a command that can be pasted."""
    hub.stop()
    answer = loader.load(HUB)
    assert answer["error"] == "CannotRunHere"
    assert answer["message"].startswith(
        f"weights of {REPOSITORY} (revision main) are not on this machine"
    )
    assert answer["message"].endswith(f"hf download {REPOSITORY} --revision main")


@pytest.mark.parametrize(
    ("field", "value"), [("repository", "acme/no-such-model"), ("revision", "no-such-branch")]
)
def test_a_repository_or_revision_that_the_hub_does_not_know_is_named(
    field: str, value: str, hub: HubServer, loader: Loader
) -> None:
    """The Hub answers 404, nothing is downloaded, and the case is in error."""
    answer = loader.load({**HUB, field: value})
    assert answer["error"] == "CaseError"
    assert value in answer["message"]
    assert hub.requests
    assert all(request.endswith(" 404") for request in hub.requests)


def test_weights_that_exist_only_as_a_pickle_are_refused(
    hub: HubServer, loader: Loader, folders: Folders
) -> None:
    """The pickle is good, but it is neither fetched from the Hub nor read from a folder."""
    from diffusers import DDIMPipeline

    assert DDIMPipeline.from_pretrained(folders.pickled, use_safetensors=False).unet is not None
    assert loader.load({**HUB, "revision": "pickled"})["error"] == "CaseError"
    assert any("/pickled" in request for request in hub.requests)
    assert downloads(hub) == []
    assert "error" in loader.load({"kind": "path", "folder": str(folders.pickled)})


@pytest.mark.parametrize("subfolder", ["", "unet"])
def test_a_component_is_fetched_without_the_rest_of_its_repository(
    subfolder: str, hub: HubServer, loader: Loader
) -> None:
    """By the folder of its name in a pipeline's repository, or by the folder that is named."""
    answer = loader.load({"fetch": ["fetch_component", REPOSITORY, "main", "unet", subfolder]})
    names = {name.partition("/")[2] for name in answer["files"]}
    assert {"unet/config.json", "unet/diffusion_pytorch_model.safetensors"} <= names
    assert not [name for name in names if name.startswith("scheduler/")]
    assert downloads(hub) == [200]


def test_one_file_of_an_adapter_is_fetched_and_taken_from_the_cache(
    hub: HubServer, loader: Loader
) -> None:
    """A file that the repository lacks is named."""
    name = "unet/diffusion_pytorch_model.safetensors"
    request = {"fetch": ["fetch_file", REPOSITORY, "main", name]}
    answer = loader.load(request)
    assert [file.rpartition("/")[2] for file in answer["files"]] == [name.rpartition("/")[2]]
    hub.stop()
    assert loader.load(request) == answer
    hub.start()
    absent = loader.load({"fetch": ["fetch_file", REPOSITORY, "main", "ink.safetensors"]})
    assert absent["error"] == "CaseError"
    assert "the Hub has no file ink.safetensors" in absent["message"]


def test_a_component_that_exists_only_as_a_pickle_is_never_fetched(
    hub: HubServer, loader: Loader
) -> None:
    """No pattern that is asked for fits a pickle."""
    loader.load({"fetch": ["fetch_component", REPOSITORY, "pickled", "unet", ""]})
    assert downloads(hub) == []
