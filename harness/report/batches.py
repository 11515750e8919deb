"""Owns how the certificate of a batch is worded: what was tried, and what changes an image."""

from __future__ import annotations

from collections.abc import Iterable

from harness.records import BatchCertificate, Outcome


def lines(outcomes: Iterable[Outcome]) -> list[str]:
    """Return a line for each case of which no batch that was tried changes an image.

    A paragraph tells of the others, which fail.
    """
    return [
        f"{outcome.case}: {said(outcome.batch)}"
        for outcome in outcomes
        if outcome.batch is not None and outcome.batch.counterexample is None
    ]


def said(certificate: BatchCertificate) -> str:
    """Return what a search tried and came to, and what it cost, in a line."""
    count = certificate.compositions
    tried = f"{'all ' if certificate.is_exhaustive else ''}{count} compositions"
    tried = "1 composition" if count == 1 else tried
    tried = f"{tried} of at most {certificate.largest} images"
    cost = f"{certificate.runs} runs, {certificate.seconds:.1f} s"
    found = certificate.counterexample
    if found is None:
        return f"{tried}, none changed an image ({cost})"
    smallest = "the simplest that does" if found.is_smallest else "a simpler one that does"
    return f"{tried}, the last changed an image; {smallest} is {list(found.images)} ({cost})"


def paragraph_lines(outcome: Outcome) -> list[str]:
    """Return what a paragraph says of an outcome's batches; nothing where none was searched."""
    if outcome.batch is None:
        return []
    found = outcome.batch.counterexample
    told = [f"  batch:    {said(outcome.batch)}"]
    if found is not None:
        image = found.images[found.slot]
        told.append(f"            slot {found.slot} differs from image {image} alone")
        told.append(f"  call:     {found.call}")
        if not found.is_smallest:
            told.append("            a simpler one may do it: `compositions` bounds the search")
    return told
