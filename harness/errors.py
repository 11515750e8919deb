"""Every error that the harness raises, and the exit code that the command line gives it.

HarnessError                 exit 4   a defect of the harness, or a store that cannot be read
  UsageError                 exit 2   a wrong flag, path or selection
    ScenarioError            exit 2   a mistake in a YAML file: file, line, field, expected, found
  BaselineError              exit 4   a baseline that cannot be trusted: damaged, or of another format
  NotRecordedError           exit 1   a case left no recording: verdict `error` or `unverified`
    LaunchError                       its worker did not start, crashed or timed out: verdict `error`
    SandboxError                      no environment with the named versions can be had: verdict `unverified`
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


class HarnessError(Exception):
    """The harness cannot go on."""

    exit_code = 4


class UsageError(HarnessError):
    """The command asks for something that does not exist or makes no sense."""

    exit_code = 2


class ScenarioError(UsageError):
    """A mistake in a YAML file, placed on its line.

    Args:
        path: The file.
        line: Counted from 1.
        field: Dotted path of the field, empty for the whole file.
        expected: What may stand there.
        found: What stands there.
        hint: What to do; empty if `expected` says it.
    """

    def __init__(
        self, path: Path, line: int, field: str, expected: str, found: str, hint: str = ""
    ) -> None:
        self.path, self.line, self.field = path, line, field
        self.expected, self.found, self.hint = expected, found, hint
        where = f"{path}:{line}:" + (f" `{field}`" if field else "")
        lines = [where, f"  expected: {expected}", f"  found:    {found}"]
        if hint:
            lines.append(f"  hint:     {hint}")
        super().__init__("\n".join(lines))


class BaselineError(HarnessError):
    """A baseline on disk that cannot be used as it is.

    Args:
        path: The file.
        problem: What is wrong with it.
        remedy: What to do.
    """

    def __init__(self, path: Path, problem: str, remedy: str) -> None:
        self.path, self.problem, self.remedy = path, problem, remedy
        super().__init__(f"{path}: {problem}\n  do: {remedy}")


class NotRecordedError(HarnessError):
    """A case left no recording.

    Args:
        reason: Why.
        verdict: What follows: `error` or `unverified`.
        log: The traceback, if there is one.
    """

    exit_code = 1

    def __init__(self, reason: str, verdict: str = "error", log: str = "") -> None:
        self.reason, self.verdict, self.log = reason, verdict, log
        super().__init__(reason)


class LaunchError(NotRecordedError):
    """A worker process ended or was ended before it answered."""


class SandboxError(NotRecordedError):
    """An environment that cannot be had: a release that does not install or import beside the rest; to be skipped.

    Args:
        requirements: What was asked for.
        problem: What an installer or an import stumbled over.
        log: The end of what it printed.
    """

    def __init__(self, requirements: Sequence[str], problem: str, log: str = "") -> None:
        super().__init__(
            f"no environment with {', '.join(requirements)}: {problem}", "unverified", log
        )
