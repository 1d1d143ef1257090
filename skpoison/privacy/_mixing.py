"""Epsilon of noisy means of random k-subsets, the releases of DP-InstaHide."""

import math

import numpy as np
from scipy.special import betaln, xlog1py

from skpoison.privacy._pld import TAIL, subsampled_epsilon
from skpoison.privacy._warnings import infinite
from skpoison.utils._validation import check_number, check_option

SAMPLINGS = [
    "without_replacement",
    "poisson",
    "regular",
    "partition",
    "with_replacement",
]
ADJACENCIES = ["add-remove", "replace"]


def mix_epsilon(
    n,
    k,
    scale,
    n_releases,
    *,
    noise="laplace",
    sensitivity,
    delta=0.0,
    sampling="without_replacement",
    labels="public",
    class_counts=None,
    label_scale=None,
    adjacency="add-remove",
    method="auto",
):
    r"""Privacy loss of releasing noisy means of k of n records.

    A release is the mean of k of n records plus noise, and the mean of their one-hot
    labels. Training on releases, for any number of epochs, costs nothing more.

    Parameters
    ----------
    n : int
        Records in the data set, the one to be hidden included.
    k : int
        Records in one mean, all of weight 1/k: other weights earn no credit.
    scale : float
        Of the noise on every coordinate of the mean: b of Laplace(b), or the standard
        deviation of a normal law.
    n_releases : int
        All that are drawn: a batch of 64 in every one of 100 steps is 6400.
    noise : {"laplace", "gaussian"}, default="laplace"
    sensitivity : float
        The largest distance of two records, in l1 for Laplace and l2 for Gaussian
        noise. Records in the box ``[low, high]^d``: ``d (high - low)`` and
        ``sqrt(d) (high - low)``; rows clipped to norm C: 2 C. For
        ``sampling="poisson"`` it is the largest norm of one record instead. It must
        be known, not computed from the data.
    delta : float, default=0.0
        0 is pure differential privacy, which Gaussian noise doesn't have.
    sampling : str, default="without_replacement"
        How the records of a mean are drawn.

        - "without_replacement": a fresh uniform k-subset of all n a release.
        - "poisson": each record joins with chance k/n, the sum is divided by k.
        - "regular": n releases an epoch, each record in k of them, at most once in
          each, by rolls of a permutation. No gain over k = 1.
        - "partition": n // k disjoint groups of k an epoch.
        - "with_replacement": k independent draws a release. A record drawn k times is
          the whole mean, so the noise earns no credit for k.
    labels : {"public", "noisy", None}, default="public"
        "public": mixed labels are released as they are and only the features are
        protected; neighbours share the list of labels. "noisy": noise of `label_scale`
        is added to the mixed labels and the whole record is protected. None: records
        have no label.
    class_counts : list of int, default=None
        Rows of each class, all >= 1, for ``labels="public"`` when subsets are drawn at
        random with or without replacement: a record hides only among its class.
    label_scale : float, default=None
        As `scale`, of the mixed labels, for ``labels="noisy"``.
    adjacency : {"add-remove", "replace"}, default="add-remove"
        What neighbours are. "add-remove": one of them lacks a record, as is usual for
        :func:`dpsgd_epsilon` too; who replaces a record removes one and adds one.
        "replace": a record is another one. Pure epsilon is the same for both;
        composed, replaced records cost more.
    method : {"auto", "pure", "pld"}, default="auto"
        "pure" adds the releases' pure epsilons; "pld" composes privacy-loss
        distributions; "auto" takes the smaller.

    Returns
    -------
    epsilon : float
        An upper bound; inf is legal.

    Raises
    ------
    TypeError, ValueError
        A parameter out of range, or missing for the labels or the sampling chosen.

    Warns
    -----
    PrivacyWarning
        An option leaves no guarantee, and epsilon is inf.

    See Also
    --------
    noise_for_epsilon : The scale that reaches an epsilon.
    audit_epsilon : A bound from the other side, by experiment.

    Notes
    -----
    The counts `n`, `k`, `class_counts` and `n_releases` are public constants: that a
    record is missing changes who can be drawn, not how often. Where no other is left
    to be drawn (k = n, a class that is drawn whole, "regular" and "partition"), any
    record stands in for it. With the sensitivity :math:`\Delta`, b = `scale` and
    p = k/n, one release costs

    .. math:: \varepsilon_0 = \frac{\Delta}{k b}, \qquad
              \varepsilon_1 = \log(1 + p (e^{\varepsilon_0} - 1)).

    Let :math:`P_0, P_1` and :math:`P_1'` be the release's laws without the record,
    with it and with its replacement. A subset without the record becomes one with it
    by exchanging one member, so each two of the three are mixtures of laws at most
    :math:`\Delta / k` apart. Hence :math:`\varepsilon_1`; it is attained when all
    other records equal the replacement. Two consequences, exactly:

    - :math:`\varepsilon_1 \le \varepsilon_0`: at least k times smaller than
      :math:`\Delta / b`, that of a release without mixing *whose subsampling is not
      counted*.
    - It is not k times smaller than that of releases of single rows drawn at random.
      For small :math:`\Delta / b` both are near :math:`\Delta / (n b)` whatever k is
      (n=1000, :math:`\Delta / b` = 1: 0.001717 for k=1, 0.001135 for k=4). The gain of
      mixing is exponential when :math:`\Delta / b` is large (10: 3.1366 and 0.0438).

    For ``delta > 0``, let :math:`H_\gamma` be the hockey-stick divergence, N the noise
    in one coordinate and :math:`N_s` the noise shifted by :math:`\Delta / k`; for
    Laplace noise no split of the shift over coordinates is worse. A neighbour that
    lacks the record has the law :math:`P_0`, so that joint convexity gives, for every
    :math:`\gamma > 0` and in either order,

    .. math:: H_\gamma((1 - p) P_0 + p P_1, \; P_0)
              \le H_\gamma((1 - p) N + p N_s, \; N).

    The pair on the right is composed in either order, and the larger epsilon taken.
    For replaced records the bound holds for :math:`\gamma \ge 1` alone, and in the
    other order for :math:`\gamma < 1`. Composition needs both, so the pair composed
    has the larger H of both orders for every :math:`\gamma`. One order alone would be
    too little: three records at equal distances, as in l2 the corners of a triangle,
    exceed it under many releases.

    With public labels, the label mean tells how many members c came from the record's
    class of :math:`n_y`, and the record is among them with chance :math:`c / n_y`. H is
    then averaged over the hypergeometric law of c; pure epsilon takes
    :math:`p = \min(1, k / n_y)`. The smallest class is the worst.

    "regular" and "partition" compose the releases that hold the record, without
    amplification. "with_replacement" uses the shift :math:`\Delta` and
    :math:`p = 1 - (1 - 1/n)^k`. Noisy labels add their own shift, 2/k in l1 and
    :math:`\sqrt 2 / k` in l2 (1/k for "poisson"), in units of their scale.

    Not counted: whatever else was computed from the data, such as a scaler, the class
    counts or a search over parameters; and what the last bits of floating-point noise
    tell.

    References
    ----------
    Borgnia et al. (2021), DP-InstaHide: provably defusing poisoning and backdoor
    attacks with differentially private data augmentations. arXiv:2103.02079.

    Balle, Barthe and Gaboardi (2018), Privacy amplification by subsampling.
    arXiv:1807.01647.

    Zhu, Dong and Wang (2022), Optimal accounting of differential privacy via
    characteristic function. arXiv:2106.08567.

    Sommer, Meiser and Mohammadi (2019), Privacy loss classes: the central limit theorem
    in differential privacy. PoPETs 2019(2).

    Koskela, Jalko and Honkela (2020), Computing tight differential privacy guarantees
    using FFT. arXiv:1906.03049.

    Doroshenko et al. (2022), Connect the dots: tighter discrete approximations of
    privacy loss distributions. arXiv:2207.04380.

    Lebeda, Regehr, Kamath and Steinke (2024), Avoiding pitfalls for privacy accounting
    of subsampled mechanisms under composition. arXiv:2405.20769.

    Examples
    --------
    >>> from skpoison.privacy import mix_epsilon
    >>> round(mix_epsilon(1000, 4, 0.1, 1, sensitivity=1.0, labels=None), 4)
    0.0438
    >>> many = dict(n_releases=1000, sensitivity=1.0, delta=1e-5)
    >>> round(mix_epsilon(1000, 4, 0.1, labels=None, **many), 2)
    1.37
    >>> round(mix_epsilon(1000, 4, 0.1, class_counts=[100, 900], **many), 2)
    2.79
    """
    _check(n, k, scale, n_releases, noise, sensitivity, delta, sampling, labels, method)
    _check_adjacency(adjacency, sampling)
    smallest = _smallest_class(n, sampling, labels, class_counts)
    _check_label_scale(labels, label_scale)
    for name, value in (("scale", scale), ("label_scale", label_scale)):
        if value == 0:
            return infinite(f"{name}={value} adds no noise")
    # narrow types of NumPy overflow, or are too coarse
    n, k, n_releases, delta = int(n), int(k), int(n_releases), float(delta)
    if noise == "gaussian" and (delta == 0 or method == "pure"):
        option = "delta=0" if delta == 0 else "method='pure'"
        return infinite(f"{option}: noise='gaussian' has no pure guarantee")

    shift = _shift(k, scale, noise, sensitivity, sampling, labels, label_scale)
    shares, weights = _inclusion(n, k, sampling, smallest)
    n_steps = _compositions(n, k, n_releases, sampling)
    pure = math.inf
    if noise == "laplace":
        pure = n_steps * _amplified(shift, shares.max())
    if delta == 0 or method == "pure":
        return pure
    shares, weights = _lump(shares, weights, TAIL * delta / n_steps)
    replaced = adjacency == "replace"
    numeric = subsampled_epsilon(
        noise, shift, shares, weights, n_steps, delta, replaced=replaced
    )
    return numeric if method == "pld" else min(pure, numeric)


def _check(
    n, k, scale, n_releases, noise, sensitivity, delta, sampling, labels, method
):
    check_number("n", n, low=1, integer=True)
    check_number("k", k, low=1, integer=True)
    if k > n:
        raise ValueError(f"k must be at most n={n}, got {k}")
    check_number("scale", scale, low=0.0)
    check_number("n_releases", n_releases, low=1, integer=True)
    check_option("noise", noise, ["laplace", "gaussian"])
    check_number("sensitivity", sensitivity, low=0.0, strict=True)
    check_delta(delta)
    check_option("sampling", sampling, SAMPLINGS)
    if labels is not None:
        check_option("labels", labels, ["public", "noisy"])
    if sampling == "poisson" and labels == "public":
        raise ValueError(
            "labels must be 'noisy' or None for sampling='poisson', whose neighbours "
            "have one record more, label included; got 'public'"
        )
    check_option("method", method, ["auto", "pure", "pld"])
    if method == "pld" and delta == 0:
        raise ValueError("delta must be > 0 for method='pld', got 0")


def _check_adjacency(adjacency, sampling):
    check_option("adjacency", adjacency, ADJACENCIES)
    if sampling == "poisson" and adjacency == "replace":
        raise ValueError(
            "adjacency must be 'add-remove' for sampling='poisson', got 'replace'"
        )


def check_delta(delta):
    """Check that delta is in [0, 1)."""
    check_number("delta", delta, low=0.0)
    if delta >= 1:
        raise ValueError(f"delta must be in [0, 1), got {delta!r}")


def _smallest_class(n, sampling, labels, class_counts):
    """Return the size of the group in which a record hides, given what is public."""
    hidden = sampling in ("without_replacement", "with_replacement")
    if labels != "public" or not hidden:
        return n
    if class_counts is None:
        raise ValueError(
            f"class_counts must be given for labels='public' and sampling={sampling!r}:"
            " the rows of each class, got None"
        )
    try:
        counts = np.asarray(class_counts)
    except ValueError:  # lists of several lengths
        counts = np.empty(0)
    whole = counts.dtype.kind in "iu" and counts.ndim == 1 and counts.size > 0
    if not whole or counts.min() < 1 or counts.sum() != n:
        raise ValueError(
            f"class_counts must be a list of counts >= 1 that sum to n={n}, "
            f"got {class_counts!r}"
        )
    return int(counts.min())


def _check_label_scale(labels, label_scale):
    if labels == "noisy":
        if label_scale is None:
            raise ValueError("label_scale must be >= 0 for labels='noisy', got None")
        check_number("label_scale", label_scale, low=0.0)
    elif label_scale is not None:
        raise ValueError(
            f"label_scale must be None unless labels='noisy', got {label_scale!r}"
        )


def _shift(k, scale, noise, sensitivity, sampling, labels, label_scale):
    """Return how far one record moves a release it is in, in units of the noise."""
    # a record drawn k times of k is the whole mean
    share = 1.0 if sampling == "with_replacement" else 1.0 / k
    rows = share * float(sensitivity) / float(scale)
    if labels != "noisy":
        return rows
    changed = 1 if sampling == "poisson" else 2  # entries of the one-hot label
    if noise == "laplace":
        return rows + share * changed / float(label_scale)
    return math.hypot(rows, share * math.sqrt(changed) / float(label_scale))


def _inclusion(n, k, sampling, smallest):
    """Return the chances of a record's inclusion, and the chances of those chances."""
    if sampling in ("regular", "partition"):
        return np.ones(1), np.ones(1)
    if sampling == "poisson":
        return np.array([k / n]), np.ones(1)
    others = n - smallest
    if sampling == "without_replacement":
        members = np.arange(max(0, k - others), min(k, smallest) + 1)
        log_weights = _log_binomial(smallest, members)
        log_weights += _log_binomial(others, k - members)
        shares = members / smallest
    else:
        members = np.arange(0 if others else k, k + 1)
        log_weights = _log_binomial(k, members) + members * math.log(smallest / n)
        if others:
            log_weights += (k - members) * math.log(others / n)
        # 1 for a class of one row, always drawn with its class; 0 for no member
        shares = -np.expm1(xlog1py(members, -1 / smallest))
    weights = np.exp(log_weights - log_weights.max())
    return shares, weights / weights.sum()


def _log_binomial(n, k):
    return -betaln(n - k + 1, k + 1) - np.log1p(n)


def _compositions(n, k, n_releases, sampling):
    """Return in how many releases, at most, a record's presence is open."""
    if sampling == "regular":
        epochs, rest = divmod(n_releases, n)
        return k * epochs + min(k, rest)
    if sampling == "partition":
        return -(-n_releases // (n // k))
    return n_releases


def _amplified(shift, p):
    """Return log(1 + p (exp(shift) - 1)) for any shift."""
    if shift < 40:
        return math.log1p(p * math.expm1(shift))
    return shift + math.log(p + (1 - p) * math.exp(-shift))


def _lump(shares, weights, tail):
    """Drop rare shares: each joins the next larger one kept, which only adds loss."""
    kept = np.flatnonzero(weights > tail / len(weights))
    first, last = kept[0], kept[-1]
    weights = weights.copy()
    weights[first] += weights[:first].sum()
    if last < len(shares) - 1:
        weights[-1] += weights[last + 1 : -1].sum()
        keep = np.r_[first : last + 1, len(shares) - 1]
    else:
        keep = np.r_[first : last + 1]
    return shares[keep], weights[keep]
