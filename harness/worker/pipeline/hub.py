"""Repositories of the Hub: a snapshot with safetensors, fetched or taken from the local cache."""

from __future__ import annotations

from pathlib import Path

from ..protocol import CannotRunHere, CaseError

SECONDS = 5.0  # how long the Hub may take to answer at all
CAUSE_LENGTH = 200  # characters of the client's message that a reason quotes
NOT_FOUND = 404


def fetch(repository: str, revision: str) -> Path:
    """Return the folder of a snapshot: fetched from the Hub, else from the local cache.

    Raises:
        CaseError: The Hub has no such repository or revision, or it has no safetensors.
        CannotRunHere: The Hub did not give the weights, and the cache does not hold them all.
    """
    try:
        _require_answer(repository, revision)
        return _snapshot(repository, revision, only_local=False)
    except Exception as error:  # the client's own errors differ from release to release
        first = error
    cause = " ".join(str(first).split())[:CAUSE_LENGTH] or type(first).__name__
    if "`safetensors` weights" in cause:
        raise CaseError(
            f"{repository} (revision {revision}) has no safetensors for some component: {cause}"
        ) from first
    try:
        return _snapshot(repository, revision, only_local=True)
    except Exception as error:  # as above
        if _status(first) == NOT_FOUND:
            raise CaseError(
                f"the Hub has no pipeline {repository} (revision {revision}): {cause}"
            ) from first
        raise CannotRunHere(
            f"weights of {repository} (revision {revision}) are not on this machine and the Hub "
            f"did not give them: {cause}; fetch them with: "
            f"hf download {repository} --revision {revision}"
        ) from error


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
