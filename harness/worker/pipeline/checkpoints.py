"""Loading a pipeline's weights: one function, four sources.

`bundled` and `path` are folders in diffusers' format; `hub` is a folder that the Hub's client fetches first; `synthetic`
is a folder of configurations whose weights are made here. Weights come from safetensors only, and no code of a
checkpoint is ever run.
"""

from __future__ import annotations

import contextlib
import difflib
import gc
import hashlib
import importlib
import inspect
import json
from pathlib import Path
from typing import Any, Dict, Iterator, Mapping, NamedTuple, Optional, Sequence

import torch

from ..conditions import portable
from ..observe.digest import combine
from ..observe.tensors import digest_digests, digest_state
from ..protocol import CannotRunHere, CaseError
from .components import call_of, parameters_of
from .enable import enable
from .torch_ import Torch

INDEX_FILE = "model_index.json"
DIGESTS_FILE = "digests.json"
HUB_SECONDS = 5.0  # how long the Hub may take to answer at all


class Checkpoint(NamedTuple):
    """A loaded pipeline, the digests of what it was loaded from, and the commit that a Hub's revision resolved to.

    `weights` has one digest per component, `tensors` a short one per tensor of each component.
    """

    pipeline: Any
    weights: Dict[str, str]
    tensors: Dict[str, Dict[str, str]]
    commit: Optional[str]


def load(
    source: Dict[str, Any],
    pipeline_name: str,
    dtypes: Mapping[str, str],
    framework: Torch,
    enabled: Sequence[str] = (),
) -> Checkpoint:
    """Load the pipeline that `source` names, on the CPU.

    Args:
        source: `kind` (`bundled`, `synthetic`, `path` or `hub`) with `folder`, or for the Hub `repository` and `revision`.
        pipeline_name: A pipeline class of diffusers.
        dtypes: The floating-point type of each component, such as `float32`; that of those unnamed is the `default`.
        framework: Whose pipeline it is.
        enabled: What to enable; see `enable`.

    Raises:
        CannotRunHere: The weights are not on this machine and cannot be fetched.
        CaseError: There is no such pipeline, component or repository, or it has no safetensors.
    """
    pipeline_class = named("pipeline", pipeline_name, framework.library)
    if gc.isenabled():  # not the first of its process, which has nothing to collect
        gc.collect()
    gc.freeze()  # what the libraries made at import stays for good: looked through before every run, it costs more than a small run
    gc.enable()
    commit = None
    if source["kind"] == "hub":
        folder = _fetch(source["repository"], source["revision"])
        commit = folder.name
    else:
        folder = Path(source["folder"])
        if not (folder / INDEX_FILE).is_file():
            raise CannotRunHere(
                f"no checkpoint in {folder}: expected a folder in diffusers' format, with {INDEX_FILE}"
            )
    _check_components(folder, dtypes)
    if source["kind"] == "synthetic":
        pipeline = synthesize(folder, pipeline_class, dtypes, framework)
    else:
        _hide_progress_bars(framework)
        types = {name: framework.dtype(dtype) for name, dtype in dtypes.items()}
        typed = {framework.dtype_argument(): types if len(types) > 1 else types["default"]}
        pipeline = pipeline_class.from_pretrained(
            folder, **typed, use_safetensors=True, local_files_only=True
        )
    pipeline.set_progress_bar_config(disable=True)
    states = digest_states(pipeline)
    weights = {name: digest_digests(state) for name, state in states.items()}
    if source["kind"] == "synthetic" and {*dtypes.values()} == {"float32"}:
        _check_digests(folder, weights)
    weights["configuration"] = _digest_configuration(folder)
    tensors = {
        name: {key: digest[:8] for key, digest in state.items()} for name, state in states.items()
    }
    enable(pipeline, enabled)
    return Checkpoint(pipeline, weights, tensors, commit)


def _hide_progress_bars(framework: Torch) -> None:
    """Keep bars out of the log, where the last line must be what a library had to say."""
    for library in (framework.library, "transformers"):
        with contextlib.suppress(ImportError):
            importlib.import_module(f"{library}.utils.logging").disable_progress_bar()


def digest_states(pipeline: Any) -> Dict[str, Dict[str, str]]:
    """Return the digests of every tensor of the components that have weights, by component name and tensor name."""
    return {name: digest_state(part) for name, part in pipeline.components.items() if call_of(part)}


def named(what: str, name: str, library: str = "diffusers") -> Any:
    """Return a class of a library by its name alone; `what` is `pipeline` or `scheduler`.

    Raises:
        CaseError: This release of the library has no such class.
    """
    home = importlib.import_module(library)
    found = getattr(home, name, None) if name.isidentifier() else None
    base = home.DiffusionPipeline if what == "pipeline" else home.SchedulerMixin
    if inspect.isclass(found) and issubclass(found, base):
        return found
    hint = nearest(name, dir(home))
    if found is not None:
        hint = ": it needs a package that is not here" if name in dir(home) else ""
    raise CaseError(f"{library} {home.__version__} has no {what} `{name}`{hint}")


def nearest(name: str, known: Sequence[str]) -> str:
    """Return the end of a message that offers the nearest right spelling, or nothing."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean `{near[0]}`?" if near else ""


def make_scheduler(
    current: Any, replacement: Optional[Dict[str, Any]], library: str = "diffusers"
) -> Any:
    """Return a fresh scheduler: of the same class and configuration, or as the case's replacement says.

    Raises:
        CaseError: The class or one of the settings does not exist; diffusers itself would ignore the setting.
    """
    if replacement is None:
        return type(current).from_config(current.config)
    settings = {key: value for key, value in replacement.items() if key != "class"}
    scheduler_class = (
        named("scheduler", replacement["class"], library)
        if "class" in replacement
        else type(current)
    )
    known = list(inspect.signature(scheduler_class.__init__).parameters)[1:]
    for key in settings:
        if key not in known:
            raise CaseError(
                f"`{scheduler_class.__name__}` has no setting `{key}`{nearest(key, known)}"
            )
    return scheduler_class.from_config(current.config, **settings)


def _fetch(repository: str, revision: str) -> Path:
    """Return the folder of a Hub repository's snapshot: from the Hub, else from the local cache."""
    from diffusers import DiffusionPipeline
    from huggingface_hub import model_info

    try:
        model_info(
            repository, revision=revision, timeout=HUB_SECONDS
        )  # `download` waits for a silent Hub without end
        return Path(DiffusionPipeline.download(repository, revision=revision, use_safetensors=True))
    except Exception as error:  # the client's own errors differ from release to release
        first = error
    cause = " ".join(str(first).split())[:200] or type(first).__name__
    if "`safetensors` weights" in cause:
        raise CaseError(
            f"{repository} (revision {revision}) has no safetensors for some component: {cause}"
        ) from first
    try:
        return Path(
            DiffusionPipeline.download(
                repository, revision=revision, use_safetensors=True, local_files_only=True
            )
        )
    except Exception as error:
        if getattr(getattr(first, "response", None), "status_code", None) == 404:
            raise CaseError(
                f"the Hub has no pipeline {repository} (revision {revision}): {cause}"
            ) from first
        raise CannotRunHere(
            f"weights of {repository} (revision {revision}) are not on this machine and the Hub did not give them: "
            f"{cause}; fetch them with: hf download {repository} --revision {revision}"
        ) from error


def synthesize(
    folder: Path, pipeline_class: Any, dtypes: Mapping[str, str], framework: Torch
) -> Any:
    """Build the pipeline from its configurations and fill its weights in place."""
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    parts: Dict[str, Any] = {}
    for name, entry in index.items():
        if not isinstance(entry, list) or entry[0] is None:
            continue
        part = _part(_class(entry[0], entry[1], pipeline_class, framework), folder / name)
        if call_of(part):
            portable.fill(name, parameters_of(part))
            part = framework.prepared(part, dtypes.get(name, dtypes["default"]))
        parts[name] = part
    optional = {
        name: None for name, entry in index.items() if isinstance(entry, list) and entry[0] is None
    }
    switches = {
        name: value
        for name, value in index.items()
        if not name.startswith("_") and not isinstance(value, list)
    }
    return pipeline_class(**parts, **optional, **switches)


def _class(library: str, name: str, pipeline_class: Any, framework: Torch) -> Any:
    """Return the class that a model index means: of diffusers, of transformers, or one that the pipeline's module imports."""
    homes = {"diffusers": framework.library, "transformers": framework.transformers}
    found = getattr(
        importlib.import_module(homes.get(library, pipeline_class.__module__)), name, None
    )
    if not inspect.isclass(found):
        raise CaseError(f"{library} has no component class `{name}` in this environment")
    return found


def _part(part_class: Any, folder: Path) -> Any:
    """Build one component from its configuration; its weights, if any, are what torch left in memory."""
    if call_of(part_class):
        with _uninitialised():
            if hasattr(part_class, "config_class") and part_class.config_class is not None:
                return part_class(part_class.config_class.from_pretrained(folder))
            return part_class.from_config(part_class.load_config(folder))
    return part_class.from_pretrained(folder)


@contextlib.contextmanager
def _uninitialised() -> Iterator[None]:
    """Skip torch's random initialisation, which is slow and overwritten at once."""
    names = (
        "kaiming_uniform_",
        "kaiming_normal_",
        "xavier_uniform_",
        "xavier_normal_",
        "uniform_",
        "normal_",
        "trunc_normal_",
    )
    own = {name: getattr(torch.nn.init, name) for name in names}
    for name in names:
        setattr(torch.nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, function in own.items():
            setattr(torch.nn.init, name, function)


def _check_components(folder: Path, dtypes: Mapping[str, str]) -> None:
    """Refuse a type for a component that the pipeline lacks: diffusers itself would ignore it."""
    known = [
        name
        for name in json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
        if not name.startswith("_")
    ]
    for name in dtypes:
        if name not in ("default", *known):
            raise CaseError(
                f"no component `{name}` in {folder}, for which `component-dtype` names a type{nearest(name, known)}"
            )


def _check_digests(folder: Path, weights: Dict[str, str]) -> None:
    expected = json.loads((folder / DIGESTS_FILE).read_text(encoding="utf-8"))
    wrong = sorted(
        name for name in {*expected, *weights} if expected.get(name) != weights.get(name)
    )
    if wrong:
        raise CaseError(
            f"synthetic weights in {folder}: {', '.join(wrong)} have other digests than {DIGESTS_FILE} says; the libraries "
            "here lay out these modules otherwise, or this machine's float32 arithmetic is not exact"
        )


def _digest_configuration(folder: Path) -> str:
    """Return one digest of the configurations and vocabularies that the pipeline reads, without fields that name versions.

    Only those files count, so that it is the same however the folder was filled.
    """
    index = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
    paths = {folder / INDEX_FILE}
    for name, entry in index.items():
        if not isinstance(entry, list) or entry[0] is None:
            continue
        part = folder / name if (folder / name).is_dir() else folder
        has_weights = (part / "config.json").is_file()
        kinds = ("config.json",) if has_weights else ("*.json", "*.txt", "*.model")
        paths.update(path for kind in kinds for path in part.glob(kind))
    found = {}
    for path in paths:
        data = path.read_bytes()
        if path.suffix == ".json":
            content = json.loads(data)
            if isinstance(content, dict):
                content = {
                    k: v
                    for k, v in content.items()
                    if not k.startswith("_") and k != "transformers_version"
                }
            data = json.dumps(content, sort_keys=True).encode()
        found[path.relative_to(folder).as_posix()] = hashlib.sha256(data).hexdigest()
    return combine(found)
