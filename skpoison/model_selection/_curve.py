"""How a victim fares as an attack grows."""

import numbers

import numpy as np
from sklearn.metrics import check_scoring
from sklearn.model_selection import GridSearchCV
from sklearn.utils import Bunch

from skpoison.compose import PoisonedEstimator
from skpoison.metrics import attack_success_score
from skpoison.utils._pyplot import import_pyplot
from skpoison.utils._validation import check_option


def robustness_curve(
    estimator,
    X,
    y,
    *,
    attack,
    param_range,
    param_name="budget",
    scoring=None,
    cv=None,
    n_jobs=None,
    params=None,
):
    """Cross-validate a victim over one parameter of an attack.

    Parameters
    ----------
    estimator : estimator
        The victim.
    X : array-like or data frame of shape (n_samples, ...)
    y : array-like of shape (n_samples,)
    attack : attack
        Give it a ``random_state``, so that the settings are paired.
    param_range : list
        Values of the parameter.
    param_name : str, default="budget"
        Any parameter of the attack.
    scoring : str or callable, default=None
        The clean score. None is the estimator's own ``score``.
    cv, n_jobs
        As in :class:`~sklearn.model_selection.GridSearchCV`. Test folds are never
        poisoned.
    params : dict, default=None
        Parameters of ``fit``, such as ``{"sample_weight": w}``.

    Returns
    -------
    curve : Bunch
        `param_name`, `param_range`; `clean_score` and `attack_success` of shape
        (n_values, n_folds); `fit_time` of shape (n_values,), mean seconds.

    See Also
    --------
    RobustnessCurveDisplay : Draws it.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.linear_model import LogisticRegression
    >>> from skpoison.attacks import BackdoorAttack, ColumnTrigger
    >>> from skpoison.model_selection import robustness_curve
    >>> X, y = load_digits(return_X_y=True)
    >>> attack = BackdoorAttack(ColumnTrigger([62, 63], values=1.0), random_state=0)
    >>> curve = robustness_curve(
    ...     LogisticRegression(max_iter=300), X / 16, y,
    ...     attack=attack, param_range=[0, 0.1], cv=3,
    ... )
    >>> curve.attack_success.shape
    (2, 3)
    >>> bool((curve.attack_success[1] > 0.8).all())
    True
    """
    if attack is None or f"{param_name}" not in attack.get_params():
        raise ValueError(
            f"param_name={param_name!r} is not a parameter of attack={attack!r}"
        )
    poisoned = PoisonedEstimator(attack, estimator)
    search = GridSearchCV(
        poisoned,
        {f"attack__{param_name}": list(param_range)},
        scoring={
            "clean": check_scoring(poisoned, scoring),
            "attack": attack_success_score,
        },
        refit=False,
        error_score="raise",
        cv=cv,
        n_jobs=n_jobs,
    ).fit(X, y, **(params or {}))
    results = search.cv_results_

    def by_fold(metric):
        return np.stack(
            [results[f"split{i}_test_{metric}"] for i in range(search.n_splits_)],
            axis=1,
        )

    return Bunch(
        param_name=param_name,
        param_range=list(param_range),
        clean_score=by_fold("clean"),
        attack_success=by_fold("attack"),
        fit_time=results["mean_fit_time"],
    )


class RobustnessCurveDisplay:
    """Drawing of a robustness curve.

    Use :meth:`from_estimator` to compute and draw at once.

    Parameters
    ----------
    param_range : list
    clean_score, attack_success : ndarray of shape (n_values, n_folds)
    param_name : str, default="budget"
    score_name : str, default="clean score"

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D

    See Also
    --------
    robustness_curve : Computes the arrays.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.model_selection import RobustnessCurveDisplay
    >>> display = RobustnessCurveDisplay(
    ...     [0, 0.1], np.array([[0.9, 0.92], [0.8, 0.84]]), np.zeros((2, 2))
    ... )
    >>> display.plot().ax_.get_xlabel()
    'budget'
    """

    def __init__(
        self,
        param_range,
        clean_score,
        attack_success,
        *,
        param_name="budget",
        score_name="clean score",
    ):
        self.param_range = param_range
        self.clean_score = clean_score
        self.attack_success = attack_success
        self.param_name = param_name
        self.score_name = score_name

    def plot(self, ax=None, *, score_type="both", std_display_style="fill_between"):
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        score_type : {"both", "clean", "attack"}, default="both"
        std_display_style : {"fill_between", "errorbar"} or None
            How the standard deviation over folds is shown.

        Returns
        -------
        self
        """
        check_option("score_type", score_type, ["both", "clean", "attack"])
        if std_display_style is not None:
            check_option(
                "std_display_style", std_display_style, ["fill_between", "errorbar"]
            )
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots()
        wanted = {"clean": self.clean_score, "attack": self.attack_success}
        names = {"clean": self.score_name, "attack": "attack success"}
        numeric = all(isinstance(v, numbers.Real) for v in self.param_range)
        x = self.param_range if numeric else range(len(self.param_range))
        self.lines_ = []
        for kind, color in (("clean", "C0"), ("attack", "C3")):
            if score_type not in ("both", kind):
                continue
            mean, std = wanted[kind].mean(axis=1), wanted[kind].std(axis=1)
            if std_display_style == "errorbar":
                line = ax.errorbar(
                    x, mean, std, color=color, marker="o", label=names[kind]
                ).lines[0]
            else:
                (line,) = ax.plot(x, mean, color=color, marker="o", label=names[kind])
                if std_display_style:
                    ax.fill_between(x, mean - std, mean + std, color=color, alpha=0.2)
            # the first value is the control of a sweep that starts at no poison
            ax.axhline(mean[0], color=color, linestyle=":", linewidth=1)
            self.lines_.append(line)
        if not numeric:
            ax.set_xticks(list(x), [str(v) for v in self.param_range])
        ax.set(xlabel=self.param_name, ylabel="score on held-out rows")
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @classmethod
    def from_estimator(
        cls,
        estimator,
        X,
        y,
        *,
        attack,
        param_range,
        param_name="budget",
        scoring=None,
        cv=None,
        n_jobs=None,
        params=None,
        ax=None,
        **plot_params,
    ):
        """Compute a robustness curve and draw it.

        Parameters
        ----------
        estimator, X, y, attack, param_range, param_name, scoring, cv, n_jobs, params
            See :func:`robustness_curve`.
        ax : matplotlib Axes, default=None
        **plot_params : dict
            For :meth:`plot`.

        Returns
        -------
        display : RobustnessCurveDisplay
        """
        import_pyplot()  # before the long part
        curve = robustness_curve(
            estimator,
            X,
            y,
            attack=attack,
            param_range=param_range,
            param_name=param_name,
            scoring=scoring,
            cv=cv,
            n_jobs=n_jobs,
            params=params,
        )
        display = cls(
            curve.param_range,
            curve.clean_score,
            curve.attack_success,
            param_name=param_name,
            score_name=scoring if isinstance(scoring, str) else "clean score",
        )
        return display.plot(ax, **plot_params)
