"""Intervals of means over independent runs."""

import numpy as np
from scipy.stats import t as student


def half_width(values, level=0.95):
    """Return half the width of Student's interval of a mean, NaN for one value."""
    if len(values) < 2:
        return np.nan
    spread = np.std(values, ddof=1) / np.sqrt(len(values))
    return student.ppf((1 + level) / 2, len(values) - 1) * spread
