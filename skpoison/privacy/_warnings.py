"""The warning of the accountants."""

import math
import warnings


class PrivacyWarning(UserWarning):
    """A privacy figure is infinite, or too large to protect anything.

    Examples
    --------
    >>> import warnings
    >>> from skpoison.privacy import PrivacyWarning, mix_epsilon
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", PrivacyWarning)
    ...     try:
    ...         mix_epsilon(100, 4, 0.0, 10, sensitivity=1.0, labels=None)
    ...     except PrivacyWarning as warning:
    ...         print(warning)
    scale=0.0 adds no noise: epsilon is inf
    """


def infinite(reason):
    """Return inf and warn in the name of the caller's caller."""
    warnings.warn(f"{reason}: epsilon is inf", PrivacyWarning, stacklevel=3)
    return math.inf
