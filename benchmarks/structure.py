"""Measures how densely code is written and how its folders depend on each other; prints one table.

The figures are signs of how the code reads, not goals. They are taken from tokens and syntax trees
alone: nothing of the measured code is imported, and only the standard library is used. A folder
must hold one package, which has an `__init__.py`, and may hold tests in `tests`.

    python benchmarks/structure.py                  # this repository
    python benchmarks/structure.py ../before .      # several folders, side by side

It takes about two seconds a folder.

What is counted, always without empty lines:

- A line of code is a line on which a token starts; comments and ends of lines are no tokens.
- The complexity by branches is McCabe's, as `ruff check --select C901` counts it, with the
  functions inside a function. The one by decisions counts each function by itself, and counts
  boolean operators, conditional expressions and the clauses of comprehensions too.
- A folder of the package, with all that is in it, and each module at the root of the package is a
  unit. An arrow leads from one unit to another one that it imports, at load time or later, but not
  for types alone. The layers are the units on the longest chain of arrows.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TESTS = "tests"
LONGEST_LINE = 100
HIGHEST_COMPLEXITY = 10
NO_CODE = (
    tokenize.ENCODING,
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
)

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
LOOPS = (ast.For, ast.AsyncFor, ast.While)
Function = ast.FunctionDef | ast.AsyncFunctionDef
Arrow = tuple[str, str]  # the unit that imports, and the one that it imports


@dataclass(frozen=True)
class Source:
    """One file: its path below the folder, its text, and its syntax tree."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def lines(self) -> list[str]:
        """Every line that is not empty."""
        return [line for line in self.text.splitlines() if line.strip()]


@dataclass(frozen=True)
class Code:
    """What a folder holds: the sources of its package, and those of its tests."""

    package: str
    sources: tuple[Source, ...]
    tests: tuple[Source, ...]


@dataclass(frozen=True)
class Complexity:
    """The complexity of one function, and where it stands."""

    value: int
    function: str


def read_code(folder: Path) -> Code:
    """Return the code of a folder.

    Raises:
        SystemExit: There is no package in it, or more than one.
    """
    packages = sorted(path.parent.name for path in folder.glob("*/__init__.py"))
    packages = [name for name in packages if name != TESTS]
    if len(packages) != 1:
        found = ", ".join(packages) or "none"
        raise SystemExit(f"{folder}: expected one package, found {found}")
    return Code(packages[0], _read_sources(folder, packages[0]), _read_sources(folder, TESTS))


def _read_sources(folder: Path, name: str) -> tuple[Source, ...]:
    found = []
    for path in sorted((folder / name).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        found.append(Source(path.relative_to(folder), text, ast.parse(text)))
    return tuple(found)


# Density.


def tokens_per_line(sources: Iterable[Source]) -> float:
    """Return the tokens of the code divided by its lines of code."""
    tokens = 0
    lines = 0
    for source in sources:
        read_line = io.StringIO(source.text).readline
        starts = [
            token.start[0]
            for token in tokenize.generate_tokens(read_line)
            if token.type not in NO_CODE
        ]
        tokens += len(starts)
        lines += len(set(starts))
    return tokens / lines


def count_lines(sources: Iterable[Source]) -> int:
    """Return the number of lines that are not empty."""
    return sum(len(source.lines) for source in sources)


def count_long_lines(sources: Iterable[Source]) -> int:
    """Return the number of lines over `LONGEST_LINE` columns."""
    return sum(len(line) > LONGEST_LINE for source in sources for line in source.lines)


def count_lambdas(sources: Iterable[Source]) -> int:
    """Return the number of lambdas."""
    nodes = (node for source in sources for node in ast.walk(source.tree))
    return sum(isinstance(node, ast.Lambda) for node in nodes)


# Complexity.


def complexities(sources: Iterable[Source], measure: Callable[[Function], int]) -> list[Complexity]:
    """Return the complexity of every function, those inside others too; the highest comes first."""
    found = [
        Complexity(measure(node), f"{source.path.with_suffix('').as_posix()}.{node.name}")
        for source in sources
        for node in ast.walk(source.tree)
        if isinstance(node, FUNCTIONS)
    ]
    return sorted(found, key=_highest_first)


def _highest_first(each: Complexity) -> tuple[int, str]:
    return -each.value, each.function


def by_branches(function: Function) -> int:
    """Return the complexity of a function with those inside it.

    Source: T. J. McCabe, "A complexity measure", 1976, as the rule C901 of ruff counts it.
    """
    return 1 + _branches(function.body)


def _branches(statements: Iterable[ast.stmt]) -> int:
    """Return the branches of statements and of all statements inside them."""
    inner = 0
    own = 0
    for statement in statements:
        own += _own_branches(statement)
        inner += sum(_branches(block) for block in _blocks(statement))
    return own + inner


def _own_branches(statement: ast.stmt) -> int:
    if isinstance(statement, (ast.If, *LOOPS, *FUNCTIONS)):
        return 1
    if isinstance(statement, (ast.Try, ast.TryStar)):
        return len(statement.handlers) + bool(statement.orelse)
    if isinstance(statement, ast.Match):
        return len(statement.cases) - _catches_all(statement.cases[-1])
    return 0


def _catches_all(case: ast.match_case) -> bool:
    """Return whether a case of `match` is like an `else`: it has no pattern and no guard."""
    return case.guard is None and isinstance(case.pattern, ast.MatchAs) and not case.pattern.pattern


def _blocks(statement: ast.stmt) -> Iterator[list[ast.stmt]]:
    """Yield the blocks of statements that a statement holds."""
    for name in ("body", "orelse", "finalbody"):
        yield getattr(statement, name, [])
    for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
        yield part.body


def by_decisions(function: Function) -> int:
    """Return the complexity of a function by itself, with the decisions inside expressions."""
    return 1 + sum(_decisions(node) for node in _own_nodes(function))


def _own_nodes(function: Function) -> Iterator[ast.AST]:
    """Yield the nodes of a function, without what is inside functions and classes in it."""
    waiting = list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            waiting += ast.iter_child_nodes(node)


def _decisions(node: ast.AST) -> int:
    if isinstance(node, (ast.If, *LOOPS, ast.ExceptHandler, ast.IfExp)):
        return 1
    if isinstance(node, ast.BoolOp):
        return len(node.values) - 1
    if isinstance(node, ast.comprehension):
        return 1 + len(node.ifs)
    return 0


# Units and arrows.


def modules_at_root(code: Code) -> list[str]:
    """Return the modules directly in the package, without its `__init__`."""
    at_root = [source.path.stem for source in code.sources if len(source.path.parts) == 2]
    return [name for name in at_root if name != "__init__"]


def units(code: Code) -> set[str]:
    """Return the units of the package: its folders, and the modules at its root."""
    folders = {source.path.parts[1] for source in code.sources if len(source.path.parts) > 2}
    return folders | set(modules_at_root(code))


def arrows(code: Code) -> set[Arrow]:
    """Return every pair of units of which the first imports the second."""
    known = units(code)
    found = set()
    for source in code.sources:
        own = _unit_of(source.path)
        for name in _imports(source):
            parts = name.split(".")
            is_of_package = parts[0] == code.package and len(parts) > 1
            if is_of_package and parts[1] in known and own in known and parts[1] != own:
                found.add((own, parts[1]))
    return found


def _unit_of(path: Path) -> str:
    """Return the unit of a file; the package's own `__init__` is none, and has that name."""
    return path.parts[1] if len(path.parts) > 2 else path.stem


def _imports(source: Source) -> Iterator[str]:
    """Yield the full dotted name of everything that a file imports, but not for types alone."""
    home = source.path.parent.parts
    waiting: list[ast.AST] = [source.tree]
    while waiting:
        node = waiting.pop()
        if _is_for_types(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = home[: len(home) + 1 - node.level] if node.level else ()
            base = (*above, node.module) if node.module else above
            yield from (".".join([*base, alias.name]) for alias in node.names)
        else:
            waiting += ast.iter_child_nodes(node)


def _is_for_types(node: ast.AST) -> bool:
    if not isinstance(node, ast.If) or not isinstance(node.test, ast.Name):
        return False
    return node.test.id == "TYPE_CHECKING"


def layers(code: Code) -> int | None:
    """Return the number of units on the longest chain of arrows; None where they go in circles."""
    below: dict[str, set[str]] = {unit: set() for unit in units(code)}
    for importer, imported in arrows(code):
        below[importer].add(imported)
    heights: dict[str, int] = {}
    try:
        for unit in TopologicalSorter(below).static_order():
            heights[unit] = 1 + max((heights[other] for other in below[unit]), default=0)
    except CycleError:
        return None
    return max(heights.values())


# The table.


def measure(folder: Path) -> dict[str, str]:
    """Return the figures of a folder as text, by what they are."""
    code = read_code(folder)
    lines = count_lines(code.sources)
    test_lines = count_lines(code.tests)
    long_lines = count_long_lines(code.sources)
    lambdas = count_lambdas(code.sources)
    branches = complexities(code.sources, by_branches)
    decisions = complexities(code.sources, by_decisions)
    levels = layers(code)
    return {
        "lines": f"{lines}",
        "tokens per line of code": f"{tokens_per_line(code.sources):.1f}",
        f"lines over {LONGEST_LINE} columns": f"{100 * long_lines / lines:.1f} %",
        "lambdas per 1,000 lines": f"{1000 * lambdas / lines:.1f}",
        "highest complexity by branches": _worst(branches),
        f"functions above {HIGHEST_COMPLEXITY} by branches": f"{_count_high(branches)}",
        "highest complexity by decisions": _worst(decisions),
        f"functions above {HIGHEST_COMPLEXITY} by decisions": f"{_count_high(decisions)}",
        "lines of tests : lines": f"{test_lines / lines:.2f}",
        "modules at the root": f"{len(modules_at_root(code))}",
        "folders and modules at the root": f"{len(units(code))}",
        "arrows between them": f"{len(arrows(code))}",
        "layers": "none: imports go in circles" if levels is None else f"{levels}",
    }


def _worst(found: Sequence[Complexity]) -> str:
    return f"{found[0].value} (`{found[0].function}`)" if found else "no function"


def _count_high(found: Iterable[Complexity]) -> int:
    return sum(each.value > HIGHEST_COMPLEXITY for each in found)


def main() -> None:
    """Print one column of figures for each folder that was named."""
    folders = [Path(name) for name in sys.argv[1:]] or [ROOT]
    columns = [measure(folder) for folder in folders]
    print(f"| | {' | '.join(folder.resolve().name for folder in folders)} |")
    print(f"|---|{'---|' * len(folders)}")
    for figure in columns[0]:
        print(f"| {figure} | {' | '.join(column[figure] for column in columns)} |")


if __name__ == "__main__":
    main()
