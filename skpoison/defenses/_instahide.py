"""Training on, and releasing, noisy mixtures of rows with a privacy bill."""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import validate_data
from skorch.dataset import Dataset

from skpoison.defenses import _mixtures
from skpoison.defenses._mixture_net import MixtureBatches, MixtureNet
from skpoison.models import TorchClassifier
from skpoison.models._net import BatchIterator
from skpoison.utils import RandomStreams
from skpoison.utils._containers import is_frame
from skpoison.utils._validation import check_option


class DPInstaHideClassifier(TorchClassifier):
    """Neural classifier that sees only noisy means of rows, with a privacy bill.

    Every training example is the mean of `n_mix` rows plus noise. No row is seen
    alone, so that a poison has little to hold on to, and the network is a
    differentially private function of the training set: `privacy_` tells how far.

    Parameters
    ----------
    module : "auto", class or module, default="auto"
        See :class:`~skpoison.models.TorchClassifier`.
    n_mix : int, default=4
        Rows in a mixture, each of weight ``1 / n_mix``; 1 is noise alone. With
        `noise_scale` 0.1 they stopped a backdoor more often than 2 rows with 0.3 did,
        at nearly the same accuracy.
    noise : {"laplace", "gaussian"}, default="laplace"
        Added to every value of a mixture, independently. Laplace as in [1]_.
    noise_scale : float, default=0.1
        Scale of the Laplace distribution, standard deviation of the Gaussian, in the
        unit of X. 0 is no noise and no privacy.
    bounds : (low, high) or None, default=(-1, 1)
        The box of the rows, which the bill rests on: numbers, or arrays that broadcast
        to one row, known without looking at X. The default holds images and the
        better part of standardised columns, so that there is a bill whatever comes;
        (0, 1) for images halves the sensitivity. None is no box: without a
        `clip_norm` the bill is infinite.
    clip_norm : float, default=None
        Scale rows down to this norm, l1 for Laplace and l2 for Gaussian noise. In
        many dimensions it buys far more than a box does. Chosen without looking at X.
    clip_inputs : bool, default=True
        Move values outside `bounds` to its edge, before anything else, in prediction
        too. False raises an error instead. True, because a box is declared for the
        values expected and outliers will come.
    clip_output : bool, default=True
        Clip the noisy mixtures to the box, which costs no privacy.
    labels : {"public", "noisy"}, default="public"
        "public" protects features alone: mixed labels are exact, and who knows them
        can tell which rows are likelier to be in a mixture; the bill accounts for
        this. "noisy" adds noise to mixed labels too and protects whole records.
    label_scale : float, default=None
        Scale of the noise of labels; None is `noise_scale`. For noisy labels only.
    sampling : str, default="without_replacement"
        How rows come into mixtures:

        - "without_replacement": any `n_mix` distinct rows, afresh for each mixture;
        - "poisson": each row with probability ``n_mix / n``, the sum divided by
          `n_mix`. Needs noisy labels. Protects whether a record is there at all;
        - "regular": in an epoch each row is in exactly `n_mix` mixtures;
        - "partition": an epoch is ``n // n_mix`` mixtures that share no row;
        - "with_replacement": a row may come twice, and the bill is larger.
    release : {"online", "fixed"}, default="online"
        "online" draws fresh mixtures for every batch, all of which are billed. "fixed"
        draws `n_releases` once and trains on these: the bill doesn't grow with epochs.
    n_releases : int, default=None
        For ``release="fixed"``. None is one pass: as many as there are rows, or groups
        of a partition.
    delta : float, default=None
        Chance that the bound `epsilon_` fails; None is ``min(1e-5, 1 / (10 n))``. 0
        gives the pure bound, which Gaussian noise doesn't have.
    **params : dict
        All other parameters of :class:`~skpoison.models.TorchClassifier`. `augment`
        changes mixtures, after their release, and costs nothing. ``iterator_train``
        is refused.

    Attributes
    ----------
    privacy_ : dict
        The bill: "epsilon" at "delta"; "epsilon_pure" at 0; "n_releases", mixtures
        that the network was given; "n_billed", those planned, all of which are paid
        for; "per_release", of one alone, pure for Laplace and at delta for Gaussian
        noise; "sensitivity", in the norm of the noise; "adjacency", what is hidden;
        "n", rows in training, and the settings it was computed from; "assumptions", a
        list of what is outside it.
    epsilon_ : float
        ``privacy_["epsilon"]``.
    net_, module_, classes_, n_features_in_, input_shape_, history_, n_iter_
        See :class:`~skpoison.models.TorchClassifier`. Losses and scores of training
        are those on mixtures.

    Raises
    ------
    ValueError
        In `fit`: a parameter out of range, settings that exclude each other, fewer
        rows than `n_mix`, or X outside `bounds` with ``clip_inputs=False``.

    Warns
    -----
    PrivacyWarning
        Epsilon exceeds 50 or is infinite: an empirical defense only.
    UserWarning
        More than 1 % of the values of X were clipped.

    See Also
    --------
    InstaHideRelease : Hands out the mixtures, for any other learner.
    MixupClassifier : Mixes within batches, without noise or a bill.
    skpoison.privacy.mix_epsilon : Computes the bill.

    Notes
    -----
    One release draws a set S of k = `n_mix` rows from the whole training set and gives

    .. math::
        z = \\frac 1 k \\sum_{i \\in S} x_i + \\xi, \\qquad
        t = \\frac 1 k \\sum_{i \\in S} e_{y_i} \\; (+ \\eta),

    :math:`\\xi` of scale b = `noise_scale`, :math:`e_y` the one-hot label. Noisy t are
    clipped at zero and made to sum to one. Let :math:`\\Delta` be the sensitivity: for
    a box the l1 norm (Laplace) or l2 norm (Gaussian) of its sides, for clipped norms
    ``2 * clip_norm``, and the smaller of the two for both; with Poisson sampling the
    largest norm of one row. For Laplace noise and records without labels, one release
    is :math:`\\log(1 + \\frac k n (e^{\\Delta / (k b)} - 1))`-private. The bill
    composes the privacy loss of all releases numerically.

    In many dimensions and with noise that leaves something to learn, epsilon is
    astronomical: for images of 784 pixels, two of them mixed and noise of scale 0.3,
    1300 a release. It is small for low-dimensional features, for a `clip_norm`, for
    ``release="fixed"`` and for many rows.

    A callback that ends training early lowers nothing: it decides by what it has seen
    of the releases, and the first few of them, chosen so, are only known to be as
    private as all that were planned. Lower `max_epochs` instead.

    What holds for privacy holds for poisons: m rows change the probability of any
    outcome of training by a factor of ``exp(m * epsilon_)`` at most, up to delta; see
    :func:`~skpoison.privacy.poisoning_success_bound`.

    References
    ----------
    .. [1] Borgnia et al. (2021), DP-InstaHide: provably defusing poisoning and
       backdoor attacks with differentially private data augmentations.
       arXiv:2103.02079.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skpoison.defenses import DPInstaHideClassifier
    >>> X, y = make_blobs(2000, 2, centers=2, random_state=0)
    >>> model = DPInstaHideClassifier(
    ...     noise_scale=0.2, release="fixed", max_epochs=9, device="cpu",
    ...     random_state=0)
    >>> model.fit(X / 10, y).score(X / 10, y) > 0.9
    True
    >>> model.epsilon_ < 7
    True
    """

    _net_class = MixtureNet

    def __init__(
        self,
        module="auto",
        *,
        n_mix=4,
        noise="laplace",
        noise_scale=0.1,
        bounds=(-1, 1),
        clip_norm=None,
        clip_inputs=True,
        clip_output=True,
        labels="public",
        label_scale=None,
        sampling="without_replacement",
        release="online",
        n_releases=None,
        delta=None,
        **params,
    ):
        super().__init__(module, **params)
        self.n_mix = n_mix
        self.noise = noise
        self.noise_scale = noise_scale
        self.bounds = bounds
        self.clip_norm = clip_norm
        self.clip_inputs = clip_inputs
        self.clip_output = clip_output
        self.labels = labels
        self.label_scale = label_scale
        self.sampling = sampling
        self.release = release
        self.n_releases = n_releases
        self.delta = delta

    @property
    def epsilon_(self):
        """Privacy loss of the fit at ``privacy_["delta"]``."""
        return self.privacy_["epsilon"]

    def _check_parameters(self):
        super()._check_parameters()
        _mixtures.check_mixing(self)
        check_option("release", self.release, ["online", "fixed"])
        if self.release == "online" and self.n_releases is not None:
            raise ValueError(
                f"n_releases={self.n_releases} is for release='fixed'; online, "
                "max_epochs decides how many mixtures are drawn"
            )
        for name in self._component_params:
            if name.startswith("iterator_train"):
                raise ValueError(
                    f"{name} can't be used: batches are mixtures that this class draws "
                    "and counts; batch_size sets their size"
                )

    def _encode(self, X, y):
        X, y = super()._encode(X, y)
        self._mechanism, X = _mixtures.into_box(self, X)
        return X, y

    def _module_input(self, X):
        return self._mechanism.clip(super()._module_input(X))

    def _module_tensor(self, x):
        return self._mechanism.clip_tensor(super()._module_tensor(x))

    def _train(self, net, X, y, streams):
        rng = _mixtures.private_generator(self.random_state, streams)
        mechanism, batches = self._mechanism, None
        notes = [_mixtures.CALLBACKS] * bool(self.callbacks)
        notes += [_mixtures.HELD_OUT] * (self.train_split is not None)

        def mixtures(X, y):  # called once, when the training rows are split off
            nonlocal batches
            _mixtures.check_enough_rows(self.n_mix, len(X))
            counts = np.bincount(y, minlength=net.n_outputs_)
            n_releases = int(self.n_releases or mechanism.pass_size(len(X)))
            if self.release == "online":
                n_releases *= int(net.max_epochs)
            self.privacy_ = mechanism.price(counts, n_releases, self.delta, notes=notes)
            _mixtures.warn_if_vacuous(self.privacy_, stacklevel=8)
            if self.release == "online":
                batches = MixtureBatches(mechanism, rng, X, y, net)
                return batches
            released = mechanism.release_all(rng, X, y, n_releases, net.n_outputs_)
            return BatchIterator(
                Dataset(*released),
                net.batch_size,
                shuffle=True,
                generator=net.generator_,
                device=net.device,
            )

        net.mixtures_ = mixtures
        super()._train(net, X, y, streams)
        if batches is not None:
            # fewer than billed if a callback ended training; when to end was decided
            # by looking at releases, so that only the bill of all planned ones holds
            self.privacy_["n_releases"] = batches.n_released


class InstaHideRelease(BaseEstimator):
    """Replace a training set by noisy means of its rows, with a privacy bill.

    What comes out can be published or given to any learner, for any number of fits:
    nothing that is computed from it costs more privacy.

    Parameters
    ----------
    n_mix : int, default=4
        Rows in a mixture.
    noise : {"laplace", "gaussian"}, default="laplace"
    noise_scale : float, default=0.1
        In the unit of X.
    bounds : (low, high) or None, default=(-1, 1)
        The box of the rows, known without looking at X.
    clip_norm : float, default=None
        Scale rows down to this norm, l1 for Laplace and l2 for Gaussian noise.
    clip_inputs : bool, default=True
        Move values outside `bounds` to its edge; False raises an error instead.
    clip_output : bool, default=True
        Clip the noisy mixtures to the box.
    labels : {"public", "noisy"}, default="public"
    label_scale : float, default=None
        Scale of the noise of labels; None is `noise_scale`. For noisy labels only.
    sampling : str, default="without_replacement"
        All of these and their defaults are those of :class:`DPInstaHideClassifier`.
    n_releases : int, default=None
        Mixtures; None is one pass: as many as there are rows, or groups of a
        partition.
    delta : float, default=None
        Chance that the bound fails; None is ``min(1e-5, 1 / (10 n))``.
    hard_labels : bool, default=True
        `fit_resample` returns the likeliest label of each mixture, a random one of
        several, so that any classifier can be fitted. False returns `Y_released_`.
    random_state : None, int, RandomState or Generator, default=None
        None draws on the operating system's entropy. Any other is for experiments: its
        31 bits can be tried one by one, and the noise subtracted.

    Attributes
    ----------
    X_released_ : ndarray of shape (n_releases, ...)
        In X's floating type. Nothing else of X stays on the object.
    Y_released_ : ndarray of shape (n_releases, n_classes)
        Mixed labels, columns in the order of `classes_`.
    privacy_ : dict
        The bill of this fit, as in :class:`DPInstaHideClassifier`.
    epsilon_ : float
        ``privacy_["epsilon"]``.
    classes_ : ndarray of shape (n_classes,)
    n_features_in_ : int
    feature_names_in_ : ndarray of str
        Only when X has string column names.

    Raises
    ------
    ValueError
        As for :class:`DPInstaHideClassifier`.

    Warns
    -----
    PrivacyWarning, UserWarning
        As for :class:`DPInstaHideClassifier`.

    See Also
    --------
    DPInstaHideClassifier : Trains a network on mixtures.

    Notes
    -----
    It changes the number of rows, which a scikit-learn Pipeline doesn't allow; use
    :class:`imblearn.pipeline.Pipeline`. Each call of `fit` or `fit_resample` is a new
    release with a bill of its own, and bills add up.

    Hard labels of mixtures of unbalanced classes are mostly those of the largest. A
    learner of probabilities, given ``hard_labels=False``, has no such bias.

    Images of type uint8 are divided by 255 and come out as float32.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.defenses import InstaHideRelease
    >>> X, y = make_blobs(5000, 2, centers=2, random_state=0)
    >>> release = InstaHideRelease(noise_scale=0.2, random_state=0)
    >>> X_mixed, y_mixed = release.fit_resample(X / 10, y)
    >>> LogisticRegression().fit(X_mixed, y_mixed).score(X / 10, y) > 0.9
    True
    >>> release.epsilon_ < 4
    True
    """

    _estimator_type = "sampler"

    def __init__(
        self,
        n_mix=4,
        *,
        noise="laplace",
        noise_scale=0.1,
        bounds=(-1, 1),
        clip_norm=None,
        clip_inputs=True,
        clip_output=True,
        labels="public",
        label_scale=None,
        sampling="without_replacement",
        n_releases=None,
        delta=None,
        hard_labels=True,
        random_state=None,
    ):
        self.n_mix = n_mix
        self.noise = noise
        self.noise_scale = noise_scale
        self.bounds = bounds
        self.clip_norm = clip_norm
        self.clip_inputs = clip_inputs
        self.clip_output = clip_output
        self.labels = labels
        self.label_scale = label_scale
        self.sampling = sampling
        self.n_releases = n_releases
        self.delta = delta
        self.hard_labels = hard_labels
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.estimator_type = "sampler"
        tags.target_tags.required = True
        tags.input_tags.three_d_array = True
        return tags

    @property
    def epsilon_(self):
        """Privacy loss of the fit at ``privacy_["delta"]``."""
        return self.privacy_["epsilon"]

    def fit(self, X, y):
        """Release mixtures of a training set.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)
            Labels: numbers or strings.

        Returns
        -------
        self : object
        """
        self._release(X, y)
        return self

    def _release(self, X, y):
        _mixtures.check_mixing(self)
        _mixtures.check_flag("hard_labels", self.hard_labels)
        pixels = str(getattr(X, "dtype", "")) == "uint8"
        dtype = np.float32 if pixels else [np.float64, np.float32]
        X, y = validate_data(self, X, y, dtype=dtype, order="C", allow_nd=True)
        check_classification_targets(y)
        if pixels:
            X = X / 255
        mechanism, X = _mixtures.into_box(self, X)
        self.classes_, codes = np.unique(y, return_inverse=True)
        counts = np.bincount(codes)
        n_releases = int(self.n_releases or mechanism.pass_size(len(X)))
        self.privacy_ = mechanism.price(counts, n_releases, self.delta)
        _mixtures.warn_if_vacuous(self.privacy_, stacklevel=3)
        rng = _mixtures.private_generator(
            self.random_state, RandomStreams(self.random_state)
        )
        self.X_released_, self.Y_released_ = mechanism.release_all(
            rng, X, codes, n_releases, len(self.classes_)
        )
        return rng

    def fit_resample(self, X, y):
        """Release mixtures of a training set and return them.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features) or (n_samples, ...)
        y : array-like of shape (n_samples,)
            Labels: numbers or strings.

        Returns
        -------
        X_released : ndarray of shape (n_releases, ...), or a data frame
            A frame where X is one.
        y_released : ndarray of shape (n_releases,) or (n_releases, n_classes)
            Labels, or their probabilities with ``hard_labels=False``.
        """
        rng = self._release(X, y)
        X_out, Y = self.X_released_, self.Y_released_
        if is_frame(X):
            names = "columns" if hasattr(X, "iloc") else "schema"
            X_out = type(X)(X_out, **{names: list(X.columns)})
        if not self.hard_labels:
            return X_out, Y
        # ties are common, and the first class must not win them all
        best = np.where(Y == Y.max(axis=1, keepdims=True), rng.random(Y.shape), -1)
        return X_out, self.classes_[best.argmax(axis=1)]
