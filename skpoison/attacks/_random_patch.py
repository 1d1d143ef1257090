"""A patch that lands anywhere on an image."""

import numpy as np

from skpoison.attacks._triggers import PatchTrigger
from skpoison.utils import RandomStreams, row_keys
from skpoison.utils._validation import check_number


class RandomPatchTrigger(PatchTrigger):
    """A patch of random colours, at a place of its own on every image or at one.

    Parameters
    ----------
    patch : array of shape (h, w) or (C, h, w), default=None
        None draws each value as the smallest or the largest of the data given to
        ``fit``, with equal chances.
    size : int or (int, int), default=None
        Of a drawn patch. None is a quarter of the sides: 8 by 8 on images of 32 by 32,
        as in the paper.
    position : "random", str or (int, int), default="random"
        "random" is another place on every image, which only a network that sees
        patches wherever they are can learn; otherwise see :class:`PatchTrigger`, with
        no margin.
    input_shape : tuple (C, H, W), default=None
        Of one image, where X is flat.
    random_state : None, int, RandomState or Generator, default=0
        Draws the patch and its places. Fixed by default: the trigger is the attacker's
        secret, and every part of an experiment must see the same one.

    Attributes
    ----------
    patch_ : ndarray of shape (C or 1, h, w)

    See Also
    --------
    PatchTrigger : One place for all images.
    SleeperAgentAttack : Its default trigger.

    Notes
    -----
    The place is drawn from the seed and the content of the image: the same image is
    marked at the same place whatever it is marked together with.

    References
    ----------
    Souri et al. (2022), Sleeper Agent: scalable hidden trigger backdoors for neural
    networks trained from scratch. arXiv:2106.08970.

    Examples
    --------
    >>> import numpy as np
    >>> from skpoison.attacks import RandomPatchTrigger
    >>> X = np.random.RandomState(0).rand(3, 1, 8, 8)
    >>> marked = RandomPatchTrigger(size=2).fit(X).apply(X)
    >>> (marked != X).sum(axis=(1, 2, 3)).tolist()
    [4, 4, 4]
    """

    #: Tells `set_random_states` to leave the patch's seed alone.
    keeps_its_seed = True

    def __init__(
        self,
        patch=None,
        *,
        size=None,
        position="random",
        input_shape=None,
        random_state=0,
    ):
        self.patch = patch
        self.size = size
        self.position = position
        self.input_shape = input_shape
        self.random_state = random_state

    def _prepare(self, shape):
        streams = RandomStreams(self.random_state)
        patch = self.patch
        if patch is None:
            size = self.size
            if size is None:
                size = tuple(max(1, side // 4) for side in shape[1:])
            elif np.ndim(size) == 0:
                size = (size, size)
            size = tuple(check_number("size", s, low=1, integer=True) for s in size)
            ends = np.array([self.low_, self.high_], dtype=float)
            draws = streams.numpy("patch").randint(2, size=(shape[0], *size))
            patch = ends[draws]
        position = (0, 0) if self._is_anywhere() else self.position
        fixed = PatchTrigger(np.asarray(patch), position=position, margin=0)
        fixed.low_, fixed.high_ = self.low_, self.high_
        fixed._prepare(shape)
        self.fixed_, self.patch_ = fixed, fixed.patch_
        self.seed_ = streams.seed("places")

    def _is_anywhere(self):
        return isinstance(self.position, str) and self.position == "random"

    def _mark(self, images):
        if not self._is_anywhere():
            return self.fixed_._mark(images)
        marked = images.copy()
        height, width = self.patch_.shape[-2:]
        rows, columns = self._places(images, height, width)
        corner = np.zeros((1, images.shape[1], height, width), images.dtype)
        pixels = self.fixed_._mark(corner)[0]  # rounded as images of this type are
        for image, row, column in zip(marked, rows, columns, strict=True):
            image[:, row : row + height, column : column + width] = pixels
        return marked

    def _places(self, images, height, width):
        keys = np.array(
            [int(key[:12], 16) for key in row_keys(images)], dtype=np.uint64
        )
        draws = (np.array(keys, dtype=np.uint64) ^ np.uint64(self.seed_)) * np.uint64(
            0x9E3779B97F4A7C15
        )
        free = images.shape[2] - height + 1, images.shape[3] - width + 1
        rows = (draws >> np.uint64(40)) % np.uint64(free[0])
        columns = ((draws >> np.uint64(16)) & np.uint64(0xFFFFFF)) % np.uint64(free[1])
        return rows.astype(int), columns.astype(int)
