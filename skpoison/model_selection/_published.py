"""The settings of the papers by name: attack, victim, trials, and what came out."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import Bunch

from skpoison.model_selection._settings import SETTINGS
from skpoison.model_selection._targeted import evaluate_targeted
from skpoison.utils import RandomStreams, row_keys
from skpoison.utils._validation import check_label, check_number, check_option

_SOURCES = {
    "read": "read in the authors' publication",
    "memory": "from memory, to be confirmed",
    "measured": "measured by this project",
}


@dataclass(frozen=True)
class PublishedFigure:
    """One number of a setting.

    Attributes
    ----------
    quantity : str
        "success" and "misclassified" are those of :class:`TargetedReport`, "backdoor
        success" is over held-out images of the source class, "test accuracy" that of a
        victim on clean test data.
    value : float
        A share.
    source : {"read", "memory", "measured"}
        Read in the authors' publication or code, remembered and to be confirmed, or
        measured by this project.
    standard_error : float or None
        Over targets.
    """

    quantity: str
    value: float
    source: str
    standard_error: float | None = None

    def __str__(self):
        error = "" if self.standard_error is None else f" +- {self.standard_error:.4f}"
        return f"{self.quantity} {self.value:.4f}{error} ({_SOURCES[self.source]})"


@dataclass(kw_only=True, eq=False, repr=False)
class PublishedSetting:
    """A named experiment; made by :func:`published_setting`. All of it may be changed.

    Attributes
    ----------
    name, summary, reference : str
    dataset : str
        Ending of the name of the loader in :mod:`skpoison.datasets`.
    n_train : int or None
        Rows of the training set, drawn with equal shares of the classes; None is all.
    attack : attack
        Not fitted. Its ``eps`` and ``bounds`` are for pixels in [0, 1]; see
        :meth:`attack_for`.
    victim : classifier
        Not fitted. Where ``attack.surrogate`` is "victim", a change of victim changes
        the surrogate.
    seeds : tuple of int
        One a target, or, without targets, one for each run. Those of gradient matching
        are the keys of the published study, but what they draw is drawn by our own
        generators: other targets of the same kind.
    n_victims : int
        A target.
    class_pair : (label, label) or None
        True and wanted class of all targets, None draws them.
    figures : tuple of PublishedFigure
        Published or, where their source says so, ours.

    See Also
    --------
    published_setting : Makes it.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from skpoison.model_selection import published_setting
    >>> setting = published_setting("witches-brew-cifar10-resnet18")
    >>> more = replace(setting, seeds=range(40), n_victims=4)
    >>> more.n_targets, more.n_victims, more.budget
    (40, 4, 0.01)
    """

    name: str
    summary: str
    reference: str
    dataset: str
    attack: Any
    victim: Any
    seeds: tuple[int, ...]
    n_victims: int
    figures: tuple[PublishedFigure, ...] = ()
    n_train: int | None = None
    class_pair: tuple[Any, Any] | None = None

    @property
    def threat_model(self):
        """Whose rows are poisoned, None for an attack that leaves no choice."""
        return getattr(self.attack, "threat_model", None)

    @property
    def budget(self):
        """Share of the training rows that is poisoned."""
        return self.attack.budget

    @property
    def eps(self):
        """Radius, for pixels in [0, 1]."""
        return self.attack.eps

    @property
    def n_targets(self):
        """Trials; 0 for an attack that aims at no rows in particular."""
        return len(self.seeds) if hasattr(self.attack, "targets") else 0

    def __repr__(self):
        trials = f"{len(self.seeds)} seeds"
        if self.n_targets:
            trials = f"{self.n_targets}, {self.n_victims} victim(s) in each"
        lines = [
            f"{self.name}: {self.summary}",
            f"  data     {self.dataset}"
            + (f", {self.n_train} training rows" if self.n_train else ""),
            f"  attack   {type(self.attack).__name__}, eps {_radius(self.eps)}, "
            f"budget {self.budget:g}",
            f"  trials   {trials}",
            *(f"  figure   {figure}" for figure in self.figures),
            f"  from     {self.reference}",
        ]
        return "\n".join(lines)

    def attack_for(self, X):
        """Return the attack in the unit of X.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            uint8 pixels, or floats in [0, 1].

        Returns
        -------
        attack : attack
            A clone, its ``eps`` and ``bounds`` times 255 for uint8.
        """
        attack = clone(self.attack)
        X = np.asarray(X)
        if X.dtype == np.uint8:
            if attack.eps is not None:
                attack.set_params(eps=255 * attack.eps)
            if not isinstance(attack.bounds, str | None):
                attack.set_params(bounds=tuple(255 * b for b in attack.bounds))
        elif not (X.dtype.kind == "f" and X.min() >= 0 and X.max() <= 1):
            raise ValueError(
                "X must hold uint8 pixels or floats in [0, 1], the unit of published "
                f"radii, got {X.dtype} from {X.min()} to {X.max()}"
            )
        return attack

    def draw_trials(self, X, y, X_test, y_test, n_targets=None):
        """Draw the targets of the first trials, each by its seed.

        A trial has a wanted class, another one as the true class, and a test image of
        that, each with equal chances.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            The training set. A test image that is also there is not drawn.
        y : array-like of shape (n_samples,)
        X_test, y_test : array-like
        n_targets : int, default=None
            Trials; None is all.

        Returns
        -------
        trials : Bunch
            `targets`, `target_labels`, `target_true_labels` as
            :func:`evaluate_targeted` takes them, and `test_indices`, the rows of
            X_test.

        Raises
        ------
        TypeError
            For an attack without targets.
        ValueError
            For more trials than there are seeds, or no test image to draw.
        """
        self._check_targeted()
        if n_targets is None:
            n_targets = len(self.seeds)
        check_number("n_targets", n_targets, low=1, integer=True)
        if n_targets > len(self.seeds):
            raise ValueError(
                f"n_targets={n_targets}: {self.name} has seeds for {len(self.seeds)} "
                "targets; give it more in seeds"
            )
        X, X_test, y_test = np.asarray(X), np.asarray(X_test), np.asarray(y_test)
        classes = np.unique(y)
        held_out = ~np.isin(row_keys(X_test), row_keys(X))
        wanted, true, rows = [], [], []
        for seed in self.seeds[:n_targets]:
            rng = RandomStreams(seed).numpy("trial")
            if self.class_pair is None:
                a, b = rng.choice(len(classes), 2, replace=False)
            else:
                b, a = (check_label("class_pair", c, classes) for c in self.class_pair)
            candidates = np.flatnonzero(held_out & (y_test == classes[b]))
            if len(candidates) == 0:
                raise ValueError(
                    f"X_test has no row of class {classes[b]!r} that is not in X"
                )
            wanted.append(classes[a])
            true.append(classes[b])
            rows.append(rng.choice(candidates))
        return Bunch(
            targets=X_test[rows],
            target_labels=np.array(wanted),
            target_true_labels=np.array(true),
            test_indices=np.array(rows),
        )

    def evaluate(
        self,
        X,
        y,
        X_test,
        y_test,
        *,
        n_targets=None,
        n_victims=None,
        device=None,
        verbose=0,
    ):
        """Run the experiment, or the first trials of it.

        Parameters
        ----------
        X, y, X_test, y_test : array-like
            The data set. Images of shape (n_samples, C, H, W), uint8 or floats in
            [0, 1].
        n_targets : int, default=None
            Trials; None is all.
        n_victims : int, default=None
            A target; None is the setting's.
        device : str, default=None
            Of attack and victim; None leaves theirs.
        verbose : int, default=0
            1 shows progress on stderr.

        Returns
        -------
        report : TargetedReport

        Raises
        ------
        TypeError
            For an attack without targets.

        Notes
        -----
        The surrogates are trained once and serve all targets, where the published code
        trains its own for each; victim number v has the same seeds for all targets.
        """
        self._check_targeted()
        X, X_test = np.asarray(X), np.asarray(X_test)
        attack, victim = self.attack_for(X), clone(self.victim)
        trials = self.draw_trials(X, y, X_test, y_test, n_targets)
        if device is not None:
            for estimator in (attack, victim):
                names = [n for n in estimator.get_params() if _last(n) == "device"]
                estimator.set_params(**dict.fromkeys(names, device))
        if "verbose" in attack.get_params():
            attack.set_params(verbose=verbose)
        return evaluate_targeted(
            attack,
            victim,
            X,
            y,
            trials.targets,
            trials.target_labels,
            target_true_labels=trials.target_true_labels,
            n_victims=self.n_victims if n_victims is None else n_victims,
            X_test=X_test,
            y_test=y_test,
            random_state=self.seeds[0],
            verbose=verbose,
        )

    def _check_targeted(self):
        if not hasattr(self.attack, "targets"):
            raise TypeError(
                f"the {type(self.attack).__name__} of {self.name} has no targets: "
                "measure it by cross_validate(PoisonedEstimator(setting.attack_for(X), "
                "setting.victim), X, y), with skpoison.compose.PoisonedEstimator"
            )


def _radius(eps):
    return str(eps) if eps is None or np.ndim(eps) else f"{255 * eps:g}/255"


def _last(name):
    return name.rpartition("__")[2]


def published_settings():
    """Return the names of the settings.

    Returns
    -------
    names : list of str

    Examples
    --------
    >>> from skpoison.model_selection import published_settings
    >>> "witches-brew-cifar10-resnet18" in published_settings()
    True
    """
    return list(SETTINGS)


def published_setting(name, *, max_epochs=None):
    """Return a named experiment, ready to run or to change.

    Parameters
    ----------
    name : str
        One of :func:`published_settings`.
    max_epochs : int, default=None
        Of victims and surrogates, their schedules scaled with them. None is the
        paper's.

    Returns
    -------
    setting : PublishedSetting

    Raises
    ------
    ValueError
        For an unknown name.

    See Also
    --------
    evaluate_targeted : What runs the trials of targeted attacks.
    skpoison.models.training_recipe : How the victims are trained.
    benchmark_trial : The trials that the benchmark of poisoning attacks fixes.

    Notes
    -----
    Figures carry their source: some are from memory and to be confirmed before they
    are quoted.

    Attacks without targets, which are the releases and hidden triggers, are measured
    in cross-validation of ``PoisonedEstimator(setting.attack_for(X),
    setting.victim)``, see :class:`~skpoison.compose.PoisonedEstimator`.

    Examples
    --------
    >>> from skpoison.model_selection import published_setting
    >>> setting = published_setting("witches-brew-cifar10-resnet18")
    >>> setting.attack.max_iter, setting.attack.n_restarts, setting.n_targets
    (250, 8, 10)
    >>> smaller = setting.victim.set_params(module__width=16)
    >>> report = setting.evaluate(X, y, X_test, y_test)  # doctest: +SKIP
    """
    from skpoison import attacks, models

    fields = dict(SETTINGS[check_option("name", name, SETTINGS)])
    kind, params = fields.pop("attack")
    if isinstance(params.get("surrogate"), tuple):
        surrogate = _network(models, max_epochs, *params["surrogate"])
        params = {**params, "surrogate": surrogate}
    figures = tuple(PublishedFigure(*one) for one in fields.pop("figures"))
    return PublishedSetting(
        name=name,
        attack=getattr(attacks, kind)(**params),
        victim=_network(models, max_epochs, *fields.pop("victim")),
        figures=figures,
        **fields,
    )


def _network(models, max_epochs, recipe, module, params):
    if max_epochs is not None:
        params = {**params, "max_epochs": max_epochs}
    return models.training_recipe(recipe, getattr(models, module), **params)


def benchmark_trial(setups, number, kind="scratch"):
    """Read one trial of the "Just How Toxic" benchmark.

    Parameters
    ----------
    setups : mapping of str to array
        Has, for each kind, ``<kind>_target_class``, ``<kind>_target_index``,
        ``<kind>_base_class`` and ``<kind>_base_indices``; for example what
        ``numpy.load`` returns for an .npz file.
    number : int
        From 0.
    kind : {"scratch", "transfer"}, default="scratch"

    Returns
    -------
    trial : Bunch
        `target_index`, a row of CIFAR-10's test set; `target_class`, its class;
        `base_class`, what it is to be read as; `base_indices`, the rows of the training
        set that are poisoned.

    Raises
    ------
    KeyError
        An array is missing.
    ValueError
        There is no such trial.

    Notes
    -----
    The benchmark's settings of :func:`published_setting` draw trials of the same kind.
    For its own ones, `base_indices` are the ``selection`` of an attack.

    References
    ----------
    .. [1] A. Schwarzschild et al. Just how toxic is data poisoning? A unified benchmark
       for backdoor and data poisoning attacks. ICML 2021. arXiv:2006.12557.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.model_selection import benchmark_trial, published_setting
    >>> setups = {
    ...     "scratch_target_index": np.array([7]),
    ...     "scratch_target_class": np.array([6]),
    ...     "scratch_base_class": np.array([1]),
    ...     "scratch_base_indices": np.array([[3, 5, 8]]),
    ... }
    >>> trial = benchmark_trial(setups, 0)
    >>> attack = published_setting("witches-brew-benchmark").attack
    >>> attack = attack.set_params(selection=trial.base_indices)
    >>> trial.target_index, trial.base_class, attack.selection.tolist()
    (7, 1, [3, 5, 8])
    """
    check_option("kind", kind, ["scratch", "transfer"])
    check_number("number", number, low=0, integer=True)
    fields = ["target_index", "target_class", "base_class", "base_indices"]
    missing = [f"{kind}_{f}" for f in fields if f"{kind}_{f}" not in setups]
    if missing:
        raise KeyError(f"setups has no {missing[0]!r}, got {sorted(setups)}")
    columns = {field: np.asarray(setups[f"{kind}_{field}"]) for field in fields}
    n_trials = len(columns["target_index"])
    if number >= n_trials:
        raise ValueError(f"number={number}: setups has {n_trials} {kind} trials")
    base_indices = columns.pop("base_indices")[number].astype(np.int64)
    scalars = {field: column[number].item() for field, column in columns.items()}
    return Bunch(**scalars, base_indices=base_indices)
