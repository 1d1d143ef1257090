"""Random shifts and flips of images, differentiable in the pixels."""

import torch
from sklearn.base import BaseEstimator

from skpoison.utils._validation import check_number


class ShiftFlip(BaseEstimator):
    """Shift each image by a random fraction of pixels, and mirror it by chance.

    Poisons crafted through the augmentation that the victim trains with survive it.

    Parameters
    ----------
    shift : float, default=None
        The largest move is ``shift / 2`` pixels along each axis. None is a quarter of
        the side: 8 for images of 32 by 32, as in the paper's code.
    flip : bool, default=False
        Mirror left to right with probability 1/2. Off, because mirrored digits and
        letters are other digits and letters; the papers' CIFAR-10 runs have it on.
    fill : float, default=0.0
        What moves in at the border.

    See Also
    --------
    TorchClassifier : Takes it as ``augment``.

    Notes
    -----
    Offsets u, v are drawn uniformly and independently for each image. Pixels between
    pixels are interpolated bilinearly, which is a product with one sparse matrix a
    side; it equals ``torch.nn.functional.grid_sample`` with ``align_corners=True``
    and zero padding [1]_.

    References
    ----------
    .. [1] J. Geiping et al. Witches' Brew: industrial scale data poisoning via
       gradient matching. ICLR 2021. arXiv:2009.02276.

    Examples
    --------
    >>> import torch
    >>> from skpoison.models import ShiftFlip
    >>> generator = torch.Generator().manual_seed(0)
    >>> ShiftFlip(shift=0, flip=True)(torch.eye(3)[None, None], generator)[0, 0]
    tensor([[0., 0., 1.],
            [0., 1., 0.],
            [1., 0., 0.]])
    """

    def __init__(self, shift=None, *, flip=False, fill=0.0):
        self.shift = shift
        self.flip = flip
        self.fill = fill

    def validate(self):
        """Raise on a bad parameter, before any long work starts.

        Returns
        -------
        self
        """
        if self.shift is not None:
            check_number("shift", self.shift, low=0.0)
        check_number("fill", self.fill)
        if not isinstance(self.flip, bool):
            raise TypeError(f"flip must be a bool, got {self.flip!r}")
        return self

    def draw(self, n, shape, generator):
        """Draw the moves of n images.

        Parameters
        ----------
        n : int
        shape : tuple (C, H, W)
        generator : torch.Generator
            On the CPU.

        Returns
        -------
        moves : tensor of shape (n, 3)
            Rows down, columns right, and 1 where the image is mirrored.
        """
        if len(shape) != 3:
            raise ValueError(
                f"ShiftFlip moves images of shape (C, H, W), got rows of {tuple(shape)}"
            )
        sides = torch.tensor(shape[1:], dtype=torch.float32)
        reach = sides / 8 if self.shift is None else torch.full((2,), self.shift / 2)
        moves = torch.rand((n, 3), generator=generator)
        moves[:, :2] = (2 * moves[:, :2] - 1) * reach
        moves[:, 2] = (moves[:, 2] < 0.5) if self.flip else 0.0
        return moves

    def apply(self, X, moves):
        """Move images as drawn.

        Parameters
        ----------
        X : tensor of shape (n, C, H, W)
        moves : tensor of shape (n, 3)

        Returns
        -------
        X : tensor of the same shape
        """
        moves = moves.to(X)
        rows = _interpolation(X.shape[2], moves[:, 0], None)
        columns = _interpolation(X.shape[3], moves[:, 1], moves[:, 2])
        moved = rows[:, None] @ (X - self.fill) @ columns[:, None].transpose(2, 3)
        return moved + self.fill if self.fill else moved

    def __call__(self, X, generator):
        """Move each image of a batch at random.

        Parameters
        ----------
        X : tensor of shape (n, C, H, W)
        generator : torch.Generator
            On the CPU; makes every draw.

        Returns
        -------
        X : tensor of the same shape
        """
        return self.apply(X, self.draw(len(X), X.shape[1:], generator))


def _interpolation(size, moves, mirrored):
    """Return the (n, size, size) matrices that move and mirror one axis."""
    place = torch.arange(size, device=moves.device, dtype=moves.dtype)
    source = place + moves[:, None]  # where the value at each place comes from
    if mirrored is not None:
        source = torch.where(mirrored[:, None] > 0.5, size - 1 - source, source)
    return (1 - (source[:, :, None] - place).abs()).clamp_min(0)
