"""
How small a change fools a classifier
=====================================

A classifier that reads digits as well as people do may misread them after a change that
people don't see. Robust accuracy counts the digits that no change within a radius `eps`
turns into another one, as far as an attack can tell. Here it is measured for a linear
model, a network, a network trained against attacks, and a forest, and then used to
choose how to train.
"""

# %%
# Four models
# -----------
# The adversarially trained network sees rows that WITCHcraft has moved by up to 0.15 of
# the range of a pixel in every batch. The forest has no gradient to attack.

from functools import partial

import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split

from skpoison.evasion import (
    APGD,
    FGSM,
    PGD,
    AdversarialClassifier,
    RobustAccuracyDisplay,
    WITCHcraft,
    robust_accuracy,
    robustness_report,
)
from skpoison.models import TorchClassifier

torch.set_num_threads(1)
X, y = load_digits(return_X_y=True)
X, X_test, y, y_test = train_test_split(
    X / 16, y, train_size=1200, stratify=y, random_state=0
)
recipe = {"max_epochs": 15, "device": "cpu", "random_state": 0}
models = {
    "logistic regression": LogisticRegression(max_iter=500),
    "network": TorchClassifier(**recipe),
    "network, adversarially trained": AdversarialClassifier(eps=0.15, **recipe),
    "forest": RandomForestClassifier(random_state=0),
}
for model in models.values():
    model.fit(X, y)

# %%
# Robust accuracy over the radius
# -------------------------------
# PGD attacks each model through its own gradients; for the linear model it is exact. It
# meets the forest by transfer, with what was found against the network: this bounds the
# forest's robustness from above, and loosely.

radii = [0, 0.025, 0.05, 0.1, 0.15, 0.2]
box = {"bounds": (0, 1), "random_state": 0}
fig, ax = plt.subplots(figsize=(6.4, 4), layout="constrained")
for name, model in models.items():
    surrogate = models["network"] if name == "forest" else None
    report = robustness_report(
        model, X_test, y_test, eps_range=radii, attacks={name: PGD(surrogate, **box)}
    )
    RobustAccuracyDisplay(
        radii,
        report.robust_accuracy,
        names=[name + " (transfer)" if surrogate else name],
        low=report.low,
        high=report.high,
    ).plot(ax=ax)
plt.show()

# %%
# Which attack
# ------------
# An attack can only overstate robustness, so the lowest figure is the one to report,
# and `worst` is that of all attacks together. One step misses much. Among attacks of
# 20 steps, random step sizes leave nothing to tune.

attacks = {
    "FGSM": FGSM(**box),
    "PGD": PGD(**box),
    "WITCHcraft": WITCHcraft(**box),
    "APGD": APGD(max_iter=20, **box),
    "WITCHcraft, 10 restarts": WITCHcraft(n_restarts=10, **box),
}
robust = models["network, adversarially trained"]
report = robustness_report(
    robust, X_test, y_test, eps_range=[0.1, 0.2, 0.3], attacks=attacks
)
print(f"{'eps':26}" + "".join(f"{eps:8g}" for eps in report.eps_range))
for name, values in zip(report.names, report.robust_accuracy, strict=True):
    print(f"{name:26}" + "".join(f"{value:8.3f}" for value in values))
print(f"{'all of them':26}" + "".join(f"{value:8.3f}" for value in report.worst))

# %%
# As a score
# ----------
# `robust_accuracy` is a scorer, so a search can weigh accuracy against robustness, and
# refit what withstands most. Training against a larger radius costs clean accuracy.

search = GridSearchCV(
    AdversarialClassifier(attack="fast", **recipe),
    {"eps": [0.05, 0.15, 0.3]},
    scoring={
        "clean": "accuracy",
        "robust": partial(robust_accuracy, attack=WITCHcraft(eps=0.1, **box)),
    },
    refit="robust",
    cv=3,
).fit(X, y)
print("trained at   clean   robust at 0.1")
for setting, clean, withstood in zip(
    search.cv_results_["params"],
    search.cv_results_["mean_test_clean"],
    search.cv_results_["mean_test_robust"],
    strict=True,
):
    print(f"{setting['eps']:10g}{clean:8.3f}{withstood:16.3f}")

# %%
# What the attack saw
# -------------------
# Four digits, and what moves of at most 0.2 a pixel make each network read in them.

rows = [0, 5, 13, 25]
fig, axes = plt.subplots(3, len(rows), figsize=(5, 4.4), layout="constrained")
shown = {
    "as it is": None,
    "network": models["network"],
    "adversarially trained": robust,
}
for line, (title, model) in zip(axes, shown.items(), strict=True):
    moved, read = X_test[rows], y_test[rows]
    if model is not None:
        moved = PGD(model, eps=0.2, **box).perturb(moved, read)
        read = model.predict(moved)
    for ax, image, digit in zip(line, moved, read, strict=True):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[], xlabel=f"read as {digit}")
    line[0].set_ylabel(title)
plt.show()
