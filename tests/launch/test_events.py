"""Events: each line of a worker is one event of the protocol, or that worker's error."""

from __future__ import annotations

import json

import builders
import pytest

from harness.launch.events import (
    Checked,
    Described,
    Event,
    Failed,
    Final,
    Outlined,
    Progress,
    Ready,
    Recorded,
    Unverified,
    parse_event,
)
from harness.scenario.saved_pipeline import Parameter, SavedPipeline
from harness.store.typed_json import MalformedError, encode
from harness.worker import protocol

EVENTS = {
    protocol.READY: ({}, Ready("ready")),
    protocol.PROGRESS: (
        {"case": "digits[cpu-float32]", "doing": "run 1 of 2"},
        Progress("progress", "digits[cpu-float32]", "run 1 of 2"),
    ),
    protocol.RECORDED: ({}, Recorded("recorded")),
    protocol.DESCRIBED: (
        {"environment": encode(builders.environment())},
        Described("described", builders.environment()),
    ),
    protocol.OUTLINED: (
        {
            "outline": {
                "pipeline": "DDIMPipeline",
                "commit": "",
                "components": {"unet": {"sample_size": 16}},
                "parameters": [{"name": "eta", "required": False, "default": 0.0}],
            }
        },
        Outlined(
            "outlined",
            SavedPipeline(
                "DDIMPipeline",
                "",
                {"unet": {"sample_size": 16}},
                (Parameter("eta", required=False, default=0.0),),
            ),
        ),
    ),
    protocol.CHECKED: ({"changed": ["x.py"]}, Checked("checked", ("x.py",))),
    protocol.UNVERIFIED: ({"reason": "no GPU"}, Unverified("unverified", "no GPU")),
    protocol.FAILED: (
        {"reason": "KeyError: 'x'", "traceback": "Traceback"},
        Failed("failed", "KeyError: 'x'", "Traceback"),
    ),
}


@pytest.mark.parametrize("name", EVENTS)
def test_every_event_of_the_protocol_is_read(name):
    """By its name, with the keys that the protocol gives it."""
    fields, event = EVENTS[name]
    assert parse_event(json.dumps({"event": name, **fields}) + "\n") == event


def test_the_table_above_has_every_event_and_knows_which_are_final():
    """A new event needs a type, and every final one must end the wait for an answer."""
    assert {type(event) for _, event in EVENTS.values()} == set(Event.__args__)
    final = {name for name, (_, event) in EVENTS.items() if isinstance(event, Final)}
    assert final == set(protocol.FINAL_EVENTS)


def test_a_failure_without_a_traceback_is_read():
    """Where the reason says it all."""
    assert parse_event('{"event": "failed", "reason": "no such argument"}').traceback == ""


NO_EVENT = "expected an event of the protocol, found "
MALFORMED = {
    "words": ("Segmentation fault", "Expecting value: line 1 column 1 (char 0)"),
    "nothing": ("\n", "Expecting value: line 2 column 1 (char 1)"),
    "list": ("[1, 2]\n", f"{NO_EVENT}[1, 2]"),
    "number": ("7", f"{NO_EVENT}7"),
    "no-event": ('{"doing": "x"}', f'{NO_EVENT}{{"doing": "x"}}'),
    "unknown-event": ('{"event": "done"}', f'{NO_EVENT}{{"event": "done"}}'),
    "event-is-a-list": ('{"event": ["ready"]}', f'{NO_EVENT}{{"event": ["ready"]}}'),
    "event-is-an-object": ('{"event": {}}', f'{NO_EVENT}{{"event": {{}}}}'),
    "event-is-null": ('{"event": null}', f'{NO_EVENT}{{"event": null}}'),
    "reason-is-missing": ('{"event": "unverified"}', "$: the key `reason` is missing"),
    "reason-is-a-number": (
        '{"event": "failed", "reason": 7}',
        "$.reason: expected a string, found 7",
    ),
    "environment-is-empty": (
        '{"event": "described", "environment": {}}',
        "$.environment: the key `numerics_class` is missing",
    ),
    "unknown-key": ('{"event": "ready", "pid": 7}', "$: unknown key `pid`"),
    "key-twice": (
        '{"event": "ready", "event": "recorded"}',
        "the key `event` stands twice in one object",
    ),
    "nan": (
        '{"event": "unverified", "reason": NaN}',
        "the literal `NaN` is no JSON",
    ),
    "too-deep": ("[" * 100_000, "it is nested too deeply"),
    "cut-short": (
        '{"event": "recor',
        "Unterminated string starting at: line 1 column 11 (char 10)",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_line_that_is_no_event_is_refused_with_what_is_wrong(name):
    """Never taken for an answer, and never an exception of another kind."""
    line, problem = MALFORMED[name]
    with pytest.raises(MalformedError) as caught:
        parse_event(line)
    assert str(caught.value) == problem


def test_a_long_line_is_quoted_in_part():
    """A message must stay readable."""
    with pytest.raises(MalformedError) as caught:
        parse_event(json.dumps(["x" * 1_000_000]))
    assert len(str(caught.value)) < 200
