"""Noisy means of random groups of rows: the mechanism that instance hiding releases.

NumPy alone: means, noise, sensitivity and bill. Draws are in ``_mixture_draws``,
estimators in ``_instahide``.
"""

import math
import warnings
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from skpoison.defenses._mixture_draws import cut, draw_groups
from skpoison.privacy import PrivacyWarning, mix_epsilon
from skpoison.privacy._bill import VACUOUS_EPSILON, default_delta
from skpoison.privacy._mixing import SAMPLINGS, check_delta
from skpoison.utils._validation import bounds_pair, check_number, check_option

NOISES = ("laplace", "gaussian")
LABELS = ("public", "noisy")

_BLOCK_VALUES = 2**22  # released at a time, so that temporary copies stay small
# Above this an attacker's odds may change by a factor of e^50: no guarantee at all.
# Clipping a few outliers is how a box is meant to work; more may be a wrong box.
_CLIPPED = 0.01
_ASSUMPTIONS = (
    "a record is one row: what several rows tell of one person adds up",
    "who replaces a record removes one and adds one",
    "the bill is for one fit: every further fit on the same rows, those of a search "
    "or of cross-validation included, adds its own",
    "whatever was fitted on the rows before the mechanism saw them, such as a scaler "
    "or PCA, is not in the bill",
    "bounds, clip_norm and the parameters of the noise were chosen without looking at "
    "the rows",
    "the number of rows and the set of classes are public",
    "random_state is None: any other seed is short enough to be tried one by one, and "
    "who finds it can subtract the noise",
    "what warnings and errors of fit say about the rows is not in the bill",
    "the generator is no cryptographic one, and real numbers are floating-point ones",
)
CALLBACKS = "callbacks are handed the rows: what they keep or tell is not in the bill"
HELD_OUT = "rows that train_split held out, and the scores on them, are not protected"


def check_mixing(estimator):
    """Raise on a bad parameter of the mechanism, before there are data."""
    e = estimator
    check_number("n_mix", e.n_mix, low=1, integer=True)
    check_option("noise", e.noise, NOISES)
    check_number("noise_scale", e.noise_scale, low=0)
    check_option("labels", e.labels, LABELS)
    check_option("sampling", e.sampling, SAMPLINGS)
    if isinstance(e.bounds, str):
        raise ValueError(
            "bounds must be None or a pair (low, high) that is known without looking "
            f"at X, got {e.bounds!r}"
        )
    if e.clip_norm is not None:
        check_number("clip_norm", e.clip_norm, low=0, strict=True)
    for name in ("clip_inputs", "clip_output"):
        check_flag(name, getattr(e, name))
    if e.labels == "public" and e.sampling == "poisson":
        raise ValueError(
            "sampling='poisson' hides whether a record is there at all, which labels="
            "'public' would show: use labels='noisy'"
        )
    if e.label_scale is not None:
        check_number("label_scale", e.label_scale, low=0)
        if e.labels == "public":
            raise ValueError(
                f"label_scale={e.label_scale!r} is for labels='noisy', got labels="
                "'public', which stay as they are"
            )
    if e.n_releases is not None:
        check_number("n_releases", e.n_releases, low=1, integer=True)
    if e.delta is not None:
        check_delta(e.delta)


def check_flag(name, value):
    """Check that a parameter is True or False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name} must be a bool, got {value!r}")


@dataclass(frozen=True, eq=False)
class Mechanism:
    """One release: ``(1 / n_mix) * sum of a group's rows + noise``, and its labels.

    Attributes
    ----------
    n_features : int
        Values in a row, flattened.
    low, high : ndarray of shape () or (n_features,)
        The box that rows are in, infinite without one.
    bounds, n_mix, noise, scale, clip_norm, clip_output, labels, label_scale, sampling
        See :class:`~skpoison.defenses.DPInstaHideClassifier`.
    """

    n_features: int
    low: np.ndarray
    high: np.ndarray
    bounds: tuple | None
    n_mix: int
    noise: str
    scale: float
    clip_norm: float | None
    clip_output: bool
    labels: str
    label_scale: float | None
    sampling: str

    @classmethod
    def of(cls, estimator, shape):
        """Read it off an estimator's parameters, for rows of a shape."""
        e = estimator
        bounds = (-np.inf, np.inf) if e.bounds is None else e.bounds
        label_scale = e.noise_scale if e.label_scale is None else e.label_scale
        low, high = (
            b if b.ndim == 0 else np.broadcast_to(b, shape).ravel()
            for b in bounds_pair(bounds, shape, others="None")
        )
        return cls(
            n_features=math.prod(shape),
            low=low,
            high=high,
            bounds=e.bounds,
            n_mix=int(e.n_mix),
            noise=e.noise,
            scale=float(e.noise_scale),
            clip_norm=None if e.clip_norm is None else float(e.clip_norm),
            clip_output=e.clip_output,
            labels=e.labels,
            label_scale=float(label_scale),
            sampling=e.sampling,
        )

    # ------------------------------------------------------------- single rows

    @property
    def box(self):
        """The box of the rows after `clip`: scaling moves them towards zero."""
        if self.clip_norm is None:
            return self.low, self.high
        return np.minimum(self.low, 0.0), np.maximum(self.high, 0.0)

    @property
    def sensitivity(self):
        """Largest norm of what one record can change in the sum of a group.

        The l1 norm for Laplace, l2 for Gaussian noise; of the difference of two
        records or, for Poisson sampling, of one record.
        """
        low, high = self.box
        alone = self.sampling == "poisson"
        side = np.maximum(abs(low), abs(high)) if alone else high - low
        side = np.broadcast_to(side, self.n_features)
        of_box = np.linalg.norm(side, 1 if self.noise == "laplace" else 2)
        if self.clip_norm is None:
            return float(of_box)
        return min(float(of_box), self.clip_norm * (1 if alone else 2))

    def share_outside(self, X):
        """Return the share of values outside the box by more than rounding."""
        rows = X.reshape(len(X), -1)
        ulp = 8 * np.finfo(X.dtype).eps
        floor = (self.low - ulp * np.maximum(1, abs(self.low))).astype(X.dtype)
        ceiling = (self.high + ulp * np.maximum(1, abs(self.high))).astype(X.dtype)
        if rows.min() >= floor.max() and rows.max() <= ceiling.min():
            return 0.0
        return float(np.mean((rows < floor) | (rows > ceiling)))

    def clip(self, X):
        """Return X with every row in the box and of norm `clip_norm` at most."""
        rows = X.reshape(len(X), -1)
        low, high = self.low.astype(X.dtype), self.high.astype(X.dtype)
        if len(X) and (rows.min() < low.max() or rows.max() > high.min()):
            rows = np.clip(rows, low, high)
        if self.clip_norm is not None:
            order = 1 if self.noise == "laplace" else 2
            norms = np.linalg.norm(rows.astype(np.float64), order, axis=1)
            shrink = self.clip_norm / np.maximum(norms, self.clip_norm)
            rows = rows * shrink[:, None].astype(X.dtype)
        return rows.reshape(X.shape)

    def clip_tensor(self, x):
        """Do the same to a tensor; gradients go through."""
        import torch

        rows = x.flatten(1)
        low, high = (torch.from_numpy(b).to(rows) for b in (self.low, self.high))
        rows = rows.clamp(low, high)
        if self.clip_norm is not None:
            order = 1 if self.noise == "laplace" else 2
            norms = torch.linalg.vector_norm(rows, order, dim=1, keepdim=True)
            rows = rows * (self.clip_norm / norms.clamp(min=self.clip_norm))
        return rows.reshape(x.shape)

    # ----------------------------------------------------------------- release

    def pass_size(self, n_samples):
        """Return how many mixtures one pass over the rows makes."""
        return n_samples // self.n_mix if self.sampling == "partition" else n_samples

    def draw_groups(self, rng, n_samples, n_mixtures):
        """Draw which rows each mixture sums; see `draw_groups`."""
        return draw_groups(rng, n_samples, self.n_mix, n_mixtures, self.sampling)

    def release(self, rng, X, y, groups, n_classes):
        """Release the mixtures of some groups.

        Parameters
        ----------
        rng : numpy.random.Generator
        X : ndarray of shape (n_samples, ...)
            As `clip` returns them.
        y : ndarray of int, shape (n_samples,)
        groups : (members, cuts)
            Group i is ``members[cuts[i]:cuts[i + 1]]``.
        n_classes : int

        Returns
        -------
        Z : ndarray of shape (n_mixtures, ...)
            In X's type.
        T : ndarray of shape (n_mixtures, n_classes)
            Class probabilities, in X's type.
        """
        members, cuts = groups
        n_mixtures, dtype = len(cuts) - 1, X.dtype
        weights = np.full(len(members), 1 / self.n_mix, dtype)
        mean = csr_array((weights, members, cuts), shape=(n_mixtures, len(X)))
        Z = mean @ X.reshape(len(X), -1)
        Z += self._noise(rng, Z.shape, self.scale, dtype)
        if self.clip_output:
            low, high = self.box
            np.clip(Z, low.astype(dtype), high.astype(dtype), out=Z)
        # counts first: equal shares then are equal to the last bit
        counts = csr_array(
            (np.ones(len(members), dtype), y[members], cuts), (n_mixtures, n_classes)
        )
        T = counts.toarray() / dtype.type(self.n_mix)
        if self.labels == "noisy":
            T += self._noise(rng, T.shape, self.label_scale, dtype)
            T = _to_simplex(T)
        return Z.reshape(n_mixtures, *X.shape[1:]), T

    def release_all(self, rng, X, y, n_mixtures, n_classes):
        """Draw groups and release their mixtures, block by block."""
        groups = self.draw_groups(rng, len(X), n_mixtures)
        Z = np.empty((n_mixtures, *X.shape[1:]), X.dtype)
        T = np.empty((n_mixtures, n_classes), X.dtype)
        size = max(1, _BLOCK_VALUES // self.n_features)
        for start in range(0, n_mixtures, size):
            stop = min(start + size, n_mixtures)
            Z[start:stop], T[start:stop] = self.release(
                rng, X, y, cut(groups, start, stop), n_classes
            )
        return Z, T

    def _noise(self, rng, shape, scale, dtype):
        if self.noise == "gaussian":
            noise = rng.standard_normal(shape, dtype)
        else:  # an exponential of either sign: a third of the time of rng.laplace
            noise = rng.standard_exponential(shape, dtype)
            noise *= 2 * rng.integers(2, size=shape, dtype=np.int8) - 1
        noise *= dtype.type(scale)
        return noise

    # -------------------------------------------------------------------- bill

    def price(self, class_counts, n_releases, delta=None, *, notes=()):
        """Return the privacy bill of a number of releases, as a dict.

        Plain numbers, strings and lists, as a JSON file takes them.

        Parameters
        ----------
        class_counts : array of int
            Rows of each class, public.
        n_releases : int
        delta : float, default=None
            None is ``min(1e-5, 1 / (10 n))``.
        notes : sequence of str, default=()
            Further assumptions.
        """
        n = int(np.sum(class_counts))
        delta = default_delta(n) if delta is None else float(delta)
        bounds = self.bounds
        if bounds is not None:
            bounds = tuple(np.asarray(b).tolist() for b in bounds)
        noisy, gaussian = self.labels == "noisy", self.noise == "gaussian"
        sensitivity = self.sensitivity
        silent = self.scale == 0 or (noisy and self.label_scale == 0)

        def epsilon(count, delta):
            if count == 0:
                return 0.0
            if silent or math.isinf(sensitivity) or (delta == 0 and gaussian):
                return math.inf
            return mix_epsilon(
                n,
                self.n_mix,
                self.scale,
                count,
                noise=self.noise,
                sensitivity=sensitivity,
                delta=delta,
                sampling=self.sampling,
                labels=self.labels,
                class_counts=None if noisy else [int(c) for c in class_counts if c],
                label_scale=self.label_scale if noisy else None,
            )

        of_one = delta if gaussian else 0.0
        adjacency = "one record added or removed"
        if not noisy:
            adjacency = "the features of one record added or removed, labels public"
        return {
            "epsilon": epsilon(n_releases, delta),
            "epsilon_pure": epsilon(n_releases, 0.0),
            "delta": delta,
            "n_releases": n_releases,
            "n_billed": n_releases,
            "per_release": epsilon(1, of_one),
            "sensitivity": sensitivity,
            "adjacency": adjacency,
            "n": n,
            "n_mix": self.n_mix,
            "noise": self.noise,
            "noise_scale": self.scale,
            "label_scale": self.label_scale if noisy else None,
            "bounds": bounds,
            "clip_norm": self.clip_norm,
            "labels": self.labels,
            "sampling": self.sampling,
            "assumptions": [
                *_ASSUMPTIONS,
                *([] if noisy else ["labels, and so the class counts, are public"]),
                *notes,
            ],
        }


def _to_simplex(T):
    """Clip at zero and make rows sum to one; a row of zeros becomes uniform."""
    T = np.maximum(T, 0)
    total = T.sum(axis=1, keepdims=True)
    return np.where(total > 0, T / np.where(total > 0, total, 1), 1 / T.shape[1])


def into_box(estimator, X):
    """Return an estimator's mechanism and X inside its box."""
    n_mix, n_samples = estimator.n_mix, len(X)
    check_enough_rows(n_mix, n_samples)
    mechanism = Mechanism.of(estimator, X.shape[1:])
    if mechanism.sensitivity == 0:
        raise ValueError(f"bounds={estimator.bounds!r} leave no room for any row but 0")
    share = mechanism.share_outside(X)
    found = f"bounds={estimator.bounds!r}: its values span [{X.min():g}, {X.max():g}]"
    if share and not estimator.clip_inputs:
        raise ValueError(
            f"X lies outside {found}; scale X, declare wider bounds, or pass "
            "clip_inputs=True"
        )
    if share > _CLIPPED:
        warnings.warn(
            f"{share:.0%} of the values of X are outside {found}. They were clipped: "
            "scale X by known limits, or declare wider bounds",
            UserWarning,
            stacklevel=4,
        )
    return mechanism, mechanism.clip(X)


def check_enough_rows(n_mix, n_samples):
    if n_mix > n_samples:
        raise ValueError(
            f"n_mix={n_mix} rows of a mixture can't be drawn from n_samples={n_samples}"
        )


def private_generator(random_state, streams):
    # without a seed: 128 bits of the operating system's entropy, since the 31 of a
    # RandomStreams could be tried one by one, and the noise subtracted
    seed = None if random_state is None else streams.seed("mixtures")
    return np.random.default_rng(seed)


def warn_if_vacuous(privacy, stacklevel):
    epsilon = privacy["epsilon"]
    if epsilon <= VACUOUS_EPSILON:
        return
    if math.isinf(privacy["sensitivity"]):
        reason = ": without bounds or clip_norm one row can move a mixture at will"
    elif math.isinf(epsilon):
        reason = ": the noise hides nothing"
    else:
        reason = f" after {privacy['n_releases']} releases"
    warnings.warn(
        f"epsilon is {epsilon:.4g}{reason}. This is no privacy guarantee: the mixing "
        "acts as an empirical defense only",
        PrivacyWarning,
        stacklevel=stacklevel + 1,
    )
