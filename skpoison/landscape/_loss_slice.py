"""Drawing of the loss along lines through a point in the space of parameters."""

import numpy as np
import torch

from skpoison.landscape._hessian import extreme_eigenvalues, normal_like
from skpoison.landscape._objective import TrainingLoss
from skpoison.utils._pyplot import import_pyplot
from skpoison.utils._random import RandomStreams
from skpoison.utils._validation import check_number, check_option

_DIRECTIONS = ("largest", "smallest", "random")


class LossSliceDisplay:
    """Drawing of the training loss along lines through a network's parameters.

    Use :meth:`from_module` to measure and draw at once.

    Parameters
    ----------
    alphas : array-like of shape (n_points,)
        Positions on the lines; 0 is the network.
    losses : array-like of shape (n_lines, n_points)
    names : list of str, default=None
        Of the lines, for the legend.

    Attributes
    ----------
    lines_ : list of matplotlib Line2D
        One for each row of `losses`.
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    check_local_minimum : Looks for lower points in numbers.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.
    .. [2] H. Li, Z. Xu, G. Taylor, C. Studer and T. Goldstein. Visualizing the loss
       landscape of neural nets. NeurIPS 2018, arXiv:1712.09913.

    Examples
    --------
    >>> from skpoison.landscape import LossSliceDisplay
    >>> display = LossSliceDisplay([-1, 0, 1], [[2.0, 0.5, 2.1]], names=["random"])
    >>> display.plot().ax_.get_ylabel()
    'training loss'
    """

    def __init__(self, alphas, losses, *, names=None):
        self.alphas = alphas
        self.losses = losses
        self.names = names

    @classmethod
    def from_module(
        cls,
        module,
        X,
        y,
        *,
        directions=_DIRECTIONS,
        n_random=5,
        normalization="none",
        radius=1.0,
        n_points=41,
        criterion="auto",
        weight_decay=0.0,
        max_products=200,
        batch_size=None,
        random_state=None,
        device="auto",
        ax=None,
        **kwargs,
    ):
        """Compute losses along eigenvectors of the Hessian and random lines, and draw.

        Parameters
        ----------
        module, X, y, criterion, weight_decay, batch_size, device
            See :func:`check_local_minimum`.
        directions : sequence of {"largest", "smallest", "random"}, default=all three
            Eigenvectors of the largest and the smallest eigenvalue, and random lines.
        n_random : int, default=5
        normalization : {"none", "filter"}, default="none"
            Eigenvectors have length 1 always, and random directions too with "none".
            "filter" gives the part of a random direction that belongs to one unit or
            one filter the length of that filter's weights, as Li et al. (2018) do, and
            leaves out biases and all other parameters of one dimension; 1 is then the
            length of all weights.
        radius : float, default=1.0
            Lines go from minus this to this.
        n_points : int, default=41
            On each line. An even number leaves out the network itself.
        max_products : int, default=200
            Products with the Hessian at most: a drawing needs no exact eigenvectors.
        random_state : None, int, RandomState or Generator, default=None
        ax : matplotlib Axes, default=None
        **kwargs
            Of :meth:`plot`.

        Returns
        -------
        display : LossSliceDisplay
        """
        import_pyplot()  # before the long part
        directions = _checked_directions(directions)
        check_number("n_random", n_random, low=1, integer=True)
        check_option("normalization", normalization, ("none", "filter"))
        check_number("radius", radius, low=0.0, strict=True)
        check_number("n_points", n_points, low=2, integer=True)
        check_number("max_products", max_products, low=1, integer=True)
        streams = RandomStreams(random_state)
        loss = TrainingLoss(
            module,
            X,
            y,
            criterion=criterion,
            weight_decay=weight_decay,
            batch_size=batch_size,
            device=device,
        )
        lines = []
        ends = [end for end in directions if end != "random"]
        if ends:
            spectrum = extreme_eigenvalues(
                loss,
                n_low="smallest" in ends,
                n_high="largest" in ends,
                tol=1e-6,
                max_products=max_products,
                generator=streams.torch("hessian"),
            )
        for name in directions:
            if name != "random":
                vector = torch.as_tensor(spectrum[f"{name}_vectors"][0])
                label = f"{name} eigenvalue, {spectrum[name][0]:.3g}"
                lines.append((label, vector.to(loss.start)))
                continue
            generator = streams.torch("directions")
            for i in range(n_random):
                vector = normal_like(loss.start, generator)
                if normalization == "filter":
                    vector = _like_filters(loss, vector)
                else:
                    vector /= vector.norm()
                lines.append((f"random {i + 1}", vector))
        alphas = np.linspace(-radius, radius, n_points)
        losses = np.array(
            [[loss.value(loss.start + a * v) for a in alphas] for _, v in lines]
        )
        names = [name for name, _ in lines]
        return cls(alphas, losses, names=names).plot(ax=ax, **kwargs)

    def plot(self, *, ax=None, **kwargs):
        """Draw a line for each direction.

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
        self.lines_ = []
        for i, losses in enumerate(np.asarray(self.losses)):
            label = {} if self.names is None else {"label": self.names[i]}
            (line,) = ax.plot(np.asarray(self.alphas), losses, **{**label, **kwargs})
            self.lines_.append(line)
        ax.set(xlabel="distance along the line", ylabel="training loss")
        if self.names is not None:
            ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _checked_directions(directions):
    if isinstance(directions, str) or not hasattr(directions, "__iter__"):
        raise TypeError(
            f"directions must be a sequence of {', '.join(map(repr, _DIRECTIONS))}, "
            f"got {directions!r}"
        )
    directions = [
        check_option("each of directions", d, _DIRECTIONS) for d in directions
    ]
    if not directions:
        raise ValueError("directions must name at least one, got none")
    return directions


def _like_filters(loss, vector):
    """Return a direction whose filters are as long as those of the network."""
    start = loss.named(loss.start)
    parts = []
    for name, part in loss.named(vector).items():
        if part.ndim < 2:
            parts.append(torch.zeros_like(part).flatten())
            continue
        part, weight = part.flatten(1), start[name].flatten(1)
        length = weight.norm(dim=1, keepdim=True) / part.norm(dim=1, keepdim=True)
        parts.append((part * length).flatten())
    return torch.cat(parts)
