"""How close reconstructed images are to the true ones."""

import numpy as np

from skpoison.utils._images import image_pair, match_images, psnr_per_image
from skpoison.utils._validation import check_number


def psnr(X_true, X_rec, *, data_range=None, average=True):
    """Return the peak signal-to-noise ratio in dB.

    Parameters
    ----------
    X_true, X_rec : array-like or torch.Tensor of shape (n_images, ...)
        In the same order; see :func:`match_reconstruction`.
    data_range : float, default=None
        Largest value less the smallest that an image can hold. None is 255 for uint8
        and 1 otherwise.
    average : bool, default=True
        Whether to average over the images.

    Returns
    -------
    psnr : float or ndarray of shape (n_images,)
        Infinite for an exact copy.

    Raises
    ------
    ValueError
        Shapes that differ, NaN or infinite values, uint8 beside floats.

    See Also
    --------
    ssim : Likeness of structure.

    Notes
    -----
    For each image :math:`10 \\log_{10}(R^2 / \\mathrm{MSE})` with R = `data_range`;
    the mean is that of the images' values and not the PSNR of the mean error, as in
    [1]_. Reconstructions above about 20 dB can be recognised.

    References
    ----------
    .. [1] J. Geiping, H. Bauermeister, H. Dröge and M. Moeller. Inverting gradients:
       how easy is it to break privacy in federated learning? NeurIPS 2020,
       arXiv:2003.14053.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.metrics import psnr
    >>> X = np.zeros((2, 1, 4, 4))
    >>> X_rec = X + np.array([0.1, 0.01]).reshape(2, 1, 1, 1)
    >>> psnr(X, X_rec, average=False)
    array([20., 40.])
    """
    true, rec, unit = image_pair(X_true, X_rec)
    values = psnr_per_image(true, rec, _range(data_range, unit))
    return float(values.mean()) if average else values


def ssim(X_true, X_rec, *, data_range=None, average=True):
    """Return the structural similarity, 1 for exact copies.

    Parameters
    ----------
    X_true, X_rec : array-like or torch.Tensor
        Of shape (n_images, height, width) or (n_images, channels, height, width), in
        the same order. Sides of at least 3.
    data_range : float, default=None
        As in :func:`psnr`.
    average : bool, default=True
        Whether to average over the images.

    Returns
    -------
    ssim : float or ndarray of shape (n_images,)
        In [-1, 1].

    Raises
    ------
    ValueError
        As of :func:`psnr`, or sides below 3.

    See Also
    --------
    psnr : Mean squared error in dB.

    Notes
    -----
    That of [1]_ as scikit-image computes it: means over all 7 by 7 windows with uniform
    weights and over channels. In images with a side below 7 the windows are as large
    as an odd side can be.

    References
    ----------
    .. [1] Z. Wang, A. C. Bovik, H. R. Sheikh and E. P. Simoncelli. Image quality
       assessment: from error visibility to structural similarity. IEEE Transactions
       on Image Processing 13(4), 2004.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.metrics import ssim
    >>> X = load_digits().images[:2] / 16
    >>> ssim(X, X)
    1.0
    >>> ssim(X, X[::-1]) < 0.5
    True
    """
    from skimage.metrics import structural_similarity

    true, rec, unit = image_pair(X_true, X_rec, ndim=(3, 4))
    data_range = _range(data_range, unit)
    side = min(true.shape[-2:])
    if side < 3:
        raise ValueError(
            f"ssim needs images with sides of at least 3, got shape {true.shape}"
        )
    values = np.array(
        [
            structural_similarity(
                a,
                b,
                data_range=data_range,
                channel_axis=0 if a.ndim == 3 else None,
                win_size=min(7, side - 1 + side % 2),
            )
            for a, b in zip(true, rec, strict=True)
        ]
    )
    return float(values.mean()) if average else values


def match_reconstruction(X_true, X_rec):
    """Return the order in which reconstructions fit the true images best.

    A gradient does not tell the order of the rows in its batch: match before
    comparing.

    Parameters
    ----------
    X_true, X_rec : array-like or torch.Tensor of shape (n_images, ...)

    Returns
    -------
    order : ndarray of int of shape (n_images,)
        A permutation: ``X_rec[order]`` lies beside `X_true`.

    Raises
    ------
    ValueError
        Shapes that differ, NaN or infinite values, uint8 beside floats.

    See Also
    --------
    psnr : Compares images in the same order.

    Notes
    -----
    The permutation with the smallest total squared error, by an optimal assignment.
    Memory holds one number a pair of images, beside the images.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.metrics import match_reconstruction
    >>> X = np.array([[0.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    >>> match_reconstruction(X, X[[2, 0, 1]] + 0.1)
    array([1, 2, 0])
    """
    true, rec, _ = image_pair(X_true, X_rec)
    return match_images(true, rec)


def feature_mse(module, X_true, X_rec):
    """Return the mean squared difference of what a network makes of two batches.

    Parameters
    ----------
    module : torch.nn.Module or fitted classifier
        See :func:`skpoison.models.as_module`. Used in evaluation mode and left as it
        was.
    X_true, X_rec : array-like or torch.Tensor of shape (n_images, ...)
        As the module takes them, in the same order. uint8 is divided by 255.

    Returns
    -------
    mse : float
        Mean over images and outputs.

    Raises
    ------
    ValueError
        Shapes that differ, NaN or infinite values, uint8 beside floats.

    See Also
    --------
    psnr : Compares the images themselves.

    Examples
    --------
    >>> import torch
    >>> from skpoison.metrics import feature_mse
    >>> X = torch.zeros(2, 3)
    >>> feature_mse(torch.nn.Flatten(), X, X + 0.5)
    0.25
    """
    import torch

    from skpoison.models._sklearn_modules import as_module
    from skpoison.utils._tensors import evaluating

    module = as_module(module)
    true, rec, unit = image_pair(X_true, X_rec)
    like = next(module.parameters(), torch.empty(0))

    def features(images):
        batches = torch.from_numpy(images / unit).to(like).split(256)
        return torch.cat([module(batch).double() for batch in batches])

    with evaluating(module), torch.no_grad():
        return float((features(true) - features(rec)).square().mean())


def _range(data_range, unit):
    if data_range is None:
        return unit
    return check_number("data_range", data_range, low=0.0, strict=True)
