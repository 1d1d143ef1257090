"""Drawings of segmentations, disparities, and how bounds close in."""

import numpy as np
from sklearn.utils.validation import check_is_fitted

from skpoison.partition._pixels import check_image
from skpoison.utils._pyplot import import_pyplot
from skpoison.utils._validation import check_number, check_option


class _ImageDisplay:
    def _draw(self, ax, picture, kwargs):
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        self.image_ = ax.imshow(picture, **kwargs)
        ax.set(xticks=[], yticks=[])
        self.ax_, self.figure_ = ax, ax.figure
        return self


class SegmentationDisplay(_ImageDisplay):
    """Image with its segments painted and outlined.

    Make it by :meth:`from_estimator` or :meth:`from_labels`.

    Parameters
    ----------
    image : array-like of shape (height, width) or (height, width, n_channels)
        In [0, 1] or uint8. The first three channels are shown, of two the first.
    labels : array-like of int, shape (height, width) or (height * width,)

    Attributes
    ----------
    image_ : matplotlib AxesImage
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    LiftedPartition : Segments images.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.partition import SegmentationDisplay
    >>> image = np.zeros((4, 6))
    >>> labels = np.repeat([[0, 0, 0, 1, 1, 1]], 4, axis=0)
    >>> SegmentationDisplay(image, labels).boundaries()[0].astype(int)
    array([0, 0, 1, 0, 0, 0])
    """

    def __init__(self, image, labels):
        self.image = image
        self.labels = labels

    @classmethod
    def from_estimator(cls, estimator, image, *, ax=None, **kwargs):
        """Draw the labels that an estimator was fitted with.

        Parameters
        ----------
        estimator : LiftedPartition
            Fitted. For another image than in `fit` use :meth:`from_labels` with what
            `predict` returns.
        image : array-like of shape (height, width) or (height, width, n_channels)
        ax : matplotlib Axes, default=None
        **kwargs
            Of :meth:`plot`.

        Returns
        -------
        display : SegmentationDisplay
        """
        check_is_fitted(estimator)
        return cls(image, estimator.labels_).plot(ax=ax, **kwargs)

    @classmethod
    def from_labels(cls, image, labels, *, ax=None, **kwargs):
        """Draw given labels.

        Parameters
        ----------
        image : array-like of shape (height, width) or (height, width, n_channels)
        labels : array-like of int, shape (height, width) or (height * width,)
        ax : matplotlib Axes, default=None
        **kwargs
            Of :meth:`plot`.

        Returns
        -------
        display : SegmentationDisplay
        """
        return cls(image, labels).plot(ax=ax, **kwargs)

    def _checked(self):
        image = check_image(self.image)
        labels = np.asarray(self.labels)
        if labels.size != image[..., 0].size:
            raise ValueError(
                f"labels must have one entry a pixel of {image.shape[:2]}, got shape "
                f"{labels.shape}"
            )
        image = image[..., :3] if image.shape[2] > 2 else image[..., :1].repeat(3, 2)
        return np.clip(image, 0.0, 1.0), labels.reshape(image.shape[:2])

    def boundaries(self):
        """Return the pixels whose right or lower neighbour has another label.

        Returns
        -------
        boundaries : bool ndarray of shape (height, width)
        """
        _, labels = self._checked()
        mask = np.zeros(labels.shape, dtype=bool)
        mask[:, :-1] = labels[:, :-1] != labels[:, 1:]
        mask[:-1] |= labels[:-1] != labels[1:]
        return mask

    def plot(self, *, ax=None, alpha=0.6, cmap=None, color=(1.0, 1.0, 1.0), **kwargs):
        """Draw the segments.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        alpha : float, default=0.6
            Share of the paint: 0 shows the image, 1 the segments alone.
        cmap : str or Colormap, default=None
            Paints labels in the colours of a map; None in the mean colour of the
            pixels that have them.
        color : tuple of 3 floats or None, default=(1.0, 1.0, 1.0)
            Of the boundaries; None draws none.
        **kwargs
            Of matplotlib's ``Axes.imshow``.

        Returns
        -------
        self : object
        """
        check_number("alpha", alpha, low=0.0, high=1.0)
        image, labels = self._checked()
        names, number = np.unique(labels, return_inverse=True)
        number = number.reshape(labels.shape)
        if cmap is None:
            paint = np.array(
                [image[number == k].mean(axis=0) for k in range(len(names))]
            )
        else:
            colors = import_pyplot().get_cmap(cmap, len(names))
            paint = colors(np.arange(len(names)))[:, :3]
        picture = (1 - alpha) * image + alpha * paint[number]
        if color is not None:
            picture[self.boundaries()] = color
        return self._draw(ax, picture, kwargs)


class DisparityDisplay(_ImageDisplay):
    """Map of disparities with a colour bar.

    Parameters
    ----------
    disparity : ndarray of shape (height, width)
        NaN and infinite values stay blank.

    Attributes
    ----------
    image_ : matplotlib AxesImage
    colorbar_ : matplotlib Colorbar
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    LiftedStereo : Finds disparities.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.partition import DisparityDisplay
    >>> DisparityDisplay(np.ones((4, 6))).disparity.shape
    (4, 6)
    """

    def __init__(self, disparity):
        self.disparity = disparity

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Draw the disparities of a fitted estimator.

        Parameters
        ----------
        estimator : LiftedStereo
            Fitted.
        ax : matplotlib Axes, default=None
        **kwargs
            Of matplotlib's ``Axes.imshow``.

        Returns
        -------
        display : DisparityDisplay
        """
        check_is_fitted(estimator)
        return cls(estimator.disparity_).plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, **kwargs):
        """Draw the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        **kwargs
            Of matplotlib's ``Axes.imshow``, such as ``vmax=16`` and ``cmap="magma"``.

        Returns
        -------
        self : object
        """
        disparity = np.asarray(self.disparity, dtype=float)
        if disparity.ndim != 2:
            raise ValueError(
                f"disparity must have shape (height, width), got {disparity.shape}"
            )
        blank = np.ma.masked_invalid(disparity)
        self._draw(ax, blank, {"cmap": "viridis", **kwargs})
        self.colorbar_ = self.figure_.colorbar(
            self.image_, ax=self.ax_, label="disparity in pixels"
        )
        return self


class BoundDisplay:
    """Best energy and best lower bound over time.

    Parameters
    ----------
    history : list of tuple
        (iteration, seconds, energy, lower bound), of :class:`LiftedResult`.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    solve_lifted : Gives a history.

    Examples
    --------
    >>> from skpoison.partition import BoundDisplay
    >>> BoundDisplay([(25, 0.1, 12.0, 9.0), (50, 0.2, 10.0, 10.0)]).relative_gaps()
    array([0.25, 0.  ])
    """

    def __init__(self, history):
        self.history = history

    @classmethod
    def from_estimator(cls, estimator, *, ax=None, **kwargs):
        """Draw the last solve of a fitted estimator.

        Parameters
        ----------
        estimator : LiftedPartition, LiftedStereo or another of this package
            Fitted.
        ax : matplotlib Axes, default=None
        **kwargs
            Of :meth:`plot`.

        Returns
        -------
        display : BoundDisplay
        """
        check_is_fitted(estimator)
        return cls.from_result(estimator.result_, ax=ax, **kwargs)

    @classmethod
    def from_result(cls, result, *, ax=None, **kwargs):
        """Draw a result of a solver; the end alone if it keeps no history.

        Parameters
        ----------
        result : LiftedResult
        ax : matplotlib Axes, default=None
        **kwargs
            Of :meth:`plot`.

        Returns
        -------
        display : BoundDisplay
        """
        end = (result.n_iter, result.seconds, result.energy, result.lower_bound)
        return cls(list(result.history) or [end]).plot(ax=ax, **kwargs)

    def relative_gaps(self):
        """Return the gaps over the larger of energy and lower bound, by size.

        Returns
        -------
        gaps : ndarray of shape (n_points,)
        """
        energy, bound = np.asarray(self.history, dtype=float).T[2:]
        return (energy - bound) / np.maximum(np.maximum(abs(energy), abs(bound)), 1e-12)

    def plot(self, kind="values", *, x="seconds", ax=None, **kwargs):
        """Draw the history.

        Parameters
        ----------
        kind : {"values", "gap"}, default="values"
            Energy and lower bound, or their relative gap on a logarithmic axis.
        x : {"seconds", "iterations"}, default="seconds"
        ax : matplotlib Axes, default=None
        **kwargs
            Of matplotlib's ``Axes.plot``.

        Returns
        -------
        self : object
        """
        check_option("kind", kind, ("values", "gap"))
        check_option("x", x, ("seconds", "iterations"))
        plt = import_pyplot()
        if ax is None:
            _, ax = plt.subplots(layout="constrained")
        iteration, seconds, energy, bound = np.asarray(self.history, dtype=float).T
        at = seconds if x == "seconds" else iteration
        style = {"marker": ".", **kwargs}
        if kind == "values":
            self.lines_ = [
                *ax.plot(at, energy, **{"label": "energy", **style}),
                *ax.plot(at, bound, **{"label": "lower bound", **style}),
            ]
            ax.legend()
        else:
            self.lines_ = ax.plot(at, self.relative_gaps(), **style)
            ax.set_yscale("log")
        ax.set(xlabel=x, ylabel="energy" if kind == "values" else "relative gap")
        self.ax_, self.figure_ = ax, ax.figure
        return self
