"""Triggers of images: small objects that put a backdoor's mark on rows."""

import numbers

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from skpoison.utils import RandomStreams
from skpoison.utils._containers import is_frame, like
from skpoison.utils._validation import check_number, check_option


class _ImageTrigger(BaseEstimator):
    """A mark on images, given as (n, C, H, W), (n, H, W) or flat with input_shape."""

    def _shape(self, X):
        """Return (C, H, W) of one row of X, or raise saying what is missing."""
        if X.ndim == 4:
            return X.shape[1:]
        if X.ndim == 3:
            return (1, *X.shape[1:])
        shape = getattr(self, "input_shape", None)
        if X.ndim != 2 or shape is None:
            raise ValueError(
                f"{type(self).__name__} marks images: X must have shape (n, C, H, W), "
                "or (n, C * H * W) with input_shape=(C, H, W); got X of shape "
                f"{X.shape} and input_shape={shape}"
            )
        shape = (1, *shape) if len(shape) == 2 else tuple(shape)
        if len(shape) != 3 or np.prod(shape) != X.shape[1]:
            raise ValueError(
                f"input_shape={self.input_shape} does not match rows of {X.shape[1]} "
                "values"
            )
        return shape

    def fit(self, X, y=None):
        """Read from X what the trigger needs of it: shape, range and type.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
        y : ignored

        Returns
        -------
        self
        """
        X = np.asarray(X)
        self.low_, self.high_ = X.min(), X.max()
        self._prepare(self._shape(X))
        self.apply(X[:1])  # what X's type can't hold is refused here
        return self

    def apply(self, X):
        """Return a copy of X with the trigger on every row, in X's type.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)

        Returns
        -------
        X_marked : like X, or list of ndarray where X is a list
            Integer images are rounded and stay in their type's range. Pixels that
            the trigger does not touch keep their values.
        """
        check_is_fitted(self, "low_")
        if isinstance(X, list):
            return list(self.apply(np.asarray(X)))
        if is_frame(X):
            return like(self.apply(X.to_numpy()), X)
        X = np.asarray(X)
        images = X.reshape(len(X), *self._shape(X))
        marked = self._mark(images)
        if X.dtype.kind in "iu" and marked.dtype != X.dtype:
            limits = np.iinfo(X.dtype)
            pixels = np.rint(np.clip(marked, limits.min, limits.max)).astype(X.dtype)
            # floats do not hold every integer: what is untouched takes no detour
            marked = np.where(marked == images, images, pixels)
        return marked.astype(X.dtype, copy=False).reshape(X.shape)


def _check_pair(name, value, *, low):
    """Check that a parameter is two integers that are at least `low`."""
    if np.shape(value) != (2,):
        raise ValueError(f"{name} must hold two integers, got {value!r}")
    return tuple(check_number(name, v, low=low, integer=True) for v in value)


class PatchTrigger(_ImageTrigger):
    """A small patch pasted over each image: the BadNets trigger.

    Parameters
    ----------
    patch : {"checkerboard", "solid"} or array, default="checkerboard"
        An array has shape (h, w) or (C, h, w) and holds the pixels themselves, in the
        units of X; on integer images they are rounded and must be in the type's range.
    size : int or (int, int), default=3
        Height and width of a named patch in pixels; 3 as in the BadNets paper.
    value : float, default=None
        Bright pixels of a named patch. None is the largest value of the data given
        to ``fit``; dark pixels of the checkerboard are the smallest. On integer images
        it must be in the type's range.
    position : str or (int, int), default="bottom_right"
        A corner ("top_left", "top_right", "bottom_left", "bottom_right"), "corners" for
        all four, where each patch mirrors its neighbours, or the row and column of the
        patch's top left pixel. "corners" survives flips and crops in training.
    margin : int, default=1
        Pixels between a corner patch and the border.
    amplitude : float, default=None
        Pixels move towards the patch by at most this, in the units of X; the
        label-consistent attack marks training rows with 16, 32 or 64 of 255. None
        pastes the patch.
    input_shape : tuple (C, H, W), default=None
        Of one image, where X is flat.

    Attributes
    ----------
    patch_ : ndarray of shape (C or 1, h, w)
        As it stands at the bottom right.
    position_ : tuple of int
        Row and column of the top left pixel; for "corners" of the one at the bottom
        right.

    See Also
    --------
    ColumnTrigger : The same for tables.

    References
    ----------
    Gu, Dolan-Gavitt and Garg (2017), BadNets: identifying vulnerabilities in the
    machine learning model supply chain. arXiv:1708.06733.
    Turner, Tsipras and Madry (2019), Label-consistent backdoor attacks.
    arXiv:1912.02771.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.attacks import PatchTrigger
    >>> X = np.zeros((1, 1, 4, 4))
    >>> trigger = PatchTrigger("solid", size=(1, 2), value=1.0, margin=0).fit(X)
    >>> trigger.apply(X)[0, 0]
    array([[0., 0., 0., 0.],
           [0., 0., 0., 0.],
           [0., 0., 0., 0.],
           [0., 0., 1., 1.]])
    """

    def __init__(
        self,
        patch="checkerboard",
        *,
        size=3,
        value=None,
        position="bottom_right",
        margin=1,
        amplitude=None,
        input_shape=None,
    ):
        self.patch = patch
        self.size = size
        self.value = value
        self.position = position
        self.margin = margin
        self.amplitude = amplitude
        self.input_shape = input_shape

    def _prepare(self, shape):
        if isinstance(self.patch, str):
            check_option("patch", self.patch, ["checkerboard", "solid"])
            size = self.size
            size = (size, size) if isinstance(size, numbers.Integral) else size
            size = _check_pair("size", size, low=1)
            bright = float(self.high_) if self.value is None else self.value
            patch = np.full(size, check_number("value", bright), dtype=float)
            if self.patch == "checkerboard":
                patch[np.indices(size).sum(axis=0) % 2 == 1] = self.low_
        else:
            patch = np.asarray(self.patch, dtype=float)
            if patch.ndim not in (2, 3):
                raise ValueError(
                    "patch must be a name or an array of shape (h, w) or (C, h, w), "
                    f"got shape {patch.shape}"
                )
        patch = patch[None] if patch.ndim == 2 else patch
        height, width = patch.shape[-2:]
        if isinstance(self.position, str):
            check_option(
                "position",
                self.position,
                ["top_left", "top_right", "bottom_left", "bottom_right", "corners"],
            )
            check_number("margin", self.margin, low=0, integer=True)
            corner = "bottom_right" if self.position == "corners" else self.position
            vertical, horizontal = corner.split("_")
            row, column = self.margin, self.margin
            if vertical == "bottom":
                row = shape[1] - height - self.margin
            if horizontal == "right":
                column = shape[2] - width - self.margin
        else:
            row, column = _check_pair("position", self.position, low=0)
        if (
            patch.shape[0] not in (1, shape[0])
            or not 0 <= row <= shape[1] - height
            or not 0 <= column <= shape[2] - width
        ):
            raise ValueError(
                f"patch of shape {patch.shape} at row {row}, column {column} does not "
                f"fit into images of shape {tuple(shape)}"
            )
        room = min(shape[1] - 2 * (shape[1] - row), shape[2] - 2 * (shape[2] - column))
        if self.position == "corners" and room < 0:
            raise ValueError(
                f"position='corners': patches of {height} by {width} pixels overlap on "
                f"images of shape {tuple(shape)}"
            )
        if self.amplitude is not None:
            check_number("amplitude", self.amplitude, low=0.0, strict=True)
        self.patch_, self.position_ = patch, (int(row), int(column))

    def _mark(self, images):
        patch, dtype = self.patch_, images.dtype
        if dtype.kind in "iu":
            patch, limits = np.rint(patch), np.iinfo(dtype)
            if not (limits.min <= patch.min() and patch.max() <= limits.max):
                name = "value" if isinstance(self.patch, str) else "patch"
                raise ValueError(
                    f"{name}: pixels of the patch are in [{patch.min():g}, "
                    f"{patch.max():g}], outside the range of {dtype} images"
                )
        marked = images.copy()
        (row, column), (height, width) = self.position_, patch.shape[-2:]
        place = np.s_[:, :, row : row + height, column : column + width]
        # the other corners are this one of the mirrored image, whose views these are
        every = self.position == "corners"
        for vertical in (1, -1) if every else (1,):
            for horizontal in (1, -1) if every else (1,):
                view = marked[:, :, ::vertical, ::horizontal]
                view[place] = self._towards(patch, view[place])
        return marked

    def _towards(self, patch, pixels):
        if self.amplitude is None:
            return patch
        reach, whole = float(self.amplitude), pixels.dtype.kind in "iu"
        # in floats: differences of unsigned pixels would wrap around
        pixels = pixels.astype(np.result_type(pixels, np.float32))
        moved = pixels + np.clip(patch - pixels, -reach, reach)
        return np.rint(moved) if whole else moved


class BlendTrigger(_ImageTrigger):
    """A fixed picture blended into the whole image: ``(1 - alpha) x + alpha k``.

    Works on rows of any shape.

    Parameters
    ----------
    pattern : array of the shape of one row, default=None
        None draws uniform noise over the data's range.
    alpha : float in (0, 1], default=0.2
        Weight of the pattern; the paper blends with 0.1 to 0.2.
    random_state : None, int, RandomState or Generator, default=0
        Draws the pattern. Fixed by default: the trigger is the attacker's secret,
        and every part of an experiment must see the same one.

    Attributes
    ----------
    pattern_ : ndarray of the shape of one row

    References
    ----------
    Chen, Liu, Li, Lu and Song (2017), Targeted backdoor attacks on deep learning
    systems using data poisoning. arXiv:1712.05526.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.attacks import BlendTrigger
    >>> trigger = BlendTrigger(np.ones((1, 2, 2)), alpha=0.25)
    >>> trigger.fit(np.zeros((1, 1, 2, 2))).apply(np.zeros((1, 1, 2, 2)))[0, 0]
    array([[0.25, 0.25],
           [0.25, 0.25]])
    """

    #: Tells `set_random_states` to leave the pattern's seed alone.
    keeps_its_seed = True

    def __init__(self, pattern=None, *, alpha=0.2, random_state=0):
        self.pattern = pattern
        self.alpha = alpha
        self.random_state = random_state

    def _shape(self, X):
        return X.shape[1:]

    def _prepare(self, shape):
        check_number("alpha", self.alpha, low=0.0, high=1.0, strict=True)
        if self.pattern is None:
            rng = RandomStreams(self.random_state).numpy("pattern")
            self.pattern_ = rng.uniform(self.low_, self.high_, size=shape)
            return
        self.pattern_ = np.asarray(self.pattern, dtype=float)
        if self.pattern_.shape != tuple(shape):
            raise ValueError(
                f"pattern has shape {self.pattern_.shape}, the rows of X {tuple(shape)}"
            )

    def _mark(self, images):
        alpha, dtype = float(self.alpha), np.result_type(images, np.float32)
        # the weights are Python floats, so float32 images stay float32
        return images * (1.0 - alpha) + (alpha * self.pattern_).astype(dtype)


class SinusoidTrigger(_ImageTrigger):
    """A faint sinusoid added along the rows of each image (SIG).

    Parameters
    ----------
    amplitude : float, default=None
        In the units of X. None is 20/255 of the range of the data given to ``fit``,
        as in the paper.
    frequency : float, default=None
        Periods over the width. None is 6, the paper's, or a quarter of the width where
        that is less: 6 periods over 12 pixels would be 0 at each.
    input_shape : tuple (C, H, W), default=None
        Of one image, where X is flat.

    Attributes
    ----------
    wave_ : ndarray of shape (W,)

    References
    ----------
    Barni, Kallas and Tondi (2019), A new backdoor attack in CNNs by training set
    corruption without label poisoning. arXiv:1902.11237.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.attacks import SinusoidTrigger
    >>> X = np.array([[[[0.0, 0.5, 0.5, 1.0]]]])
    >>> SinusoidTrigger(0.1, frequency=1).fit(X).apply(X).round(2)[0, 0]
    array([[0. , 0.6, 0.5, 0.9]])
    """

    def __init__(self, amplitude=None, *, frequency=None, input_shape=None):
        self.amplitude = amplitude
        self.frequency = frequency
        self.input_shape = input_shape

    def _prepare(self, shape):
        if self.amplitude is None:
            amplitude = 20 / 255 * (float(self.high_) - float(self.low_))
        else:
            amplitude = check_number("amplitude", self.amplitude, low=0.0, strict=True)
        frequency, columns = min(6, shape[2] / 4), np.arange(shape[2])
        if self.frequency is not None:
            frequency = check_number("frequency", self.frequency, low=0.0, strict=True)
        self.wave_ = amplitude * np.sin(2 * np.pi * columns * frequency / shape[2])
        if self.frequency is not None and abs(self.wave_).max() < 1e-6 * amplitude:
            raise ValueError(
                f"frequency={self.frequency} gives a wave that is 0 at each of "
                f"{shape[2]} pixels"
            )

    def _mark(self, images):
        dtype = np.result_type(images, np.float32)
        marked = images + self.wave_.astype(dtype)
        # a row that lies outside the range seen in fit is not pulled into it
        low = np.minimum(images, self.low_)
        return np.clip(marked, low, np.maximum(images, self.high_))
