"""Plant faults at random modules, with random sizes, and count how often `explain` names them, and only them.

python benchmarks/planted.py --faults 50 --pairs 25 ddim-digits sd-digits unclip-synthetic ddim-cifar10-synthetic
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.errors import NotRecordedError
from harness.records import Recording
from harness.scenario.model import Case, read
from harness.session import Session
from harness.store.baselines import Store
from harness.study.explain import Inquiry

ROOT = Path(__file__).resolve().parent.parent
COMPONENTS = {
    "ddim-digits": ["unet"],
    "ddim-cifar10-synthetic": ["unet"],
    "sd-digits": ["text_encoder", "unet", "vae"],
}
COMPONENTS["unclip-synthetic"] = [
    "prior",
    "decoder",
    "super_res_first",
    "super_res_last",
    "text_proj",
]
KINDS = ("convolution", "linear", "norm")


def some_fault(dice: random.Random, name: str) -> dict[str, Any]:
    """Return a fault in one random module, of one unit in the last place up to one in a thousand."""
    fault: dict[str, Any] = {
        "component": dice.choice(COMPONENTS[name]),
        "modules": dice.choice(KINDS),
        "at": dice.random(),
    }
    how = dice.choice(("one-ulp", "scale", "one", "bfloat16", "results"))
    if how == "results":
        return {**fault, "kind": "outputs", "dtype": "bfloat16"}
    return {**fault, "kind": "weights", "how": how, "factor": 1 + 10 ** dice.uniform(-6, -3)}


def one_with_effect(
    session: Session, case: Case, base: Recording, dice: random.Random, name: str
) -> dict[str, Any]:
    """Return a fault that moves a bit by itself: some modules of a pipeline are never called."""
    while True:
        fault = some_fault(dice, name)
        if named(session, case, base, fault, 1)[0] != "idle":
            return fault


def planted_at(now: Recording) -> list[str]:
    """Return the modules that the proofs name, with their components."""
    faults = now.content["case"]["fault"]
    parts = faults["faults"] if faults["kind"] == "several" else [faults]
    proofs = now.content["fault"].split("; ")
    return [
        f"{part['component']}: {proof.rsplit(' of ', 1)[1]}"
        for part, proof in zip(parts, proofs, strict=True)
    ]


def named(
    session: Session, case: Case, base: Recording, fault: dict[str, Any], limit: int
) -> tuple[str, list[str], list[str]]:
    """Plant `fault`; return `exact`, `wrong`, `silent` (it cannot tell) or `idle`, what was planted and what was named."""
    carrier, folder = replace(case, fault=fault, detail={}), session.out / "planted"
    try:
        now = session.record(carrier, session.slot(0), folder / "now")
    except NotRecordedError:
        return "idle", [], []
    if now.stages == base.stages:  # the fault changed a weight, and no bit of any stage
        return "idle", [], []
    roots = Inquiry(session, carrier, case, folder).roots(now, base, limit, operators=False)
    found = [
        f"{root.stage.split('#')[0].split('.')[0]}: {root.module.rsplit('#', 1)[0]}"
        for root in roots
    ]
    where = planted_at(now)
    if not found:
        return "silent", where, found
    return (
        ("exact" if set(found) == set(where) else "part" if set(found) < set(where) else "wrong"),
        where,
        found,
    )


def main() -> None:
    """Print the counts of single faults and of pairs, per scenario."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="+", metavar="NAME")
    parser.add_argument(
        "--faults", type=int, default=50, help="faults with an effect, per scenario"
    )
    parser.add_argument("--pairs", type=int, default=25, help="pairs with an effect, per scenario")
    arguments = parser.parse_args()
    totals: Counter[str] = Counter()
    for name in arguments.scenarios:
        dice = random.Random(name)  # noqa: S311 (it chooses where to plant)
        with (
            tempfile.TemporaryDirectory() as text,
            Session(Store(Path(text)), Path(text)) as session,
        ):
            case = read(ROOT / "scenarios" / f"{name}.yaml").cases()[0]
            base = session.record(case, session.slot(1), Path(text) / "base")
            for kind, wanted in (("single", arguments.faults), ("pair", arguments.pairs)):
                counts: Counter[str] = Counter()
                while sum(counts.values()) - counts["idle"] < wanted:
                    fault = some_fault(dice, name)
                    if kind == "pair":
                        parts = [one_with_effect(session, case, base, dice, name) for _ in range(2)]
                        fault = {"kind": "several", "component": "", "faults": parts}
                    word, where, found = named(
                        session, case, base, fault, 1 if kind == "single" else 3
                    )
                    counts[word] += 1
                    if word not in ("exact", "idle"):
                        print(f"  {word}: planted {where}, named {found}", flush=True)
                print(f"{name}, {kind}: {dict(counts)}", flush=True)
                totals.update({f"{kind} {word}": number for word, number in counts.items()})
    print(dict(totals))


if __name__ == "__main__":
    main()
