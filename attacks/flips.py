# ruff: noqa: INP001
"""Single bits flipped in every kind of file that the harness trusts: none passes unnoticed.

    python attacks/flips.py --tries 10000 --seed 0

`--tries` is the number of flips in all. Needs torch, for the checkpoints: their digests are made as
the worker makes them. See attacks/README.md for what counts as noticed.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from common import ROOT, Tally, Workshop, dice, finish, options, workshop
from kills import templates

from harness.errors import FileError
from harness.store.baselines import Store
from harness.store.recording import Recording
from harness.store.run_folder import read_results
from harness.store.typed_json import encode
from harness.worker.observe.tensors import digest_digests, digest_tensor
from harness.worker.pipeline.checkpoints import _digest_configuration

TRIES = 10_000
BUNDLED = ROOT / "harness" / "data" / "bundled"

# What reads a file and whatever is held against it; raises where it refuses it.
Reader = Callable[[], object]
# What a file means to those who use it, apart from how it is spelt.
Meaning = Callable[[Path], object]


@dataclass(frozen=True)
class Attacked:
    """One kind of file.

    Attributes:
        share: Of all flips, in hundredths.
        files: Those files, each with what reads it.
        meaning: None where the file is sealed: then nothing may be read that says another thing.
            Else the reader gives a digest, which must be another one where the meaning is.
    """

    share: int
    files: tuple[tuple[Path, Reader], ...]
    meaning: Meaning | None = None

    @property
    def refuses(self) -> tuple[type[Exception], ...]:
        """What a reader raises where it refuses a file; a library may raise anything."""
        return (FileError,) if self.meaning is None else (Exception,)


def flipped(data: bytes, stream: random.Random) -> tuple[bytes, int]:
    """Return data with one bit flipped, and the number of that bit."""
    bit = stream.randrange(8 * len(data))
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed), bit


# What can be attacked.


def kinds(shop: Workshop) -> dict[str, Attacked]:
    """Return the kinds of files, all of them copies."""
    store = shop.root / "store" / "baselines"
    shutil.copytree(ROOT / "baselines", store)
    baselines = sorted(store.glob("*/*/*.json"))
    tensors = [(Store(store).read(path).tensors_path, path) for path in baselines]
    run = templates(shop)["moved"] / "run"
    recordings = sorted(run.glob("recordings/*/*"))
    checkpoints = shop.root / "checkpoints"
    shutil.copytree(BUNDLED, checkpoints)
    weights = sorted(checkpoints.rglob("*.safetensors"))
    configurations = sorted(set(checkpoints.rglob("*.json")) | set(checkpoints.rglob("*.txt")))
    digested = [path for path in configurations if is_digested(path, checkpoints)]

    def baseline(path: Path) -> Reader:
        return lambda: encode(Store(store).read(path))

    def recording(folder: Path) -> Reader:
        return lambda: encode(whole_recording(folder))

    def state(path: Path) -> Reader:
        return lambda: weights_of(path)

    def configuration(path: Path) -> Reader:
        return lambda: _digest_configuration(checkpoint_of(path, checkpoints))

    return {
        "baseline, JSON": Attacked(20, tuple((path, baseline(path)) for path in baselines)),
        "baseline, tensors": Attacked(15, tuple((file, baseline(path)) for file, path in tensors)),
        "recording, JSON": Attacked(
            15, tuple((folder / "recording.json", recording(folder)) for folder in recordings)
        ),
        "recording, tensors": Attacked(
            10, tuple((folder / "tensors.safetensors", recording(folder)) for folder in recordings)
        ),
        "results.json": Attacked(10, ((run / "results.json", lambda: encode(read_results(run))),)),
        "checkpoint, weights": Attacked(
            25, tuple((path, state(path)) for path in weights), bytes_of_tensors
        ),
        "checkpoint, configuration": Attacked(
            5, tuple((path, configuration(path)) for path in digested), deciding_fields
        ),
    }


def whole_recording(folder: Path) -> Recording:
    """Return a recording whose tensors were checked, as they are before anything compares them."""
    recording = Recording.read(folder)
    recording.verify_tensors()
    return recording


def weights_of(path: Path) -> str:
    """Return the digest of a component's weights as the worker makes it."""
    state = safetensors.torch.load(path.read_bytes())
    return digest_digests({name: digest_tensor(state[name]) for name in sorted(state)})


def bytes_of_tensors(path: Path) -> object:
    """Return every tensor of a file of weights, byte by byte."""
    state = safetensors.torch.load(path.read_bytes())
    return {
        name: (str(tensor.dtype), tuple(tensor.shape), tensor.numpy().tobytes())
        for name, tensor in state.items()
    }


def deciding_fields(path: Path) -> object:
    """Return a configuration without the fields that tell who wrote it, with which version."""
    if path.suffix != ".json":
        return path.read_bytes()
    content = json.loads(path.read_bytes())
    if not isinstance(content, dict):
        return content
    return {
        key: value
        for key, value in content.items()
        if not key.startswith("_") and key != "transformers_version"
    }


def checkpoint_of(path: Path, checkpoints: Path) -> Path:
    """Return the folder of the checkpoint that a file belongs to."""
    return checkpoints / path.relative_to(checkpoints).parts[0]


def is_digested(path: Path, checkpoints: Path) -> bool:
    """Whether a change of a file changes the digest of the configuration.

    Files that no component of the pipeline reads have no part in it.
    """
    folder, data = checkpoint_of(path, checkpoints), path.read_bytes()
    before = _digest_configuration(folder)
    path.write_bytes(data.replace(b":", b": [0],\n", 1) if path.suffix != ".json" else b"[0]")
    try:
        return _digest_configuration(folder) != before
    except Exception:
        return True
    finally:
        path.write_bytes(data)


# The attack.


def attack(name: str, attacked: Attacked, tries: int, seed: int) -> Tally:
    """Flip bits of one kind of file."""
    tally = Tally(name, tries)
    stream = dice(seed, name)
    for _ in range(tries):
        path, read = stream.choice(attacked.files)
        data, expected = path.read_bytes(), read()
        changed, bit = flipped(data, stream)
        about = f"bit {bit} of {path}"
        try:
            path.write_bytes(changed)
            found = read()
        except attacked.refuses:
            tally.count(note="refused")
        except Exception as error:
            tally.count([f"{type(error).__name__}: {error}"], about=about)
        else:
            judge(tally, attacked, found == expected, about, (path, data))
        finally:
            path.write_bytes(data)
    return tally


def judge(
    tally: Tally,
    attacked: Attacked,
    is_equal: bool,
    about: str,
    before: tuple[Path, bytes],
) -> None:
    """Count a flip that no reader refused.

    Where a sealed file is read, it must say the very same, as with `1e-06` and `1E-06`. Where a
    digest is made, it must be another one, unless no weight and no field that decides has changed.
    """
    if attacked.meaning is None:
        problems = [] if is_equal else ["was read as something else"]
        tally.count(problems, "spelt otherwise, same content", about=about)
    elif not is_equal:
        tally.count(note="shown by another digest")
    else:
        path, data = before
        meaning = attacked.meaning(path)
        path.write_bytes(data)
        problems = [] if meaning == attacked.meaning(path) else ["the digest is the same"]
        tally.count(problems, "in what decides nothing", about=about)


def main() -> None:
    """Attack every kind of file."""
    chosen = options(__doc__, TRIES)
    with workshop() as shop:
        tallies = []
        for name, attacked in kinds(shop).items():
            tally = attack(name, attacked, chosen.tries * attacked.share // 100, chosen.seed)
            tally.report()
            tallies.append(tally)
    finish(tallies)


if __name__ == "__main__":
    main()
