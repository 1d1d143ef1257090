"""Rows and networks of the tests of minima."""

from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from torch import nn

from skpoison.models import ConvNet


def table(n_features=8, n_rows=600, n_classes=5):
    """Return digits whitened to a few features; classes overlap."""
    X, y = load_digits(return_X_y=True)
    X = PCA(n_features, whiten=True, random_state=0).fit_transform(X)
    return X[:n_rows], (y % n_classes)[:n_rows]


def images(n_rows=300):
    """Return digits of 4 by 4 pixels, whitened but still images, in five classes."""
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(len(X), -1)
    pca = PCA(whiten=True, random_state=0).fit(X)
    X = pca.transform(X) @ pca.components_
    return X.reshape(-1, 1, 4, 4)[:n_rows], (y % 5)[:n_rows]


def conv_net(stride=1, kernel=3, dilation=1, first=2, second=8, unit=nn.ReLU):
    padding = dilation * (kernel - 1) // 2
    side = (4 - 1) // stride + 1
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(1, first, 3, padding="same"), unit()),
        nn.Conv2d(first, second, kernel, stride, padding, dilation),
        unit(),
        nn.Flatten(),
        nn.Linear(second * side**2, 5),
    )


def conv(width):
    return ConvNet((1, 4, 4), 5, channels=(width, 2 * width), hidden=3 * width)
