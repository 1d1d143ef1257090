"""
Predictions that a bounded number of poisoned rows can't change
===============================================================

A filter that stops today's attacks may fail against tomorrow's. A certificate is about
all of them: this prediction stays, whatever so many rows are. It costs accuracy, and
this example measures how much, for the two certified classifiers.
"""

# %%
# A vote of many small models
# ---------------------------
# :class:`~skpoison.defenses.DeepPartitionAggregationClassifier` sends each row to one
# of many parts by a hash of its features, and trains a model on each part. One poisoned
# row spoils one vote, so half the lead of the winner is what a prediction withstands:
# rows inserted, deleted or relabelled. The certified accuracy at r is the share of test
# rows that are right and withstand r.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.attacks import LabelFlipAttack
from skpoison.compose import PoisonedEstimator
from skpoison.defenses import (
    DeepPartitionAggregationClassifier,
    LabelFlipSmoothingClassifier,
)


def certified_accuracy(model, X_test, y_test, budgets):
    labels, radius = model.certify(X_test)
    right = labels == y_test
    return np.array([(right & (radius >= budget)).mean() for budget in budgets])


X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=1400, random_state=0
)
budgets = np.arange(61)
curves = {}
for n_partitions in (10, 30, 100, 200):
    model = DeepPartitionAggregationClassifier(
        KNeighborsClassifier(1), n_partitions=n_partitions
    )
    model.fit(X_train, y_train)
    curves[n_partitions] = certified_accuracy(model, X_test, y_test, budgets)

print("parts   r = 0      5     10     20     40")
for n_partitions, curve in curves.items():
    print(f"{n_partitions:5}" + "".join(f"{curve[r]:7.3f}" for r in (0, 5, 10, 20, 40)))
single = KNeighborsClassifier(1).fit(X_train, y_train)
print(f"one model on all rows, no certificate: {single.score(X_test, y_test):.3f}")

# %%
# More parts reach farther and start lower: with 200 parts a model has seven rows to
# learn from.
#
# What an attack does in fact
# ---------------------------
# The certificate is a lower bound for every attack. Label flips that were chosen
# against a surrogate are one attack; the accuracy under it lies between the certified
# accuracy and the clean one.

model = DeepPartitionAggregationClassifier(KNeighborsClassifier(1), n_partitions=100)
flips = [0, 5, 10, 20, 40]
measured = {}
for strategy in ("uniform", "adversarial"):
    measured[strategy] = [
        PoisonedEstimator(
            LabelFlipAttack(strategy, budget=n_flips, random_state=0), model
        )
        .fit(X_train, y_train)
        .score(X_test, y_test)
        for n_flips in flips
    ]

print("flips       " + "".join(f"{n:7}" for n in flips))
print("certified   " + "".join(f"{curves[100][n]:7.3f}" for n in flips))
for strategy, scores in measured.items():
    print(f"{strategy:12}" + "".join(f"{score:7.3f}" for score in scores))

fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
for n_partitions, curve in curves.items():
    axes[0].step(budgets, curve, where="post", label=f"{n_partitions} parts")
axes[1].step(budgets, curves[100], "C2", where="post", label="certified, 100 parts")
for (strategy, scores), color in zip(measured.items(), ("C4", "C3"), strict=True):
    axes[1].plot(flips, scores, f"{color}o-", label=f"{strategy} flips")
for ax in axes:
    ax.set(xlabel="poisoned rows", ylim=(0, 1))
    ax.grid(alpha=0.3)
    ax.legend(loc="lower left")
axes[0].set_ylabel("accuracy")
plt.show()

# %%
# Forty flips, random or chosen, leave the vote where it is. That is no sign of a loose
# certificate: it promises each prediction for itself, and an attacker who is after one
# of them can do what it allows. The vote of a nearest neighbour turns when that
# neighbour is relabelled. Against twenty test rows, with as many flips as the radius
# and with one more:

model.fit(X_train, y_train)
rows = X_test[:20]
labels, radius = model.certify(rows)
ballots = np.stack([voter.predict(rows) for voter in model.estimators_])
turned = np.zeros(2, dtype=int)
for i, row in enumerate(rows):
    rivals = model.vote_counts(row[None])[0] + (np.arange(10) < labels[i])
    rivals[labels[i]] = -1
    distance = np.linalg.norm(X_train - row, axis=1)
    for more in (0, 1):
        poisoned = y_train.copy()
        for part in np.flatnonzero(ballots[:, i] == labels[i])[: radius[i] + more]:
            members = np.flatnonzero(model.partitions_ == part)
            poisoned[members[distance[members].argmin()]] = rivals.argmax()
        changed = clone(model).fit(X_train, poisoned).predict(row[None]) != labels[i]
        turned[more] += changed[0]
print(f"turned with radius flips:     {turned[0]:2} of {len(rows)}")
print(f"turned with radius + 1 flips: {turned[1]:2} of {len(rows)}")

# %%
# Label flips alone
# -----------------
# :class:`~skpoison.defenses.LabelFlipSmoothingClassifier` trains on labels that it
# replaced at random many times over: flips drown in the noise. Its certificate holds
# with a stated confidence, and for labels only. Beside it the vote, on 400 rows of the
# breast cancer data:

X, y = load_breast_cancer(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, train_size=400, stratify=y, random_state=0
)
neighbours = make_pipeline(StandardScaler(), KNeighborsClassifier(1))
models = {
    "30 parts": DeepPartitionAggregationClassifier(neighbours, n_partitions=30),
    "100 parts": DeepPartitionAggregationClassifier(neighbours, n_partitions=100),
}
for flip_prob in (0.2, 0.3, 0.4):
    models[f"smoothing, {flip_prob:.0%} noise"] = LabelFlipSmoothingClassifier(
        regularization=1.0, flip_prob=flip_prob, random_state=0
    )
budgets = np.arange(31)
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
print("                        r = 0      2      5     10     20")
for name, model in models.items():
    curve = certified_accuracy(
        clone(model).fit(X_train, y_train), X_test, y_test, budgets
    )
    print(f"{name:22}" + "".join(f"{curve[r]:7.3f}" for r in (0, 2, 5, 10, 20)))
    ax.step(budgets, curve, where="post", label=name)
ax.set(xlabel="label flips", ylabel="certified accuracy", ylim=(0, 1))
ax.grid(alpha=0.3)
ax.legend()
plt.show()

# %%
# With little noise the smoothed model is the more accurate one without an attack. It
# certifies less, although it promises less: here, four rows are enough for a model to
# learn from. It is for data that can't be divided so far.
