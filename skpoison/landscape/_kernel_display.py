"""Drawing of how much tangent kernels change, against the width of networks."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skpoison.landscape._tracker import NTKTracker
from skpoison.models._features import check_network, split_network
from skpoison.utils._intervals import half_width
from skpoison.utils._pyplot import import_pyplot
from skpoison.utils._validation import check_number


class NTKWidthDisplay:
    """Drawing of the kernel's correlation with its start, a line for each family.

    Use :meth:`from_estimators` to draw what the trackers of fitted networks hold.

    Parameters
    ----------
    widths : list of array-like
        Of each family of networks, widths; or one array for all families.
    correlation : list of array-like
        Of each family, at its widths, the correlation of the kernels before and after
        training, such as the mean over seeds.
    names : list of str, default=None
        Of the families, for the legend.
    low, high : list of array-like, default=None
        Ends of intervals. NaN draws none.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        One for each family.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    NTKTracker : Measures.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> from skpoison.landscape import NTKWidthDisplay
    >>> display = NTKWidthDisplay([16, 64, 256], [[0.4, 0.6, 0.7]], names=["MLP"])
    >>> display.plot().ax_.get_xlabel()
    'width'
    """

    def __init__(self, widths, correlation, *, names=None, low=None, high=None):
        self.widths = widths
        self.correlation = correlation
        self.names = names
        self.low = low
        self.high = high

    @classmethod
    def from_estimators(
        cls, estimators, widths, *, names=None, level=0.95, ax=None, **kwargs
    ):
        """Draw what the trackers of fitted networks hold.

        Parameters
        ----------
        estimators : list of TorchClassifier or TorchRegressor, or pipelines of one
            Fitted, each with one :class:`NTKTracker` among its `callbacks`. Those of
            the same width and name are runs, whose mean is drawn.
        widths : list of float
            Of each network.
        names : list of str, default=None
            The family of each network; None makes them one.
        level : float, default=0.95
            Of Student's intervals for the means of two runs or more. 0.95 is custom.
        ax : matplotlib Axes, default=None
        **kwargs
            Of :meth:`plot`.

        Returns
        -------
        display : NTKWidthDisplay

        Raises
        ------
        TypeError
            An estimator that ends in no network.
        ValueError
            The lists differ in length or are empty, a width is not positive, or an
            estimator has no tracker or several.
        """
        import_pyplot()
        check_number("level", level, low=0, high=1, strict=True)
        estimators, widths = list(estimators), list(widths)
        families = [None] * len(widths) if names is None else list(names)
        if not len(estimators) == len(widths) == len(families) or not estimators:
            raise ValueError(
                "estimators, widths and names must have one entry a network, got "
                f"{len(estimators)}, {len(widths)} and {len(families)}"
            )
        runs: dict = {}
        for estimator, width, name in zip(estimators, widths, families, strict=True):
            check_number("each width", width, low=0, strict=True)
            found = _tracker(estimator).change_.correlation
            runs.setdefault(name, {}).setdefault(width, []).append(found)
        lines = []
        for by_width in runs.values():
            own = sorted(by_width)
            lines.append((own, *_intervals([by_width[w] for w in own], level)))
        drawn, means, low, high = map(list, zip(*lines, strict=True))
        names = None if names is None else list(runs)
        display = cls(drawn, means, names=names, low=low, high=high)
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, **kwargs):
        """Draw a line for each family, with its interval where there is one.

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
        widths = self.widths
        if np.ndim(widths[0]) == 0:
            widths = [widths] * len(self.correlation)
        self.lines_ = []
        for i, (own, values) in enumerate(zip(widths, self.correlation, strict=True)):
            order = np.argsort(own, kind="stable")
            own, values = np.asarray(own)[order], np.asarray(values)[order]
            label = {} if self.names is None else {"label": self.names[i]}
            (line,) = ax.plot(own, values, **{"marker": ".", **label, **kwargs})
            self.lines_.append(line)
            if self.low is not None and self.high is not None:
                ends = (np.asarray(end[i])[order] for end in (self.low, self.high))
                ax.fill_between(own, *ends, color=line.get_color(), alpha=0.2)
        ax.axhline(1, color="0.5", linestyle=":", linewidth=1)
        ax.set_xscale("log", base=2)
        ax.set(xlabel="width", ylabel="correlation with the initial kernel")
        if self.names is not None:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _tracker(estimator):
    """Return the one tracker of a fitted network."""
    check_network(estimator)
    network = split_network(estimator)[1]
    check_is_fitted(network)
    found = [c for _, c in network.net_.callbacks_ if isinstance(c, NTKTracker)]
    if len(found) != 1:
        raise ValueError(
            f"each estimator must have one NTKTracker among its callbacks, got one "
            f"with {len(found)}: {estimator!r}"
        )
    return found[0]


def _intervals(runs, level):
    """Return mean and both ends of a Student interval for each list of runs."""
    means = np.array([np.mean(r) for r in runs])
    halves = np.array([half_width(r, level) for r in runs])
    return means, means - halves, means + halves
