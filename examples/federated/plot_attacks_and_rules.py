"""
Which aggregation rule survives which attack?
=============================================

Fifty clients train softmax regression on digits; some of them lie about what they have
learned. Every attack meets every rule at the same seeds: the same clients, batches and
initial weights.
"""

# %%
# Attack by rule
# --------------
# Ten of the fifty clients attack. An attack that was made for one rule need not hurt
# another, and the mean survives none.

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from skpoison.federated import (
    NNM,
    ALIEAttack,
    FangKrumAttack,
    FangTrimAttack,
    FederatedClassifier,
    GeometricMedian,
    Krum,
    Mean,
    Median,
    MinMaxAttack,
    RobustnessSweepDisplay,
    SignFlipAttack,
    TrimmedMean,
    robustness_sweep,
)

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, test_size=0.3, stratify=y, random_state=0
)
data = (X_train, y_train, X_test, y_test)
federation = FederatedClassifier(n_clients=50, n_rounds=150, lr=0.3)
table = robustness_sweep(
    federation,
    {
        "none": None,
        "sign flip x 5": SignFlipAttack(scale=5),
        "ALIE": ALIEAttack(),
        "min-max": MinMaxAttack(),
        "Fang, Krum": FangKrumAttack(),
        "Fang, trim": FangTrimAttack(),
    },
    {
        "mean": Mean(),
        "trimmed mean": TrimmedMean(),
        "median": Median(),
        "Krum": Krum(),
        "NNM, geometric median": make_pipeline(NNM(), GeometricMedian()),
    },
    0.2,
    *data,
    seeds=(0, 1),
)
RobustnessSweepDisplay(table).plot(last=60)

# %%
# How many liars does it take?
# ----------------------------
# The error against the share of Byzantine clients. The server is told how many there
# may be.

rules = {"trimmed mean": TrimmedMean(), "median": Median()}
by_number = robustness_sweep(
    federation,
    {"Fang, trim": FangTrimAttack()},
    rules,
    [0.0, 0.1, 0.2, 0.3, 0.4],
    *data,
    seeds=(0, 1),
)
_, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
RobustnessSweepDisplay(by_number).plot("curve", x="n_byzantine", ax=axes[0], last=60)

# %%
# Round by round
# --------------
# What partial knowledge costs the attacker: it sees the updates of its own clients
# alone.

by_round = robustness_sweep(
    federation,
    {
        "full knowledge": FangTrimAttack(),
        "partial knowledge": FangTrimAttack(knowledge="partial"),
        "none": None,
    },
    {"trimmed mean": TrimmedMean()},
    0.2,
    *data,
    every=10,
)
RobustnessSweepDisplay(by_round).plot("curve", x="round", ax=axes[1])
plt.show()
