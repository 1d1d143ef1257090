"""Drawing of accuracy against the radius of an attack."""

import numpy as np

from skpoison.evasion._scoring import robustness_report
from skpoison.utils._pyplot import import_pyplot


class RobustAccuracyDisplay:
    """Drawing of robust accuracy over radii, a line for each attack.

    Use :meth:`from_estimator` to measure and draw at once, :meth:`from_report` to draw
    what was measured before.

    Parameters
    ----------
    eps_range : array-like of shape (n_eps,)
    robust_accuracy : array-like of shape (n_attacks, n_eps)
    names : list of str, default=None
        Of the attacks, for the legend.
    low, high : array-like of shape (n_attacks, n_eps), default=None
        Ends of intervals.
    clean_accuracy : float, default=None
        A dotted line.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        One for each attack.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    robustness_report : Measures.

    Examples
    --------
    >>> from skpoison.evasion import RobustAccuracyDisplay
    >>> display = RobustAccuracyDisplay([0, 0.1], [[0.95, 0.6]], names=["PGD"])
    >>> display.plot().ax_.get_ylabel()
    'robust accuracy'
    """

    def __init__(
        self,
        eps_range,
        robust_accuracy,
        *,
        names=None,
        low=None,
        high=None,
        clean_accuracy=None,
    ):
        self.eps_range = eps_range
        self.robust_accuracy = robust_accuracy
        self.names = names
        self.low = low
        self.high = high
        self.clean_accuracy = clean_accuracy

    @classmethod
    def from_report(cls, report, *, ax=None, **kwargs):
        """Draw what :func:`robustness_report` returned.

        Parameters
        ----------
        report : Bunch
        ax : matplotlib Axes, default=None
        **kwargs
            Of :meth:`plot`.

        Returns
        -------
        display : RobustAccuracyDisplay
        """
        display = cls(
            report.eps_range,
            report.robust_accuracy,
            names=report.names,
            low=report.low,
            high=report.high,
            clean_accuracy=report.clean_accuracy,
        )
        return display.plot(ax=ax, **kwargs)

    @classmethod
    def from_estimator(
        cls, estimator, X, y, *, eps_range, attacks=None, ax=None, **kwargs
    ):
        """Measure robust accuracy over radii and draw it.

        Parameters
        ----------
        estimator, X, y, eps_range, attacks
            See :func:`robustness_report`.
        ax : matplotlib Axes, default=None
        **kwargs
            Of :meth:`plot`.

        Returns
        -------
        display : RobustAccuracyDisplay
        """
        import_pyplot()  # before the long part
        report = robustness_report(
            estimator, X, y, eps_range=eps_range, attacks=attacks
        )
        return cls.from_report(report, ax=ax, **kwargs)

    def plot(self, *, ax=None, **kwargs):
        """Draw a line for each attack, with its interval where there is one.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        **kwargs
            Of matplotlib's ``Axes.plot``.

        Returns
        -------
        self : object
        """
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        eps, accuracy = np.asarray(self.eps_range), np.asarray(self.robust_accuracy)
        order = np.argsort(eps, kind="stable")
        self.lines_ = []
        for i, values in enumerate(accuracy):
            label = {} if self.names is None else {"label": self.names[i]}
            style = {"marker": ".", **label, **kwargs}
            (line,) = ax.plot(eps[order], values[order], **style)
            self.lines_.append(line)
            if self.low is not None and self.high is not None:
                ends = (np.asarray(end)[i][order] for end in (self.low, self.high))
                ax.fill_between(eps[order], *ends, color=line.get_color(), alpha=0.2)
        if self.clean_accuracy is not None:
            ax.axhline(self.clean_accuracy, color="0.5", linestyle=":", linewidth=1)
        ax.set(xlabel="eps", ylabel="robust accuracy", ylim=(0, 1.02))
        if self.names is not None:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
