"""Spectra, kernels, minima: identities of linear algebra on drawn networks."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from properties._strategies import SEEDS, tables

from skpoison.landscape import (
    NormBias,
    NTKTracker,
    PoorInitialization,
    SpectralProjection,
    TangentKernel,
    apply_norm_bias_,
    check_local_minimum,
    construct_suboptimal_minimum,
    conv_singular_values,
    effective_rank,
    empirical_ntk,
    feature_distances,
    hessian_eigenvalues,
    linear_minimum,
    ntk_change,
    nuclear_norm_penalty,
    operator_norm,
    operator_norm_penalty,
    poor_initialization,
    rank_report,
)
from skpoison.models import MLP, ConvNet, LinearModel, TorchClassifier
from skpoison.utils import local_torch_seed

pytestmark = pytest.mark.filterwarnings("ignore")


def _mlp(seed, n_features=3, n_classes=2, hidden=(4,)):
    with local_torch_seed(seed):
        return MLP((n_features,), n_classes, hidden=hidden).double()


@given(
    seed=SEEDS, rows=st.integers(1, 5), cols=st.integers(1, 5), factor=st.floats(0.1, 9)
)
def test_spectra_of_matrices(seed, rows, cols, factor):
    A = np.random.RandomState(seed).randn(rows, cols)
    values, multiplicity = conv_singular_values(A)
    true = np.linalg.svd(A, compute_uv=False)
    np.testing.assert_allclose(np.sort(values.ravel())[-len(true) :], np.sort(true))
    T = torch.from_numpy(A)
    assert float(nuclear_norm_penalty(T)) == pytest.approx(true.sum())
    assert float(operator_norm_penalty(T)) == pytest.approx(true.max())
    layer = torch.nn.Linear(cols, rows, bias=False).double()
    layer.weight.data = T
    assert operator_norm(layer) == pytest.approx(true.max(), rel=1e-5)
    for kind in ("nuclear", "stable", "entropy", "count"):
        rank = effective_rank(true, kind=kind)
        assert 0 < rank <= min(rows, cols) * (1 + 1e-9)
        assert effective_rank(factor * true, kind=kind) == pytest.approx(rank)
        assert effective_rank(np.r_[true, 0], kind=kind) == pytest.approx(rank)


@given(
    seed=SEEDS, c_in=st.integers(1, 2), c_out=st.integers(1, 2), side=st.integers(3, 5)
)
def test_spectra_of_convolutions(seed, c_in, c_out, side):
    W = np.random.RandomState(seed).randn(c_out, c_in, 3, 3)
    values, multiplicity = conv_singular_values(W, side)
    # the squared values sum to the squared entries of the operator
    total = (multiplicity * (values**2).sum(1)).sum()
    assert total == pytest.approx(side**2 * (W**2).sum(), rel=1e-6)
    layer = torch.nn.Conv2d(c_in, c_out, 3, padding=1, bias=False).double()
    layer.weight.data = torch.from_numpy(W)
    largest = operator_norm(layer, side, circular=True)
    assert largest == pytest.approx(values.max(), rel=1e-5)


@given(seed=st.integers(0, 999), n=st.integers(2, 6), factor=st.floats(0.2, 5))
def test_tangent_kernels_are_gram_matrices(seed, n, factor):
    X = np.random.RandomState(seed).rand(n, 3)
    module = _mlp(seed)
    K = empirical_ntk(module, X)
    np.testing.assert_allclose(K, K.T, atol=1e-9)
    assert np.linalg.eigvalsh(K).min() >= -1e-8 * np.abs(K).max()
    np.testing.assert_allclose(empirical_ntk(module, X[:1], X), K[:2], atol=1e-9)
    change = ntk_change(K, factor * K)
    assert change.similarity == pytest.approx(1)
    assert change.relative_change == pytest.approx(abs(factor - 1), abs=1e-9)
    kernel = TangentKernel(MLP, device="cpu", random_state=seed).fit(X)
    G = kernel.transform(X)
    np.testing.assert_allclose(G, G.T, rtol=1e-4, atol=1e-5)
    distances = feature_distances(module, X)
    np.testing.assert_allclose(np.diag(distances.distance), 0, atol=1e-6)
    assert (np.abs(distances.cosine) <= 1 + 1e-9).all()


@given(
    seed=SEEDS,
    target=st.floats(0, 50),
    coef=st.floats(1e-4, 1),
)
def test_norm_bias_pulls_towards_its_target(seed, target, coef):
    weights = torch.from_numpy(np.random.RandomState(seed).randn(6)).requires_grad_()
    weights.grad = torch.zeros_like(weights)
    norm = apply_norm_bias_([weights], target=target, coef=coef).item()
    assert norm == pytest.approx(float((weights**2).sum()))
    slope = float((weights.grad * weights).sum())
    assert slope * (norm - target) >= 0


@given(data=tables(n_classes=2))
def test_linear_minima_are_stationary(data):
    X, _ = data
    y = X.sum(1) + np.arange(len(X)) % 3
    found = linear_minimum(X, y)
    residual = y - X @ found.coef[0] - found.intercept[0]
    assert abs(residual.mean()) < 1e-6 and np.abs(residual @ X).max() < 1e-4
    assert found.loss == pytest.approx((residual**2).mean())
    hard = construct_suboptimal_minimum(
        MLP((X.shape[1],), 1, hidden=(X.shape[1] + 2,)), X, y
    )
    with torch.no_grad():
        predicted = hard(torch.from_numpy(X).to(next(hard.parameters()).dtype))
    error = float(((predicted.numpy().ravel() - y) ** 2).mean())
    assert error == pytest.approx(found.loss, rel=1e-4)


@settings(max_examples=3)
@given(seed=st.integers(0, 99))
def test_curvature_of_least_squares_is_known(seed):
    rng = np.random.RandomState(seed)
    X, y = rng.randn(20, 3), rng.randn(20)
    with local_torch_seed(seed):
        module = LinearModel((3,), 1).double()
    A = np.c_[X, np.ones(20)]
    true = np.linalg.eigvalsh(2 * A.T @ A / 20)
    found = hessian_eigenvalues(module, X, y, random_state=0)
    assert found.largest[0] == pytest.approx(true[-1], rel=1e-3)
    assert found.smallest[0] == pytest.approx(true[0], rel=1e-2, abs=1e-4)
    best = np.linalg.lstsq(A, y, rcond=None)[0]
    with torch.no_grad():
        weight, bias = module.parameters()
        weight.copy_(torch.from_numpy(best[None, :3]))
        bias.copy_(torch.from_numpy(best[3:]))
    assert check_local_minimum(module, X, y, random_state=0).is_minimum


@given(
    seed=st.integers(0, 999), kind=st.sampled_from(["bias"]), value=st.floats(-9, -1)
)
def test_poor_starts_are_set(seed, kind, value):
    network = poor_initialization(_mlp(seed), kind, value)
    np.testing.assert_allclose(network.layers[0].bias.detach().numpy(), value)


@settings(max_examples=2)
@given(data=tables(n_classes=2), seed=st.integers(0, 99))
def test_callbacks_change_no_type_and_report(data, seed):
    X, y = np.repeat(data[0], 8, axis=1)[:, :16].reshape(len(data[0]), 1, 4, 4), data[1]
    model = TorchClassifier(
        ConvNet,
        module__channels=(2, 2),
        max_epochs=2,
        callbacks=[
            ("norm", NormBias(target=1.0)),
            ("rank", SpectralProjection("max", 0.5, at_epochs=(1,))),
            ("kernel", NTKTracker(n_probe=3, random_state=0)),
            ("start", PoorInitialization("bias", -1.0)),
        ],
        device="cpu",
        random_state=seed,
    ).fit(X, y)
    assert np.isfinite(model.predict_proba(X)).all()
    report = rank_report(model, X[:1])
    assert (report.rank_share <= 1 + 1e-9).all()
