"""Observing code line by line: which statement made which value, outside stages or in one module.

Python's own tracing shows each line of the frames that `frames.is_looked_at` admits. After a line,
the values that are new or changed among the frame's variables, and among the attributes of its
`self`, are noted by their digests. Tracing is slow, and takes place only where a case asks for it.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from contextlib import contextmanager
from typing import Any, Callable, ContextManager, Dict, Iterator, List, Mapping, Tuple

import numpy as np
import torch

from ..protocol import LineRecord
from .digest import DIGITS, digest
from .frames import constant_at, file_of, is_looked_at, looked_at_from, statement_at
from .tensors import digest_tensor, leaves_in, tensors_in

MOST_LINES = 100_000  # that are noted of one run
MOST_LEAVES = 64  # of one variable
RETURNED = "return"  # stands for the name of what a function returns
TAKEN = "branch"  # stands for the name of whether the code of a branch runs
SELF = "self"
# A value as it was seen last: what it consists of, and the version of each part.
Seen = List[Tuple[str, Any, Any]]


class LineLog:
    """The statements of one run that made a value, in the order in which they ended.

    Args:
        is_wanted: Returns whether what runs now is the code that is looked at.
        unobserved: What runs within it is attributed to no module.

    Attributes:
        records: One entry per statement that made a value or called a stage.
        after: The last stage that ended, or the last module inside the one that is looked at.
    """

    def __init__(
        self, is_wanted: Callable[[], bool], unobserved: Callable[[], ContextManager[None]]
    ) -> None:
        self.records: List[LineRecord] = []
        self.after = ""
        self.is_wanted = is_wanted
        self._unobserved = unobserved

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Trace what this thread calls; the tracing of before is put back afterwards."""
        before = sys.gettrace()
        sys.settrace(self._on_call)
        try:
            yield
        finally:
            sys.settrace(before)

    def on_stage(self, name: str, inputs: Mapping[str, Any]) -> None:
        """Note the statement that called a stage, with the digests of what the stage took."""
        caller = looked_at_from(sys._getframe(1))
        if caller is not None:
            given = {key: digest_tensor(tensor) for key, tensor in tensors_in(inputs).items()}
            self._add(caller, caller.f_lineno, given, stage=name)
        self.after = name

    def note(self, frame: Any, line: int, changed: Mapping[str, Any]) -> None:
        """Note that a line of a frame has made values, which are given by name."""
        with self._unobserved():
            values = {
                path: _digest(leaf)
                for name, value in changed.items()
                for path, leaf in _leaves(value, name)
            }
        if values:
            self._add(frame, line, values)

    def _add(self, frame: Any, line: int, values: Dict[str, str], stage: str = "") -> None:
        if len(self.records) >= MOST_LINES:
            return
        first, last, text, _ = statement_at(frame.f_code.co_filename, line)
        record: LineRecord = {
            "after": self.after,
            "file": file_of(frame),
            "first": first,
            "last": last,
            "function": frame.f_code.co_name,
            "text": text,
            "values": values,
        }
        if stage:
            record["stage"] = stage
        self.records.append(record)

    def _on_call(self, frame: Any, _event: str, _argument: Any) -> Any:
        """Begin to follow a frame, if its code is looked at; called by Python for each new one."""
        if not self.is_wanted() or not is_looked_at(frame.f_code.co_filename):
            return None
        return _Frame(self, frame).on_event


class _Frame:
    """One frame that is followed from its call to its return."""

    def __init__(self, log: LineLog, frame: Any) -> None:
        self._log = log
        self._line = frame.f_lineno
        self._known: Dict[str, Seen] = {}
        self._attributes: Dict[str, Seen] = {}
        arguments = self._changed(frame)  # what `self` holds already was made by no line here
        arguments = {name: value for name, value in arguments.items() if "." not in name}
        self._note_constants(frame)
        named = {f"{frame.f_code.co_name}({name})": value for name, value in arguments.items()}
        caller = looked_at_from(frame.f_back) or frame  # a default stands in the function's head
        log.note(caller, caller.f_lineno, named)

    def on_event(self, frame: Any, event: str, argument: Any) -> Any:
        """Note what the last line made; called by Python for each line and the return."""
        if event == "line":
            self._note(frame)
            then = statement_at(frame.f_code.co_filename, self._line).then
            if then:
                self._log.note(frame, self._line, {TAKEN: frame.f_lineno == then})
            self._line = frame.f_lineno
        elif event == "return":
            self._note(frame)
            if argument is not None:
                self._log.note(frame, self._line, {RETURNED: argument})
        return self.on_event

    def _note_constants(self, frame: Any) -> None:
        """Note the constants of the module that the function names, where they are assigned."""
        for name in frame.f_code.co_names:
            line = constant_at(frame.f_code.co_filename, name)
            value = frame.f_globals.get(name)
            if line and isinstance(value, (bool, int, float, str, torch.Tensor, np.ndarray)):
                self._log.note(frame, line, {name: value})

    def _note(self, frame: Any) -> None:
        changed = self._changed(frame)
        if changed:
            self._log.note(frame, self._line, changed)

    def _changed(self, frame: Any) -> Dict[str, Any]:
        """Return the variables, and the attributes of `self`, that are new or have changed."""
        variables = list(frame.f_locals.items())
        found = {
            name: value
            for name, value in variables
            if name != SELF and _is_new(self._known, name, value)
        }
        held = getattr(frame.f_locals.get(SELF), "__dict__", {})
        for name, value in list(held.items()):
            # Mappings hold the configuration, and the parameters and modules inside a module.
            if not isinstance(value, dict) and _is_new(self._attributes, name, value):
                found[f"{SELF}.{name}"] = value
        return found


def _is_new(known: Dict[str, Seen], name: str, value: Any) -> bool:
    """Return whether a variable is not what it was when this was last asked, and remember it."""
    now = [(path, leaf, _version(leaf)) for path, leaf in _leaves(value, name)]
    before = known.get(name, [])
    known[name] = now
    if len(now) != len(before):
        return True
    return any(not _is_same(*pair) for pair in zip(now, before))


def _is_same(now: Tuple[str, Any, Any], before: Tuple[str, Any, Any]) -> bool:
    path, leaf, version = now
    old_path, old_leaf, old_version = before
    if path != old_path or version != old_version:
        return False
    if isinstance(leaf, (bool, int, float, str)):
        return type(leaf) is type(old_leaf) and leaf == old_leaf
    return leaf is old_leaf or isinstance(version, str)


def _version(leaf: Any) -> Any:
    """Return how often a tensor was written to, or the digest of what does not count that."""
    if isinstance(leaf, torch.Tensor) and not leaf.is_inference():
        return leaf._version
    return 0 if isinstance(leaf, (bool, int, float, str)) else _digest(leaf)


def _leaves(value: Any, name: str) -> List[Tuple[str, Any]]:
    """Return what a value consists of that has a digest, at most `MOST_LEAVES`, with its paths."""
    return list(itertools.islice(_each_leaf(value, name), MOST_LEAVES))


def _each_leaf(value: Any, name: str) -> Iterator[Tuple[str, Any]]:
    if _is_plain(value):
        yield name, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _each_leaf(item, f"{name}.{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _each_leaf(item, f"{name}.{index}")
    # Other objects are not asked for anything: some raise an error whatever they are asked.
    elif isinstance(value, (torch.Tensor, np.ndarray)) or type(value).__module__ == "mindspore":
        yield from leaves_in(value, name)


def _is_plain(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str)) or _is_image(value)


def _is_image(value: Any) -> bool:
    """Return whether a value is an image of Pillow, which need not be imported for that."""
    return type(value).__module__.startswith("PIL.") and hasattr(value, "getbands")


def _digest(leaf: Any) -> str:
    if isinstance(leaf, (bool, str)):
        text = f"{type(leaf).__name__} {leaf}"
        return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:DIGITS]
    if _is_image(leaf):
        return digest(np.asarray(leaf))
    try:
        (tensor,) = tensors_in(leaf).values()
        return digest_tensor(tensor)
    except (RuntimeError, TypeError, ValueError, OverflowError):  # no plain memory
        return ""
