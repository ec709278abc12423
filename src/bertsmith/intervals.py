"""95 % confidence intervals: of a share of hits, and of a ratio of two sums."""

from math import sqrt

import numpy as np
import numpy.typing as npt

Z_95 = 1.959963984540054
"""Two-sided 95 % point of the normal distribution."""

_FEW_DEGREES = (12.706, 4.303)
"""Those of Student's t with one and two degrees of freedom, for which its series is too short."""


def wilson_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % confidence interval of a share (E. B. Wilson, J. Am. Stat. Assoc. 22, 1927, pp. 209-212).

    Unlike the usual p +- 1.96 s it stays within 0 and 1 and holds for few trials too.

    Args:
        share: Of hits among the trials, in [0, 1].
        count: Trials, at least 1.

    Returns:
        Lower and upper end.
    """
    z2 = Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * sqrt(share * (1 - share) / count + z2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def ratio_interval(numerator: npt.NDArray[np.float64], denominator: npt.NDArray[np.float64]) -> tuple[float, float]:
    """The 95 % confidence interval of sum(numerator) / sum(denominator) over units drawn at random.

    The linearised variance of a ratio (W. G. Cochran, Sampling Techniques, 3rd ed., 1977, section 6.3), and Student's
    t, since few units tell little of their spread.

    Args:
        numerator: [N]. One value a unit, such as the bits of a sentence.
        denominator: [N]. Such as its bytes; their sum is above 0.

    Returns:
        Lower and upper end; the ratio itself twice when there is one unit.
    """
    total, units = denominator.sum(), len(numerator)
    ratio = numerator.sum() / total
    spread = np.square(numerator - ratio * denominator).sum() * units / max(units - 1, 1)
    half = student_95(max(units - 1, 1)) * sqrt(spread) / total
    return float(ratio - half), float(ratio + half)


def student_95(degrees: int) -> float:
    """Two-sided 95 % point of Student's t (M. Abramowitz, I. A. Stegun, Handbook of Mathematical Functions, 26.7.5).

    Args:
        degrees: Of freedom, at least 1.

    Returns:
        Within 1 % of it.
    """
    if degrees <= len(_FEW_DEGREES):
        return _FEW_DEGREES[degrees - 1]
    z = Z_95
    terms = (z, (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384)
    return sum(term / float(degrees) ** power for power, term in enumerate(terms))
