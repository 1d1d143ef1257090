"""Updates of clients: identities of what is computed, hidden and recovered."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from properties._strategies import SEEDS

from skpoison.inversion import (
    AnalyticInversion,
    BatchNormStatistics,
    GradientInversion,
    SquaredNorm,
    TotalVariation,
    client_update,
    clip_update,
    invert_linear,
    noise_update,
    prune_update,
    recover_labels,
)
from skpoison.model_selection import leakage_curve
from skpoison.models import MLP, ConvNet, ResNet20
from skpoison.utils import local_torch_seed

pytestmark = pytest.mark.filterwarnings("ignore")


def _module(seed, n_features=4, n_classes=3, n_hidden=5):
    with local_torch_seed(seed):
        return MLP((n_features,), n_classes, hidden=(n_hidden,)).double()


def _norm(update):
    return np.sqrt(sum(float((v**2).sum()) for v in update.values()))


@given(seed=st.integers(0, 999), n=st.integers(1, 7))
def test_client_gradients_are_means(seed, n):
    rng = np.random.RandomState(seed)
    X, y = rng.rand(n, 4), rng.randint(0, 3, n)
    module = _module(seed)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    whole = client_update(module, X, y)
    each = [client_update(module, X[i : i + 1], y[i : i + 1]) for i in range(n)]
    for name, value in whole.items():
        mean = torch.stack([e[name] for e in each]).mean(0)
        torch.testing.assert_close(value, mean, rtol=1e-8, atol=1e-10)
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None for p in module.parameters())


@given(seed=st.integers(0, 999), n=st.integers(1, 9), hidden=st.booleans())
def test_recovered_labels_are_as_many_as_the_rows(seed, n, hidden):
    rng = np.random.RandomState(seed)
    X, y = rng.rand(n, 4), rng.randint(0, 3, n)
    module = _module(seed)
    update = client_update(module, X, y)
    if hidden:
        update = noise_update(update, 0.5, random_state=seed)
    found = recover_labels(update, module, n, random_state=seed)
    assert found.shape == (n,) and set(found) <= {0, 1, 2}
    assert (np.diff(found) >= 0).all()
    if n == 1 and not hidden:
        assert found[0] == y[0]


@given(
    seed=SEEDS, n_out=st.integers(1, 4), n_in=st.integers(1, 5), scale=st.floats(0.1, 9)
)
def test_linear_layers_give_their_input_away(seed, n_out, n_in, scale):
    rng = np.random.RandomState(seed)
    x, delta = scale * rng.rand(n_in), rng.randn(n_out)
    found = invert_linear(np.outer(delta, x), delta)
    np.testing.assert_allclose(np.ravel(found), x, rtol=1e-9)


@given(
    seed=SEEDS,
    shapes=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    limit=st.floats(0.01, 10),
    share=st.floats(0, 1),
)
def test_countermeasures_do_what_they_say(seed, shapes, limit, share):
    rng = np.random.RandomState(seed)
    update = {f"p{i}": rng.randn(n) for i, n in enumerate(shapes)}
    before = {k: v.copy() for k, v in update.items()}
    clipped = clip_update(update, limit)
    assert _norm(clipped) <= limit * (1 + 1e-9)
    if _norm(update) <= limit:
        assert _norm(clipped) == pytest.approx(_norm(update))
    pruned = prune_update(update, share)
    for name, value in pruned.items():
        kept = value != 0
        np.testing.assert_array_equal(value[kept], update[name][kept])
        if kept.any() and not kept.all():
            assert np.abs(value[kept]).min() >= np.abs(update[name][~kept]).max()
    silent = noise_update(update, 0.0, random_state=0)
    noisy, again = (noise_update(update, 0.3, random_state=seed) for _ in range(2))
    for name in update:
        np.testing.assert_array_equal(silent[name], update[name])
        np.testing.assert_array_equal(noisy[name], again[name])
        np.testing.assert_array_equal(update[name], before[name])


@given(seed=SEEDS, scale=st.floats(0.1, 5))
def test_priors_are_zero_on_what_they_like(seed, scale):
    X = torch.from_numpy(np.random.RandomState(seed).rand(2, 1, 4, 4))
    for prior in (TotalVariation(), SquaredNorm()):
        assert (prior.value(X, []) >= 0).all()
        assert prior.value(0 * X, []).abs().max() < 1e-6
    torch.testing.assert_close(
        SquaredNorm().value(scale * X, []), scale**2 * SquaredNorm().value(X, [])
    )
    shifted = TotalVariation().value(X + scale, [])
    torch.testing.assert_close(shifted, TotalVariation().value(X, []))
    names, _ = BatchNormStatistics().bind(ResNet20((1, 8, 8), 2, width=2, n_blocks=1))
    assert len(names) == len(set(names)) > 0


@settings(max_examples=3)
@given(seed=st.integers(0, 99))
def test_reconstructions_have_the_shape_asked_for(seed):
    rng = np.random.RandomState(seed)
    X, y = rng.rand(1, 1, 6, 6), rng.randint(0, 3, 1)
    with local_torch_seed(seed):
        module = ConvNet((1, 6, 6), 3, channels=(2,), hidden=4).double()
    update = client_update(module, X, y)
    search = GradientInversion(module, max_iter=3, random_state=seed)
    one, two = (search.reconstruct(update, labels=y, shape=(1, 6, 6)) for _ in range(2))
    np.testing.assert_array_equal(one.X, two.X)
    assert one.X.shape == X.shape and np.isfinite(one.X).all()
    # one layer gives its input away exactly
    flat = X.reshape(1, -1)
    module = _module(seed, 36, n_hidden=40)  # some are not dead
    exact = AnalyticInversion(module)
    found = exact.reconstruct(client_update(module, flat, y), shape=(36,))
    np.testing.assert_allclose(found.X, flat, atol=1e-5)
    curve = leakage_curve(
        AnalyticInversion(module, polish=False),
        flat,
        y,
        defense=noise_update,
        param_range=[0.0, 100.0],
        random_state=seed,
    )
    assert (curve.psnr[0] > curve.psnr[1]).all()
