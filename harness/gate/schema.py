"""The JSON Schema of the record of a gate's decision, made from its type.

Print it with `python -m harness.gate.schema > harness/data/gate.schema.json`.
"""

from __future__ import annotations

import json

from harness.gate.record import RECORD_FORMAT, GateRecord
from harness.store.json_schema import Schema, schema_of


def record_schema() -> Schema:
    """Return the JSON Schema of a record."""
    return schema_of(GateRecord, name=RECORD_FORMAT)


if __name__ == "__main__":
    print(json.dumps(record_schema(), indent=2, ensure_ascii=False))
