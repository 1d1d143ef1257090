"""The checks that accept them: run with pytest."""

import numpy as np
from own_parts import (
    EchoAttack,
    FrameTrigger,
    MirrorAttack,
    NeighbourVote,
    ShiftAttack,
)
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpoison.attacks import BackdoorAttack
from skpoison.utils.estimator_checks import parametrize_with_attack_checks


@parametrize_with_attack_checks([ShiftAttack(), EchoAttack(), MirrorAttack()])
def test_attack_contract(attack, check):
    check(attack)


@parametrize_with_checks([ShiftAttack(), EchoAttack(), MirrorAttack(), NeighbourVote()])
def test_estimator_contract(estimator, check):
    check(estimator)


def test_trigger():
    X, y = np.random.RandomState(0).rand(40, 1, 6, 6), np.arange(40) % 2
    attack = BackdoorAttack(FrameTrigger(), target_class=0, budget=5, random_state=0)
    data = attack.poison(X, y)
    marked = data.X[data.poison_mask]
    assert (marked[:, :, 0] == X.max()).all() and (marked[:, :, 1, 1] < X.max()).all()
