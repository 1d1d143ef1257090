"""Images made up on the spot."""

import numpy as np

from skpoison.datasets._bunch import LAYOUTS, arrange
from skpoison.utils import draw_seed
from skpoison.utils._validation import check_number, check_option


def make_gratings(
    n_samples=400,
    *,
    n_classes=4,
    image_size=16,
    n_channels=1,
    noise=0.3,
    frequency=3.0,
    layout="nchw",
    random_state=None,
    return_params=False,
):
    r"""Make noisy gratings whose orientation is their class.

    A small convolutional network learns them in seconds; a linear model cannot,
    since the random phase leaves every class with the same mean image.

    Parameters
    ----------
    n_samples : int, default=400
        Images, in classes whose sizes differ by one at most, shuffled.
    n_classes : int, default=4
        Orientations.
    image_size : int, default=16
        Height and width in pixels, at least 4.
    n_channels : int, default=1
        Channels, which differ in their noise only.
    noise : float, default=0.3
        Scale of the noise.
    frequency : float, default=3.0
        Periods across the image, at most half of `image_size`.
    layout : {"nchw", "nhwc", "flat"}, default="nchw"
        Axes of X: channels first, channels last, or one row an image in the order
        of "nchw".
    random_state : int, RandomState instance or None, default=None
        An int gives the same images in every call.
    return_params : bool, default=False
        Also return what each image was made with.

    Returns
    -------
    X : float32 ndarray
        Pixels in [0, 1].
    y : int64 ndarray of shape (n_samples,)
        Classes.
    params : Bunch
        With ``angle`` and ``phase``, ndarrays of shape (n_samples,), in radians.
        Only if `return_params`.

    Notes
    -----
    With pixel coordinates :math:`u, v` from the centre of the image,
    :math:`K` = `n_classes`, :math:`S` = `image_size`, :math:`f` = `frequency` and
    :math:`\sigma` = `noise`, an image of class :math:`k` is

    .. math::

        x = \mathrm{clip}\Big(\tfrac12 + \tfrac14 \sin\big(\tfrac{2\pi f}{S}
        (u \cos\theta_k + v \sin\theta_k) + \varphi\big)
        + \tfrac{\sigma}{2} \varepsilon,\; 0,\; 1\Big),
        \qquad \theta_k = \frac{\pi k}{K},

    with :math:`\varphi \sim U(0, 2\pi)` for each image and
    :math:`\varepsilon \sim N(0, 1)` for each pixel and channel. With the defaults,
    800 images for training and 400 for testing, logistic regression stays at chance
    and a network of two convolutions with 8 and 16 channels makes no mistake.

    Examples
    --------
    >>> from skpoison.datasets import make_gratings
    >>> X, y = make_gratings(n_samples=8, random_state=0)
    >>> X.shape, X.dtype
    ((8, 1, 16, 16), dtype('float32'))
    >>> sorted(y.tolist())
    [0, 0, 1, 1, 2, 2, 3, 3]
    """
    check_number("n_classes", n_classes, low=2, integer=True)
    check_number("n_samples", n_samples, low=n_classes, integer=True)
    check_number("image_size", image_size, low=4, integer=True)
    check_number("n_channels", n_channels, low=1, integer=True)
    check_number("noise", noise, low=0)
    check_number("frequency", frequency, low=0, high=image_size / 2, strict=True)
    check_option("layout", layout, LAYOUTS)
    rng = np.random.RandomState(draw_seed(random_state))

    y = np.arange(n_samples) % n_classes
    rng.shuffle(y)
    angle = np.pi * y / n_classes
    phase = rng.uniform(0, 2 * np.pi, size=n_samples)
    v, u = np.indices((image_size, image_size)) - (image_size - 1) / 2
    along = np.cos(angle)[:, None, None] * u + np.sin(angle)[:, None, None] * v
    wave = np.sin(2 * np.pi * frequency / image_size * along + phase[:, None, None])
    X = 0.25 * wave[:, None] + 0.5 * noise * rng.standard_normal(
        (n_samples, n_channels, image_size, image_size)
    )
    X = arrange(np.clip(0.5 + X, 0, 1).astype(np.float32), layout)
    y = y.astype(np.int64)
    if return_params:
        from sklearn.utils import Bunch  # loads pandas, where there is one

        return X, y, Bunch(angle=angle, phase=phase)
    return X, y
