"""Federated learning with clients that lie: aggregation rules, attacks, defenses.

Names load on first use: aggregation alone does not pay for torch. Runs on several
machines are in :mod:`skpoison.federated.flower`.
"""

from skpoison.utils._lazy import load_on_use

_MODULES = {
    "ALIEAttack": "_attacks._statistical",
    "ARC": "_aggregators._pre_aggregators",
    "BaseAggregator": "_aggregators._base",
    "BaseUpdateAttack": "_attacks._base",
    "Bucketing": "_aggregators._pre_aggregators",
    "Bulyan": "_aggregators._bulyan",
    "CAF": "_aggregators._caf",
    "CenteredClipping": "_aggregators._centered_clipping",
    "ClientLabelFlipAttack": "_attacks._data",
    "Clipping": "_aggregators._pre_aggregators",
    "DataPoisoningAttack": "_attacks._data",
    "DnC": "_aggregators._dnc",
    "FLTrust": "_aggregators._fltrust",
    "FangKrumAttack": "_attacks._fang_krum",
    "FangTrimAttack": "_attacks._fang_trim",
    "FaultAttack": "_attacks._noise",
    "FederatedClassifier": "_classifier",
    "FoolsGold": "_aggregators._foolsgold",
    "GaussianAttack": "_attacks._noise",
    "GaussianNoiseAttack": "_attacks._noise",
    "GeometricMedian": "_aggregators._geometric_median",
    "GramAggregator": "_aggregators._base",
    "IPMAttack": "_attacks._statistical",
    "Krum": "_aggregators._krum",
    "MDA": "_aggregators._mda",
    "MeaMed": "_aggregators._coordinatewise",
    "Mean": "_aggregators._mean",
    "Median": "_aggregators._coordinatewise",
    "MimicAttack": "_attacks._mimic",
    "MinMaxAttack": "_attacks._min_max",
    "MinSumAttack": "_attacks._min_max",
    "MoNNA": "_aggregators._monna",
    "ModelReplacementAttack": "_attacks._model_replacement",
    "MultiKrum": "_aggregators._krum",
    "NNM": "_aggregators._pre_aggregators",
    "NormClipping": "_aggregators._norm_clipping",
    "OrderAggregator": "_aggregators._base",
    "PreAggregator": "_aggregators._base",
    "Rejection": "_rejection",
    "RobustnessSweepDisplay": "_sweep",
    "RoundContext": "_attacks._base",
    "SignFlipAttack": "_attacks._statistical",
    "SignMajority": "_aggregators._coordinatewise",
    "SybilAttack": "_attacks._sybil",
    "TrimmedMean": "_aggregators._coordinatewise",
    "aggregate": "_aggregators._server_rule",
    "aggregate_blocks": "_aggregators._blocks",
    "partition_clients": "_partition",
    "robustness_sweep": "_sweep",
}

__all__ = sorted(_MODULES)
__getattr__, __dir__ = load_on_use(__name__, _MODULES)
