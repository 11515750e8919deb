"""Every error that the harness raises, and the exit code that the command line gives it.

HarnessError            exit 4   a defect of the harness
  UsageError            exit 2   a wrong option, path or selection
    ScenarioError       exit 2   a mistake in a YAML file: file, line, field, expected, found
      ScenarioErrors    exit 2   several of them, of one file or of several
    FileError           exit 2   a file that cannot be used: path, problem, remedy
      BaselineError     exit 2   a baseline that is damaged, misplaced or of another format
  NotRecordedError      exit 1   a case left no recording: verdict `error` or `unverified`
    LaunchError                  its worker did not start, crashed or timed out: verdict `error`
      WorkerEndedError           its worker crashed, or was killed
    SandboxError                 no environment with the named versions can be had: `unverified`
  WorkerLostError                a worker of a fleet or its machine was lost: the case runs again
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.records import Verdict

IN_THE_WAY = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR)
MOST_MISTAKES = 20  # that one message tells
MAKE_ROOM = "make room, or give this user the right to write there"


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
        self.path = path
        self.line = line
        self.field = field
        self.expected = expected
        self.found = found
        self.hint = hint
        where = f"{path}:{line}:" + (f" `{field}`" if field else "")
        lines = [where, f"  expected: {expected}", f"  found:    {found}"]
        if hint:
            lines.append(f"  hint:     {hint}")
        super().__init__("\n".join(lines))

    @property
    def mistakes(self) -> tuple[ScenarioError, ...]:
        """Every mistake that the error is about: itself, where there is one."""
        return (self,)


class ScenarioErrors(ScenarioError):
    """Several mistakes in YAML files, told at once; the attributes are those of the first.

    Args:
        found: At least one mistake.
    """

    def __init__(self, found: Sequence[ScenarioError]) -> None:
        first = found[0]
        super().__init__(
            first.path, first.line, first.field, first.expected, first.found, first.hint
        )
        self._found = tuple(found)
        told = [str(each) for each in found[:MOST_MISTAKES]]
        if len(found) > MOST_MISTAKES:
            files = ", ".join(dict.fromkeys(str(each.path) for each in found[MOST_MISTAKES:]))
            told.append(f"and {len(found) - MOST_MISTAKES} more mistakes in {files}")
        self.args = ("\n".join(told),)

    @property
    def mistakes(self) -> tuple[ScenarioError, ...]:
        """Every mistake, in the order of the files and of their lines."""
        return self._found


class FileError(UsageError):
    """A file or folder that cannot be used as it is.

    Args:
        path: The file or folder, or its URL.
        problem: What is wrong with it, as the end of a sentence that begins with the path.
        remedy: What to do; empty if the problem says it.
        line: On which line of the file, counted from 1; 0 where it is about no line.
    """

    def __init__(self, path: Path | str, problem: str, remedy: str = "", line: int = 0) -> None:
        self.path = path
        self.problem = problem
        self.remedy = remedy
        self.line = line
        place = f"{path}:{line}" if line else str(path)
        super().__init__(f"{place}: {problem}" + (f"\n  do: {remedy}" if remedy else ""))


class BaselineError(FileError):
    """A baseline on disk that cannot be used as it is."""


class NotRecordedError(HarnessError):
    """A case left no recording.

    Args:
        reason: Why.
        verdict: What follows: `error` or `unverified`.
        log: The traceback, if there is one.
    """

    exit_code = 1

    def __init__(self, reason: str, verdict: Verdict = Verdict.ERROR, log: str = "") -> None:
        self.reason = reason
        self.verdict = verdict
        self.log = log
        super().__init__(reason)


class LaunchError(NotRecordedError):
    """A worker process ended, or was ended, before it answered."""


class WorkerEndedError(LaunchError):
    """A worker process ended before it answered: it crashed, or was killed."""


class WorkerLostError(HarnessError):
    """A worker of a fleet was lost, with its machine or alone; its case may run elsewhere.

    It is no NotRecordedError: whatever the case was doing, it is to run again from its beginning.

    Args:
        reason: What is known of the loss.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class SandboxError(NotRecordedError):
    """An environment with the named versions cannot be had: they do not install or import.

    Args:
        requirements: What was asked for.
        problem: What an installer or an import stumbled over.
        log: The end of what it printed.
    """

    def __init__(self, requirements: Sequence[str], problem: str, log: str = "") -> None:
        names = ", ".join(requirements)
        super().__init__(f"no environment with {names}: {problem}", Verdict.UNVERIFIED, log)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an operating system's refusal to write `path` into a FileError that says what to do.

    Raises:
        FileError: The disk is full, the folder is read-only, or something stands in the way.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = "move away what stands there" if error.errno in IN_THE_WAY else MAKE_ROOM
        raise FileError(
            path,
            f"cannot be written: {reason}",
            f"{remedy}, and repeat the command; what was there before is unchanged",
        ) from error
