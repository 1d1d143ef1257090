"""Networks: each takes a batch of samples and returns logits (or one output)."""

import math

import torch
from torch import nn

from skpoison.utils._validation import check_option


def check_image_shape(module, input_shape):
    """Return the shape of an image that a network can take, or raise."""
    shape = tuple(input_shape)
    if len(shape) != 3 or min(shape[1:]) < 4:
        raise ValueError(
            f"{type(module).__name__} needs samples of shape (channels, height, width) "
            f"with sides >= 4, got {shape}; input_shape=(C, H, W) makes images of the "
            "rows of a table"
        )
    return shape


class LinearModel(nn.Module):
    """One affine map of the flattened sample.

    With the classifier's default criterion this is multinomial logistic regression.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one sample.
    n_outputs : int
        Number of classes, 1 for regression.

    Examples
    --------
    >>> import torch
    >>> from skpoison.models import LinearModel
    >>> LinearModel((1, 8, 8), 10)(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.linear = nn.Linear(math.prod(input_shape), n_outputs)

    def forward(self, X):
        return self.linear(X.flatten(1))


class MLP(nn.Module):
    """Fully connected network with ReLU units on the flattened sample.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one sample.
    n_outputs : int
        Number of classes, 1 for regression.
    hidden : tuple of int, default=(64,)
        Units of each hidden layer. One layer of 64 is chosen here: enough for the
        tables that scikit-learn ships, and seconds to train.
    dropout : float, default=0.0
        Probability of dropping a hidden unit in training.

    Examples
    --------
    >>> import torch
    >>> from skpoison.models import MLP
    >>> MLP((20,), 3, hidden=(32, 16))(torch.zeros(5, 20)).shape
    torch.Size([5, 3])
    """

    def __init__(self, input_shape, n_outputs, hidden=(64,), dropout=0.0):
        super().__init__()
        widths = [math.prod(input_shape), *hidden]
        layers = []
        for n_in, n_out in zip(widths[:-1], widths[1:], strict=True):
            layers += [nn.Linear(n_in, n_out), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], n_outputs))

    def forward(self, X):
        return self.layers(X.flatten(1))


class Normalized(nn.Module):
    """A network behind the normalisation of its pixels: ``network((x - mean) / std)``.

    With the normalisation inside the model, attacks and their radius stay in the unit
    of the data.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one sample.
    n_outputs : int
        Number of classes, 1 for regression.
    network : class or callable, default=MLP
        Called with the two above and `params`.
    mean, std : float or sequence of float, default=0.5 and 0.25
        One number, or one a channel. The defaults are those of pixels in [0, 1],
        roughly.
    **params : dict
        Further parameters of the network.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skpoison.models import MLP, Normalized, TorchClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> net = TorchClassifier(
    ...     Normalized, module__network=MLP, module__mean=4.9, module__std=6.0,
    ...     module__hidden=(32,), max_epochs=5, device="cpu", random_state=0,
    ... )
    >>> net.fit(X, y).score(X, y) > 0.9
    True
    """

    def __init__(
        self, input_shape, n_outputs, network=MLP, mean=0.5, std=0.25, **params
    ):
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            value = torch.as_tensor(value, dtype=torch.float32)
            if name == "std" and not (value > 0).all():
                raise ValueError(f"std must be > 0, got {std!r}")
            if value.ndim:
                value = value.reshape(-1, *[1] * (len(input_shape) - 1))
            self.register_buffer(name, value)
        self.network = network(input_shape, n_outputs, **params)

    def forward(self, X):
        return self.network((X - self.mean) / self.std)


class ConvNet(nn.Module):
    """Small VGG-like network: 3x3 convolutions, max pooling, one hidden layer.

    It has no batch normalisation, so that per-sample gradients, averages of clients'
    weights and second derivatives all make sense.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), any number of channels, sides of at least 4.
    n_outputs : int
        Number of classes, 1 for regression.
    channels : tuple of int, default=(16, 32)
        Channels of each stage; a stage halves the sides while they are at least 2.
        Chosen here for grey images of 28 by 28 on one CPU core.
    hidden : int, default=64
        Units of the layer before the output.
    dropout : float, default=0.0
        Probability of dropping a unit of that layer in training.

    Notes
    -----
    What the stages leave is averaged to a grid of at most 4 by 4 cells, which bounds
    the number of weights whatever the size of the image.

    Examples
    --------
    >>> import torch
    >>> from skpoison.models import ConvNet
    >>> ConvNet((3, 17, 9), 4)(torch.zeros(5, 3, 17, 9)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self, input_shape, n_outputs, channels=(16, 32), hidden=64, dropout=0.0
    ):
        super().__init__()
        n_in, height, width = check_image_shape(self, input_shape)
        layers = []
        for n_out in channels:
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), nn.ReLU()]
            if min(height, width) >= 2:
                layers.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            n_in = n_out
        grid = min(height, 4), min(width, 4)
        if grid != (height, width):
            layers.append(nn.AdaptiveAvgPool2d(grid))
        self.features = nn.Sequential(*layers, nn.Flatten())
        head = [nn.Linear(n_in * math.prod(grid), hidden), nn.ReLU()]
        if dropout:
            head.append(nn.Dropout(dropout))
        self.head = nn.Sequential(*head, nn.Linear(hidden, n_outputs))

    def forward(self, X):
        return self.head(self.features(X))


class LeNet(nn.Module):
    """The small LeNet on which gradient inversion was first measured.

    Three 5x5 convolutions of 12 channels, the first two with stride 2, and one linear
    layer. Weights and biases start uniform in [-0.5, 0.5], large enough for gradients
    to reach the input through the sigmoids. 15,826 weights for 3x32x32 and 10 classes.

    Parameters
    ----------
    input_shape : tuple of int
        (channels, height, width), sides of at least 4.
    n_outputs : int
        Number of classes, 1 for regression.
    activation : {"sigmoid", "relu"}, default="sigmoid"
        "sigmoid" is the paper's [1]_: matching gradients needs second derivatives.

    References
    ----------
    .. [1] L. Zhu, Z. Liu and S. Han. Deep leakage from gradients. NeurIPS 2019,
       arXiv:1906.08935.

    Examples
    --------
    >>> from skpoison.models import LeNet
    >>> net = LeNet((3, 32, 32), 10)
    >>> sum(p.numel() for p in net.parameters())
    15826
    """

    def __init__(self, input_shape, n_outputs, activation="sigmoid"):
        super().__init__()
        n_in, height, width = check_image_shape(self, input_shape)
        check_option("activation", activation, ("sigmoid", "relu"))
        unit = {"sigmoid": nn.Sigmoid, "relu": nn.ReLU}[activation]
        layers = []
        for stride in (2, 2, 1):
            layers += [nn.Conv2d(n_in, 12, 5, stride, padding=2), unit()]
            n_in = 12
        self.features = nn.Sequential(*layers, nn.Flatten())
        n_cells = math.ceil(height / 4) * math.ceil(width / 4)
        self.linear = nn.Linear(12 * n_cells, n_outputs)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -0.5, 0.5)

    def forward(self, X):
        return self.linear(self.features(X))
