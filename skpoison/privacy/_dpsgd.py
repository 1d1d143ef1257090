"""Epsilon of differentially private stochastic gradient descent."""

import numpy as np

from skpoison.privacy._mixing import check_delta
from skpoison.privacy._pld import subsampled_epsilon
from skpoison.privacy._warnings import infinite
from skpoison.utils._validation import check_number


def dpsgd_epsilon(n, batch_size, noise_multiplier, n_steps, delta):
    r"""Privacy loss of gradient descent on noisy sums of clipped gradients.

    Parameters
    ----------
    n : int
        Rows of the training set, validation rows excluded.
    batch_size : int
        Expected size of a batch: each row joins with chance ``batch_size / n``.
    noise_multiplier : float
        Standard deviation of the noise on the sum of the clipped gradients, in units
        of the norm they are clipped to.
    n_steps : int
    delta : float

    Returns
    -------
    epsilon : float
        An upper bound.

    Raises
    ------
    TypeError, ValueError
        A parameter out of range.

    Warns
    -----
    PrivacyWarning
        Without noise, or for ``delta=0``, epsilon is inf.

    See Also
    --------
    noise_for_epsilon : The noise multiplier that reaches an epsilon.

    Notes
    -----
    Neighbours differ in one added row, label included. With q = batch_size / n and
    :math:`\sigma` the noise multiplier, a step is dominated by the pair
    :math:`(1 - q) N(0, \sigma^2) + q N(1, \sigma^2)` and :math:`N(0, \sigma^2)`. It is
    composed numerically in either order, and the larger epsilon returned. Batches must
    be drawn so (Poisson sampling), not by shuffling, and the sum be divided by
    `batch_size`, not by the number of rows that came.

    References
    ----------
    Abadi et al. (2016), Deep learning with differential privacy. arXiv:1607.00133.

    Zhu, Dong and Wang (2022), Optimal accounting of differential privacy via
    characteristic function. arXiv:2106.08567.

    Doroshenko et al. (2022), Connect the dots: tighter discrete approximations of
    privacy loss distributions. arXiv:2207.04380.

    Examples
    --------
    >>> from skpoison.privacy import dpsgd_epsilon
    >>> round(dpsgd_epsilon(60000, 256, 1.1, 14000, 1e-5), 2)
    2.38
    """
    check_number("n", n, low=1, integer=True)
    check_number("batch_size", batch_size, low=1, integer=True)
    if batch_size > n:
        raise ValueError(f"batch_size must be at most n={n}, got {batch_size}")
    check_number("noise_multiplier", noise_multiplier, low=0.0)
    check_number("n_steps", n_steps, low=1, integer=True)
    check_delta(delta)
    if noise_multiplier == 0:
        return infinite(f"noise_multiplier={noise_multiplier} adds no noise")
    if delta == 0:
        return infinite("delta=0: Gaussian noise has no pure guarantee")
    return subsampled_epsilon(
        "gaussian",
        1 / float(noise_multiplier),
        np.array([batch_size / n]),
        np.ones(1),
        int(n_steps),
        float(delta),
        replaced=False,
    )
