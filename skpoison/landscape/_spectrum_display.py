"""Drawing of the singular values of layers."""

import numpy as np

from skpoison.landscape._rank_report import layer_spectra
from skpoison.utils._pyplot import import_pyplot
from skpoison.utils._validation import check_number


class SpectrumDisplay:
    """Drawing of the singular values of layers, in falling order, a line each.

    Use :meth:`from_module` for the layers of a network. Values are drawn over the share
    of values that are at least as large, so that layers of any size can be compared, as
    for the ranks of [1]_.

    Parameters
    ----------
    singular_values : list of array-like of shape (n_values,)
        One array a layer, in any order.
    names : list of str, default=None
        Of the layers, for the legend.
    relative : bool, default=False
        Divide the values of a layer by its largest.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        One a layer.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    rank_report : The same as numbers.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> from skpoison.landscape import SpectrumDisplay
    >>> display = SpectrumDisplay([[2, 1, 0.5], [3, 0.1]], names=["flat", "steep"])
    >>> display.plot().ax_.get_yscale()
    'log'
    """

    def __init__(self, singular_values, *, names=None, relative=False):
        self.singular_values = singular_values
        self.names = names
        self.relative = relative

    @classmethod
    def from_module(
        cls,
        model,
        X,
        *,
        layers=None,
        operator="fft",
        relative=False,
        ax=None,
        **kwargs,
    ):
        """Decompose the layers of a network and draw their singular values.

        Parameters
        ----------
        model : torch.nn.Module or fitted classifier
            Not changed.
        X : array-like of shape (n_samples, ...)
            Its first row shows which layers are met, and by images of which size.
        layers : list of str, default=None
            Names as in ``named_modules``. None is every Linear, Conv1d, Conv2d and
            Conv3d that is met.
        operator : {"fft", "reshaped"}, default="fft"
            See :func:`rank_report`.
        relative : bool, default=False
            Divide the values of a layer by its largest.
        ax : matplotlib Axes, default=None
        **kwargs
            Of matplotlib's ``Axes.plot``.

        Returns
        -------
        display : SpectrumDisplay
        """
        import_pyplot()  # before the long part
        found = {
            name: np.repeat(values, times, axis=0).ravel()
            for name, *_, values, times in layer_spectra(model, X, operator, layers)
        }
        display = cls(list(found.values()), names=list(found), relative=relative)
        return display.plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, floor=1e-12, **kwargs):
        """Draw a line for each layer.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        floor : float, default=1e-12
            Smaller shares of a layer's largest value are not drawn: they are zeros
            with rounding, which would fill a logarithmic axis.
        **kwargs
            Of matplotlib's ``Axes.plot``.

        Returns
        -------
        self : object
        """
        check_number("floor", floor, low=0)
        spectra = [np.asarray(v, dtype=float).ravel() for v in self.singular_values]
        if not all(len(values) for values in spectra):
            raise ValueError("singular_values has a layer without values")
        if self.names is not None and len(self.names) != len(spectra):
            raise ValueError(
                f"names must be one a layer, {len(spectra)}, got {len(self.names)}"
            )
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        self.lines_ = []
        for i, values in enumerate(spectra):
            values = np.sort(values)[::-1]
            share = np.arange(1, len(values) + 1) / len(values)
            drawn = values > floor * values[0]
            if self.relative and values[0] > 0:
                values = values / values[0]
            label = {} if self.names is None else {"label": self.names[i]}
            (line,) = ax.plot(share[drawn], values[drawn], **{**label, **kwargs})
            self.lines_.append(line)
        over = " / largest" if self.relative else ""
        ax.set(
            xlabel="share of singular values",
            ylabel=f"singular value{over}",
            yscale="log",
            xlim=(0, 1),
        )
        if self.names is not None:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
