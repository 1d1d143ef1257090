"""Drawing of accuracy against the norm of the weights."""

import numpy as np

from skpoison.landscape._norm_bias import squared_norm
from skpoison.models._given import Model
from skpoison.utils._intervals import half_width
from skpoison.utils._pyplot import import_pyplot


class NormAccuracyDisplay:
    """Drawing of accuracy against the squared norm of the weights.

    One point stands for each network, and for each group of them, such as the networks
    of one method from several seeds, the mean with its 95 % Student t interval in both
    directions. Use :meth:`from_estimators` to measure and draw at once.

    Parameters
    ----------
    squared_norms : list of array-like of shape (n_networks,)
        Of the trainable parameters, for each group.
    accuracy : list of array-like of shape (n_networks,)
        Of the same networks.
    names : list of str, default=None
        Of the groups, for the legend.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        The means, one for each group.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    Raises
    ------
    ValueError
        The lists do not fit together, or a group is empty.

    See Also
    --------
    NormBias : Trains to a given norm.

    Examples
    --------
    >>> from skpoison.landscape import NormAccuracyDisplay
    >>> display = NormAccuracyDisplay(
    ...     [[139, 141], [300, 300]], [[0.85, 0.86], [0.86, 0.86]],
    ...     names=["weight decay", "norm bias"],
    ... )
    >>> display.plot().ax_.get_xlabel()
    'squared norm of the weights'
    """

    def __init__(self, squared_norms, accuracy, *, names=None):
        self.squared_norms = [np.asarray(v, dtype=float) for v in squared_norms]
        self.accuracy = [np.asarray(v, dtype=float) for v in accuracy]
        self.names = names
        shapes = [[v.shape for v in w] for w in (self.squared_norms, self.accuracy)]
        if shapes[0] != shapes[1] or any(len(s) != 1 or s == (0,) for s in shapes[0]):
            raise ValueError(
                "squared_norms and accuracy must hold as many figures for each group, "
                f"in one dimension, at least one, got shapes {shapes[0]} and "
                f"{shapes[1]}"
            )
        if names is not None and len(names) != len(self.accuracy):
            raise ValueError(
                f"names must have one for each group, {len(self.accuracy)}, got "
                f"{len(names)}"
            )

    @classmethod
    def from_estimators(cls, estimators, X, y, *, names=None, ax=None, **kwargs):
        """Measure fitted classifiers and draw them.

        Parameters
        ----------
        estimators : list of fitted TorchClassifier
        X : array-like of shape (n_samples, ...)
            Rows to predict, usually held out.
        y : array-like of shape (n_samples,)
            Their labels.
        names : list of str, default=None
            One for each estimator; those of equal names make a group. Without names
            all are one.
        ax : matplotlib Axes, default=None
        **kwargs
            Of :meth:`plot`.

        Returns
        -------
        display : NormAccuracyDisplay
        """
        import_pyplot()  # before the long part
        if names is not None and len(names) != len(estimators):
            raise ValueError(
                f"names must have one for each estimator, {len(estimators)}, got "
                f"{len(names)}"
            )
        groups: dict = {}
        for i, estimator in enumerate(estimators):
            parameters = Model(estimator).network.parameters()
            norm = squared_norm([p for p in parameters if p.requires_grad])
            measured = float(norm), estimator.score(X, y)
            groups.setdefault(None if names is None else names[i], []).append(measured)
        columns = [list(zip(*measured, strict=True)) for measured in groups.values()]
        display = cls(
            [norms for norms, _ in columns],
            [accuracy for _, accuracy in columns],
            names=None if names is None else list(groups),
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, **kwargs):
        """Draw the networks and the means of their groups.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        **kwargs
            Of matplotlib's ``Axes.errorbar``, which draws the means.

        Returns
        -------
        self : object
        """
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        self.lines_ = []
        for i, (norms, accuracy) in enumerate(
            zip(self.squared_norms, self.accuracy, strict=True)
        ):
            label = {} if self.names is None else {"label": self.names[i]}
            style = {"marker": "o", "linestyle": "none", "capsize": 3}
            bars = {}  # of one network there is no interval
            if len(norms) > 1:
                bars = {"xerr": half_width(norms), "yerr": half_width(accuracy)}
            (line, *_) = ax.errorbar(
                norms.mean(), accuracy.mean(), **{**bars, **style, **label, **kwargs}
            )
            ax.plot(
                norms, accuracy, ".", color=line.get_color(), alpha=0.4, markersize=5
            )
            self.lines_.append(line)
        ax.set(xlabel="squared norm of the weights", ylabel="accuracy")
        if self.names is not None:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
