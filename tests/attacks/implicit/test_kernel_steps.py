"""Derivatives through kernel feature maps equal those of refitting, by differences."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.kernel_approximation import Nystroem, RBFSampler
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.attacks._implicit._objectives import NotDifferentiableError
from skpoison.attacks._implicit._steps import pull_back

STEPS = {
    "nystroem": Nystroem(n_components=4, random_state=0),
    "nystroem_gamma": Nystroem(n_components=6, gamma=0.05, random_state=1),
    "sampler": RBFSampler(n_components=5, random_state=0),
    "sampler_scale": RBFSampler(gamma="scale", n_components=5, random_state=0),
    "behind_scaler": make_pipeline(
        StandardScaler(), Nystroem(n_components=5, random_state=0)
    ),
}


def _rows():
    return np.random.RandomState(0).normal(size=(9, 3)) * [1, 3, 0.5] + [0, 5, 1]


@pytest.mark.parametrize("n_fit", [0, 7])
@pytest.mark.parametrize("name", STEPS)
def test_kernel_maps(name, n_fit):
    X = _rows()
    fitted = clone(STEPS[name]).fit(X[:7])
    out = fitted.transform(X)
    G = np.random.RandomState(1).normal(size=out.shape)
    found, gains = pull_back(fitted, X, out, G, n_fit)
    assert gains == {}

    def value(Z):
        step = clone(STEPS[name]).fit(Z[:7]) if n_fit else fitted
        return np.sum(G * step.transform(Z))

    expected = np.empty_like(X)
    for cell in np.ndindex(X.shape):
        ends = []
        for h in (1e-6, -1e-6):
            Z = X.copy()
            Z[cell] += h
            ends.append(value(Z))
        expected[cell] = (ends[0] - ends[1]) / 2e-6
    np.testing.assert_allclose(found, expected, atol=2e-6 * np.abs(expected).max())


def test_other_kernels_are_refused():
    X = _rows()
    step = Nystroem("poly", degree=2, n_components=4).fit(X)
    out = step.transform(X)
    with pytest.raises(NotDifferentiableError, match="Nystroem"):
        pull_back(step, X, out, np.ones_like(out), 0)
