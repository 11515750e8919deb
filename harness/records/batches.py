"""What a search over compositions of a batch found: the certificate that none changes an image."""

from __future__ import annotations

from dataclasses import dataclass

# A batch as the images of the scenario in its slots, by their indices: (0, 0, 2) holds image 0
# twice, and then image 2.
Composition = tuple[int, ...]


@dataclass(frozen=True)
class Counterexample:
    """A batch in which one image is not what it is alone.

    Attributes:
        images: The batch: the scenario's image in each of its slots.
        slot: The slot whose image differs.
        call: The call that makes the batch, in Python.
        is_smallest: Whether every simpler batch that was considered leaves its images as they are;
            not where the search had to end before.
    """

    images: Composition
    slot: int
    call: str
    is_smallest: bool


@dataclass(frozen=True)
class BatchCertificate:
    """What came of the search for a composition of a batch that changes an image.

    Attributes:
        compositions: How many were tried, the scenario's own batch included; in shrinking a
            counterexample, others were tried beside these.
        largest: The number of images in the largest of them.
        is_exhaustive: Whether they are all that there are of at most that many images.
        runs: How many runs it took beside that of the scenario's own batch: of the images alone,
            of the compositions, and of those that were tried in shrinking.
        seconds: The wall-clock time of these runs; 0 where it is not known.
        counterexample: The smallest composition found that changes an image; None for none.
    """

    compositions: int
    largest: int
    is_exhaustive: bool
    runs: int
    seconds: float = 0.0
    counterexample: Counterexample | None = None
