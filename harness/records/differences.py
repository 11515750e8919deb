"""What differs between two recordings: the first difference, and changes of facts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class DifferenceKind(StrEnum):
    """What the first difference between two recordings is."""

    WEIGHTS = "weights"
    INPUT_FILE = "input-file"
    INPUT_DECODING = "input-decoding"
    CONFIGURATION = "configuration"
    NOISE = "noise"
    NOISE_COUNT = "noise-count"
    SCHEDULER_TABLES = "scheduler-tables"
    STAGE_ORDER = "stage-order"
    STAGE_INPUT = "stage-input"
    STAGE_OUTPUT = "stage-output"
    STAGE_COUNT = "stage-count"
    OUTPUTS = "outputs"


@dataclass(frozen=True)
class Difference:
    """The first difference between two recordings, in the order of the run.

    `subject` is the component, scheduler or stage; `names` are the tensors, inputs or outputs of it
    that differ, and `more` counts those left out; `expected` and `actual` are the two sides where
    they are short.
    """

    kind: DifferenceKind
    subject: str
    names: tuple[str, ...] = ()
    more: int = 0
    expected: str = ""
    actual: str = ""


class ChangeKind(StrEnum):
    """What part of an environment changed, in the order in which reports list the changes.

    `library` is torch, diffusers or transformers, which compute; `package` is any other.
    `unobserved` is something that one of the two sides does not show, such as noise. `own-code` is
    a source file of the project, named `PACKAGE/PATH`. `stated` is a line of text, as files of
    results held it before changes had types.
    """

    FRAMEWORK = "framework"
    UNOBSERVED = "unobserved"
    OWN_CODE = "own-code"
    LIBRARY = "library"
    GPU = "gpu"
    FLAG = "flag"
    VARIABLE = "variable"
    MACHINE = "machine"
    OPERATOR = "operator"
    PACKAGE = "package"
    STATED = "stated"


@dataclass(frozen=True)
class Change:
    """One fact that differs between a baseline and a run: its name, and both sides as text."""

    name: str
    expected: str
    actual: str

    def __str__(self) -> str:
        return f"{self.name} {self.expected} -> {self.actual}"


@dataclass(frozen=True)
class EnvironmentChange(Change):
    """One fact of the environment that differs between a baseline and a run.

    The two sides of an operator are the digests of its results. `unobserved` has none.
    """

    kind: ChangeKind

    @classmethod
    def from_text(cls, text: str) -> EnvironmentChange:
        """Return the change that a line of an older file of results states."""
        return cls(text, "", "", ChangeKind.STATED)
