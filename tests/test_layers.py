"""The design as tests: imports point one way, and modules keep the rules that it sets."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "harness"

# Low to high: a module may import what stands on a line above its own, and within its own package
# whatever makes no circle.
ORDER = (
    ("worker",),
    ("records",),
    ("errors",),
    ("scenario",),
    ("store",),
    ("judge",),
    ("gate",),
    ("launch",),
    ("session",),
    ("study",),
    ("report",),
    ("api",),
    ("commands", "pytest_plugin"),
    ("__main__",),
)
FRAMEWORKS = ("torch", "diffusers", "transformers", "huggingface_hub")
WORKER_NEEDS = {"numpy", "PIL", "safetensors", *FRAMEWORKS}
WHERE_IT_IS = {
    "harness.worker.pipeline.mindspore_": {"mindspore"},
    "harness.worker.conditions.cost": {"psutil", "pynvml"},
    "harness.worker.files": {"psutil"},
}
JUDGE_NEEDS = {
    "_pytest", "argcomplete", "filelock", "flip_evaluator", "fsspec", "jinja2", "markupsafe",
    "matplotlib", "numpy", "packaging", "platformdirs", "psutil", "pytest", "pytest_benchmark",
    "ray", "rich", "skimage", "yaml",
}  # fmt: skip
MOST_AT_THE_ROOT = 6
MOST_LINES = 60  # of a function: it must fit on a screen
ATOMIC_WRITER = "harness.worker.files"
# It moves a whole environment, which installers built in place, and writes no file of its own.
MOVES_ENVIRONMENTS = "harness.launch.sandbox"


def named(path: Path) -> str:
    """Return a module's dotted name, such as `harness.judge.drift`; a package's is its folder's."""
    parts = ("harness", *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {named(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def for_types_only(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    )


def imported(root: ast.AST, package: str) -> Iterator[str]:
    """Yield what a module of `package` imports, at load time or later.

    A module of the harness comes by its full name; imports for types alone are left out.
    """
    for node in ast.iter_child_nodes(root):
        if for_types_only(node):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            home = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*home, *filter(None, [node.module])])
            for alias in node.names:
                yield f"{base}.{alias.name}" if f"{base}.{alias.name}" in MODULES else base
        else:
            yield from imported(node, package)


@cache
def imports(module: str) -> frozenset[str]:
    is_package = MODULES[module].name == "__init__.py"
    return frozenset(imported(tree(module), module if is_package else module.rpartition(".")[0]))


def of_harness(module: str) -> set[str]:
    return {name for name in imports(module) if name.split(".")[0] == "harness"}


def foreign(module: str) -> set[str]:
    """Return the packages that a module imports, without the standard library's and our own."""
    return {name.split(".")[0] for name in imports(module)} - sys.stdlib_module_names - {"harness"}


def unit(module: str) -> str:
    """Return the part of the harness that a module belongs to, as `ORDER` names it."""
    return module.split(".")[1]


def test_the_reader_of_imports_sees_local_and_relative_ones_and_skips_those_for_types():
    """What the other tests rest on: each kind of import in one source."""
    source = """
from __future__ import annotations
import json, harness.commands.main
from . import drift, checks
from .. import errors
from harness.judge import cause
from harness.records import Outcome
if TYPE_CHECKING:
    from harness.session import Session
def late():
    with open("x") as file:
        from ..scenario.located_yaml import load
"""
    assert set(imported(ast.parse(source), "harness.judge")) == {
        "__future__",
        "json",
        "harness.commands.main",
        "harness.judge.drift",
        "harness.judge.checks",
        "harness.errors",
        "harness.judge.cause",
        "harness.records",
        "harness.scenario.located_yaml",
    }


def test_every_module_has_a_place_in_the_order():
    """A new module must be given its layer, and the order names nothing that is gone."""
    assert {unit(module) for module in MODULES if module != "harness"} == {
        name for layer in ORDER for name in layer
    }


def test_imports_point_one_way():
    """No module imports from its own layer or a higher one, except inside its own package."""
    rank = {name: index for index, layer in enumerate(ORDER) for name in layer}
    against = [
        f"{module} imports {name}"
        for module in MODULES
        if module != "harness"
        for name in of_harness(module)
        if name != "harness"
        and unit(name) != unit(module)
        and rank[unit(name)] >= rank[unit(module)]
    ]
    assert against == []


def test_imports_inside_a_package_make_no_circle():
    """The modules of one package have an order among themselves too."""
    among = {module: of_harness(module) - {module} for module in MODULES}
    assert set(TopologicalSorter(among).static_order()) >= set(MODULES)


def test_the_package_itself_loads_nothing_of_the_harness():
    """`import harness` must be cheap; public names load when asked for."""
    assert of_harness("harness") == set()


@pytest.mark.parametrize(
    "module", [module for module in MODULES if module.startswith("harness.worker")]
)
def test_the_worker_imports_nothing_of_the_harness_and_few_packages(module: str):
    """It runs in an environment of another age, where the judge's packages may be missing."""
    assert {name for name in of_harness(module) if unit(name) != "worker"} == set()
    assert foreign(module) <= WORKER_NEEDS | WHERE_IT_IS.get(module, set())


@pytest.mark.parametrize(
    "module", [module for module in MODULES if not module.startswith("harness.worker")]
)
def test_the_judges_half_imports_no_framework(module: str):
    """Neither at load time nor later: frameworks live in the worker's process alone."""
    assert foreign(module) <= JUDGE_NEEDS


@pytest.mark.parametrize(
    "module", [module for module in MODULES if module.startswith("harness.worker")]
)
def test_the_worker_is_written_in_python_3_9(module: str):
    """An old interpreter can parse it, and annotations that it cannot evaluate stay text."""
    source = MODULES[module].read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 9))
    if any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree(module))):
        assert "from __future__ import annotations" in source


def test_a_newer_syntax_would_not_pass_for_python_3_9():
    """The interpreter that runs the tests does tell the versions apart."""
    with pytest.raises(SyntaxError):
        ast.parse("match case:\n    case 1: pass\n", feature_version=(3, 9))


def test_few_modules_lie_at_the_root_of_the_package():
    """One folder per idea: what is at the root is what every part of the harness knows."""
    at_the_root = {path.name for path in PACKAGE.glob("*.py")} - {"__init__.py"}
    assert len(at_the_root) <= MOST_AT_THE_ROOT, sorted(at_the_root)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_in_its_first_line_what_it_owns(module: str):
    """Whoever opens the file reads that first: a sentence of several words on one line."""
    first_line = (ast.get_docstring(tree(module)) or "").partition("\n")[0]
    assert re.fullmatch(r"\S+( \S+){2,}[.]", first_line), first_line


def test_no_function_is_longer_than_60_lines():
    """It must fit on a screen; functions inside it count."""
    functions = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in functions.items() if length > MOST_LINES} == {}


def moves_files(root: ast.AST) -> Iterator[int]:
    """Yield the line of each call that renames a file or folder: the end of an atomic write.

    `text.replace(old, new)` and `dataclasses.replace(value, field=new)` have other arguments than
    `path.replace(target)`.
    """
    for node in ast.walk(root):
        if isinstance(node, ast.ImportFrom) and node.module in ("os", "shutil"):
            if {alias.name for alias in node.names} & {"replace", "rename", "renames", "move"}:
                yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            home, name = node.func.value, node.func.attr
            of_module = isinstance(home, ast.Name) and home.id in ("os", "shutil")
            alone = len(node.args) == 1 and not node.keywords
            of_path = name == "rename" or (name == "replace" and alone)
            if of_path or (of_module and name in ("replace", "renames", "move")):
                yield node.lineno


@pytest.mark.parametrize(
    ("source", "moves"),
    [
        ("os.replace(a, b)", True),
        ("os.rename(a, b)", True),
        ("shutil.move(a, b)", True),
        ("path.replace(b)", True),
        ("path.with_name('x').rename(b)", True),
        ("from os import replace", True),
        ("text.replace('a', 'b')", False),
        ("replace(case, image=1)", False),
        ("dataclasses.replace(case, image=1, env=())", False),
        ("from dataclasses import replace", False),
    ],
)
def test_the_reader_of_renames_tells_files_from_texts(source: str, moves: bool):
    """What the next test rests on."""
    assert bool(list(moves_files(ast.parse(source)))) is moves


def test_one_module_alone_writes_files_atomically():
    """Two ways to write a file are two places for a mistake, of which one is found."""
    writers = {module for module in MODULES if any(moves_files(tree(module)))}
    assert writers - {MOVES_ENVIRONMENTS} == {ATOMIC_WRITER}


WORDS = ("message", "reason")  # of outcomes and errors: they are for people
SEARCHES = (
    "startswith", "endswith", "find", "rfind", "index", "rindex", "count", "split", "rsplit",
    "partition", "rpartition", "removeprefix", "removesuffix",
)  # fmt: skip
PATTERN_SEARCHES = ("search", "match", "fullmatch", "findall", "finditer", "split")


def is_words(node: ast.AST) -> bool:
    """Whether an expression is the wording of a decision, or made of it: `outcome.message.lower()`.

    The attribute `reason` is also a member of an enumeration, which may be compared as a whole.
    """
    if isinstance(node, ast.Call):
        return is_words(node.func) or any(is_words(argument) for argument in node.args)
    if isinstance(node, ast.Attribute):
        return node.attr in WORDS or is_words(node.value)
    return False


def decisions_by_words(root: ast.AST) -> Iterator[int]:
    """Yield the line of each place that looks for words in a message or a reason."""
    for node in ast.walk(root):
        if isinstance(node, ast.Compare):
            for operator, right in zip(node.ops, node.comparators, strict=True):
                if isinstance(operator, ast.In | ast.NotIn) and is_words(right):
                    yield node.lineno
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            is_pattern = isinstance(node.func.value, ast.Name) and node.func.value.id == "re"
            searched = is_words(node.func.value) and node.func.attr in SEARCHES
            matched = is_pattern and node.func.attr in PATTERN_SEARCHES
            if searched or (matched and any(map(is_words, node.args))):
                yield node.lineno


@pytest.mark.parametrize(
    ("source", "decides"),
    [
        ("'tolerance' in outcome.message", True),
        ("'tolerance' not in outcome.reason", True),
        ("x in str(outcome.message).lower()", True),
        ("outcome.message.startswith('no')", True),
        ("error.reason.lower().endswith('memory')", True),
        ("outcome.message.split(':')[0]", True),
        ("re.search('published', outcome.message)", True),
        ("outcome.reason in (Reason.OTHER_BITS, Reason.NO_TOLERANCE)", False),
        ("outcome.reason is Reason.OTHER_BITS", False),
        ("print(f'{outcome.case}: {outcome.message}')", False),
        ("name.startswith('unet')", False),
        ("re.search('published', text)", False),
    ],
)
def test_the_reader_of_decisions_tells_words_from_enumerations(source: str, decides: bool):
    """What the next test rests on."""
    assert bool(list(decisions_by_words(ast.parse(source)))) is decides


def test_nothing_is_decided_by_the_words_of_a_message():
    """Who rewords a sentence must not change what the harness does."""
    found = [f"{name}:{line}" for name in MODULES for line in decisions_by_words(tree(name))]
    assert found == []
