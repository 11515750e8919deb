"""Whose code a frame runs: its file by the package's name, and the statement that it is at.

A file is named from its package on, such as `diffusers/schedulers/scheduling_ddim.py`, so that two
installations of one package name it alike.
"""

from __future__ import annotations

import ast
import linecache
import sysconfig
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterator, NamedTuple, Optional, Tuple

WORKER = str(Path(__file__).parents[1])
STANDARD_LIBRARY = sysconfig.get_paths()["stdlib"]
INSTALLED = ("site-packages", "dist-packages")  # folders of installed packages
# Installed packages whose lines are what a reader looks for. Code that lies elsewhere is the
# project's own, unless it is the worker's or Python's.
LIBRARIES = ("diffusers", "transformers", "peft", "mindone")
# Files of the libraries by which objects are made and messages written; they compute nothing.
MACHINERY = (
    "configuration_utils.py",
    "deprecation_utils.py",
    "generic.py",
    "import_utils.py",
    "logging.py",
    "modeling_utils.py",
    "outputs.py",
    "pipeline_loading_utils.py",
    "pipeline_utils.py",
    "scheduling_utils.py",
)
MOST_TEXT = 160  # characters of a statement


class Statement(NamedTuple):
    """A statement: its first and last line, and its text on one line, which may be cut short.

    `then` is where the code of a branch begins, and 0 for any other statement.
    """

    first: int
    last: int
    text: str
    then: int = 0


@lru_cache(maxsize=None)
def is_looked_at(path: str) -> bool:
    """Return whether a file is the project's, or of a library that pipelines are made of."""
    parts = Path(path).parts
    if path.startswith((WORKER, "<")):
        return False
    for folder in INSTALLED:
        if folder in parts:
            return parts[parts.index(folder) + 1] in LIBRARIES and parts[-1] not in MACHINERY
    return not path.startswith(STANDARD_LIBRARY) and parts[-1] not in MACHINERY


def looked_at_from(frame: Any) -> Optional[Any]:
    """Return the nearest frame, from this one outwards, whose file is looked at; None for none."""
    while frame is not None and not is_looked_at(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def file_of(frame: Any) -> str:
    """Return the name of a frame's file, from its package on."""
    return file_name(frame.f_code.co_filename, frame.f_globals.get("__name__") or "")


@lru_cache(maxsize=None)
def file_name(path: str, module: str) -> str:
    """Return the name of a module's file, from its package on."""
    parts = Path(path).parts
    depth = len(module.split(".")) + (parts[-1] == "__init__.py")
    return "/".join(parts[-depth:])


def statement_at(path: str, line: int) -> Statement:
    """Return the innermost statement that a line belongs to; of a block, its first lines alone."""
    return _statements(path).get(line) or Statement(line, line, _text(path, line, line))


@lru_cache(maxsize=None)
def _statements(path: str) -> Dict[int, Statement]:
    """Return the statement of each line of a file; nothing where the file is no Python."""
    found: Dict[int, Statement] = {}
    for first, last, then in _ranges(_tree(path)):
        statement = Statement(first, last, _text(path, first, last), then)
        found.update(dict.fromkeys(range(first, last + 1), statement))
    return found


def _tree(path: str) -> ast.Module:
    """Return the statements of a file; none where it is no Python."""
    try:
        return ast.parse("".join(linecache.getlines(path)))
    except (SyntaxError, ValueError):
        return ast.Module(body=[], type_ignores=[])


def constant_at(path: str, name: str) -> int:
    """Return the line at which a module binds a name for all of its functions; 0 for none."""
    return _constants(path).get(name, 0)


@lru_cache(maxsize=None)
def _constants(path: str) -> Dict[str, int]:
    assigned = [node for node in _tree(path).body if isinstance(node, (ast.Assign, ast.AnnAssign))]
    return {
        target.id: node.lineno
        for node in assigned
        for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
        if isinstance(target, ast.Name)
    }


def _ranges(tree: ast.AST) -> Iterator[Tuple[int, int, int]]:
    """Yield the first and last line of every statement, outer ones before those inside.

    The third is the first line of a branch's code.
    """
    for node in ast.walk(tree):
        if not isinstance(node, ast.stmt):
            continue
        body = getattr(node, "body", None)
        last = node.end_lineno or node.lineno
        if body:
            last = max(node.lineno, body[0].lineno - 1)
        then = body[0].lineno if body and isinstance(node, (ast.If, ast.While)) else 0
        decorators = getattr(node, "decorator_list", [])
        first = min([node.lineno, *(each.lineno for each in decorators)])
        yield first, last, then


def _text(path: str, first: int, last: int) -> str:
    lines = [linecache.getline(path, line).strip() for line in range(first, last + 1)]
    text = " ".join(line for line in lines if line)
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - 3] + "..."
