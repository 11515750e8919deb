"""Searches batches for one that changes an image, and shrinks what it finds.

A composition says which image of the scenario is in which slot of a batch. Which are tried, and in
which order, follows from the number of images alone, so that everybody who repeats the search tries
the same ones. Nothing here runs: an oracle tells which slots of a composition changed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, product

from harness.records.batches import Composition

# Tells the slots of a composition whose image is not what it is alone, in ascending order.
Oracle = Callable[[Composition], Sequence[int]]


@dataclass(frozen=True)
class Found:
    """A composition, and the slot in it whose image changed."""

    images: Composition
    slot: int

    @property
    def neighbours(self) -> list[int]:
        """The images in the other slots."""
        return [image for slot, image in enumerate(self.images) if slot != self.slot]

    @property
    def simplicity(self) -> tuple[int, int, int, Composition]:
        """What sorts the simplest first.

        That is the smallest batch, then the one with the fewest neighbours that are another image,
        then the one with the lowest slot, then that of the first images of the scenario.
        """
        own = self.images[self.slot]
        others = sum(image != own for image in self.neighbours)
        return len(self.images), others, self.slot, self.images


@dataclass(frozen=True)
class Searched:
    """What a search came to.

    Attributes:
        tried: The compositions of the search, in order; shrinking tried others beside them.
        is_exhaustive: Whether they are all compositions of the scenario's images in batches that
            are no larger than its own.
        found: The simplest composition that changes an image; None where none was found.
        is_smallest: Whether shrinking came to its end.
    """

    tried: tuple[Composition, ...]
    is_exhaustive: bool
    found: Found | None = None
    is_smallest: bool = True


def search(images: int, most: int, changed: Oracle) -> Searched:
    """Try compositions until one changes an image, and shrink that one.

    Args:
        images: How many images the scenario's own batch has; no composition is larger.
        most: How many compositions are tried at most, and as many again to shrink what was found.
        changed: The oracle. It is asked at most once about each composition.
    """
    plan = planned(images, most)
    is_exhaustive = len(plan) == number_of(images)
    for place, composition in enumerate(plan):
        slots = changed(composition)
        if slots:
            tried = plan[: place + 1]
            shrinking = _Shrinking(changed, dict.fromkeys(plan[:place], ()), most)
            found = shrinking.simplest(Found(composition, slots[0]), slots)
            is_exhaustive = len(tried) == number_of(images)
            return Searched(tried, is_exhaustive, found, shrinking.has_ended)
    return Searched(plan, is_exhaustive)


# Which compositions are tried.


def number_of(images: int) -> int:
    """Return how many compositions there are, of two images up to as many as the own batch has."""
    return sum(images**size for size in range(2, images + 1))


def planned(images: int, most: int) -> tuple[Composition, ...]:
    """Return at most `most` compositions in the order in which they are tried.

    The scenario's own batch comes first. The others come in turns from these families: one image
    repeated, for each size; the own batch split into parts of each size; every rotation of the own
    batch, so that each image is in each slot once; the own batch reversed; and compositions of all
    sizes that a hash scatters. Where there are no more than `most`, all of them are tried.
    """
    own = tuple(range(images))
    if number_of(images) <= most:
        sizes = range(2, images + 1)
        everything = chain.from_iterable(product(own, repeat=size) for size in sizes)
        return tuple(dict.fromkeys((own, *everything)))
    families = (_repeated(images), _splits(own), _rotations(own), iter([own[::-1]]))
    turns = _in_turns([*families, _scattered(images)])
    found: dict[Composition, None] = {own: None}
    while len(found) < most:
        found[next(turns)] = None
    return tuple(found)


def _repeated(images: int) -> Iterator[Composition]:
    """Yield batches of each size that hold one image in all slots, each size another image."""
    for size in range(2, images + 1):
        yield ((size - 2) % images,) * size


def _splits(own: Composition) -> Iterator[Composition]:
    """Yield the parts of the own batch, cut into pieces of each size; images alone are left out."""
    for size in range(2, len(own)):
        pieces = [own[start : start + size] for start in range(0, len(own), size)]
        yield from (piece for piece in pieces if len(piece) > 1)


def _rotations(own: Composition) -> Iterator[Composition]:
    for first in range(1, len(own)):
        yield own[first:] + own[:first]


def _scattered(images: int) -> Iterator[Composition]:
    """Yield compositions without end; a hash of their number and slot chooses each image."""
    for number in count():
        size = 2 + number % (images - 1)
        yield tuple(_chosen(f"{number} {slot}", images) for slot in range(size))


def _chosen(name: str, images: int) -> int:
    digest = hashlib.sha256(name.encode()).digest()
    return int.from_bytes(digest[:8], "big") % images


def _in_turns(families: Sequence[Iterator[Composition]]) -> Iterator[Composition]:
    """Yield one composition of each family in turn, until the last family ends."""
    left = list(families)
    while left:
        for family in tuple(left):
            composition = next(family, None)
            if composition is None:
                left.remove(family)
            else:
                yield composition


# Shrinking.


class _Shrinking:
    """Walks from a composition that changes an image to simpler ones, as long as one does.

    Slots are left out by delta debugging (Zeller and Hildebrandt, "Simplifying and isolating
    failure-inducing input", IEEE Transactions on Software Engineering 28(2), 2002): in halves,
    quarters and so on down to single ones.

    Args:
        changed: The oracle.
        known: Its answers so far.
        most: How many new questions may be asked.

    Attributes:
        has_ended: Whether no simpler composition is left to try.
    """

    def __init__(self, changed: Oracle, known: dict[Composition, Sequence[int]], most: int) -> None:
        self.has_ended = True
        self._changed = changed
        self._known = known
        self._left = most

    def simplest(self, found: Found, slots: Sequence[int]) -> Found:
        """Return the simplest composition that was found to change an image.

        Args:
            found: The composition to begin with.
            slots: All of its slots whose image changed.
        """
        self._known[found.images] = slots
        best: Found | None = found
        while best is not None:
            found = best
            best = self._simpler(found)
        return found

    def _simpler(self, found: Found) -> Found | None:
        """Return a simpler composition that changes an image; None where there is none."""
        candidates = sorted(_simpler_than(found), key=_simplicity)
        for candidate in dict.fromkeys(each.images for each in candidates):
            slots = self._slots_of(candidate)
            simplest = min(
                (Found(candidate, slot) for slot in slots), key=_simplicity, default=None
            )
            if simplest is not None and simplest.simplicity < found.simplicity:
                return simplest
        return None

    def _slots_of(self, composition: Composition) -> Sequence[int]:
        """Return the slots that changed; none where no more questions may be asked."""
        if composition not in self._known:
            if not self._left:
                self.has_ended = False
                return ()
            self._left -= 1
            self._known[composition] = self._changed(composition)
        return self._known[composition]


def _simplicity(found: Found) -> tuple[int, int, int, Composition]:
    return found.simplicity


def _simpler_than(found: Found) -> Iterator[Found]:
    """Yield what may be tried next, each simpler than `found`.

    That are: the image with itself alone as its neighbours, in batches of each size; an earlier
    image wherever the image stands; the batch without some neighbours; one neighbour replaced by
    the image itself, or by an earlier one; and the image in a lower slot.
    """
    own = found.images[found.slot]
    size = len(found.images)
    candidates = [Found((own,) * smaller, 0) for smaller in range(2, size + 1)]
    candidates += [_with_image(found, earlier) for earlier in range(own)]
    candidates += _without_neighbours(found)
    for slot in range(size):
        if slot != found.slot:
            others = (own, *range(found.images[slot]))
            candidates += [_replaced(found, slot, image) for image in others]
    candidates += [_moved(found, slot) for slot in range(found.slot)]
    yield from (each for each in candidates if each.simplicity < found.simplicity)


def _without_neighbours(found: Found) -> Iterator[Found]:
    """Yield the batch without its own image's neighbours: halves of them first, then fewer."""
    slots = [slot for slot in range(len(found.images)) if slot != found.slot]
    length = max(1, len(slots) // 2)
    while True:
        for start in range(0, len(slots), length):
            left_out = slots[start : start + length]
            kept = [slot for slot in range(len(found.images)) if slot not in left_out]
            if len(kept) > 1:
                images = tuple(found.images[slot] for slot in kept)
                yield Found(images, kept.index(found.slot))
        if length == 1:
            return
        length //= 2


def _with_image(found: Found, image: int) -> Found:
    """Return the batch with another image wherever that of the slot stands."""
    own = found.images[found.slot]
    return Found(tuple(image if each == own else each for each in found.images), found.slot)


def _replaced(found: Found, slot: int, image: int) -> Found:
    images = list(found.images)
    images[slot] = image
    return Found(tuple(images), found.slot)


def _moved(found: Found, slot: int) -> Found:
    """Return the batch in which the image has changed places with that of another slot."""
    images = list(found.images)
    images[slot], images[found.slot] = images[found.slot], images[slot]
    return Found(tuple(images), slot)
