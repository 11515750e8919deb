"""Repositories of the Hub: a snapshot with safetensors, fetched or taken from the local cache."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Callable, List, Sequence

from ..protocol import CannotRunHere, CaseError

SECONDS = 5.0  # how long the Hub may take to answer at all
CAUSE_LENGTH = 200  # characters of the client's message that a reason quotes
NOT_FOUND = 404
FILES = ("*.json", "*.safetensors", "*.txt", "*.model")  # of a component; never a pickle


def fetch(repository: str, revision: str) -> Path:
    """Return the folder of a pipeline's snapshot: fetched from the Hub, else from the local cache.

    Raises:
        CaseError: The Hub has no such repository or revision, or it has no safetensors.
        CannotRunHere: The Hub did not give the weights, and the cache does not hold them all.
    """
    get = functools.partial(_snapshot, repository, revision)
    return _fetched(repository, revision, "pipeline", get)


def fetch_configurations(repository: str, revision: str, names: Sequence[str]) -> Path:
    """Return the folder of a snapshot with files that configure a pipeline, without its weights.

    Args:
        repository: A repository of a pipeline.
        revision: Its revision.
        names: The files, as patterns of the Hub's client.

    Raises:
        CaseError: The Hub has no such repository or revision.
        CannotRunHere: The Hub did not give the files, and the cache does not hold them.
    """
    get = functools.partial(_files, repository, revision, names)
    return _fetched(repository, revision, "pipeline", get)


def fetch_component(repository: str, revision: str, name: str, subfolder: str) -> Path:
    """Return the folder of a snapshot with the files of one component.

    Args:
        repository: A repository of a component, or of a pipeline that has it.
        revision: Its revision.
        name: The component, whose folder a pipeline's repository has.
        subfolder: The folder inside the repository; empty where it is found by itself.

    Raises:
        CaseError: The Hub has no such repository or revision.
        CannotRunHere: The Hub did not give the files, and the cache does not hold them.
    """
    fetch_files = functools.partial(_files, repository, revision)

    def get(*, only_local: bool) -> Path:
        if subfolder:
            return fetch_files(_below(subfolder), only_local=only_local)
        folder = fetch_files(FILES, only_local=only_local, top_only=True)
        if (folder / "model_index.json").is_file():
            return fetch_files(_below(name), only_local=only_local)
        return folder

    return _fetched(repository, revision, "component", get)


def fetch_file(repository: str, revision: str, name: str) -> Path:
    """Return one file of a snapshot.

    Raises:
        CaseError: The Hub has no such repository, revision or file.
        CannotRunHere: The Hub did not give it, and the cache does not hold it.
    """

    def get(*, only_local: bool) -> Path:
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(repository, name, revision=revision, local_files_only=only_local)
        return Path(path)

    return _fetched(repository, revision, f"file {name}", get)


def _fetched(repository: str, revision: str, what: str, get: Callable[..., Path]) -> Path:
    """Return what `get` gets from the Hub, or else from the local cache alone."""
    try:
        _require_answer(repository, revision)
        return get(only_local=False)
    except Exception as error:  # the client's own errors differ from release to release
        first = error
    cause = " ".join(str(first).split())[:CAUSE_LENGTH] or type(first).__name__
    if "`safetensors` weights" in cause:
        raise CaseError(
            f"{repository} (revision {revision}) has no safetensors for some component: {cause}"
        ) from first
    try:
        return get(only_local=True)
    except Exception as error:  # as above
        if _status(first) == NOT_FOUND:
            raise CaseError(
                f"the Hub has no {what} {repository} (revision {revision}): {cause}"
            ) from first
        raise CannotRunHere(
            f"weights of {repository} (revision {revision}) are not on this machine and the Hub "
            f"did not give them: {cause}; fetch them with: "
            f"hf download {repository} --revision {revision}"
        ) from error


def _below(folder: str) -> List[str]:
    return [f"{folder}/{each}" for each in FILES]


def _files(
    repository: str,
    revision: str,
    patterns: Sequence[str],
    *,
    only_local: bool,
    top_only: bool = False,
) -> Path:
    """Return the folder of a snapshot with the files that fit the patterns."""
    from huggingface_hub import snapshot_download

    folder = snapshot_download(
        repository,
        revision=revision,
        allow_patterns=list(patterns),
        ignore_patterns=["*/*"] if top_only else None,
        local_files_only=only_local,
    )
    return Path(folder)


def _require_answer(repository: str, revision: str) -> None:
    """Raise unless the Hub answers in time: a download would wait for a silent Hub without end."""
    from huggingface_hub import model_info

    model_info(repository, revision=revision, timeout=SECONDS)


def _snapshot(repository: str, revision: str, *, only_local: bool) -> Path:
    from diffusers import DiffusionPipeline

    folder = DiffusionPipeline.download(
        repository, revision=revision, use_safetensors=True, local_files_only=only_local
    )
    return Path(folder)


def _status(error: BaseException) -> object:
    """Return the HTTP status that an error of the client carries, if it carries any."""
    return getattr(getattr(error, "response", None), "status_code", None)
