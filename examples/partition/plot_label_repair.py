"""
Repairing wrong labels instead of dropping them
===============================================

A filter drops the rows whose labels it distrusts. ``LiftedLabelRepair`` gives them the
label of the region that they lie in: changing a label has a price, and so has every
pair of neighbours with different labels.
"""

# %%
# How many labels are right afterwards?
# -------------------------------------
# The training part of the digits, with labels flipped at random, or to the next class.
# A vote of ten neighbours asks each row by itself, and neighbours with wrong labels
# vote too.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from sklearn.svm import SVC

from skpoison.attacks import LabelFlipAttack
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.defenses import LabelIssueDetector
from skpoison.partition import LiftedLabelRepair

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, train_size=0.7, random_state=0, stratify=y
)
search = NearestNeighbors(n_neighbors=10).fit(X_train)
neighbours = search.kneighbors(return_distance=False)
values = [0.1, 0.2, 0.3, 0.4, 0.6, 0.8]
curves = {}
for strategy, share in [
    ("uniform", 0.1),
    ("uniform", 0.2),
    ("uniform", 0.4),
    ("pair", 0.3),
]:
    attack = LabelFlipAttack(strategy, budget=share, random_state=0)
    noisy = attack.poison(X_train, y_train).y
    curve = [
        (
            LiftedLabelRepair(regularization=value).fit_predict(X_train, noisy)
            == y_train
        ).mean()
        for value in values
    ]
    votes = np.eye(10)[noisy][neighbours].sum(axis=1).argmax(axis=1)
    curves[f"{strategy} {share:.0%}"] = curve
    print(
        f"{strategy:8} {share:4.0%} wrong: right labels "
        f"{(noisy == y_train).mean():.3f} given, {(votes == y_train).mean():.3f} "
        f"by vote, {curve[values.index(0.3)]:.3f} repaired"
    )

fig, ax = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, curve in curves.items():
    ax.plot(values, curve, "o-", label=name)
ax.axvline(0.3, color="k", lw=0.5)
ax.set(xlabel="regularization (line: the default)", ylabel="share of right labels")
ax.set_ylim(0.55, 1.01)
ax.legend()
plt.show()

# %%
# The digits' classes are clear, and more regularization is better up to a point. Where
# classes overlap, as in photographs of clothes, it is the other way round: good labels
# are smoothed away, and a filter that trains models is ahead.
# ``tables/label_repair.py`` has the figures.

# %%
# Is the model better for it?
# ---------------------------
# Inside :class:`~skpoison.compose.FilteredEstimator` labels are repaired before
# training, in each training fold only. ``mode="drop"`` makes a filter of it.

victims = {"1 neighbour": KNeighborsClassifier(1), "SVC": SVC()}
defenses = {
    "bare": lambda victim: victim,
    "label filter": lambda v: FilteredEstimator(LabelIssueDetector(random_state=0), v),
    "repaired": lambda v: FilteredEstimator(LiftedLabelRepair(), v),
    "dropped": lambda v: FilteredEstimator(LiftedLabelRepair(mode="drop"), v),
}
attack = LabelFlipAttack(budget=0.3, random_state=0)
print("accuracy on clean rows, 30 % of the training labels flipped\n")
print(" " * 14 + "".join(f"{name:>14}" for name in defenses))
for name, victim in victims.items():
    scores = [
        PoisonedEstimator(attack, wrap(victim))
        .fit(X_train, y_train)
        .score(X_test, y_test)
        for wrap in defenses.values()
    ]
    print(f"{name:14}" + "".join(f"{score:14.3f}" for score in scores))

# %%
# Choosing the regularization
# ---------------------------
# By cross-validation of the model that follows, on labels as they come: wrong ones in
# the test folds lower all scores alike. The differences are small against the noise of
# the folds, so treat the choice as a hint.

noisy = attack.poison(X_train, y_train).y
search = GridSearchCV(
    FilteredEstimator(LiftedLabelRepair(), KNeighborsClassifier(1)),
    {"detector__regularization": [0.0, 0.1, 0.2, 0.3, 0.4]},
    cv=3,
).fit(X_train, noisy)
for params, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    print(f"regularization {params['detector__regularization']}: {score:.3f}")
print(f"accuracy on clean rows: {search.score(X_test, y_test):.3f}")
