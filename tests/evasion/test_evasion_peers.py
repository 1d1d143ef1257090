"""Robust accuracies against foolbox, torchattacks and ART: the same, or lower.

Ours counts a row as broken once any iterate is misread, peers by their last iterate.
"""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from skpoison.evasion import APGD, FGSM, PGD, MomentumPGD
from skpoison.models import TorchClassifier

EPS, STEP, N_STEPS = 0.08, 0.02, 10
EPS_L2, STEP_L2 = 0.5, 0.12
BOX = {"bounds": (0, 1), "random_state": 0}


class Victim:
    """A network in evaluation mode and rows that it was not trained on."""

    def __init__(self):
        X, y = load_digits(return_X_y=True)
        X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
        model = TorchClassifier(max_epochs=6, device="cpu", random_state=0)
        self.module = model.fit(X[:1000], y[:1000]).module_.eval()
        self.X, self.y = X[1000:], y[1000:]
        self.x, self.t = torch.as_tensor(self.X), torch.as_tensor(self.y)
        self.right = self.holds(self.x)

    def holds(self, x):
        with torch.no_grad():
            return (self.module(torch.as_tensor(x)).argmax(1) == self.t).numpy()

    def ours(self, attack):
        """Return which rows withstand an attack of ours."""
        attack.set_params(surrogate=self.module)
        found = attack.attack(self.X, self.y)
        assert np.array_equal(self.holds(found.X), ~found.success)
        return ~found.success

    def torchattacks(self, name, **params):
        peer = pytest.importorskip("torchattacks")
        torch.manual_seed(0)
        attack = getattr(peer, name)(self.module, **params)
        return self.right & self.holds(attack(self.x, self.t))

    def foolbox(self, name, eps, **params):
        peer = pytest.importorskip("foolbox")
        torch.manual_seed(0)
        model = peer.PyTorchModel(self.module, bounds=(0, 1), device="cpu")
        attack = getattr(peer.attacks, name)(**params)
        moved = attack(model, self.x, self.t, epsilons=eps)[1]
        return self.right & self.holds(moved)

    def art(self, name, **params):
        evasion = pytest.importorskip("art.attacks.evasion")
        from art.estimators.classification import PyTorchClassifier

        model = PyTorchClassifier(
            self.module,
            torch.nn.CrossEntropyLoss(),
            (1, 8, 8),
            10,
            clip_values=(0, 1),
            device_type="cpu",
        )
        attack = getattr(evasion, name)(model, **params)
        return self.right & self.holds(attack.generate(self.X, self.y))


@pytest.fixture(scope="module")
def victim():
    return Victim()


def art_pgd(**params):
    return {
        "eps": EPS,
        "eps_step": STEP,
        "max_iter": N_STEPS,
        "batch_size": 1024,
        "verbose": False,
        **params,
    }


#: Without draws the iterates are the same, and so is every row.
FIXED = {
    "torchattacks FGSM": (
        FGSM(eps=EPS, **BOX),
        lambda v: v.torchattacks("FGSM", eps=EPS),
    ),
    "foolbox FGSM": (
        FGSM(eps=EPS, **BOX),
        lambda v: v.foolbox("LinfFastGradientAttack", EPS),
    ),
    "ART FGSM": (
        FGSM(eps=EPS, **BOX),
        lambda v: v.art("FastGradientMethod", eps=EPS),
    ),
    "torchattacks PGD": (
        PGD(eps=EPS, step_size=STEP, max_iter=N_STEPS, random_start=False, **BOX),
        lambda v: v.torchattacks(
            "PGD", eps=EPS, alpha=STEP, steps=N_STEPS, random_start=False
        ),
    ),
    "foolbox PGD": (
        PGD(eps=EPS, step_size=STEP, max_iter=N_STEPS, random_start=False, **BOX),
        lambda v: v.foolbox(
            "LinfPGD", EPS, abs_stepsize=STEP, steps=N_STEPS, random_start=False
        ),
    ),
    "ART PGD": (
        PGD(eps=EPS, step_size=STEP, max_iter=N_STEPS, random_start=False, **BOX),
        lambda v: v.art("ProjectedGradientDescent", **art_pgd()),
    ),
    "torchattacks momentum": (
        MomentumPGD(eps=EPS, step_size=STEP, max_iter=N_STEPS, **BOX),
        lambda v: v.torchattacks(
            "MIFGSM", eps=EPS, alpha=STEP, steps=N_STEPS, decay=1.0
        ),
    ),
    "ART momentum": (
        MomentumPGD(eps=EPS, step_size=STEP, max_iter=N_STEPS, **BOX),
        lambda v: v.art("MomentumIterativeMethod", **art_pgd(decay=1.0)),
    ),
    "torchattacks PGD l2": (
        PGD(
            eps=EPS_L2,
            step_size=STEP_L2,
            max_iter=N_STEPS,
            norm="l2",
            random_start=False,
            **BOX,
        ),
        lambda v: v.torchattacks(
            "PGDL2", eps=EPS_L2, alpha=STEP_L2, steps=N_STEPS, random_start=False
        ),
    ),
    "foolbox PGD l2": (
        PGD(
            eps=EPS_L2,
            step_size=STEP_L2,
            max_iter=N_STEPS,
            norm="l2",
            random_start=False,
            **BOX,
        ),
        lambda v: v.foolbox(
            "L2PGD", EPS_L2, abs_stepsize=STEP_L2, steps=N_STEPS, random_start=False
        ),
    ),
}
#: With draws of their own the rows differ by chance.
DRAWN = {
    "torchattacks PGD": (
        PGD(eps=EPS, step_size=STEP, max_iter=N_STEPS, **BOX),
        lambda v: v.torchattacks("PGD", eps=EPS, alpha=STEP, steps=N_STEPS),
    ),
    "foolbox PGD": (
        PGD(eps=EPS, step_size=STEP, max_iter=N_STEPS, **BOX),
        lambda v: v.foolbox("LinfPGD", EPS, abs_stepsize=STEP, steps=N_STEPS),
    ),
    "ART PGD": (
        PGD(eps=EPS, step_size=STEP, max_iter=N_STEPS, **BOX),
        lambda v: v.art("ProjectedGradientDescent", **art_pgd(num_random_init=1)),
    ),
    "torchattacks APGD": (
        APGD(eps=EPS, max_iter=20, **BOX),
        lambda v: v.torchattacks("APGD", eps=EPS, steps=20),
    ),
    "torchattacks APGD dlr": (
        APGD(eps=EPS, max_iter=20, loss="dlr", **BOX),
        lambda v: v.torchattacks("APGD", eps=EPS, steps=20, loss="dlr"),
    ),
}


def counting_error(robust):
    """Return the standard error of a share of rows."""
    share = np.mean(robust)
    return np.sqrt(share * (1 - share) / len(robust))


@pytest.mark.parametrize("case", FIXED)
def test_without_draws_every_row_they_break_we_break(case, victim):
    attack, peer = FIXED[case]
    theirs = peer(victim)
    ours = victim.ours(attack)
    assert 0.1 < theirs.mean() < 0.85
    assert not (ours & ~theirs).any()
    assert theirs.mean() - ours.mean() <= counting_error(theirs)


@pytest.mark.parametrize("case", DRAWN)
def test_with_draws_shares_agree_within_counting_error(case, victim):
    attack, peer = DRAWN[case]
    theirs = peer(victim)
    ours = victim.ours(attack)
    assert 0.1 < theirs.mean() < 0.85
    assert abs(theirs.mean() - ours.mean()) <= counting_error(theirs)
