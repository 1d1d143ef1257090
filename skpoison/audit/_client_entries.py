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
_ADDED = "Adds clients of its own and sends what it likes."


def _attack(name, context):
    from skpoison import federated

    # the mean bears a reversed update of ordinary length
    params = {"scale": 10} if name == "SignFlipAttack" else {}
    return getattr(federated, name)(**params)


def _sybils(context):
    from skpoison.federated import SybilAttack

    return SybilAttack(_attack("SignFlipAttack", context))


def _poisoned_clients(context):
    from skpoison.attacks import LabelFlipAttack
    from skpoison.federated import DataPoisoningAttack

    return DataPoisoningAttack(LabelFlipAttack("adversarial", budget=0.5))


def _leakage(context):
    from skpoison.audit._test_time import LeakageProbe

    return LeakageProbe()


#: The published radius is 10, longer than updates of small models are.
_PARAMS = {"CenteredClipping": {"radius": 0.1}}


def _rule(names, estimator):
    """Aggregate by a rule, behind others if there are several names."""
    from sklearn.pipeline import make_pipeline

    from skpoison import federated

    parts = [getattr(federated, name)(**_PARAMS.get(name, {})) for name in names]
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
    (
        "min-sum",
        "clients send the farthest update that is as near to all as honest ones",
        _SEES_ALL,
        "MinSumAttack",
        False,
    ),
    (
        "mimic",
        "clients send copies of one honest client's update",
        _SEES_ALL,
        "MimicAttack",
        False,
    ),
    (
        "noise-updates",
        "clients send standard normal noise",
        _BLIND,
        "GaussianNoiseAttack",
        False,
    ),
    ("faults", "clients send zeros", _BLIND, "FaultAttack", False),
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

for _name, _summary, _threat, _make in (
    (
        "sybils",
        "clients that are added send reversed updates ten times as long",
        _ADDED,
        _sybils,
    ),
    (
        "client-adversarial-flips",
        "clients pool their rows and change half of the labels, chosen against a "
        "surrogate",
        _OWN_ROWS,
        _poisoned_clients,
    ),
):
    register_attack(
        AttackEntry(_name, _summary, _threat, _make, auto=False, clients=True)
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
    ("geometric-median", "the geometric median", ["GeometricMedian"], False),
    ("mea-med", "the mean of the values nearest to the median", ["MeaMed"], False),
    ("mda", "the mean of the updates that lie closest together", ["MDA"], False),
    ("caf", "a mean with less of what stretches the covariance", ["CAF"], False),
    ("dnc", "without the updates far along the main direction", ["DnC"], False),
    ("monna", "the mean of the updates nearest to a trusted one", ["MoNNA"], False),
    (
        "fltrust",
        "weights by agreement with an update of the server",
        ["FLTrust"],
        False,
    ),
    ("foolsgold", "less weight for clients that serve one aim", ["FoolsGold"], False),
    (
        "sign-majority",
        "a fixed step the way most updates point",
        ["SignMajority"],
        False,
    ),
    ("norm-clipping", "updates cut to the median length", ["NormClipping"], False),
    (
        "centered-clipping",
        "the last result, moved by differences cut to length 0.1",
        ["CenteredClipping"],
        False,
    ),
    (
        "clipping-median",
        "the median of updates cut to length 2",
        ["Clipping", "Median"],
        False,
    ),
    (
        "arc-geometric-median",
        "the geometric median, the longest updates cut first",
        ["ARC", "GeometricMedian"],
        False,
    ),
    (
        "bucketing-median",
        "the median of means of random pairs",
        ["Bucketing", "Median"],
        False,
    ),
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
