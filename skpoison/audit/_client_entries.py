"""The attacks and defenses of federations: for data whose rows have owners."""

from functools import partial

from skpoison.audit._registry import (
    AttackEntry,
    DefenseEntry,
    register_attack,
    register_defense,
    served_by,
)

_SEES_ALL = (
    "Controls some clients and sees what every client is about to send, and the "
    "server's rule. Wants the model useless."
)
_OWN_ROWS = "Controls some clients and changes the labels they train on."
_BLIND = "Controls some clients and sends what it likes, whatever the others send."


def _attack(name, context):
    from skpoison import federated

    # the mean bears a reversed update of ordinary length
    params = {"scale": 10} if name == "SignFlipAttack" else {}
    return getattr(federated, name)(**params)


def _leakage(context):
    from skpoison.audit._test_time import LeakageProbe

    return LeakageProbe()


def _rule(names, estimator):
    """Aggregate by a rule, behind others if there are several names."""
    from sklearn.pipeline import make_pipeline

    from skpoison import federated

    parts = [getattr(federated, name)() for name in names]
    rule = parts[0] if len(parts) == 1 else make_pipeline(*parts)
    return served_by({"aggregator": rule}, estimator)


def _rejecting(method, estimator):
    from skpoison.federated import Rejection

    rejection = Rejection(method)
    return served_by({"rejection": rejection}, estimator)


for _name, _summary, _threat, _class, _auto in (
    (
        "sign-flip",
        "clients send their own update reversed and ten times as long",
        _BLIND,
        "SignFlipAttack",
        True,
    ),
    (
        "directed-trim",
        "clients send values just beyond the others', against the model's direction",
        _SEES_ALL,
        "FangTrimAttack",
        True,
    ),
    (
        "directed-krum",
        "clients send near copies of one update that distances favour, against the "
        "model's direction",
        _SEES_ALL,
        "FangKrumAttack",
        True,
    ),
    (
        "min-max",
        "clients send the farthest update that is no farther than honest ones",
        _SEES_ALL,
        "MinMaxAttack",
        True,
    ),
    (
        "client-label-flips",
        "clients train on flipped labels",
        _OWN_ROWS,
        "ClientLabelFlipAttack",
        True,
    ),
    (
        "alie",
        "clients send the mean less a small multiple of the spread",
        _SEES_ALL,
        "ALIEAttack",
        False,
    ),
    (
        "inner-product",
        "clients send the reversed mean of the others",
        _SEES_ALL,
        "IPMAttack",
        False,
    ),
    (
        "gaussian-updates",
        "clients send noise with the updates' mean and spread",
        _SEES_ALL,
        "GaussianAttack",
        False,
    ),
):
    register_attack(
        AttackEntry(
            _name,
            _summary,
            _threat,
            partial(_attack, _class),
            auto=_auto,
            clients=True,
        )
    )

register_attack(
    AttackEntry(
        "gradient-inversion",
        "what clients sent in the first round turned back into rows",
        "The server itself, or who reads its mail: knows the model and how clients "
        "train, sees the update of each client; wants the rows it was computed from.",
        _leakage,
        goal="leakage",
        clients=True,
    )
)

for _name, _summary, _rules, _auto in (
    ("trimmed-mean", "each coordinate without its extremes", ["TrimmedMean"], True),
    ("median", "the median of each coordinate", ["Median"], True),
    ("multi-krum", "the mean of the updates with near neighbours", ["MultiKrum"], True),
    (
        "nnm-geometric-median",
        "the geometric median of each update's nearest neighbours",
        ["NNM", "GeometricMedian"],
        True,
    ),
    ("krum", "the one update with the nearest neighbours", ["Krum"], False),
    ("bulyan", "a trimmed mean of what Krum picks", ["Bulyan"], False),
):
    register_defense(
        DefenseEntry(
            _name,
            _summary,
            partial(_rule, _rules),
            auto=_auto,
            clients=True,
        )
    )

for _name, _method, _summary in (
    (
        "rejection-lfr",
        "lfr",
        "updates that raise the loss on the server's rows are cut",
    ),
    (
        "rejection-err",
        "err",
        "updates that raise the error on the server's rows are cut",
    ),
    ("rejection-union", "union", "updates that raise either are cut"),
):
    register_defense(
        DefenseEntry(
            _name,
            _summary,
            partial(_rejecting, _method),
            auto=_method == "lfr",
            clients=True,
        )
    )
