"""The record of a decision: what it rests on, whether it still holds, and how it is signed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import builders
import gate_situations
import jsonschema
import pytest
from gate_world import OTHER, World, first

from harness.gate.record import read_record
from harness.gate.schema import record_schema
from harness.worker.files import digest_json, dumps

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "harness" / "data"


@pytest.fixture
def world(tmp_path, monkeypatch, capsys) -> World:
    """A project in the current folder, and the command line in this process."""
    from conftest import Shop

    monkeypatch.chdir(tmp_path)
    return World(tmp_path, Shop(tmp_path, capsys, tmp_path / "shelf").harness)


@pytest.fixture
def decided(world) -> World:
    """A project whose gate was open, with the record of that; its evidence has a digest too."""
    evidence = "{bounds: {l_inf: 1.0e-2}, platforms: 2, seeds: 1, date: '2026-01-02'}"
    world.scenario(tolerance=f"{{cross-class: {{l_inf: 1.0e-2}}, evidence: {evidence}}}")
    world.baseline()
    world.run()
    world.options.append("--recordings")
    assert world.gate("--record", "gate.json").code == 0
    return world


def test_a_record_names_everything_that_the_decision_rests_on(decided):
    """With its digest, as git or a seal would give it."""
    record = read_record(Path("gate.json"))
    digests = record.digests
    assert digests.scenarios.keys() == {"scenarios/digits.yaml"}
    assert digests.results == {"runs/one": gate_situations.results()["digest"]}
    (baseline,) = Path("baselines").rglob("*.json")
    seal = json.loads(baseline.read_text())["digest"]
    assert digests.baselines == {str(baseline.relative_to("baselines")): seal}
    assert digests.evidence == {"digits[cpu-float32]": decided.case().scenario.evidence_digest}
    assert digests.recordings.keys() == {"runs/one digits[cpu-float32]"}
    assert (record.state, record.exit_code) == ("passes", 0)


def test_a_record_fits_its_schema_and_json_prints_it(decided):
    """The schema in the package is current; `make schema` writes it anew."""
    schema = json.loads((DATA / "gate.schema.json").read_text(encoding="utf-8"))
    assert schema == record_schema()
    jsonschema.Draft202012Validator(schema).validate(json.loads(Path("gate.json").read_text()))
    printed = json.loads(decided.gate("--json").out)
    assert printed["state"] == "passes"
    assert printed["decision"]["rows"][0]["scenario"] == "digits"


def test_a_record_that_holds_is_confirmed(decided):
    """The code is that of the decision."""
    done = decided.harness("gate", "--verify", "gate.json")
    assert (done.code, done.err) == (0, "")
    assert re.match(r"the record gate.json holds: open at 20\d\d-", done.out)


def test_the_record_of_a_blocked_gate_holds_too(world):
    """With the code that the gate gave."""
    gate_situations.drift_on_one_of_three(world)
    assert world.gate("--record", "gate.json").code == 1
    done = world.harness("gate", "--verify", "gate.json")
    assert done.code == 1
    assert "holds: blocked" in done.out


def edit_policy(_world):
    Path("policy.yaml").write_text("description: D\n" + Path("policy.yaml").read_text())


def edit_scenario(_world):
    path = Path("scenarios/digits.yaml")
    path.write_text(path.read_text() + "# a remark\n")


def add_scenario(world):
    world.scenario("more")


def replace_baseline(world):
    world.baseline(outputs=builders.MOVED)


def edit_results(world):
    world.edit(lambda content: first(content, message="another"))


def replace_recording(world):
    folder = Path("runs/one/recordings/digits/cpu-float32")
    world.record(world.case(), OTHER, folder)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (edit_policy, "policy has changed: "),
        (edit_scenario, "scenario scenarios/digits.yaml has changed: "),
        (add_scenario, "scenario scenarios/more.yaml was not there when the gate decided"),
        (replace_baseline, "baseline digits/cpu-float32/cpu-a.json has changed: "),
        (edit_results, "results runs/one has changed: "),
        (replace_recording, "recording runs/one digits[cpu-float32] has changed: "),
    ],
)
def test_what_changed_since_is_named(change, told, decided):
    """A record vouches for nothing else than what it was made from."""
    change(decided)
    done = decided.harness("gate", "--verify", "gate.json")
    assert done.code == 1
    assert told in done.out
    assert done.out.endswith("the record gate.json does not hold\n")


def test_a_decision_that_does_not_follow_is_named(world):
    """Somebody changed the word of a blocked gate and sealed the record anew."""
    gate_situations.drift_on_one_of_three(world)
    world.gate("--record", "gate.json")
    content = json.loads(Path("gate.json").read_text())
    content.update(state="passes", exit_code=0)
    content["decision"]["blocking"] = []
    content["digest"] = digest_json(content)
    Path("gate.json").write_text(dumps(content))
    done = world.harness("gate", "--verify", "gate.json")
    assert done.code == 1
    assert "the decision does not follow: the record says passes" in done.out


def test_a_record_that_was_edited_or_is_none_is_refused(decided):
    """With the file, and what to do."""
    path = Path("gate.json")
    path.write_text(path.read_text().replace('"passes"', '"fails"', 1))
    done = decided.harness("gate", "--verify", "gate.json")
    assert done.code == 2
    assert done.err.startswith("harness: gate.json: was changed or cut short")
    assert decided.harness("gate", "--verify", "runs/one/results.json").code == 2
    assert decided.harness("gate", "runs/one", "--verify", "gate.json").code == 2
    assert decided.harness("gate").code == 2


def shown(name: str) -> list[str]:
    """Return the commands of a block of docs/gate.md."""
    text = (ROOT / "docs" / "gate.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- runs: {name} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    assert found
    return [line.removeprefix("$ ") for line in found[1].splitlines()]


@pytest.mark.skipif(not shutil.which("ssh-keygen"), reason="ssh-keygen is not installed")
def test_a_record_is_signed_and_checked_by_the_commands_of_the_docs(decided):
    """A record that was changed afterwards has no good signature any more."""
    new_key = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", "release_key"]
    subprocess.run(new_key, check=True)
    key = Path("release_key.pub").read_text().split()
    Path("allowed_signers").write_text(f"release@example.org {key[0]} {key[1]}\n")
    (sign,), (check, again) = shown("sign"), shown("verify")
    subprocess.run(["bash", "-c", sign], check=True, capture_output=True)
    done = subprocess.run(["bash", "-c", check], check=True, capture_output=True, text=True)
    assert 'Good "harness-gate" signature for release@example.org' in done.stdout
    assert decided.harness(*again.split()[1:]).code == 0
    Path("gate.json").write_text(Path("gate.json").read_text().replace("runs/one", "runs/two"))
    assert subprocess.run(["bash", "-c", check], check=False, capture_output=True).returncode != 0
