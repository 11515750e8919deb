"""One image of a batch: which part of each tensor is its own, and the digest of that part.

A run of an image alone can be compared with a run of a batch, digest by digest, where of every
tensor of the batch only the image's part counts. Where that part lies is not known beforehand: of a
pipeline with guidance, a denoiser takes the batch twice, one half behind the other; attention folds
heads into the first axis; positions and weights have no batch at all. So the run of the image alone
goes first and notes the digest of every tensor. In the run of the batch, the part is then the one
whose digest was noted. A part that differs has no such digest; it is cut as the last one was.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterator, List, Set, Tuple

import torch

from .. import files
from ..protocol import SlotRequest
from .tensors import PendingDigest, digest_later, digest_tensor

# The most copies of a batch that lie behind each other in one tensor, as for guidance.
MOST_COPIES = 4


class Whole:
    """Every tensor as it is: the run is compared with others of the same batch."""

    def digest_later(self, tensor: torch.Tensor) -> PendingDigest:
        """Start the digest of what counts of a tensor."""
        return digest_later(tensor)

    def digest(self, tensor: torch.Tensor) -> str:
        """Return the digest of what counts of a tensor."""
        return self.digest_later(tensor)()

    def part(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return what counts of a tensor."""
        return tensor

    def close(self) -> None:
        """Keep what later runs need; the run is over."""


class ImageAlone(Whole):
    """The run of the image alone, which notes the digests of its tensors.

    Args:
        noted: The file that holds those of earlier runs too.
    """

    def __init__(self, noted: Path) -> None:
        self._path = noted
        self._noted = _read(noted)

    def digest_later(self, tensor: torch.Tensor) -> PendingDigest:
        found = digest_tensor(tensor)
        self._noted.add(found)
        return lambda: found

    def close(self) -> None:
        files.write_file(self._path, json.dumps(sorted(self._noted)).encode())


class ImageInBatch(Whole):
    """The run of a batch, of which the image in one slot counts.

    Args:
        index: The slot.
        size: The number of images in the batch.
        noted: The file of what was noted of the image alone.
    """

    def __init__(self, index: int, size: int, noted: Path) -> None:
        self._index = index
        self._size = size
        self._noted = _read(noted)
        self._copies = 0  # of the batch, in the tensor whose part was found last

    def digest_later(self, tensor: torch.Tensor) -> PendingDigest:
        found = self._digest(tensor)
        return lambda: found

    def part(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the image's part, cut as the last one that was found; the whole without one."""
        possible = dict(self._parts(tensor))
        if not possible:
            return tensor
        return possible[self._copies if self._copies in possible else max(possible)]

    def _digest(self, tensor: torch.Tensor) -> str:
        for copies, part in self._parts(tensor):
            found = digest_tensor(part)
            if found in self._noted:
                self._copies = copies
                return found
        whole = digest_tensor(tensor)
        return whole if whole in self._noted else digest_tensor(self.part(tensor))

    def _parts(self, tensor: torch.Tensor) -> Iterator[Tuple[int, torch.Tensor]]:
        """Yield what may be the image's part, by how often the batch lies in the first axis.

        The first axis of a tensor of `copies` batches is taken as (copies, size, rows), of which
        the rows of one slot are kept.
        """
        length = tensor.shape[0] if tensor.dim() else 0
        if not length or length % self._size:
            return
        for copies in _first(self._copies, range(MOST_COPIES, 0, -1)):
            if copies and length % (copies * self._size) == 0:
                rows = length // (copies * self._size)
                rest = tensor.shape[1:]
                apart = tensor.reshape(copies, self._size, rows, *rest)
                yield copies, apart[:, self._index].reshape(copies * rows, *rest)


def slot_of(request: SlotRequest) -> Whole:
    """Return what counts of each tensor, as a case asks for it."""
    noted = Path(request["noted"])
    if request["size"] == 1:
        return ImageAlone(noted)
    return ImageInBatch(request["index"], request["size"], noted)


def _first(wanted: int, others: "range") -> List[int]:
    return [wanted, *(each for each in others if each != wanted)]


def _read(noted: Path) -> Set[str]:
    if not noted.exists():
        return set()
    return set(json.loads(noted.read_text(encoding="utf-8")))
