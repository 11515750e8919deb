"""The worker's loop: reads requests from standard input until it ends, answers with events. See `protocol`."""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any, Dict

from . import protocol


def _private_output() -> protocol.Events:
    """Keep the real standard output for events; whatever libraries print goes to standard error."""
    private = os.dup(1)
    os.dup2(2, 1)
    return protocol.Events(os.fdopen(private, "w", encoding="utf-8", buffering=1))


def _answer(recorder: Any, events: protocol.Events, request: Dict[str, Any]) -> None:
    try:
        if "describe" in request:
            events.send(protocol.DESCRIBED, environment=recorder.describe(**request["describe"]))
        else:
            recorder.record(request["case"], Path(request["out"]), request.get("known"))
            events.send(protocol.RECORDED)
    except protocol.CannotRunHere as error:
        events.send(protocol.UNVERIFIED, reason=str(error))
    except protocol.CaseError as error:
        events.send(protocol.FAILED, reason=str(error), traceback="")
    except (
        Exception
    ) as error:  # a stranger's pipeline may raise anything; Ctrl-C and exit still end the worker
        text = str(error).strip() or "no message"
        events.send(
            protocol.FAILED,
            reason=f"{type(error).__name__}: {text}",
            traceback=traceback.format_exc(),
        )


def main() -> None:
    """Serve requests until standard input ends."""
    events = _private_output()
    gc.disable()  # until the first checkpoint: to look through what imports make, which stays, takes a quarter of their time
    from .recorder import Recorder  # imports torch: only after the output is private

    recorder = Recorder(events.send)
    events.send(protocol.READY)
    for line in sys.stdin:
        _answer(recorder, events, json.loads(line))


if __name__ == "__main__":
    main()
