"""Attention by blocks of keys with a running maximum, as flash kernels compute it."""

from __future__ import annotations

from typing import NamedTuple, Optional

import torch

from .products import Product, multiply
from .rounding import F32
from .sums import Arithmetic

KEYS = 64  # of one block


class Attention(NamedTuple):
    """What attention is computed of.

    Attributes:
        query: Of the shape (batch, queries, width).
        key: Of the shape (batch, keys, width).
        value: Of the shape (batch, keys, any width).
        mask: Is added to the scores, in float32 of the shape (batch, queries, keys); or None.
        scale: Of the scores.
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: Optional[torch.Tensor]
    scale: float


def online_attention(
    of: Attention, product: Product, by: Arithmetic, keys: int = KEYS
) -> torch.Tensor:
    """Return softmax(scale * query key^T + mask) value, by blocks of keys.

    Of each block come its scores, and the largest score so far. What was summed before is scaled
    by exp(largest before - largest now), and the block's exponentials and their products with the
    values are added. At the end the sum of products is divided by the sum of exponentials. Every
    operation is rounded to float32; the exponentials are rounded to the type of the values before
    they are multiplied with them. A query that may see no key gets zeros. Source: T. Dao, D. Y. Fu,
    S. Ermon, A. Rudra, C. Re, "FlashAttention", NeurIPS 2022, algorithm 1; with the division at the
    end as in "FlashAttention-2" (2023).

    Args:
        of: Queries, keys and values.
        product: How the two matrix products are computed.
        by: How a block's exponentials are computed, and their sum.
        keys: Of one block.

    Returns:
        Float32 of the shape (batch, queries, width of the values).
    """
    rows = (*of.query.shape[:2], 1)
    largest = torch.full(rows, -torch.inf, dtype=F32)
    total = torch.zeros(rows, dtype=F32)
    found = torch.zeros((*of.query.shape[:2], of.value.shape[-1]), dtype=F32)
    for first in range(0, of.key.shape[1], keys):
        block = slice(first, first + keys)
        scores = multiply(of.query, of.key[:, block].mT, product) * of.scale
        if of.mask is not None:
            scores = scores + of.mask[..., block]
        now = torch.maximum(largest, scores.amax(-1, keepdim=True))
        subtracted = torch.where(now == -torch.inf, 0.0, now)  # where no key was seen so far
        exponentials = by.function("exp", scores - subtracted)
        rescale = by.function("exp", largest - subtracted)
        total = total * rescale + by.add(exponentials).unsqueeze(-1)
        weights = exponentials.to(of.value.dtype)
        found = found * rescale + multiply(weights, of.value[:, block], product)
        largest = now
    return torch.where(total == 0, 0.0, found / total)
