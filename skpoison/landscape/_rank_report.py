"""Norms and ranks of the layers of a network, a row each."""

import numpy as np
import torch
from sklearn.utils import Bunch

from skpoison.landscape._operators import (
    OPERATORS,
    input_sizes,
    is_exact,
    layer_form,
)
from skpoison.landscape._spectra import KINDS, effective_rank, operator_norm
from skpoison.models._given import Model
from skpoison.utils._tensors import evaluating
from skpoison.utils._validation import check_option


def rank_report(model, X, *, kind="nuclear", operator="fft"):
    """Measure the operator norm and the effective rank of each layer.

    What [1]_ compares between networks that generalise well or badly.

    Parameters
    ----------
    model : torch.nn.Module or fitted classifier
        Such as a :class:`~skpoison.models.TorchClassifier`. Not changed.
    X : array-like of shape (n_samples, ...)
        Its first row shows which layers are met, and by images of which size.
    kind : {"nuclear", "stable", "entropy", "count"}, default="nuclear"
        See :func:`effective_rank`.
    operator : {"fft", "reshaped"}, default="fft"
        Whose rank: "fft" is the convolution with circular padding on images of the size
        that the layer meets, "reshaped" the kernel as a matrix of outputs by the rest.

    Returns
    -------
    report : Bunch
        A row for each Linear, Conv1d, Conv2d and Conv3d, in the order they are met;
        ``pandas.DataFrame(report)`` is a table.

        - `name` : list of str, as in ``named_modules``
        - `layer` : list of str, the class
        - `shape` : list of tuple, of the weight
        - `input_size` : list of tuple, sides of the images; () of a linear layer
        - `operator_norm` : ndarray, of the layer as it is, see :func:`operator_norm`
        - `effective_rank` : ndarray
        - `rank_share` : ndarray, the same by the largest rank there can be
        - `approximate` : ndarray of bool, whether the rank is of another operator than
          the layer's own, for its padding or, with "reshaped", for being a kernel

    Raises
    ------
    TypeError, ValueError
        No network inside, none of these layers, or an unknown option.

    See Also
    --------
    SpectrumDisplay : Draws the singular values.
    SpectralProjection : Trains for a low rank, or for a high one.

    Notes
    -----
    A layer that is met several times is measured at the size of the first. Where a
    stride does not divide the size, the size is rounded up.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> import torch
    >>> from skpoison.landscape import rank_report
    >>> from skpoison.models import ConvNet
    >>> report = rank_report(ConvNet((1, 8, 8), 10), torch.zeros(1, 1, 8, 8))
    >>> report.name[:2], report.input_size[:2]
    (['features.0', 'features.3'], [(8, 8), (4, 4)])
    >>> bool((report.rank_share <= 1).all())
    True
    """
    check_option("kind", kind, KINDS)
    rows = []
    for name, layer, shape, size, values, times in layer_spectra(model, X, operator):
        rank, share = (
            effective_rank(values, times, kind=kind, normalize=normalize)
            for normalize in (False, True)
        )
        rows.append(
            {
                "name": name,
                "layer": type(layer).__name__,
                "shape": shape,
                "input_size": size,
                "operator_norm": operator_norm(layer, size or None),
                "effective_rank": rank,
                "rank_share": share,
                "approximate": not is_exact(layer, size, operator),
            }
        )
    report = Bunch(**{key: [row[key] for row in rows] for key in rows[0]})
    for key in ("operator_norm", "effective_rank", "rank_share", "approximate"):
        report[key] = np.array(report[key])
    return report


def layer_spectra(model, X, operator, layers=None):
    """Yield what is known of each layer.

    Its name, itself, the shape of its weight, the sides of its images, its singular
    values and their multiplicity.
    """
    check_option("operator", operator, OPERATORS)
    model = Model(model)
    sizes = input_sizes(model.network, model.rows(X[:1]))
    names = list(sizes if layers is None else layers)
    for name in names:
        if name not in sizes:
            raise ValueError(
                f"layers: {name!r} is none of those met, {', '.join(sizes)}"
            )
    for name in names:
        layer, size = model.network.get_submodule(name), sizes[name]
        form = layer_form(layer, size, operator)
        # a weight that is computed may be changed by being read in training
        with evaluating(layer):
            weight = layer.weight.detach().to("cpu", torch.float64)
        values = torch.linalg.svdvals(form.blocks(weight))
        values = values.reshape(-1, values.shape[-1]).numpy()
        times = form.multiplicity().flatten().numpy()
        yield name, layer, tuple(weight.shape), size, values, times
