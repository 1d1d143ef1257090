"""What a privacy guarantee buys against poisoning."""

import math

import numpy as np

from skpoison.privacy._mixing import check_delta
from skpoison.utils._validation import check_number


def poisoning_success_bound(epsilon, delta, n_poisons, clean_rate):
    r"""Bound the success of any attack on private training, by group privacy.

    Parameters
    ----------
    epsilon, delta : float
        The guarantee of the training; `epsilon` may be inf.
    n_poisons : int
        Records the attacker changed, in the sense of the guarantee's neighbours: with
        added and removed records, a replaced one counts twice.
    clean_rate : float
        Chance of the bad event, such as a target misread, without poison.

    Returns
    -------
    bound : float in [0, 1]

    Raises
    ------
    TypeError, ValueError
        A parameter out of range.

    Notes
    -----
    By group privacy, for m poisons,

    .. math:: P[\text{bad} \mid \text{poisoned}] \le e^{m \varepsilon}
              P[\text{bad} \mid \text{clean}]
              + \delta \, \frac{e^{m \varepsilon} - 1}{e^{\varepsilon} - 1},

    for every attack. The chance is over the mechanism and the training, for one fixed
    data set.

    References
    ----------
    Ma, Zhu and Hsu (2019), Data poisoning against differentially-private learners:
    attacks and defenses. arXiv:1903.09860.

    Examples
    --------
    >>> from skpoison.privacy import poisoning_success_bound
    >>> round(poisoning_success_bound(0.5, 1e-5, n_poisons=3, clean_rate=0.02), 3)
    0.09
    """
    unlimited = np.isscalar(epsilon) and epsilon == math.inf
    if not unlimited:
        check_number("epsilon", epsilon, low=0.0)
    check_delta(delta)
    check_number("n_poisons", n_poisons, low=0, integer=True)
    check_number("clean_rate", clean_rate, low=0.0, high=1.0)
    if n_poisons == 0:
        return float(clean_rate)
    if unlimited:
        return 1.0
    # narrow types of NumPy overflow
    epsilon, delta, n_poisons = float(epsilon), float(delta), int(n_poisons)
    if epsilon == 0:
        return min(1.0, float(clean_rate) + n_poisons * delta)
    # in logs, so that no exponential overflows: expm1(x) = exp(x) (1 - exp(-x))
    group = n_poisons * epsilon
    bound = 0.0
    if clean_rate > 0:
        bound += math.exp(min(group + math.log(clean_rate), 1.0))
    if delta > 0:
        inner = (n_poisons - 1) * epsilon + math.log(delta)
        ratio = math.expm1(-group) / math.expm1(-epsilon)
        bound += math.exp(min(inner + math.log(ratio), 1.0))
    return min(1.0, bound)
