"""The interval of a ratio covers it as often as it says."""

import numpy as np
import pytest

from bertsmith.intervals import ratio_interval, student_95


@pytest.mark.parametrize(("units", "least"), [(150, 920), (10, 880), (3, 850)])
def test_the_interval_of_a_ratio_covers_it_in_95_of_100_samples(units: int, least: int) -> None:
    draw, covered = np.random.default_rng(0), 0
    for _ in range(1000):
        sizes = draw.integers(20, 200, units).astype(float)
        bits = sizes * 1.5 * draw.lognormal(-0.125, 0.5, units)  # whose mean is 1
        low, high = ratio_interval(bits, sizes)
        assert (low + high) / 2 == pytest.approx(bits.sum() / sizes.sum())
        covered += low <= 1.5 <= high
    assert least <= covered <= 975


@pytest.mark.parametrize("degrees", [1, 2, 3, 5, 30, 1000])
def test_the_point_of_student_is_that_of_scipy(degrees: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    assert student_95(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.01)


def test_one_unit_has_no_spread() -> None:
    assert ratio_interval(np.array([3.0]), np.array([2.0])) == (1.5, 1.5)
