"""Poisons for learners that are trained by gradient descent, step by step."""

from skpoison.attacks._bilevel import BilevelPoisoningAttack
from skpoison.attacks._implicit import _unrolled
from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.attacks._implicit._victim import Victim


class BackGradientAttack(BilevelPoisoningAttack):
    """Add rows that cost a classifier the most, by reversing its training.

    Where :class:`BilevelPoisoningAttack` differentiates a model at its optimum, this
    attack differentiates `n_steps` of gradient descent, which need not have arrived
    anywhere: it serves networks and training that stops early.

    Parameters
    ----------
    estimator : classifier, "victim" or None, default=None
        The learner under attack, cloned: a ``LogisticRegression`` or a
        :class:`~skpoison.models.TorchClassifier` with its default loss, alone or at the
        end of a pipeline. Its model and regularisation are used; its solver, learning
        rate and epochs are not. For any other see `surrogate`, by default a
        ``LogisticRegression`` here.
    n_steps : int, default=100
        Steps of full-batch gradient descent. The paper takes 60 to 200.
    learning_rate : float or "auto", default="auto"
        "auto" is the inverse curvature of the training loss.
    momentum : float in [0, 1), default=0.9
        With momentum the reversal is exact up to rounding.
    reverse : {"back_gradient", "exact"}, default="back_gradient"
        "exact" keeps every iterate; "back_gradient" finds them again by running the
        descent backwards from the last, in memory that does not grow with `n_steps`.
    device : str, default="cpu"
        For networks.
    budget, strategy, objective, validation_data, targets, target_labels, init
        See :class:`BilevelPoisoningAttack`.
    max_iter : int, default=60
        See :class:`BilevelPoisoningAttack`.
    step_size, tol, bounds, mutable, integer, categorical, one_hot
        See :class:`BilevelPoisoningAttack`.
    jacobian, surrogate, max_queries, random_state, verbose, checkpoint
        See :class:`BilevelPoisoningAttack`.

    Attributes
    ----------
    objective_, start_objective_, loss_curve_, n_iter_, gradient_source_
        See :class:`BilevelPoisoningAttack`.
    query_curve_, n_queries_
        See :class:`BilevelPoisoningAttack`.
    poison_indices_, sample_indices_, poison_mask_, n_poisoned_, y_original_, classes_
        See :class:`~skpoison.base.BaseAttack`.

    Warns
    -----
    RuntimeWarning
        The reversed training drifted from the true one: without momentum it does so
        for large ``learning_rate * n_steps``.

    See Also
    --------
    BilevelPoisoningAttack : Differentiates the optimum, faster for linear models.

    Notes
    -----
    A network has many optima: its poisons hurt most where it is trained as the attack
    trains it. Give `n_steps` and `learning_rate` what the victim has, if it is known.

    References
    ----------
    Munoz-Gonzalez, Biggio, Demontis, Paudice, Wongrassamee, Lupu and Roli (2017),
    Towards poisoning of deep learning algorithms with back-gradient optimization.
    AISec.

    Maclaurin, Duvenaud and Adams (2015), Gradient-based hyperparameter optimization
    through reversible learning. ICML.

    Examples
    --------
    >>> from sklearn.datasets import load_breast_cancer
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import MinMaxScaler
    >>> from skpoison.attacks import BackGradientAttack
    >>> X, y = load_breast_cancer(return_X_y=True)
    >>> victim = make_pipeline(MinMaxScaler(), LogisticRegression())
    >>> attack = BackGradientAttack(victim, max_iter=20, random_state=0)
    >>> data = attack.poison(X[:200], y[:200])
    >>> clean = victim.fit(X[:200], y[:200]).score(X[200:], y[200:])
    >>> clean - victim.fit(data.X, data.y).score(X[200:], y[200:]) > 0.05
    True
    """

    def __init__(
        self,
        estimator=None,
        *,
        budget=0.1,
        n_steps=100,
        learning_rate="auto",
        momentum=0.9,
        reverse="back_gradient",
        strategy="joint",
        objective="auto",
        validation_data=None,
        targets=None,
        target_labels=None,
        init="flip",
        max_iter=60,
        step_size=0.03,
        tol=1e-4,
        bounds="data",
        mutable=None,
        integer="auto",
        categorical="auto",
        one_hot=None,
        jacobian="analytic",
        surrogate=None,
        max_queries=0,
        random_state=None,
        verbose=0,
        checkpoint=None,
        device="cpu",
    ):
        super().__init__(
            estimator,
            budget=budget,
            strategy=strategy,
            objective=objective,
            validation_data=validation_data,
            targets=targets,
            target_labels=target_labels,
            init=init,
            max_iter=max_iter,
            step_size=step_size,
            tol=tol,
            bounds=bounds,
            mutable=mutable,
            integer=integer,
            categorical=categorical,
            one_hot=one_hot,
            jacobian=jacobian,
            surrogate=surrogate,
            max_queries=max_queries,
            random_state=random_state,
            verbose=verbose,
            checkpoint=checkpoint,
        )
        self.n_steps = n_steps
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.reverse = reverse
        self.device = device

    def _check_params(self, X, y):
        super()._check_params(X, y)
        _unrolled.check_parameters(
            self.n_steps, self.learning_rate, self.momentum, self.reverse
        )

    def _default_surrogate(self, table):
        return self._default_estimator(table)

    def _make_victim(self, estimator):
        return Victim(
            estimator,
            jacobian=self.jacobian,
            classes=self.classes_,
            make=self._make_learner,
        )

    def _make_learner(self, estimator, classes=None):
        learner = _unrolled.make_learner(
            estimator,
            n_steps=self.n_steps,
            learning_rate=self.learning_rate,
            momentum=self.momentum,
            reverse=self.reverse,
            classes=classes,
            device=self.device,
        )
        if learner is None:
            raise NotDifferentiableError(
                f"{type(estimator).__name__} is not trained by gradient descent here; "
                "LogisticRegression and TorchClassifier are, alone or at the end of a "
                "Pipeline"
            )
        return learner
