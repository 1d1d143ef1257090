"""Reconstructions under the images that they are of."""

import numpy as np

from skpoison.utils._images import image_pair, match_images, psnr_per_image
from skpoison.utils._pyplot import import_pyplot


class ReconstructionDisplay:
    """True images over what was reconstructed of them.

    Make it by :meth:`from_reconstruction`.

    Parameters
    ----------
    X_true, X_rec : array-like or torch.Tensor
        Images in the same order, of shape (n_images, height, width) or (n_images,
        channels, height, width) with one or three channels, in [0, 1] or uint8.

    Attributes
    ----------
    psnr_ : ndarray of shape (n_images,)
        In dB.
    axes_ : ndarray of matplotlib Axes, shape (2, n_images)
    figure_ : matplotlib Figure

    See Also
    --------
    GradientInversion : Reconstructs images.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.inversion import ReconstructionDisplay
    >>> X = load_digits().images[:3] / 16
    >>> display = ReconstructionDisplay(X, X * 0.9).plot()
    >>> display.psnr_.round(1)
    array([27.3, 25.9, 25.7])
    """

    def __init__(self, X_true, X_rec):
        self.X_true = X_true
        self.X_rec = X_rec

    @classmethod
    def from_reconstruction(cls, X_true, result, *, axes=None, **kwargs):
        """Draw a reconstruction, in the order that fits the true images best.

        Parameters
        ----------
        X_true : array-like or torch.Tensor of shape (n_images, ...)
        result : Bunch
            What ``reconstruct`` returned.
        axes : array-like of matplotlib Axes of shape (2, n_images), default=None
        **kwargs
            Of matplotlib's ``Axes.imshow``.

        Returns
        -------
        display : ReconstructionDisplay
        """
        # a gradient does not tell the order of its rows
        order = match_images(*image_pair(X_true, result.X)[:2])
        return cls(X_true, result.X[order]).plot(axes=axes, **kwargs)

    def plot(self, *, axes=None, **kwargs):
        """Draw the images.

        Parameters
        ----------
        axes : array-like of matplotlib Axes of shape (2, n_images), default=None
        **kwargs
            Of matplotlib's ``Axes.imshow``.

        Returns
        -------
        self : object
        """
        true, rec, unit = image_pair(self.X_true, self.X_rec, ndim=(3, 4))
        if true.ndim == 4 and true.shape[1] not in (1, 3):
            raise ValueError(
                f"images must have one or three channels, got shape {true.shape}"
            )
        plt = import_pyplot()
        n = len(true)
        if axes is None:
            _, axes = plt.subplots(
                2, n, squeeze=False, figsize=(1.3 * n + 0.4, 3), layout="constrained"
            )
        self.axes_ = np.asarray(axes)
        if self.axes_.shape != (2, n):
            raise ValueError(
                f"axes must have shape (2, n_images={n}), got {self.axes_.shape}"
            )
        self.psnr_ = psnr_per_image(true, rec, unit)
        for column, ratio in zip(self.axes_.T, self.psnr_, strict=True):
            column[1].set_title(f"{ratio:.1f} dB", fontsize="small")
        for row, images, name in zip(
            self.axes_, (true, rec), ("true", "reconstructed"), strict=True
        ):
            row[0].set_ylabel(name)
            for ax, image in zip(row, images, strict=True):
                ax.imshow(_picture(image / unit), **{**_GRAY, **kwargs})
                ax.set(xticks=[], yticks=[])
        self.figure_ = self.axes_[0, 0].figure
        return self


_GRAY = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}  # not looked at for colours


def _picture(image):
    """Return (height, width), or (height, width, 3) in [0, 1]."""
    if image.ndim == 2:
        return image
    return image[0] if len(image) == 1 else np.clip(np.moveaxis(image, 0, 2), 0, 1)
