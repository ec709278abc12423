"""The interval of a ratio covers it as often as it says."""

import numpy as np
import pytest

from bertsmith.intervals import ratio_interval


def test_the_interval_of_a_ratio_covers_it_in_95_of_100_samples() -> None:
    draw, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        sizes = draw.integers(20, 200, 150).astype(float)
        bits = sizes * 1.5 * draw.lognormal(-0.125, 0.5, 150)  # whose mean is 1
        low, high = ratio_interval(bits, sizes)
        assert (low + high) / 2 == pytest.approx(bits.sum() / sizes.sum())
        covered += low <= 1.5 <= high
    assert 920 <= covered <= 975


def test_one_unit_has_no_spread() -> None:
    assert ratio_interval(np.array([3.0]), np.array([2.0])) == (1.5, 1.5)
