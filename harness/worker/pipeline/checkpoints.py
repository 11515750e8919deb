"""Loading a checkpoint: the pipeline with its weights, and digests of what it was loaded from.

There are four sources. `bundled` and `path` are folders in the format of diffusers; `hub` is such a
folder that the Hub's client fetches first; `synthetic` is a folder of configurations whose weights
are made here. Weights come from safetensors only, and no code of a checkpoint is ever run.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import importlib
import json
import sys
from pathlib import Path
from types import MappingProxyType
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np

from ..conditions.determinism import scatter_global_streams
from ..observe.digest import combine, digest_bytes
from ..observe.tensors import digest_digests, digest_state
from ..protocol import (
    AdapterRequest,
    CannotRunHere,
    CaseError,
    CaseRequest,
    CheckpointSource,
    ExecutionsRequest,
)
from . import endpoint, hub
from .adapters import load_adapters
from .building import build, digest_configuration
from .components import call_of
from .enable import enable
from .executions import plan
from .executions.base import Execution
from .executions.quantization import quantization_of
from .framework import Framework
from .library import automatic_class, is_automatic, is_code, nearest, pipeline_class
from .loading import accounts, complete_weights, counted, offered_bases
from .own_code import OwnCode
from .replacements import Sources, check_names, load_all, without_versions
from .synthetic import INDEX_FILE, components_in, read_index, synthesize

DIGESTS_FILE = "digests.json"  # of a synthetic checkpoint: the digests that its weights must have
LIBRARIES = ("diffusers", "transformers")  # besides the pipelines' own modules
DEFAULT = "default"  # stands for every component whose type is not named
TENSOR_DIGITS = 8  # hexadecimal, of the digest of one tensor


class Checkpoint(NamedTuple):
    """A loaded pipeline, on the CPU.

    Attributes:
        pipeline: The pipeline, with what the case enables.
        weights: One digest per component, and one of the `configuration`.
        tensors: A short digest of every tensor of each component.
        commit: The commit to which the Hub's revision resolved; None for any other source.
        effects: What shows in a run that each adapter acts.
    """

    pipeline: Any
    weights: Dict[str, str]
    tensors: Dict[str, Dict[str, str]]
    commit: Optional[str]
    effects: Sequence[Execution] = ()


def files_of(source: CheckpointSource) -> List[Tuple[str, int, int]]:
    """Return the files of a source, each with its size and the time of its change.

    A checkpoint that stays loaded must not outlive a change of its files. The list is empty for a
    checkpoint of the Hub, whose snapshots do not change.
    """
    folder = Path(source.get("folder", ""))
    if "folder" not in source or not folder.exists():
        return []
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else [folder]:
        with contextlib.suppress(OSError):  # a link that leads nowhere
            status = path.stat()
            name = path.relative_to(folder).as_posix()
            found.append((name, status.st_size, status.st_mtime_ns))
    return found


class Extras(NamedTuple):
    """What a case loads beside its checkpoint, or in place of a part of it.

    Attributes:
        components: What replaces each component, by name.
        adapters: LoRAs, IP-Adapters and textual inversions.
        call: The arguments of the case's call, in which a token of an adapter must stand.
        code: The code of the project that the case may name.
        executions: How the pipeline is executed; `quantize` and castings change its weights.
        lora_then: What is done with the LoRAs after they are loaded, in order.
        given: The pipeline itself, where the caller of this process holds it.
    """

    components: Sources = MappingProxyType({})
    adapters: Sequence[AdapterRequest] = ()
    call: Mapping[str, Any] = MappingProxyType({})
    code: OwnCode = OwnCode()
    executions: Optional[ExecutionsRequest] = None
    lora_then: Sequence[str] = ()
    given: Any = None

    @classmethod
    def of(cls, case: CaseRequest, given: Any = None) -> Extras:
        """Return what a case asks for; `given` is the pipeline where the caller holds it."""
        components, adapters = case.get("components", {}), case.get("adapters", [])
        executions = plan.executions_in(case)
        then = case.get("lora_then", [])
        return cls(components, adapters, case["call"], OwnCode.of(case), executions, then, given)


class _Stored(NamedTuple):
    """A pipeline as its files have it, with the digests of what configures it."""

    pipeline: Any
    configuration: Dict[str, str]
    commit: Optional[str] = None


def load(
    source: CheckpointSource,
    pipeline_name: str,
    dtypes: Mapping[str, str],
    framework: Framework,
    enabled: Sequence[str] = (),
    extras: Extras = Extras(),  # noqa: B008 (it cannot change)
) -> Checkpoint:
    """Load a pipeline with its weights, on the CPU.

    Args:
        source: Where the weights come from.
        pipeline_name: A pipeline class of the framework's library, or of the project's code.
        dtypes: The floating-point type of each component, such as `float32`; `default` is that of
            those unnamed.
        framework: Whose pipeline it is.
        enabled: What to enable; see `enable`.
        extras: What is loaded beside the checkpoint, and what changes its weights for good.

    Raises:
        CannotRunHere: The weights are not on this machine and cannot be fetched, or a package that
            quantizes them is not installed.
        CaseError: There is no such pipeline, component or repository, it has no safetensors, or
            an adapter has no effect.
    """
    if source["kind"] == "endpoint":
        return _served(source)
    if source["kind"] == "given":
        return _given(extras.given)
    if source["kind"] == "build":
        _collect_garbage()
        if "quantize" in (extras.executions or {}):
            raise CaseError("`quantize` reads weights from files; `build` makes a pipeline itself")
        stored = _built(source["name"], dtypes, framework, extras.code)
    else:
        stored = _stored(source, pipeline_name, dtypes, framework, extras)
    pipeline = stored.pipeline
    pipeline.set_progress_bar_config(disable=True)
    states = digest_states(pipeline)
    weights = {name: digest_digests(state) for name, state in states.items()}
    if source["kind"] == "synthetic" and set(dtypes.values()) == {"float32"}:
        _check_digests(Path(source["folder"]), weights, extras.components)
    weights.update(stored.configuration)
    adapters = load_adapters(pipeline, extras.adapters, extras.call, extras.lora_then)
    weights.update(adapters.digests)
    enable(pipeline, enabled)
    plan.at_load(pipeline, extras.executions or {})
    return Checkpoint(pipeline, weights, _short(states), stored.commit, adapters.effects)


def _built(name: str, dtypes: Mapping[str, str], framework: Framework, code: OwnCode) -> _Stored:
    """Build a pipeline by the project's function, twice: no weight may be a random number."""

    def make() -> Any:
        return build(name, code, dtypes, framework)

    pipeline = _made_whole(make, framework, f"`build`: `{name}`", make_twice=True)
    return _Stored(pipeline, {"configuration": digest_configuration(pipeline)})


def _stored(
    source: CheckpointSource,
    pipeline_name: str,
    dtypes: Mapping[str, str],
    framework: Framework,
    extras: Extras,
) -> _Stored:
    """Load a pipeline from the folder of its checkpoint, with the components that replace its own.

    An unknown name is refused before anything is fetched.
    """
    found_class = None
    if is_code(pipeline_name):
        base = importlib.import_module(framework.library).DiffusionPipeline
        found_class = extras.code.class_of(pipeline_name, base, "pipeline")
    elif not is_automatic(pipeline_name):
        found_class = pipeline_class(pipeline_name, framework.library)
    _collect_garbage()
    folder = _folder_of(source)
    if found_class is None:
        stored = read_index(folder).get("_class_name")
        found_class = automatic_class(pipeline_name, str(stored), framework.library)
    is_synthetic = source["kind"] == "synthetic"
    if not is_synthetic:
        check_classes(folder, framework, extras.code)
    _check_components(folder, dtypes, extras.components)
    check_names(extras.components, found_class)
    configuration: Dict[str, str] = {}

    asked = extras.executions or {}
    if is_synthetic and "quantize" in asked:
        raise CaseError("`quantize` reads weights from files; a synthetic checkpoint has none")

    def make() -> Any:
        replaced = load_all(extras.components, dtypes, framework, extras.code)
        configuration.update(replaced.configurations)
        if is_synthetic:
            return synthesize(folder, found_class, dtypes, framework, replaced.components)
        return _from_pretrained(folder, found_class, dtypes, framework, replaced.components, asked)

    if is_synthetic and not extras.components:
        pipeline = make()
    else:
        made = extras.components if is_synthetic else None  # the others are made by this harness
        pipeline = _made_whole(make, framework, str(folder), only=made)
    configuration["configuration"] = _digest_configuration(folder, extras.components)
    commit = folder.name if source["kind"] == "hub" else None
    return _Stored(pipeline, configuration, commit)


def _made_whole(
    make: Callable[[], Any],
    framework: Framework,
    said: str,
    *,
    make_twice: bool = False,
    only: Optional[Iterable[str]] = None,
) -> Any:
    """Return the pipeline that `make` makes, none of whose weights is a random number.

    Where the libraries do not say of a component that its weights were found, the pipeline is made
    a second time: random weights have other bits then.

    Args:
        make: Makes the pipeline.
        framework: Whose pipeline it is.
        said: What a message calls that from which it is made.
        make_twice: Whether nothing that the libraries say is enough, because more code than theirs
            makes the pipeline.
        only: The components that are in question; None for all.

    Raises:
        CaseError: Weights are missing, or had other bits the second time.
    """
    with complete_weights(framework.library) as whole:
        pipeline = make()
        if not accounts(framework.library):
            return pipeline
        found = [part for part in whole if not make_twice]
        states = {
            name: digest_state(part)
            for name, part in pipeline.components.items()
            if call_of(part)
            and not any(part is one for one in found)
            and (only is None or name in only)
        }
        if not states:
            return pipeline
        del pipeline
        whole.clear()
        scatter_global_streams()
        pipeline = make()
    for name, state in states.items():
        again = digest_state(pipeline.components[name])
        other = [key for key in state if state[key] != again.get(key)]
        if other:
            raise CaseError(
                f"{said} gives `{name}` random numbers: when it was made a second time, "
                f"{counted(other, 'weight')} had other bits; load them from safetensors"
            )
    return pipeline


def _given(pipeline: Any) -> Checkpoint:
    """Return a pipeline that the caller holds, as it is: on its device, in its types."""
    states = digest_states(pipeline)
    weights = {name: digest_digests(state) for name, state in states.items()}
    weights["configuration"] = digest_configuration(pipeline)
    return Checkpoint(pipeline, weights, _short(states), None)


def _short(states: Mapping[str, Mapping[str, str]]) -> Dict[str, Dict[str, str]]:
    """Return the digest of every tensor with as many digits as a recording keeps."""
    return {
        name: {key: digest[:TENSOR_DIGITS] for key, digest in state.items()}
        for name, state in states.items()
    }


def _served(source: CheckpointSource) -> Checkpoint:
    """Return an endpoint as a pipeline; what it says of its models stands for its weights."""
    server = endpoint.Server(source["name"])
    told = np.frombuffer(json.dumps(server.models()).encode(), dtype=np.uint8)
    pipeline = endpoint.EndpointPipeline(server, source.get("model", ""))
    return Checkpoint(pipeline, {"model": digest_bytes(told)}, {}, None)


def digest_states(pipeline: Any) -> Dict[str, Dict[str, str]]:
    """Return the digest of every tensor of the components that have weights.

    Returns:
        Digests by the component's name and then by the tensor's.
    """
    return {name: digest_state(part) for name, part in pipeline.components.items() if call_of(part)}


def _collect_garbage() -> None:
    """Free what the last checkpoint left, and collect garbage from now on.

    A process starts without collecting. What the libraries made at import stays for good: to look
    through it before every run would cost more than a small run.
    """
    if gc.isenabled():  # not the first checkpoint of this process, which has nothing to collect
        gc.collect()
    gc.freeze()
    gc.enable()


def _folder_of(source: CheckpointSource) -> Path:
    if source["kind"] == "hub":
        return hub.fetch(source["repository"], source["revision"])
    folder = Path(source["folder"])
    if not (folder / INDEX_FILE).is_file():
        raise CaseError(
            f"no checkpoint in {folder}: expected a folder in diffusers' format, with {INDEX_FILE}"
        )
    return folder


def _from_pretrained(
    folder: Path,
    found_class: Any,
    dtypes: Mapping[str, str],
    framework: Framework,
    replaced: Mapping[str, Any],
    request: ExecutionsRequest,
) -> Any:
    _hide_progress_bars(framework)
    types = {name: framework.dtype(dtype) for name, dtype in dtypes.items()}
    # A single type is given as it is: older releases of diffusers take no type per component.
    asked = types if len(types) > 1 else types[DEFAULT]
    options = {framework.dtype_argument(): asked, "use_safetensors": True, "local_files_only": True}
    if "quantize" in request:
        options["quantization_config"] = quantization_of(request["quantize"], read_index(folder))
    try:
        with offered_bases(_modules_of_index(folder), framework.library):
            return found_class.from_pretrained(folder, **options, **replaced)
    except Exception as error:
        if "quantize" not in request:
            raise
        problem = f"`quantize`: {type(error).__name__}: {error}"
        raise (CannotRunHere if isinstance(error, ImportError) else CaseError)(problem) from error


def _modules_of_index(folder: Path) -> List[str]:
    """Return the modules that an index names, of those that were imported: the project's too."""
    entries = components_in(read_index(folder)).values()
    return [entry[0] for entry in entries if entry[0] in sys.modules]


def _hide_progress_bars(framework: Framework) -> None:
    """Keep bars out of the log, where the last line must be what a library had to say."""
    for library in (framework.library, "transformers"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{library}.utils.logging").disable_progress_bar()


def check_classes(folder: Path, framework: Framework, code: OwnCode) -> None:
    """Refuse an index that names classes outside the libraries and the project's trusted packages.

    Releases of diffusers up to 0.35.2, at least, import any module that an index names, and run the
    code that lies beside a component of a folder, without being told to trust it.
    """
    pipelines = Path(str(importlib.import_module(f"{framework.library}.pipelines").__file__)).parent
    index = read_index(folder)
    own_class = index.get("_class_name", "")
    if not isinstance(own_class, str):
        raise CaseError(f"{folder} asks for code of its own as the pipeline: {own_class}")
    for name, entry in components_in(index).items():
        if _is_of_the_project(entry, folder / name, code):
            code.load(":".join(entry))  # diffusers imports no module that an index names
        elif not _is_of_a_library(entry, pipelines):
            raise CaseError(
                f"{folder} asks for code that is no part of the libraries: `{name}` is {entry}; "
                "code of a checkpoint is never run"
            )


def _is_of_the_project(entry: List[Any], home: Path, code: OwnCode) -> bool:
    """Whether an index's [library, class] is of a trusted package, and not of code beside it."""
    if len(entry) != 2 or not all(isinstance(word, str) for word in entry):
        return False
    module, class_name = entry
    beside = (home / f"{module}.py").exists() or (home / f"{module.split('.')[-1]}.py").exists()
    return code.is_trusted(module) and class_name.isidentifier() and not beside


def _is_of_a_library(entry: List[Any], pipelines: Path) -> bool:
    """Whether an index's [library, class] names a public class of a library, or nothing."""
    if len(entry) != 2 or any(not isinstance(word, (str, type(None))) for word in entry):
        return False
    library, class_name = entry
    if library is None:
        return True
    if class_name is None or not class_name.isidentifier() or class_name.startswith("_"):
        return False
    homes = (pipelines, pipelines / "deprecated")  # where newer releases keep some
    is_pipeline_module = library.isidentifier() and any((home / library).is_dir() for home in homes)
    return library in LIBRARIES or is_pipeline_module


def _check_components(folder: Path, dtypes: Mapping[str, str], more: Iterable[str]) -> None:
    """Refuse a type for a component that the pipeline lacks: diffusers itself would ignore it."""
    known = [name for name in (*read_index(folder), *more) if not name.startswith("_")]
    for name in dtypes:
        if name != DEFAULT and name not in known:
            raise CaseError(
                f"no component `{name}` in {folder}, for which `component-dtype` names a type"
                f"{nearest(name, known)}"
            )


def _check_digests(folder: Path, weights: Mapping[str, str], replaced: Iterable[str]) -> None:
    """Refuse synthetic weights that have other bits than the checkpoint's author wrote down."""
    expected = json.loads((folder / DIGESTS_FILE).read_text(encoding="utf-8"))
    names = sorted({*expected, *weights} - set(replaced))
    wrong = [name for name in names if expected.get(name) != weights.get(name)]
    if wrong:
        raise CaseError(
            f"synthetic weights in {folder}: {', '.join(wrong)} have other digests than "
            f"{DIGESTS_FILE} says; the libraries here lay out these modules otherwise, "
            "or this machine's float32 arithmetic is not exact"
        )


def _digest_configuration(folder: Path, replaced: Iterable[str] = ()) -> str:
    """Return one digest of the configurations and vocabularies that the pipeline reads.

    Only those files count, so that it is the same however the folder was filled.
    """
    paths = {folder / INDEX_FILE, *_component_files(folder, replaced)}
    digests = {
        path.relative_to(folder).as_posix(): hashlib.sha256(without_versions(path)).hexdigest()
        for path in paths
    }
    return combine(digests)


def _component_files(folder: Path, replaced: Iterable[str]) -> Iterator[Path]:
    """Yield the files that configure components, without weights and without those replaced."""
    for name, entry in components_in(read_index(folder)).items():
        if name in replaced or entry[0] is None:
            continue
        home = folder / name if (folder / name).is_dir() else folder
        has_weights = (home / "config.json").is_file()
        patterns = ("config.json",) if has_weights else ("*.json", "*.txt", "*.model")
        for pattern in patterns:
            yield from home.glob(pattern)
