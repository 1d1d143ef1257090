"""Initial weights from which training ends badly."""

import copy

import torch
from skorch.callbacks import Callback
from torch import nn

from skpoison.utils import RandomStreams, draw_seed
from skpoison.utils._validation import check_number, check_option

# the published values, but for those of the last two, which are chosen here
_VALUES = {
    "zero": 0.0,
    "constant": 1e-3,
    "bias": -20.0,
    "uniform_bias": 10.0,
    "scale": 10.0,
}


def poor_initialization(module, kind, value=None, *, random_state=None):
    """Return a copy of a network with weights from which training tends to end badly.

    Gradient descent is said to reach good minima from anywhere. It does not from these
    points [1]_.

    Parameters
    ----------
    module : torch.nn.Module
        With the weights that the initialisation of its layers gave it. Not changed.
    kind : {"zero", "constant", "bias", "uniform_bias", "scale"}
        - "zero": all parameters are 0.
        - "constant": all parameters are `value`.
        - "bias": all biases are `value`, other parameters stay.
        - "uniform_bias": biases are drawn uniformly from [-value, value].
        - "scale": weights are multiplied by `value`, biases stay.
    value : float, default=None
        None is 0.001 for "constant" and -20 for "bias", as published (there also +20),
        and 10 for "uniform_bias" and "scale", chosen here. "zero" has none.
    random_state : None, int, RandomState or Generator, default=None
        Of "uniform_bias".

    Returns
    -------
    network : torch.nn.Module

    See Also
    --------
    PoorInitialization : The same for a classifier.

    Notes
    -----
    A bias is a parameter of that name, the shift of a batch normalisation included: it
    is what decides whether the units behind are on. "scale" changes parameters of two
    dimensions or more, the scales of a normalisation therefore not. "zero" and
    "constant" set all parameters, those too.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> from skpoison.landscape import poor_initialization
    >>> from skpoison.models import MLP
    >>> network = poor_initialization(MLP((4,), 2, hidden=(3,)), "bias")
    >>> network.layers[0].bias.tolist()
    [-20.0, -20.0, -20.0]
    """
    if not isinstance(module, nn.Module):
        raise TypeError(
            "module must be a torch.nn.Module, got "
            f"{module!r}; a classifier takes PoorInitialization among its callbacks"
        )
    value = _checked(kind, value)
    network = copy.deepcopy(module)
    _initialize_(network, kind, value, random_state)
    return network


def _checked(kind, value):
    """Return the value, a published one for None."""
    check_option("kind", kind, _VALUES)
    if value is None:
        return _VALUES[kind]
    if kind == "zero":
        raise ValueError(f"value must be None for kind='zero', got {value!r}")
    return check_number("value", value, low=0 if kind == "uniform_bias" else None)


def _initialize_(network, kind, value, random_state):
    generator = RandomStreams(random_state).torch("biases")
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            is_bias = name.rpartition(".")[2] == "bias"
            if kind in ("zero", "constant") or (kind == "bias" and is_bias):
                parameter.fill_(value)
            elif kind == "uniform_bias" and is_bias:
                drawn = torch.rand(parameter.shape, generator=generator)
                parameter.copy_((2 * drawn - 1) * value)
            elif kind == "scale" and parameter.ndim > 1:
                parameter.mul_(value)


class PoorInitialization(Callback):
    """Start the training of a classifier from bad weights, as a callback.

    The network is initialised as always, then changed as by
    :func:`poor_initialization` [1]_, once in each `fit`, before the first epoch.

    Parameters
    ----------
    kind : {"zero", "constant", "bias", "uniform_bias", "scale"}, default="bias"
        See :func:`poor_initialization`. The default is chosen here: units that are off
        on all rows have no gradient at all.
    value : float, default=None
        None is the default of that function for the kind.
    random_state : None, int, RandomState or Generator, default=None
        Of "uniform_bias". The classifier's own seed doesn't reach it.

    See Also
    --------
    poor_initialization : The same for a bare network.

    References
    ----------
    .. [1] M. Goldblum, J. Geiping, A. Schwarzschild, M. Moeller and T. Goldstein. Truth
       or backpropaganda? An empirical investigation of deep learning theory. ICLR 2020,
       arXiv:1910.00359.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.landscape import PoorInitialization
    >>> from skpoison.models import TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> clf = TorchClassifier(
    ...     callbacks=[("start", PoorInitialization("bias"))],
    ...     max_epochs=2, device="cpu", random_state=0,
    ... )
    >>> clf.fit(X / 16, y).score(X / 16, y) < 0.2
    True
    """

    def __init__(self, kind="bias", value=None, random_state=None):
        self.kind = kind
        self.value = value
        self.random_state = random_state

    def initialize(self):
        """Expect a network that is new."""
        self.value_ = _checked(self.kind, self.value)
        self.seed_ = draw_seed(self.random_state)
        self.is_done_ = False
        return self

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        """Change the weights, unless that is done: a fit may train in stages."""
        if not self.is_done_:
            _initialize_(net.module_, self.kind, self.value_, self.seed_)
            self.is_done_ = True
