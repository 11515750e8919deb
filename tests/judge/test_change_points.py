"""Change points: what is found, when, and how often something is found that is not there."""

from __future__ import annotations

import math

import numpy as np
import pytest

from harness.judge.change_points import (
    FLOOR,
    Kind,
    average_run_length,
    change_points,
    first_alarm,
    noise_of,
    without_spikes,
)

NIGHTS = 365


def quiet(seed: int, nights: int = NIGHTS, noise: float = 0.1) -> np.ndarray:
    return np.random.default_rng(seed).normal(math.log(5e-6), noise, nights)


def test_creep_to_three_times_over_sixty_nights_is_found_with_its_nights():
    """It begins on night 150 and ends on night 210."""
    series = quiet(0) + math.log(3) * np.clip((np.arange(NIGHTS) - 150) / 60, 0, 1)
    (found,) = change_points(series)
    assert found.kind is Kind.CREEP
    assert abs(found.first - 150) <= 15
    assert abs(found.last - 210) <= 15
    assert found.factor == pytest.approx(3, rel=0.15)


@pytest.mark.parametrize("factor", [1.5, 1 / 1.5, 100.0])
def test_a_step_is_found_on_its_night(factor):
    """Upwards and downwards."""
    series = quiet(1) + np.where(np.arange(NIGHTS) >= 220, math.log(factor), 0.0)
    (found,) = change_points(series)
    assert (found.kind, found.first, found.last) == (Kind.STEP, 220, 220)
    assert found.factor == pytest.approx(factor, rel=0.05)


def test_a_step_is_found_on_its_second_night():
    """Two nights far out in a row are enough; one may be a single bad night."""
    series = np.concatenate([quiet(2, 40), quiet(3, 2) + math.log(4)])
    assert change_points(series[:-1]) == []
    (found,) = change_points(series)
    assert (found.kind, found.first) == (Kind.STEP, 40)


def test_a_series_without_noise_steps_when_its_bits_change():
    """A deterministic case has the same drift every night, until something changes."""
    series = np.full(60, math.log(1e-6))
    assert change_points(series) == []
    series[30:] += math.log(1.3)
    (found,) = change_points(series)
    assert (found.kind, found.first) == (Kind.STEP, 30)


def test_less_than_the_floor_is_no_news():
    """A change of 3 % is smaller than the noise that is assumed at the least."""
    series = np.full(200, math.log(1e-6))
    series[100:] += 0.03
    assert FLOOR == 0.05
    assert change_points(series) == []


def test_single_nights_far_out_are_no_change():
    """Such as a night on a broken machine."""
    series = quiet(4)
    series[[50, 51 + 30, 200]] += math.log(50)
    assert change_points(series) == []


def test_a_short_series_is_not_searched():
    """Fourteen nights do not tell noise from change."""
    assert change_points(np.arange(14.0)) == []


def test_neither_creep_nor_a_step_changes_what_is_taken_for_noise():
    """The noise comes from the differences between neighbours."""
    series = quiet(5)
    moved = series + math.log(3) * np.clip((np.arange(NIGHTS) - 150) / 60, 0, 1)
    moved[300:] += 2
    assert noise_of(series) == pytest.approx(0.1, rel=0.1)
    assert noise_of(moved) == pytest.approx(noise_of(series), rel=0.05)


def test_false_alarms_are_as_rare_as_calculated():
    """One in 3.9 million nights by calculation: at most one in 200 series of a year, also where
    the noise has tails far heavier than normal."""
    assert NIGHTS / average_run_length() < 1e-4
    random = np.random.default_rng(6)
    normal = [quiet(seed) for seed in range(200)]
    heavy = [0.1 * random.standard_t(3, NIGHTS) for _ in range(200)]
    for group in (normal, heavy):
        alarms = [
            first_alarm(without_spikes(series, noise_of(series)), noise_of(series))
            for series in group
        ]
        assert sum(alarm is not None for alarm in alarms) <= 1


def test_the_average_run_length_agrees_with_simulation():
    """At a limit that is low enough to count alarms: Siegmund's formula is within a fifth."""
    random = np.random.default_rng(7)
    limit, lengths = 4.0, []
    for _ in range(300):
        above = below = 0.0
        night = 0
        while max(above, below) <= limit:
            value = random.normal()
            above, below = max(0.0, above + value - 0.5), max(0.0, below - value - 0.5)
            night += 1
        lengths.append(night)
    assert average_run_length(limit) == pytest.approx(np.mean(lengths), rel=0.2)
