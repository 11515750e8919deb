"""Code of the project: imported where its package is trusted, with a digest of every source file.

Nothing else of the project's root becomes importable: a finder looks there for trusted packages
alone, so that no file of the repository can stand in for an optional package of a library.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import sys
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Sequence

from ..protocol import CaseError, CaseRequest
from .library import nearest

SOURCES = (".py", ".pyx", ".c", ".cc", ".cpp", ".h", ".cu", ".cuh", ".so", ".pyd")
DIGITS = 16  # hexadecimal, of the digest of one file
Digests = Dict[str, Dict[str, str]]  # by package, then by the path of a file inside it


class _ProjectFinder:
    """Finds the trusted packages in the project's root, before any other place.

    Attributes:
        digests: What was found when the packages were last imported; None before.
    """

    def __init__(self, root: str, packages: Sequence[str]) -> None:
        self.root = root
        self.packages = tuple(packages)
        self.digests: Optional[Digests] = None

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """Return where a trusted package lies in the root; None for every other module."""
        if path is not None or name not in self.packages:
            return None
        return importlib.machinery.PathFinder.find_spec(name, [self.root], target)


class OwnCode:
    """The code that a case may name.

    Args:
        root: The project's root.
        packages: The packages that the project trusts; without any, every name is refused.
    """

    def __init__(self, root: str = "", packages: Sequence[str] = ()) -> None:
        self._root = root
        self._packages = tuple(packages)

    @classmethod
    def of(cls, case: CaseRequest) -> OwnCode:
        """Return the code that a case may name."""
        trust = case.get("trust")
        return cls(trust["root"], trust["packages"]) if trust else cls()

    def prepare(self) -> Digests:
        """Make the trusted packages importable as their files are now; return their digests.

        What was imported from files that have changed since, or from another project, is forgotten.
        """
        finder = next((each for each in sys.meta_path if isinstance(each, _ProjectFinder)), None)
        is_settled = finder is not None and (finder.root, finder.packages) == (
            self._root,
            self._packages,
        )
        digests = self.digests()
        if is_settled and finder is not None and finder.digests == digests:
            return digests
        if finder is not None:
            sys.meta_path.remove(finder)
            _forget(finder.packages)
        if self._packages:
            finder = _ProjectFinder(self._root, self._packages)
            finder.digests = digests
            sys.meta_path.insert(0, finder)
            _forget(self._packages)
            importlib.invalidate_caches()
        return digests

    def digests(self) -> Digests:
        """Return the digest of every source file of the trusted packages; nothing is imported."""
        found = {package: _digests_of(self._home(package)) for package in self._packages}
        return {package: files for package, files in found.items() if files}

    def is_trusted(self, module: str) -> bool:
        """Return whether a dotted module belongs to a trusted package."""
        return module.partition(".")[0] in self._packages

    def load(self, name: str) -> Any:
        """Return what a name such as `package.module:Class` means.

        Raises:
            CaseError: The package is not trusted, there is no such module or name in it, or its
                code raises an error as it is imported.
        """
        module_name, _, attribute = name.partition(":")
        if not self.is_trusted(module_name):
            raise CaseError(f"`{name}`: the project does not trust `{module_name.split('.')[0]}`")
        try:
            module = importlib.import_module(module_name)
        except Exception as error:  # the project's own code may raise anything
            text = " ".join(str(error).split()) or "no message"
            raise CaseError(
                f"`{name}` cannot be imported from {self._root} or the environment: "
                f"{type(error).__name__}: {text}"
            ) from error
        found = getattr(module, attribute, None)
        if found is None:
            hint = nearest(attribute, dir(module))
            raise CaseError(f"`{module_name}` has no `{attribute}`{hint}")
        return found

    def class_of(self, name: str, base: Any, what: str) -> Any:
        """Return a class of the project's code.

        Args:
            name: Such as `package.module:Class`.
            base: The class that it must inherit from.
            what: What it is to be, in words.

        Raises:
            CaseError: There is no such class, or it has another base.
        """
        found = self.load(name)
        if not (isinstance(found, type) and issubclass(found, base)):
            raise CaseError(
                f"`{name}` is no {what}: expected a class that inherits from {base.__name__}"
            )
        return found

    def takes_part(self, case: CaseRequest, parts: Iterable[Any]) -> bool:
        """Return whether code of the project takes part in a case.

        Args:
            case: The case, whose pipeline, scheduler or checkpoint may be of the project.
            parts: The pipeline and its components.
        """
        named = [case["pipeline"], str((case["scheduler"] or {}).get("class", ""))]
        is_built = case["checkpoint"]["kind"] == "build"
        modules = [each.__module__ for part in parts for each in type(part).__mro__]
        return is_built or any(":" in name for name in named) or any(map(self.is_trusted, modules))

    def _home(self, package: str) -> List[Path]:
        """Return the folders, or the one file, in which a package lies."""
        spec = importlib.machinery.PathFinder.find_spec(package, [self._root])
        spec = spec or importlib.machinery.PathFinder.find_spec(package)
        if spec is None:
            return []
        if spec.submodule_search_locations is not None:
            return [Path(folder) for folder in spec.submodule_search_locations]
        return [Path(spec.origin)] if spec.origin else []


def _digests_of(homes: Sequence[Path]) -> Dict[str, str]:
    """Return the digest of every source file in the homes of a package, by its path in there."""
    found: Dict[str, str] = {}
    for home in homes:
        files = [home] if home.is_file() else sorted(home.rglob("*"))
        for file in files:
            if file.suffix in SOURCES and file.is_file():
                name = file.name if file == home else file.relative_to(home).as_posix()
                found[name] = hashlib.sha256(file.read_bytes()).hexdigest()[:DIGITS]
    return found


def _forget(packages: Sequence[str]) -> None:
    """Drop what was imported of packages, so that their files are read again."""
    for name in list(sys.modules):
        if name.partition(".")[0] in packages:
            del sys.modules[name]
