"""Components that a case puts in the place of the checkpoint's own, or adds to them, by name.

They are loaded as a checkpoint's own components are: from safetensors alone, and whole.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Sequence

from ..observe.digest import combine
from ..protocol import CannotRunHere, CaseError, ComponentSource
from . import hub
from .components import call_of
from .framework import Framework
from .library import nearest
from .own_code import OwnCode
from .synthetic import INDEX_FILE, components_in, make_component, read_index

# Where a component's own files name its class: files, and the keys to look under.
CLASS_KEYS = (
    ("config.json", ("_class_name", "architectures")),
    ("scheduler_config.json", ("_class_name",)),
    ("tokenizer_config.json", ("tokenizer_class",)),
    ("preprocessor_config.json", ("image_processor_type", "feature_extractor_type")),
    ("processor_config.json", ("processor_class",)),
)
CONFIGURATIONS = ("*.json", "*.txt", "*.model")
DEFAULT = "default"  # stands for every component whose type is not named
Sources = Mapping[str, Sequence[ComponentSource]]


class Replacements(NamedTuple):
    """Components that were loaded in place of others.

    Attributes:
        components: Each by name: one, a list of several, or None for one that is left out.
        configurations: The digest of the files that configure each, by `NAME.configuration`.
    """

    components: Dict[str, Any]
    configurations: Dict[str, str]


def check_names(sources: Sources, pipeline_class: Any) -> None:
    """Refuse a component that the pipeline's constructor does not know.

    Raises:
        CaseError: It offers the nearest right spelling.
    """
    parameters = inspect.signature(pipeline_class.__init__).parameters.values()
    known = [each.name for each in parameters if each.kind is not each.VAR_KEYWORD][1:]
    for name in sources:
        if name not in known:
            hint = nearest(name, known) or f"; it takes {', '.join(known)}"
            raise CaseError(f"`components`: {pipeline_class.__name__} takes no `{name}`{hint}")


def load_all(
    sources: Sources, dtypes: Mapping[str, str], framework: Framework, code: OwnCode
) -> Replacements:
    """Load every component that a case names.

    Args:
        sources: Where each comes from; several are given to the pipeline as a list.
        dtypes: The floating-point type of each component; `default` is that of those unnamed.
        framework: Whose components they are.
        code: The code of the project, which may have their classes.

    Raises:
        CannotRunHere: The files of one are not on this machine, and cannot be fetched.
        CaseError: It has no class, or no safetensors.
    """
    found: Dict[str, Any] = {}
    digests: Dict[str, str] = {}
    for name, several in sources.items():
        homes = [_home(name, source) for source in several]
        dtype = dtypes.get(name, dtypes[DEFAULT])
        loaded = [
            _load(name, home, source, dtype, framework, code)
            for home, source in zip(homes, several)
        ]
        found[name] = loaded if len(loaded) > 1 else (loaded or [None])[0]
        if homes:
            digests[f"{name}.configuration"] = combine(
                {str(index): _digest_of(home) for index, home in enumerate(homes)}
            )
    return Replacements(found, digests)


def _home(name: str, source: ComponentSource) -> Path:
    """Return the folder of a component's own files.

    In the folder of a pipeline, a component lies in the folder of its name.
    """
    folder = _folder_of(name, source)
    subfolder = source["subfolder"]
    if not subfolder and (folder / INDEX_FILE).is_file():
        entries = components_in(read_index(folder)).items()
        known = [key for key, entry in entries if entry[0] is not None]
        if name not in known:
            raise CaseError(
                f"`components.{name}`: the pipeline in {folder} has no such component"
                f"{nearest(name, known)}; `subfolder` names another one"
            )
        subfolder = name
    home = folder / subfolder
    if not home.is_dir():
        raise CannotRunHere(f"`components.{name}`: no folder {home}")
    return home


def _folder_of(name: str, source: ComponentSource) -> Path:
    if source["kind"] == "hub":
        repository, revision = source["repository"], source["revision"]
        return hub.fetch_component(repository, revision, name, source["subfolder"])
    return Path(source["folder"])


def _load(
    name: str,
    home: Path,
    source: ComponentSource,
    dtype: str,
    framework: Framework,
    code: OwnCode,
) -> Any:
    component_class = _class_of(name, home, source["class_name"], framework, code)
    has_weights = call_of(component_class) is not None
    if source["kind"] == "synthetic":
        return make_component(name, component_class, home, dtype, framework)
    options: Dict[str, Any] = {"local_files_only": True}
    if has_weights:
        options.update(use_safetensors=True)
        options[framework.dtype_argument()] = framework.dtype(dtype)
    load = getattr(component_class, "from_pretrained", None)
    if load is None:
        raise CaseError(
            f"`components.{name}`: {component_class.__name__} has no `from_pretrained`, "
            "by which components are loaded"
        )
    try:
        component = load(home, **options)
    except OSError as error:  # the libraries' word for files that are missing
        text = " ".join(str(error).split())
        raise CaseError(f"`components.{name}`: {home} cannot be loaded: {text}") from error
    return component.eval() if has_weights else component


def _class_of(name: str, home: Path, asked: str, framework: Framework, code: OwnCode) -> Any:
    """Return the class of a component: the one that is asked for, or that its files name."""
    found = asked or _named_class(home)
    if ":" in asked:
        return code.load(asked)
    for library in (framework.library, framework.transformers):
        module = importlib.import_module(library)
        known = getattr(module, found, None) if found else None
        if inspect.isclass(known):
            if issubclass(known, getattr(module, "DiffusionPipeline", ())):
                raise CaseError(f"`components.{name}`: `{found}` is a pipeline, and no component")
            return known
    said = f"there is no class `{found}`" if found else f"nothing in {home} names its class"
    raise CaseError(
        f"`components.{name}`: {said} in {framework.library} or {framework.transformers}; "
        "`class` names one"
    )


def _named_class(home: Path) -> str:
    """Return the class that a component's files name; empty where they name none."""
    for file, keys in CLASS_KEYS:
        path = home / file
        if not path.is_file():
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        for key in keys:
            value = content.get(key) if isinstance(content, dict) else None
            value = value[0] if isinstance(value, list) and value else value
            if isinstance(value, str) and value.isidentifier() and not value.startswith("_"):
                return value
    return ""


def _digest_of(home: Path) -> str:
    """Return one digest of the files that configure a component, without weights."""
    return combine({path.name: _digest_of_file(path) for path in _configuration_files(home)})


def _configuration_files(home: Path) -> Iterator[Path]:
    has_weights = (home / "config.json").is_file()
    patterns: List[str] = ["config.json"] if has_weights else list(CONFIGURATIONS)
    for pattern in patterns:
        yield from home.glob(pattern)


def _digest_of_file(path: Path) -> str:
    return hashlib.sha256(without_versions(path)).hexdigest()


def without_versions(path: Path) -> bytes:
    """Return a file's content; of an object of JSON without the fields that name versions."""
    data = path.read_bytes()
    if path.suffix != ".json":
        return data
    content = json.loads(data)
    if isinstance(content, dict):
        content = {
            key: value
            for key, value in content.items()
            if not key.startswith("_") and key != "transformers_version"
        }
    return json.dumps(content, sort_keys=True).encode()
