"""No content of a file of results makes the gate fall, or opens it unseen."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

import builders
import pytest
from gate_mutations import may_stay_open, mutated
from gate_world import OTHER, World


@pytest.fixture
def world(tmp_path, monkeypatch, capsys) -> World:
    """A release with every kind of passing result: same bits, within, by contract, varying."""
    from conftest import Shop

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("harness.store.git._run", lambda *_: None)  # no process for each mutation
    world = World(tmp_path, Shop(tmp_path, capsys, tmp_path / "shelf").harness)
    world.scenario()
    world.scenario("variant", variants="{sliced: {enable: [vae_slicing], contract: identical}}")
    world.scenario("varying", expect="varies", tolerance=None, generator="none")
    world.baseline()
    for path in Path("baselines/variant").glob("*sliced*/*"):
        path.unlink()
    world.run("runs/a", only="digits")
    world.run("runs/variant", only="variant")
    varying = builders.repeat(distinct=3, runs=3, l_inf=0.5)
    world.run("runs/varying", only="varying", repeat=varying)
    world.run("runs/b", OTHER, only="digits", outputs=builders.MOVED)
    return world


@pytest.mark.parametrize(
    "count", [200, pytest.param(10_000, marks=pytest.mark.slow, id="ten-thousand")]
)
def test_no_mutated_results_end_in_a_traceback_or_open_the_gate_unseen(count, world, capsys):
    """Each is refused, or blocks; open stays the gate only where nothing that decides changed."""
    world.policy(
        "max-age-days: 7\nversions: {torch: 2.13.*}\n"
        "require:\n  - {scenarios: '*', on: cpu}\n"
        "  - {scenarios: digits, on: cpu, classes: [cpu-a, cpu-b]}\n"
    )
    assert world.gate().code == 0
    source, codes = random.Random(count), Counter()  # noqa: S311 (a seed)
    files = {name: Path(name, "results.json").read_bytes() for name in world.runs}
    for number in range(count):
        name = source.choice(list(files))
        mutation = mutated(files[name], source)
        Path(name, "results.json").write_bytes(mutation.data)
        done = world.gate(*(["--recordings"] if number % 10 == 0 else []))
        Path(name, "results.json").write_bytes(files[name])
        codes[done.code] += 1
        what = f"{number}: {mutation.kind} at {mutation.where}"
        assert done.code in (0, 1, 2, 3), f"{what}\n{done.err}"
        assert "Traceback" not in done.err, f"{what}\n{done.err}"
        if done.code == 0:
            assert may_stay_open(mutation, files[name]), what
    with capsys.disabled():
        print(f"\n{count} mutations, by exit code: {dict(sorted(codes.items()))}")
    assert codes[2] > count / 10
    assert codes[1] > 0
    assert codes[3] > 0
