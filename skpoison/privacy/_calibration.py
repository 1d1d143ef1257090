"""The noise that reaches a given epsilon."""

import inspect
import math
import warnings
from collections.abc import Callable

from skpoison.privacy._dpsgd import dpsgd_epsilon
from skpoison.privacy._mixing import mix_epsilon
from skpoison.privacy._warnings import PrivacyWarning
from skpoison.utils._validation import check_number, check_option

ACCOUNTANTS: dict[str, tuple[Callable[..., float], str]] = {
    "mixing": (mix_epsilon, "scale"),
    "dpsgd": (dpsgd_epsilon, "noise_multiplier"),
}
PRECISION = 1e-4  # of the noise, relative
LARGEST = 1e12  # noise tried, in units of the sensitivity


def noise_for_epsilon(target_epsilon, *, mechanism="mixing", **parameters):
    """Return the smallest noise whose epsilon is at most a target.

    Parameters
    ----------
    target_epsilon : float
    mechanism : {"mixing", "dpsgd"}, default="mixing"
        Whose noise: `scale` of :func:`mix_epsilon` or `noise_multiplier` of
        :func:`dpsgd_epsilon`.
    **parameters : dict
        All other arguments of that function.

    Returns
    -------
    noise : float
        Its epsilon is at most `target_epsilon`, and that of a noise 0.01 % smaller is
        not, down to 1e-12 of the sensitivity.

    Raises
    ------
    TypeError
        An argument is unknown or missing.
    ValueError
        An argument is out of range, or no noise reaches the target: labels that are
        too little hidden, or ``delta=0`` with Gaussian noise.

    See Also
    --------
    mix_epsilon, dpsgd_epsilon : The accountants.

    Examples
    --------
    >>> from skpoison.privacy import mix_epsilon, noise_for_epsilon
    >>> setting = dict(n=1000, k=4, n_releases=1000, sensitivity=1.0, labels=None)
    >>> scale = noise_for_epsilon(1.0, delta=1e-5, **setting)
    >>> round(scale, 3), round(mix_epsilon(scale=scale, delta=1e-5, **setting), 3)
    (0.123, 1.0)
    """
    check_number("target_epsilon", target_epsilon, low=0.0, strict=True)
    check_option("mechanism", mechanism, list(ACCOUNTANTS))
    accountant, noise = ACCOUNTANTS[mechanism]
    _check_names(accountant, noise, mechanism, parameters)

    def reached(value):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PrivacyWarning)
            return accountant(**{noise: value}, **parameters) <= target_epsilon

    # in units of the sensitivity, so that the search starts near
    unit = parameters.get("sensitivity", 1.0)
    unit = high = float(check_number("sensitivity", unit, low=0.0, strict=True))
    while not reached(high):
        high *= 4
        if high > LARGEST * unit:
            raise ValueError(
                f"target_epsilon={target_epsilon!r} is out of reach: no {noise} up to "
                f"{LARGEST * unit:g} gets there with the other parameters given"
            )
    low = high / 4
    while low > unit / LARGEST and reached(low):
        low, high = low / 4, low
    while high - low > PRECISION * high:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _check_names(accountant, noise, mechanism, parameters):
    known = inspect.signature(accountant).parameters
    unknown = sorted(set(parameters) - (set(known) - {noise}))
    if unknown:
        raise TypeError(
            f"mechanism={mechanism!r} takes no {', '.join(unknown)}; it takes "
            f"{', '.join(name for name in known if name != noise)}"
        )
    missing = [
        name
        for name, parameter in known.items()
        if parameter.default is parameter.empty and name not in {noise, *parameters}
    ]
    if missing:
        raise TypeError(f"mechanism={mechanism!r} needs {', '.join(missing)}")
