"""Release poisoning: data that nobody learns much from."""

import numpy as np
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, validate_data

from skpoison.attacks._release_attack import ReleaseCrafting
from skpoison.base._perturbation import _DTYPES, _add, _as_stored, _pure_groups
from skpoison.utils import row_keys
from skpoison.utils._validation import check_bounds, check_label, check_option

_METHODS = [
    "alignment",
    "tensorclog",
    "error_max",
    "class_target",
    "error_min",
    "error_min_class",
    "random",
]


def _protects(attack):
    if attack._is_by_row():
        return True
    raise AttributeError(
        f"method={attack.method!r} crafts all rows together; new rows can be protected "
        "alone by method='alignment' with online=True, 'error_max', 'class_target' and "
        "'random'"
    )


class ReleasePoisonAttack(ReleaseCrafting):
    """Perturb data before its release, so that models trained on it are poor.

    Threat model: the owner of the data changes all rows, or a share, within ``eps``;
    labels stay right. Whoever trains on the released rows is to do badly on clean
    ones. There is no trigger and no target.

    Parameters
    ----------
    method : {"alignment", "tensorclog", "error_max", "class_target", "error_min", \
"error_min_class", "random"}, default="alignment"
        What is crafted, see Notes. "random" is the control.
    budget : int or float, default=1.0
        Rows that are perturbed: a count, or a share of all rows, floored.
    eps : float or array, default=None
        Radius in the unit of X. None is 8/255 of the data's range, 8 for uint8 images;
        the papers'.
    norm : {"linf", "l2"}, default="linf"
    bounds : "data", None or (low, high), default="data"
        Box that perturbed rows never leave. Of rows given to `protect` that lie
        outside "data", the box reaches as far as they do.
    surrogate : TorchClassifier, torch module, list, FrozenEstimator, "victim" or \
None, default=None
        What is crafted on: cloned and trained on the clean data, or, frozen, as it is.
        Pipelines of linear steps that end in a TorchClassifier and skorch nets are
        taken too. A list is cycled over the ensemble. None is ``TorchClassifier()``.
    n_ensemble : int, default=1
        Surrogates; the objective is the mean over them.
    target_data : (X, y), default=None
        For "alignment": clean rows and labels on which models are to do badly. None is
        the training set.
    online : bool, default=False
        For "alignment": each row by itself, so that :meth:`protect` and
        :meth:`partial_fit` take new ones.
    class_map : dict or array of shape (n_classes,), default=None
        For "class_target": what rows of each class are to be read as; an array is in
        the order of ``classes_``. No class may keep its place. None is the next class,
        the last one's the first.
    optimizer : {"pgd", "mom_pgd", "gd", "sign_adam", "adam"}, default="pgd"
        The published code's.
    step_size : float, default=None
        In units of ``eps``. None is 0.4 for "sign_adam" and "adam" and 0.1, the
        published one, for the others.
    schedule : {"steps", "cosine"}, callable or None, default=None
        "steps" divides the step by ten after 37, 62 and 87 % of the steps.
    init : {"randn", "uniform", "zero"}, default="randn"
        Start: normal draws of deviation ``eps``, clipped; as published.
    max_iter : int, default=250
        Crafting steps; the papers'.
    n_restarts : int, default=1
        Independent starts, the best is kept: of all rows together, or of each row
        where rows are crafted alone. Published with 8.
    batch_size : int, default=512
        Rows whose mean gradient is matched, or made short by "tensorclog"; the
        published code's. Other methods hold so many rows, times restarts and members,
        in memory at once.
    augment : "auto", "default", ShiftFlip, callable or None, default="auto"
        Random augmentation that rows are crafted through. "auto" is what the surrogate
        trains with; "default" is ``ShiftFlip()``.
    device : str, default="auto"
    random_state : None, int, RandomState or Generator, default=None
    verbose : int, default=0
        1 shows progress on stderr.
    checkpoint : str or Path, default=None
        Folder that keeps the state of `fit`: a killed one goes on from there and ends
        with the same bits. Needs ``random_state``.

    Attributes
    ----------
    loss_curve_ : ndarray of shape (n_restarts, n_iter_)
        The objective at the start of each step. Not of "random".
    loss_ : float
        That of what is handed back. Not of "error_min", "error_min_class", "random".
    eps_ : float or ndarray
    n_iter_ : int
        Steps made: fewer than ``max_iter`` where "error_min" was done, 1 of "random".
    surrogates_ : list of estimators
        Of "error_min" the network that was trained along. Not of "random".
    goal_gradient_ : list of dict of str to ndarray
        Of "alignment": what is aligned with, a dict an architecture.
    seed_ : int
    bounds_ : (low, high)
        By which new rows are protected.
    perturbation_, row_keys_, perturbation_norms_, input_shape_
        See :class:`~skpoison.base.PerturbationMixin`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    See Also
    --------
    protect_images : The same for a folder of image files.
    GradientMatchingAttack : Matches the gradient of chosen targets.

    Notes
    -----
    F is a surrogate of weights theta, l its loss, and every method but two descends by
    projected gradient steps over the perturbations delta_i of rows x_i, labels y_i:

    ================ =================================================================
    method           objective
    ================ =================================================================
    alignment        ``1 - cos(g_t, g_p)``: the training gradient ``g_p = grad_theta
                     mean_i l(F(x_i + delta_i), y_i)`` is to point along ``g_t``, see
                     below [1]_
    tensorclog       ``||g_p||`` of each batch: gradients that vanish [2]_
    error_max        ``-sum_i l(F(x_i + delta_i), y_i)`` [3]_
    class_target     ``sum_i l(F(x_i + delta_i), pi(y_i))`` with ``class_map`` pi [3]_
    error_min        ``sum_i l(F(x_i + delta_i), y_i)``, F being trained along: 10
                     steps of theta, then 20 of all delta, until F misreads less than
                     1 % of the perturbed rows [4]_
    error_min_class  the same with one perturbation a class, one step a batch, until
                     10 %
    random           none: ``eps * sign(N(0, 1))``
    ================ =================================================================

    The direction is the gradient of a loss that rises without bound nowhere,

    .. math:: g_t = \\nabla_\\theta \\frac1n \\sum_i -\\log(1 - p_\\theta(y_i | x_i)),

    over clean rows: descending the released rows' loss ascends that of clean ones.
    As in the published code each batch of ``batch_size`` rows is matched by itself,
    which is a stronger demand than that all rows together match: it costs half, and
    clean accuracy falls further.

    With ``online=True`` the length of g_p counts as a constant. What is left is a sum
    over rows, ``-sum_i <g_t, grad_theta l(F(x_i + delta_i), y_i)>``. Here, and in
    "error_max", "class_target" and "random", a row's perturbation depends on that row,
    its label and the surrogates alone: the draws of a row are named by its content, and
    dropout is off. An ``augment`` other than ShiftFlip draws for a whole batch.

    "error_min" takes one surrogate, not a frozen one, and one restart.

    References
    ----------
    .. [1] L. Fowl et al. Preventing unauthorized use of proprietary data: poisoning for
       secure dataset release. 2021. arXiv:2103.02683.
    .. [2] J. Shen, X. Zhu and D. Ma. TensorClog: an imperceptible poisoning attack on
       deep neural network applications. IEEE Access 2019.
    .. [3] L. Fowl et al. Adversarial examples make strong poisons. NeurIPS 2021.
       arXiv:2106.10807.
    .. [4] H. Huang et al. Unlearnable examples: making personal data unexploitable.
       ICLR 2021. arXiv:2101.04898.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.attacks import ReleasePoisonAttack
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X, net = X / 16, TorchClassifier(max_epochs=15, device="cpu", random_state=1)
    >>> attack = ReleasePoisonAttack(
    ...     online=True, eps=0.3, surrogate=net, max_iter=20, random_state=0
    ... )
    >>> released = attack.fit_transform(X[:300], y[:300])
    >>> late = attack.protect(X[300:400], y[300:400])
    >>> clean = net.fit(X[:300], y[:300]).score(X[400:], y[400:])
    >>> poisoned = net.fit(released, y[:300]).score(X[400:], y[400:])
    >>> bool(clean - poisoned > 0.1)
    True
    """

    def __init__(
        self,
        method="alignment",
        *,
        budget=1.0,
        eps=None,
        norm="linf",
        bounds="data",
        surrogate=None,
        n_ensemble=1,
        target_data=None,
        online=False,
        class_map=None,
        optimizer="pgd",
        step_size=None,
        schedule=None,
        init="randn",
        max_iter=250,
        n_restarts=1,
        batch_size=512,
        augment="auto",
        device="auto",
        random_state=None,
        verbose=0,
        checkpoint=None,
    ):
        self.method = method
        self.budget = budget
        self.eps = eps
        self.norm = norm
        self.bounds = bounds
        self.surrogate = surrogate
        self.n_ensemble = n_ensemble
        self.target_data = target_data
        self.online = online
        self.class_map = class_map
        self.optimizer = optimizer
        self.step_size = step_size
        self.schedule = schedule
        self.init = init
        self.max_iter = max_iter
        self.n_restarts = n_restarts
        self.batch_size = batch_size
        self.augment = augment
        self.device = device
        self.random_state = random_state
        self.verbose = verbose
        self.checkpoint = checkpoint

    def _check_params(self, X, y):
        for name in (
            "seed_",
            "bounds_",
            "loss_",
            "goal_gradient_",
        ):  # of an earlier fit
            vars(self).pop(name, None)
        super()._check_params(X, y)
        if self.eps is None:
            self.eps_ = self.eps_ / 2  # 8/255 and not the 16/255 of targeted attacks

    def _check_crafting(self, X, y):
        super()._check_crafting(X, y)
        check_option("method", self.method, _METHODS)
        if not isinstance(self.online, bool | np.bool_):
            raise TypeError(f"online must be a bool, got {self.online!r}")
        if self.method == "class_target":
            self._wanted_codes()
        if self.method == "alignment" and self.target_data is not None:
            self._check_target_data(X)
        if self.method.startswith("error_min"):
            for name in ("n_ensemble", "n_restarts"):
                if getattr(self, name) != 1:
                    raise ValueError(
                        f"method={self.method!r} trains one network along: {name} must "
                        f"be 1, got {getattr(self, name)}"
                    )
            from skpoison.attacks._surrogates import _factories, _is_frozen

            if _is_frozen(_factories(self.surrogate)[0]):
                raise ValueError(
                    f"method={self.method!r} trains its network along: surrogate can't "
                    "be frozen"
                )

    def _wanted_codes(self):
        """Return, for each class, the code of the one its rows are to be read as."""
        n_classes = len(self.classes_)
        if self.class_map is None:
            return (np.arange(n_classes) + 1) % n_classes
        given = self.class_map
        if isinstance(given, dict):
            missing = [c for c in self.classes_.tolist() if c not in given]
            if missing or len(given) != n_classes:
                raise ValueError(
                    "class_map must have one entry for each class of y, "
                    f"{self.classes_.tolist()[:10]}, got {list(given)[:10]}"
                )
            given = [given[c] for c in self.classes_.tolist()]
        if np.shape(given) != (n_classes,):
            raise ValueError(
                f"class_map must be a dict or have one label a class, {n_classes}, got "
                f"{self.class_map!r}"
            )
        codes = np.array([check_label("class_map", c, self.classes_) for c in given])
        stays = codes == np.arange(n_classes)
        if stays.any() or len(np.unique(codes)) < n_classes:
            raise ValueError(
                "class_map must send every class to another one and no two to the same "
                f"one, got {self.class_map!r}"
            )
        return codes

    def _check_target_data(self, X):
        """Return the rows and codes of `target_data`, or raise."""
        if not isinstance(self.target_data, tuple | list) or len(self.target_data) != 2:
            raise TypeError(
                f"target_data must be None or a pair (X, y), got {self.target_data!r}"
            )
        rows, labels = (np.asarray(a) for a in self.target_data)
        if rows.shape[1:] != X.shape[1:] or len(rows) == 0:
            raise ValueError(
                f"target_data has rows of shape {rows.shape[1:]}, X of {X.shape[1:]}"
            )
        if labels.shape != (len(rows),):
            raise ValueError(
                f"target_data must have one label a row, {len(rows)}, got shape "
                f"{labels.shape}"
            )
        if (rows.dtype == np.uint8) != (X.dtype == np.uint8):
            raise ValueError(
                f"target_data holds {rows.dtype}, X {X.dtype}: they must have one unit"
            )
        return rows, self._codes("target_data", labels)

    def _codes(self, name, labels):
        """Return labels as codes of the classes of `fit`, or raise on a new one."""
        known = np.isin(labels, self.classes_)
        if not known.all():
            check_label(name, labels[np.flatnonzero(~known)[0]], self.classes_)
        return np.searchsorted(self.classes_, labels)

    @available_if(_protects)
    def protect(self, X, y, out=None):
        """Return new rows perturbed as those of ``fit`` were, each by itself.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            In the unit of the rows of `fit`. A ``numpy.memmap`` in C order, of
            float32, float64 or uint8, is read batch by batch.
        y : array-like of shape (n_samples,)
            Their labels, of the classes of `fit`.
        out : ndarray of the shape and type of X, default=None
            Where to write batch by batch, such as a ``numpy.memmap``; it may be X.

        Returns
        -------
        X_protected : ndarray
            `out` if it is given, otherwise a copy. `transform` doesn't know these
            rows, see :meth:`partial_fit`.

        Raises
        ------
        TypeError, ValueError
            Before anything is written: rows or labels unlike those of `fit`, or an
            `out` that can't take the result.
        """
        X, codes = self._new_rows(X, y)
        if out is None:
            out = np.empty_like(X)
        elif not isinstance(out, np.ndarray):
            raise TypeError(f"out must be an array or None, got {type(out).__name__}")
        elif (out.shape, out.dtype) != (X.shape, X.dtype) or not out.flags.writeable:
            raise ValueError(
                f"out must be a writeable array of shape {X.shape} and type {X.dtype}, "
                f"got shape {out.shape} and type {out.dtype}"
                + ("" if out.flags.writeable else ", read-only")
            )
        for cut in self._new_cuts(X):
            rows = X[cut]
            delta = self._craft_new(rows, codes[cut], np.arange(len(rows)))
            out[cut] = _add(rows, _as_stored(delta, X.dtype))
        return out

    @available_if(_protects)
    def partial_fit(self, X, y):
        """Craft for new rows and remember them; the first call is ``fit``.

        Needs ``budget=1.0``. Rows that are known keep their perturbation; new ones that
        come with two labels stay as they are.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : array-like of shape (n_samples,)

        Returns
        -------
        self
        """
        if isinstance(self.budget, int | np.integer) or self.budget != 1.0:
            raise ValueError(
                "partial_fit perturbs every row that arrives: budget must be 1.0, got "
                f"{self.budget!r}"
            )
        if not hasattr(self, "perturbation_"):
            return self.fit(X, y)
        X, codes = self._new_rows(X, y)
        X = X.astype(self.fit_dtype_, copy=False)
        keys = row_keys(X)
        exact = row_keys(X, np.float64) if X.dtype == np.float64 else keys
        new = ~np.isin(exact, self.exact_keys_)
        groups, first, _ = _pure_groups(exact, codes, new)
        rows = np.flatnonzero(groups >= 0)
        delta = self._craft_new(X, codes, first)
        delta = _as_stored(delta, X.dtype)[groups[rows]]
        n_before = len(self.sample_indices_)
        self.sample_indices_ = np.arange(n_before + len(X))
        flat = delta.reshape(len(delta), int(np.prod(self.input_shape_))).astype(float)
        for name, part in (
            ("poison_indices_", n_before + rows),
            ("row_keys_", keys[rows]),
            ("exact_keys_", exact[rows]),
            ("y_original_", self.classes_[codes[rows]]),
            ("perturbation_", delta),
        ):
            setattr(self, name, np.concatenate([getattr(self, name), part]))
        norms = {
            "linf": np.abs(flat).max(axis=1, initial=0.0),
            "l2": np.sqrt((flat**2).sum(axis=1)),
        }
        self.perturbation_norms_ = {
            n: np.concatenate([a, norms[n]])
            for n, a in self.perturbation_norms_.items()
        }
        return self

    def _new_rows(self, X, y):
        """Return new rows and their codes, checked against those of `fit`."""
        check_is_fitted(self)
        X, y = validate_data(
            self, X, y, reset=False, dtype=_DTYPES, allow_nd=True, order="C"
        )
        if X.shape[1:] != self.input_shape_:
            raise ValueError(
                f"X has rows of shape {X.shape[1:]}, but {type(self).__name__} was "
                f"fitted on rows of shape {self.input_shape_}"
            )
        if (X.dtype == np.uint8) != (self.fit_dtype_ == "uint8"):
            raise ValueError(
                f"X holds {X.dtype}, but {type(self).__name__} was fitted on "
                f"{self.fit_dtype_}: they must have one unit"
            )
        if not hasattr(self, "seed_"):
            raise ValueError("nothing was crafted in fit: budget came to no row")
        if not isinstance(self.bounds, str):
            check_bounds(self.bounds, X)
        return X, self._codes("y", y)
