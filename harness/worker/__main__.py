"""The worker's loop: reads requests from standard input until it ends, answers with events.

`protocol` has the types of both.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from . import protocol
from .guardian import guarded
from .loaded_code import LoadedCode

if TYPE_CHECKING:
    from .recorder import Recorder


def main() -> None:
    """Serve requests until standard input ends."""
    events = _private_output()
    # What imports create stays for good. Looking through it takes a quarter of the time that they
    # need, so the garbage collector waits until the first checkpoint is loaded.
    gc.disable()
    code = LoadedCode()
    from .recorder import Recorder  # imports torch: only after the output is private

    recorder = Recorder(events.send)
    events.send(protocol.READY)
    code.look()
    for line in sys.stdin:
        request = json.loads(line)
        if "changed" in request:
            events.send(protocol.CHECKED, changed=code.changed())
        else:
            answer(recorder, events.send, request)
            code.look()


def _private_output() -> protocol.Events:
    """Keep the real standard output for events; what libraries print goes to standard error."""
    private = os.dup(1)
    os.dup2(2, 1)
    return protocol.Events(os.fdopen(private, "w", encoding="utf-8", buffering=1))


def answer(recorder: Recorder, send: Callable[..., None], request: Any) -> None:
    """Carry out one `protocol.Request`.

    Args:
        recorder: Records the case.
        send: Sends the final event: its name, and its fields as keywords.
        request: What to do.
    """
    try:
        if "describe" in request:
            environment = recorder.describe(**request["describe"])
            send(protocol.DESCRIBED, environment=environment)
        elif "outline" in request:
            send(protocol.OUTLINED, outline=recorder.outline(request["outline"]))
        else:
            recorder.record(request["case"], Path(request["out"]), request["known"])
            send(protocol.RECORDED)
    except protocol.CannotRunHere as error:
        send(protocol.UNVERIFIED, reason=str(error))
    except protocol.CaseError as error:
        send(protocol.FAILED, reason=str(error), traceback="")
    except Exception as error:  # a stranger's pipeline may raise anything; Ctrl-C still ends this
        text = str(error).strip() or "no message"
        reason = f"{type(error).__name__}: {text}"
        send(protocol.FAILED, reason=reason, traceback=traceback.format_exc())


if __name__ == "__main__":
    guarded(main)
