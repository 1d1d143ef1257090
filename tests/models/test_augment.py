"""Shifts and flips: against grid sampling, through gradients, in training."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from torch.nn import functional as F

from skpoison.defenses import MixupClassifier
from skpoison.models import ShiftFlip, TorchClassifier, TorchRegressor

X, Y = load_digits(return_X_y=True)
X, Y = (X[:200] / 16).astype(np.float32).reshape(-1, 1, 8, 8), Y[:200]
FAST = {"max_epochs": 2, "device": "cpu", "random_state": 0}


def images(n=5, shape=(3, 6, 9)):
    return torch.rand((n, *shape), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("fill", [0.0, 0.4])
def test_equals_grid_sampling(fill):
    batch = images()
    augment = ShiftFlip(5, flip=True, fill=fill)
    moves = augment.draw(len(batch), (3, 6, 9), torch.Generator().manual_seed(3))
    assert set(moves[:, 2].tolist()) == {0.0, 1.0}
    rows, columns = torch.linspace(-1, 1, 6), torch.linspace(-1, 1, 9)
    for image, moved, (down, right, mirrored) in zip(
        batch, augment.apply(batch, moves), moves, strict=True
    ):
        u, v = columns + 2 * right / 8, rows + 2 * down / 5
        u = -u if mirrored else u
        grid = torch.stack(torch.meshgrid(u, v, indexing="xy"), -1)[None]
        wanted = F.grid_sample(
            image[None] - fill, grid, padding_mode="zeros", align_corners=True
        )
        torch.testing.assert_close(moved, wanted[0] + fill, rtol=1e-4, atol=1e-5)


def test_draws_lie_within_reach_and_come_from_the_generator():
    moves = ShiftFlip().draw(4000, (1, 32, 16), torch.Generator().manual_seed(0))
    largest = moves.abs().max(0).values
    assert 3.9 < largest[0] <= 4 and 1.9 < largest[1] <= 2 and largest[2] == 0
    np.testing.assert_allclose(moves.mean(0), 0, atol=0.2)
    moves = ShiftFlip(6, flip=True).draw(4000, (1, 32, 16), torch.Generator())
    assert 2.9 < moves[:, :2].abs().max() <= 3
    assert abs(float(moves[:, 2].mean()) - 0.5) < 0.05
    first, second = (ShiftFlip()(images(), torch.Generator()) for _ in range(2))
    assert torch.equal(first, second)


def test_gradients_reach_the_pixels():
    batch = images(2, (1, 4, 4)).double().requires_grad_()
    augment = ShiftFlip(2, flip=True)
    moves = augment.draw(2, (1, 4, 4), torch.Generator().manual_seed(0))
    assert torch.autograd.gradcheck(lambda x: augment.apply(x, moves), batch)


@pytest.mark.parametrize(
    "augment, error, message",
    [
        (ShiftFlip(-1), ValueError, "shift must be >= 0"),
        (ShiftFlip(fill="black"), TypeError, "fill must be a number"),
        (ShiftFlip(flip=1), TypeError, "flip must be a bool"),
        (3, TypeError, "augment must be None, 'default' or a callable"),
        ("shift", ValueError, "augment must be one of 'default'"),
    ],
    ids=["shift", "fill", "flip", "number", "name"],
)
def test_bad_parameters_wait_for_fit(augment, error, message):
    for kind in (TorchClassifier, TorchRegressor, MixupClassifier):
        model = kind(augment=augment, device="cpu")
        with pytest.raises(error, match=message):
            model.fit(X, Y)


@pytest.mark.parametrize("augment", ["default", ShiftFlip()], ids=["default", "object"])
def test_tables_have_nothing_to_move(augment):
    flat = X.reshape(len(X), -1)
    with pytest.raises(ValueError, match=r"images of shape \(C, H, W\)"):
        TorchClassifier(augment=augment, **FAST).fit(flat, Y)
    model = TorchClassifier(augment=augment, input_shape=(1, 8, 8), **FAST)
    assert model.fit(flat, Y).n_iter_ == 2


def test_training_batches_alone_are_changed_before_the_hook():
    seen = []

    def augment(batch, generator):
        assert isinstance(generator, torch.Generator)
        seen.append(len(batch))
        return batch * 0 + torch.rand(1, generator=generator)

    class Watching(TorchClassifier):
        def _batch_hook(self, streams):
            def hook(X, T, context):
                assert X.min() == X.max()  # it has been through `augment`
                return X, T

            return hook

    model = Watching(augment=augment, **FAST).fit(X, Y)
    assert seen == [64, 64, 64, 8] * 2
    model.predict(X)
    assert len(seen) == 8 and model.net_.augment_ is None


def test_streams():
    def weights(**params):
        model = TorchClassifier(**{**FAST, **params}).fit(X, Y)
        return torch.cat([p.detach().ravel() for p in model.module_.parameters()])

    plain, moved = weights(), weights(augment="default")
    assert torch.equal(moved, weights(augment=ShiftFlip()))
    assert not torch.equal(moved, plain)
    assert not torch.equal(moved, weights(augment="default", random_state=1))
    # no other stream moves when augmentation comes in
    assert torch.equal(plain, weights(augment=lambda batch, generator: batch))


def test_parameters_are_reached_by_clone_and_search():
    model = MixupClassifier(augment=ShiftFlip(), **FAST)
    copied = clone(model).set_params(augment__shift=3)
    assert copied.augment.shift == 3 and model.augment.shift is None
    assert copied.get_params()["augment__shift"] == 3
    search = GridSearchCV(model, {"augment__shift": [0, 2]}, cv=2).fit(X, Y)
    assert search.best_estimator_.augment.shift in (0, 2)
    assert not hasattr(model, "net_")
