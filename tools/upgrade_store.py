"""Rewrites baselines of format 1 and the scenarios beside them in the words of format 2.

    python tools/upgrade_store.py baselines scenarios

Numbers, digests of tensors, provenance and the tensor files stay as they are; only keys change:
`place` becomes `target`, `environment.class` becomes `environment.numerics_class`, `tensors`
becomes `tensors_file`, `certificate` becomes `detection_rate`, a scenario's `reference` becomes a
mapping, and evidence says on which device it was measured.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import sys
from pathlib import Path

from harness.records import Device, Dtype, Target
from harness.store.baselines import FORMAT, Store
from harness.worker.files import digest_json, dumps, write_file

TARGETS = {str(target): target for target in (Target(d, t) for d in Device for t in Dtype)}
REFERENCE = re.compile(r"^reference: (?:(?P<scenario>[\w.-]+)/)?(?P<target>\S+)$", re.MULTILINE)
MEASURED_ON = re.compile(r'^(?P<indent> +)on: "(?P<device>[a-z]+)-', re.MULTILINE)


def old_digest(content: dict) -> str:
    """Return the digest that format 1 sealed a baseline with."""
    sealed = {key: value for key, value in content.items() if key != "digest"}
    text = json.dumps(sealed, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def upgraded(content: dict) -> dict:
    """Return the content of a baseline of format 1 in the words of format 2."""
    if content["format"] != "harness-baseline/1" or content["digest"] != old_digest(content):
        raise SystemExit("not a whole baseline of format 1")
    target = TARGETS[content.pop("place")]
    environment = content["environment"]
    environment["numerics_class"] = environment.pop("class")
    environment.setdefault("framework", "torch")
    environment.setdefault("unobserved", [])
    content["inputs"].setdefault("tables", {})
    for settings in content["inputs"]["schedulers"].values():
        for name, value in settings.items():
            if isinstance(value, float) and not math.isfinite(value):
                settings[name] = str(value)  # JSON has no word for it
    content.setdefault("decides", {})
    content["tensors_file"] = content.pop("tensors")
    content["detection_rate"] = content.pop("certificate", None)
    content.setdefault("evidence", None)
    if content["evidence"]:
        content["evidence"]["device"] = content["evidence"]["on"].split("-")[0]
    content["target"] = {"device": target.device, "dtype": target.dtype}
    content["format"] = FORMAT
    return {**content, "digest": digest_json(content)}


def reference_as_mapping(match: re.Match[str]) -> str:
    """Return a scenario's `reference` as a mapping."""
    target = TARGETS[match["target"]]
    scenario = f"scenario: {match['scenario']}, " if match["scenario"] else ""
    return f"reference: {{{scenario}device: {target.device}, dtype: {target.dtype}}}"


def main() -> None:
    """Upgrade a store and the scenarios beside it."""
    store, scenarios = Path(sys.argv[1]), Path(sys.argv[2])
    for path in sorted(store.glob("*/*/*.json")):
        write_file(path, dumps(upgraded(json.loads(path.read_text(encoding="utf-8")))).encode())
        Store(store).read(path)
    for path in sorted(scenarios.glob("*.yaml")):
        text = REFERENCE.sub(reference_as_mapping, path.read_text(encoding="utf-8"))
        text = MEASURED_ON.sub(r"\g<indent>device: \g<device>\n\g<0>", text)
        write_file(path, text.encode())


if __name__ == "__main__":
    main()
