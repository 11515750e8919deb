"""Imports inside the harness point one way, and its modules stay as small as the design asks."""

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

# Low to high: a module may import what stands on a line above its own, and within its own package whatever makes no circle.
ORDER = (
    ("worker",),
    ("errors",),
    ("records",),
    ("scenario",),
    ("store",),
    ("judge",),
    ("launch",),
    ("session",),
    ("study",),
    ("report",),
    ("commands", "pytest_plugin"),
    ("__main__",),
)
FRAMEWORKS = ("torch", "diffusers", "transformers", "huggingface_hub")
WORKER_NEEDS = {"numpy", "safetensors", *FRAMEWORKS}
WHERE_IT_IS = {
    "harness.worker.pipeline.mindspore_": {"mindspore"},
    "harness.worker.conditions.cost": {"pynvml"},
}
JUDGE_NEEDS = {"numpy", "packaging", "pytest", "pytest_benchmark", "rich", "yaml"}


def named(path: Path) -> str:
    """Return a module's dotted name, such as `harness.judge.drift`; a package has that of its folder."""
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
    """Yield what a module of `package` imports, at load time or later; a module of the harness by its full name."""
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
    """Return the packages that a module imports from outside the standard library and the harness."""
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
from harness.judge import gate
from harness.records import Outcome
if TYPE_CHECKING:
    from harness.session import Session
def late():
    with open("x") as file:
        from ..scenario.located_yaml import load
"""
    assert set(imported(ast.parse(source), "harness.judge")) == {
        "__future__", "json", "harness.commands.main", "harness.judge.drift", "harness.judge.checks", "harness.errors",
        "harness.judge.gate", "harness.records", "harness.scenario.located_yaml",
    }  # fmt: skip


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
    """The modules of the worker, of the judge and of the reports have an order among themselves too."""
    among = {module: of_harness(module) - {module} for module in MODULES}
    assert set(TopologicalSorter(among).static_order()) >= set(MODULES)


def test_the_package_itself_loads_nothing_of_the_harness():
    """`import harness` must be cheap beside a framework of any age; public names load when asked for."""
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
    """An old environment's interpreter can parse it, and annotations that it cannot evaluate stay text."""
    source = MODULES[module].read_text(encoding="utf-8")
    ast.parse(source, feature_version=(3, 9))
    if any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree(module))):
        assert "from __future__ import annotations" in source


def test_a_newer_syntax_would_not_pass_for_python_3_9():
    """The interpreter that runs the tests does tell the versions apart."""
    with pytest.raises(SyntaxError):
        ast.parse("match case:\n    case 1: pass\n", feature_version=(3, 9))


@pytest.mark.parametrize("module", MODULES)
def test_a_module_says_in_its_first_sentence_what_it_owns(module: str):
    """Whoever opens the file reads that first."""
    assert re.match(r"\S.*?[.](\s|$)", ast.get_docstring(tree(module)) or "", re.DOTALL)


def test_no_function_is_longer_than_60_lines():
    """It must fit on a screen; functions inside it count."""
    functions = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module in MODULES
        for node in ast.walk(tree(module))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert {name: length for name, length in functions.items() if length > 60} == {}
