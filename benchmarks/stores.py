"""What baselines take, what makes them smaller and what that costs, and how fast places are.

python benchmarks/stores.py sizes           # bytes, through the harness's own writing code
python benchmarks/stores.py model           # whether those shapes are what the harness keeps
python benchmarks/stores.py half            # the local drift that half precision would cost
python benchmarks/stores.py compressed      # what compressing the tensors would save
python benchmarks/stores.py git             # what git and its clones take over replacements
python benchmarks/stores.py places          # requests and seconds of a folder and of S3
python benchmarks/stores.py night           # bytes and files of a night's results and history
"""

from __future__ import annotations

import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from common import ROOT, first_case, temporary_session

from harness.judge.drift import measure
from harness.scenario.model import Case
from harness.store.blobs import cache_root
from harness.store.recording import Recording
from harness.store.safetensors import open_tensors, pack_arrays, read_header
from harness.store.shared_baselines import open_store
from harness.study.platforms import ATEN_DEFAULT, Platform
from harness.worker.observe.tensor_file import pack_tensors

if TYPE_CHECKING:
    from harness.records import Array

Shape = tuple[int, ...]
MIB = 1 << 20


@dataclass(frozen=True)
class Shapes:
    """What a baseline of a pipeline keeps: see the table of `docs/stores.md` for the sources.

    Attributes:
        name: The pipeline and the call.
        output: The output, float32 with values from 0 to 1.
        decoded: What the VAE returns, in the dtype of the pipeline.
        encoded: What the encoders return that the run reads.
        latent: One step's sample; the noise has as many values.
        steps: The number of steps.
        dtype: Of the pipeline.
    """

    name: str
    output: Shape
    decoded: Shape
    encoded: Mapping[str, Shape]
    latent: Shape
    steps: int
    dtype: torch.dtype

    def tensors(
        self, keep_every: int = 1, step_dtype: torch.dtype | None = None
    ) -> dict[str, torch.Tensor]:
        """Return tensors of these shapes, named as a recording names them."""
        found = {"output/image": torch.zeros(self.output, dtype=torch.float32)}
        if self.decoded:
            found["stage/vae.decode#0/0"] = torch.zeros(self.decoded, dtype=self.dtype)
        found["noise/0"] = torch.zeros(self.latent, dtype=self.dtype)
        for name, shape in self.encoded.items():
            found[f"stage/{name}"] = torch.zeros(shape, dtype=self.dtype)
        for step in range(self.steps):
            if (step + 1) % keep_every == 0:
                sample = torch.zeros(self.latent, dtype=step_dtype or self.dtype)
                found[f"stage/scheduler.step#{step}/sample"] = sample
        return found


CLIP = {
    f"text_encoder#{call}/{key}": shape
    for call in range(2)
    for key, shape in {"last_hidden_state": (1, 77, 768), "pooler_output": (1, 768)}.items()
}
FLUX = {
    "text_encoder#0/pooler_output": (1, 768),
    "text_encoder_2#0/last_hidden_state": (1, 512, 4096),
}
PIPELINES = (
    Shapes(
        "SD 1.5, 512 x 512, 50 steps, float32",
        (1, 512, 512, 3),
        (1, 3, 512, 512),
        CLIP,
        (1, 4, 64, 64),
        50,
        torch.float32,
    ),
    Shapes(
        "FLUX.1, 1024 x 1024, 28 steps, bfloat16",
        (1, 1024, 1024, 3),
        (1, 3, 1024, 1024),
        FLUX,
        (1, 4096, 64),
        28,
        torch.bfloat16,
    ),
    Shapes(
        "FLUX.1, 1024 x 1024, 28 steps, float32",
        (1, 1024, 1024, 3),
        (1, 3, 1024, 1024),
        FLUX,
        (1, 4096, 64),
        28,
        torch.float32,
    ),
    Shapes(
        "LTX-Video, 704 x 480, 161 frames, 50 steps, bfloat16",
        (1, 161, 480, 704, 3),
        (1, 3, 161, 480, 704),
        {f"text_encoder#{call}/last_hidden_state": (1, 128, 4096) for call in range(2)},
        (1, 21 * 15 * 22, 128),
        50,
        torch.bfloat16,
    ),
)  # fmt: skip


def sizes() -> None:
    """Print the bytes of a baseline's tensor file, with each option."""
    print("pipeline | all steps | keep-every: 10 | steps in float16 | last step alone")
    for shapes in PIPELINES:
        options = (
            {},
            {"keep_every": 10},
            {"step_dtype": torch.float16},
            {"keep_every": shapes.steps},
        )
        row = [len(pack_tensors(shapes.tensors(**option), {"format": "pt"})) for option in options]
        print(shapes.name, *(f"{size / MIB:.1f} MiB" for size in row), sep=" | ")


def model() -> None:
    """Print what kinds of tensors committed baselines hold, and the share of their headers."""
    for name in ("sd15-latents-synthetic", "sd-digits", "flux-digits", "ltx-synthetic"):
        path = next((ROOT / "baselines" / name).rglob("*.safetensors"))
        header = read_header(path)
        kinds: dict[str, int] = {}
        for key, entry in header.entries.items():
            start, end = entry["data_offsets"]
            kind = key.replace("stage/", "").partition("#")[0].partition("/")[0]
            kinds[kind] = kinds.get(kind, 0) + end - start
        text = next(path.parent.glob("*.json")).stat().st_size
        size = path.stat().st_size
        print(f"{name}: {size:,} bytes, of these header {header.start:,}; JSON {text:,}; {kinds}")


# Half precision.


def half() -> None:
    """Print the local drift of teacher-forced runs whose steps were rounded, on one machine.

    Without rounding it is 0: the same machine gives the same bits.
    """
    for name in ("sd-digits", "ddim-digits", "flux-digits", "ltx-synthetic"):
        case = first_case(name)
        with temporary_session() as session, tempfile.TemporaryDirectory() as text:
            base = session.record(case, folder=Path(text) / "base")
            for dtype in (torch.float32, torch.float16, torch.bfloat16):
                path = Path(text) / f"{dtype}.safetensors".removeprefix("torch.")
                path.write_bytes(pack_arrays(rounded(base.tensors, dtype)))
                forced = replace(case, teacher_tensors=path)
                recording = session.record(forced, folder=Path(text) / "forced")
                print(f"{name}, steps in {dtype}: {worst(recording, base, dtype)}")


def rounded(tensors: Mapping[str, Array], dtype: torch.dtype) -> dict[str, Array]:
    """Return a baseline's tensors with the samples of its steps rounded to a dtype."""
    return {
        name: in_precision(array, dtype) if "scheduler.step#" in name else np.asarray(array)
        for name, array in tensors.items()
    }


def in_precision(array: Array, dtype: torch.dtype) -> Array:
    """Return an array of float32 whose values are those that a dtype can hold."""
    return torch.from_numpy(np.array(array)).to(dtype).to(torch.float32).numpy()


def worst(forced: Recording, base: Recording, dtype: torch.dtype) -> str:
    """Return the largest relative L2 of each kind of stage, when both sides are kept in a dtype."""
    found: dict[str, float] = {}
    for (stage, key), expected in base.stage_tensors.items():
        sides = [forced.stage_tensors[stage, key], expected]
        if stage.kind == "scheduler.step":
            sides = [in_precision(side, dtype) for side in sides]
        drift = measure(*sides).rel_l2
        found[stage.kind] = max(found.get(stage.kind, 0.0), drift)
    return ", ".join(f"{kind} {value:.1e}" for kind, value in found.items())


def every() -> None:
    """Print the local drift of another CPU dispatch, by how many steps a baseline keeps."""
    for name in ("sd-digits", "ddim-digits-50", "flux-digits"):
        case = first_case(name)
        with temporary_session() as session, tempfile.TemporaryDirectory() as text:
            base = session.record(case, folder=Path(text) / "base")
            for number in (1, 5, 10):
                path = Path(text) / f"{number}.safetensors"
                path.write_bytes(pack_arrays(kept(base.tensors, number)))
                other = Platform(ATEN_DEFAULT).carry(case)
                recording = session.record(
                    replace(other, teacher_tensors=path), folder=Path(text) / f"forced-{number}"
                )
                drifts = [
                    measure(recording.stage_tensors[stage, key], expected).rel_l2
                    for (stage, key), expected in base.stage_tensors.items()
                    if stage.kind == "scheduler.step" and (stage.index + 1) % number == 0
                ]
                print(f"{name}, keep-every: {number}: {max(drifts):.1e} of {len(drifts)} steps")


def kept(tensors: Mapping[str, Array], number: int) -> dict[str, Array]:
    """Return a baseline's tensors with those of every `number`-th step alone."""
    found = {}
    for name, array in tensors.items():
        step = name.partition("scheduler.step#")[2].partition("/")[0]
        if not step or (int(step) + 1) % number == 0:
            found[name] = np.asarray(array)
    return found


# Compression.


def compressed() -> None:
    """Print what lossless compression leaves of committed baselines, and its speed."""
    names = ("sd15-latents-synthetic", "sd-digits-controlnet", "unclip-synthetic", "ddim-digits-50")
    for name in names:
        path = next((ROOT / "baselines" / name).rglob("*.safetensors"))
        for kind, arrays in by_kind(path).items():
            plain = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
            if len(plain) < 30_000:
                continue
            shuffled = np.frombuffer(plain, np.uint8).reshape(-1, 4).T.tobytes()
            cells = []
            for codec in (zlib.compress, lzma.compress):
                for data in (plain, shuffled):
                    began = time.perf_counter()
                    share = len(codec(data)) / len(data)
                    speed = len(data) / MIB / (time.perf_counter() - began)
                    cells.append(f"{share:.0%} at {speed:.0f} MiB/s")
            print(name, kind, f"{len(plain):,}", *cells, sep=" | ")


def by_kind(path: Path) -> dict[str, list[Array]]:
    """Return the float32 arrays of a tensor file by kind of stage."""
    found: dict[str, list[Array]] = {}
    for name, array in open_tensors(path).items():
        kind = name.replace("stage/", "").partition("#")[0].partition("/")[0]
        if array.dtype == np.float32:
            found.setdefault(kind, []).append(np.asarray(array))
    return found


# Git.


def git() -> None:
    """Print what a repository and its clone take after replacements of five baselines."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as text:
        repository = Path(text) / "repository"
        repository.mkdir()
        call(repository, "init", "-q")
        call(repository, "config", "user.email", "bench@example.org")
        call(repository, "config", "user.name", "bench")
        for replacement in range(5):
            for number in range(5):  # 2 MiB each, of values like those of latents
                array = random.normal(size=(1 << 19)).astype(np.float32)
                data = pack_arrays({"stage/scheduler.step#0/sample": array})
                (repository / f"{number}.safetensors").write_bytes(data)
            began = time.perf_counter()
            call(repository, "add", "-A")
            call(repository, "commit", "-qm", str(replacement))
            committed = time.perf_counter() - began
            began = time.perf_counter()
            call(Path(text), "clone", "-q", "--no-local", str(repository), "clone")
            cloned = time.perf_counter() - began
            size = sum(path.stat().st_size for path in (repository / ".git").rglob("*"))
            shutil.rmtree(Path(text) / "clone")
            print(
                f"{replacement + 1} x 10 MiB: .git {size / MIB:.0f} MiB, "
                f"commit {committed:.1f} s, clone {cloned:.1f} s"
            )


def call(folder: Path, *arguments: str) -> None:
    """Run git in a folder."""
    subprocess.run(["git", *arguments], cwd=folder, check=True)


# Places.


@contextmanager
def s3() -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """Yield the URL of a bucket of a server on loopback, and the list of its requests."""
    sys.path.insert(0, str(ROOT / "tests"))
    from s3_server import s3_server

    with s3_server() as server:
        os.environ.update(server.environment)
        yield f"s3://{server.new_bucket()}", server.requests


def places() -> None:
    """Print requests and seconds of writing and reading one baseline, by its size."""
    sys.path.insert(0, str(ROOT / "tests"))
    import builders

    with s3() as (bucket, requests), tempfile.TemporaryDirectory() as text:
        os.environ["HARNESS_CACHE"] = f"{text}/cache"
        for mib in (1, 10, 100):
            noise = np.random.default_rng(0).normal(size=(1, 1, mib << 9, 512)).astype(np.float32)
            recording = builders.recording(Path(text) / f"{mib}", noise=(noise,))
            for name, root in {"folder": f"{text}/{mib}-plain", "S3": f"{bucket}/{mib}"}.items():
                cells = used(f"{root}/baselines", builders.case(), recording, requests)
                print(f"{mib} MiB", name, *cells, sep=" | ")


def used(
    place: str, case: Case, recording: Recording, requests: list[tuple[str, str]]
) -> list[str]:
    """Return what writing a baseline costs, and what finding it does with and without a cache."""

    def write() -> object:
        return open_store(place).write(case, recording, "first")

    def match() -> object:
        return open_store(place).match(case, recording.numerics_class)

    cells = [timed(write, requests)]
    shutil.rmtree(cache_root(), ignore_errors=True)
    return [*cells, timed(match, requests), timed(match, requests)]


def timed(action: Callable[[], object], requests: list[tuple[str, str]]) -> str:
    """Return the seconds of an action and the requests that it made."""
    requests.clear()
    began = time.perf_counter()
    action()
    seconds = time.perf_counter() - began
    methods = [method for method, _ in requests]
    counted = ", ".join(f"{methods.count(each)} {each}" for each in sorted(set(methods)))
    return f"{seconds:.2f} s ({counted or 'no request'})"


def night() -> None:
    """Print the bytes of one machine's night of 2,000 cases: results, history and record."""
    from history import Year

    from harness.store.history import add_run
    from harness.store.sealed import sealed_bytes
    from harness.store.shared_files import FORMAT, Blob, FileSet, StoredFile
    from harness.store.shared_folder import open_folder

    results = next(Year(nights=1, scenarios=2000, machines=1).runs())
    print(f"results.json of 2,000 outcomes: {len(sealed_bytes(results)):,} bytes")
    with tempfile.TemporaryDirectory() as text:
        began = time.perf_counter()
        name = add_run(open_folder(text), results, "night")
        seconds = time.perf_counter() - began
        print(f"history: {(Path(text) / name).stat().st_size:,} bytes, {seconds:.1f} s")
    files = tuple(
        StoredFile(f"recordings/scenario-{number:04}/cuda-float16/{file}", Blob("0" * 64, 1 << 20))
        for number in range(2000)
        for file in ("recording.json", "tensors.safetensors")
    )
    record = sealed_bytes(FileSet(FORMAT, files, "2026-11-22T02:00:00+00:00"))
    print(f"record of a run of 2,000 recordings: {len(record):,} bytes")


MEASURED = (sizes, model, half, every, compressed, git, places, night)

if __name__ == "__main__":
    {each.__name__: each for each in MEASURED}[sys.argv[1]]()
