"""Derives bounds from the spread of what was measured, with a stated tail.

**Systematic drift**: gain, bias, the bias of a channel, and whether neighbours or successive calls
move alike. Rounding moves the elements of a tensor up and down alike. How much of a drift is
systematic is therefore a draw around zero, and the largest of a few draws says little about the
next one. A bound follows from the spread of all draws instead. Each draw is taken as a share, the
figure divided by the relative L2 drift of the same run: platforms round more or less strongly, and
the share hardly depends on it. The judge multiplies the share that is admitted by the drift of the
tensor that it judges (`judge/checks.py`).

**Free drift** depends on the seed, and a run amplifies it: its size is spread over a factor, not
over a sum. Its logarithm is taken as normal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist, fmean, stdev

from harness.judge.checks import LEAST_PART

# How often the share of one figure of one stage may exceed what is admitted. A judged run has some
# hundred of them. Source of what it admits: docs/measurements/systematic.md.
SYSTEMATIC_TAIL = 1e-6
FREE_TAIL = 1e-4  # twice how often a free drift may; a run has few
LEAST_DRAWS = 3  # what the quantile of fewer draws would say is beyond its expansion


def systematic_bound(
    shares: Sequence[Sequence[float]], *, rel_l2: float, size: int, last_place: float
) -> float:
    """Return the bound on a systematic figure of stages that round alike.

    The root mean square of the shares on the platform where it is largest, times the quantile of
    Student's t for `SYSTEMATIC_TAIL` and as many draws as all platforms gave, is the share that is
    admitted; times the bound on relative L2 it is the bound. The root mean square is taken as at
    least that of `size` independent differences. The least part of the bound that the judge takes
    is at least one unit in the last place, by which a constant that is rounded the other way scales
    or shifts a whole tensor.

    Args:
        shares: The figure of each run and stage over its relative L2 drift, platform by platform;
            one per drift that is not zero.
        rel_l2: The bound on the relative L2 drift of the same stages.
        size: How many elements the figure is a sum of, in the smallest of their tensors.
        last_place: The machine epsilon of the tensors' dtype.
    """
    spread = max([1 / math.sqrt(size), *map(_root_mean_square, shares)])
    draws = sum(map(len, shares))
    share = quantile(SYSTEMATIC_TAIL, max(draws, LEAST_DRAWS)) * spread
    return max(share * rel_l2, last_place / LEAST_PART)


def _root_mean_square(shares: Sequence[float]) -> float:
    return math.sqrt(math.fsum(share * share for share in shares) / max(len(shares), 1))


def free_bound(drifts: Sequence[float]) -> float:
    """Return what one more drift exceeds with the probability `FREE_TAIL` / 2; 0.0 if none moved.

    It is the prediction bound of Student's t for the logarithms: their mean, and their standard
    deviation times the quantile times the root of 1 + 1 / n.

    Args:
        drifts: The free drift of each run, in any unit; zeros are left out.
    """
    logarithms = [math.log(drift) for drift in drifts if drift > 0]
    count = len(logarithms)
    if count < LEAST_DRAWS:
        return 0.0
    reach = quantile(FREE_TAIL, max(count - 1, LEAST_DRAWS)) * math.sqrt(1 + 1 / count)
    return math.exp(fmean(logarithms) + reach * stdev(logarithms))


def quantile(tail: float, freedom: float = math.inf) -> float:
    """Return what a draw of Student's t exceeds in size with the probability `tail`.

    Args:
        tail: The probability of both sides together.
        freedom: The degrees of freedom; infinite for the normal distribution.

    Returns:
        The quantile by its expansion in 1 / `freedom`. It is smaller than the exact one by at most
        0.1 % from 20 degrees of freedom on; at 5 by 2 % for a tail of 1e-4 and 8 % for 1e-6; at 3
        by 12 % and 37 %. Source: Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.5;
        the exact ones by numerical integration.
    """
    z = NormalDist().inv_cdf(1 - tail / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**order for order, term in enumerate(terms, start=1))
