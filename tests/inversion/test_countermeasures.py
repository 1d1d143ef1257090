"""Noise, pruning and clipping of updates."""

import copy

import numpy as np
import pytest
import torch

from skpoison.inversion import clip_update, noise_update, prune_update

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(40, 50)), 10 * RNG.normal(size=(30,))
FORMS = {
    "dict": {"a": A, "b": B},
    "list": [A, B],
    "tuple": (torch.tensor(A), torch.tensor(B)),
    "flat": np.concatenate([A.ravel(), B]),
    "flat tensor": torch.tensor(np.concatenate([A.ravel(), B])),
}
CHANGES = {
    "noise": lambda update: noise_update(update, 0.3, random_state=7),
    "prune": lambda update: prune_update(update, 0.4),
    "clip": lambda update: clip_update(update, 2.0),
}


def flat(update):
    if isinstance(update, dict):
        update = list(update.values())
    if not isinstance(update, list | tuple):
        update = [update]
    return np.concatenate([np.asarray(part, np.float64).ravel() for part in update])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CHANGES)
def test_same_kind_out_and_input_unchanged(name, form):
    update = copy.deepcopy(FORMS[form])
    changed = CHANGES[name](update)
    assert type(changed) is type(update)
    np.testing.assert_array_equal(flat(update), flat(FORMS[form]))
    if isinstance(update, dict):
        assert list(changed) == ["a", "b"] and changed["a"].shape == A.shape
    # form changes nothing but that a flat vector is pruned as one
    if not (name == "prune" and "flat" in form):
        wanted = flat(CHANGES[name]([A, B]))
        if "flat" not in form or name == "clip":
            np.testing.assert_allclose(flat(changed), wanted, rtol=1e-12)
    assert not np.array_equal(flat(changed), flat(update))


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_floating_types(name, dtype):
    update = [torch.tensor(A, dtype=dtype, requires_grad=True)]
    (changed,) = CHANGES[name](update)
    assert changed.dtype == dtype and not changed.requires_grad
    assert CHANGES[name]([A.astype(np.float32)])[0].dtype == np.float32
    assert CHANGES[name](np.arange(9)).dtype == np.float64


class TestNoise:
    def test_size(self):
        update = RNG.normal(size=100_000) * 5
        rms = np.sqrt(np.mean(update**2))
        for relative, sigma in ((True, 0.1 * rms), (False, 0.1)):
            noise = (
                noise_update(update, 0.1, relative=relative, random_state=0) - update
            )
            assert noise.std() == pytest.approx(sigma, rel=0.02)
            assert abs(noise.mean()) < 0.02 * sigma

    def test_one_size_for_all_arrays(self):
        small, large = np.full(50_000, 1e-3), np.full(50_000, 1.0)
        noisy = noise_update([small, large], 1.0, random_state=0)
        spread = [(n - u).std() for n, u in zip(noisy, (small, large), strict=True)]
        assert spread == pytest.approx([0.5**0.5] * 2, rel=0.02)

    def test_seeds(self):
        first, again = (noise_update([A, B], 1.0, random_state=3) for _ in range(2))
        np.testing.assert_array_equal(flat(first), flat(again))
        other = noise_update([A, B], 1.0, random_state=4)
        assert not np.array_equal(flat(first), flat(other))
        state = np.random.get_state()[1].copy()  # noqa: NPY002
        free = noise_update(A, 1.0)
        assert not np.array_equal(free, noise_update(A, 1.0))
        after = np.random.get_state()[1]  # noqa: NPY002
        np.testing.assert_array_equal(after, state)
        np.testing.assert_array_equal(noise_update(A, 0.0), A)


class TestPrune:
    @pytest.mark.parametrize("fraction", [0.0, 0.29, 0.5, 0.99, 1.0])
    def test_by_sorting(self, fraction):
        update = RNG.normal(size=(10, 10))
        pruned = prune_update([update], fraction)[0]
        n_dropped = round(fraction * 100)
        limit = np.sort(abs(update), axis=None)[n_dropped:]
        kept = abs(update) >= limit.min(initial=np.inf)
        np.testing.assert_array_equal(pruned, np.where(kept, update, 0))
        assert (pruned == 0).sum() == n_dropped

    def test_each_array_for_itself(self):
        a, b = prune_update([A, 1e-6 * B], 0.5)
        assert (a == 0).sum() == 1000 and (b == 0).sum() == 15
        assert (
            prune_update(np.concatenate([A.ravel(), 1e-6 * B]), 0.5) == 0
        ).sum() == 1015

    def test_ties(self):
        assert (prune_update(np.ones(10), 0.3) == 0).sum() == 3


class TestClip:
    def test_the_norm_is_of_all_arrays(self):
        clipped = clip_update({"a": A, "b": B}, 2.0)
        assert np.linalg.norm(flat(clipped)) == pytest.approx(2.0, rel=1e-12)
        ratio = flat(clipped) / flat([A, B])
        np.testing.assert_allclose(ratio, ratio[0])

    def test_short_ones_stay(self):
        norm = np.linalg.norm(flat([A, B]))
        np.testing.assert_array_equal(flat(clip_update([A, B], norm * 2)), flat([A, B]))
        np.testing.assert_array_equal(clip_update(np.zeros(3), 1.0), np.zeros(3))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda: noise_update(A, -1), "scale must be >= 0"),
        (lambda: prune_update(A, 1.5), r"fraction must be in \[0.0, 1.0\]"),
        (lambda: clip_update(A, 0), "max_norm must be > 0"),
        (lambda: clip_update([A, B * np.nan], 1), "update holds NaN or infinite"),
    ],
    ids=["scale", "fraction", "max_norm", "nan"],
)
def test_bad_values(change, message):
    with pytest.raises(ValueError, match=message):
        change()
