"""
Is there poison at all?
=======================

The known filters look for outliers or clusters within each class. ``PoisonDetector``
asks first which classes are poisoned at all, and flags rows in those alone. It is
compared here with two of the known rules, at their defaults, on digits that are clean,
backdoored in three ways, or mislabelled.
"""

# %%
# Data
# ----
# A three by three checkerboard in a corner is the trigger. "Dirty" rows come from other
# classes and are relabelled as 3; "clean label" rows are threes already, so that no
# label is wrong; "all to all" moves every class to the next one.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator

from skpoison.attacks import (
    AllToAllBackdoor,
    BackdoorAttack,
    CleanLabelBackdoorAttack,
    LabelFlipAttack,
    PatchTrigger,
)
from skpoison.defenses import ActivationClustering, PoisonDetector, SpectralSignatures
from skpoison.metrics import detection_report
from skpoison.models import TorchClassifier

X, y = load_digits(return_X_y=True)
X = X.reshape(-1, 1, 8, 8) / 16
patch = PatchTrigger()
attacks = {
    "clean": None,
    "dirty, 1 %": BackdoorAttack(patch, target_class=3, budget=0.01),
    "dirty, 5 %": BackdoorAttack(patch, target_class=3, budget=0.05),
    "clean label": CleanLabelBackdoorAttack(patch, target_class=3, budget=0.075),
    "all to all": AllToAllBackdoor(patch, budget=0.05),
    "flipped, 10 %": LabelFlipAttack("uniform", budget=0.1),
}

# %%
# What each rule removes
# ----------------------
# All three look at the features of the same network, trained once on the poisoned rows.
# Recall is the share of the poisons that are found, false alarm the share of the clean
# rows that are thrown away.

detectors = {
    "SpectralSignatures": SpectralSignatures,
    "ActivationClustering": ActivationClustering,
    "PoisonDetector": PoisonDetector,
}
found = {}
print(" " * 15 + "".join(f"{name:>24}" for name in detectors))
print(" " * 15 + "     recall  false alarm" * len(detectors))
for kind, attack in attacks.items():
    if attack is None:
        rows, labels, mask = X, y, np.zeros(len(y), dtype=bool)
    else:
        data = attack.set_params(random_state=0).poison(X, y)
        rows, labels, mask = data.X, data.y, data.poison_mask
    network = TorchClassifier(max_epochs=10, device="cpu", random_state=0)
    network = FrozenEstimator(network.fit(rows, labels))
    line = f"{kind:15}"
    for name, Detector in detectors.items():
        detector = Detector(network, random_state=0).fit(rows, labels)
        report = detection_report(mask, detector.is_clean_, detector.scores_)
        found[kind, name] = detector, report
        recall = "" if np.isnan(report.recall) else f"{report.recall:.2f}"
        line += f"{recall:>11}{report.false_positive_rate:13.3f}"
    print(line)

# %%
# On clean data the detector removes nothing. Flipped labels are no backdoor and nothing
# that a rule about features was made for; the detector knows them by models that never
# saw the row.

fig, axes = plt.subplots(1, 2, figsize=(8, 3.4), sharey=True, layout="constrained")
place = np.arange(len(attacks))
for j, name in enumerate(detectors):
    reports = [found[kind, name][1] for kind in attacks]
    recall = [r.recall for r in reports]
    alarms = [r.false_positive_rate for r in reports]
    axes[0].barh(place + 0.27 * (j - 1), recall, 0.25, label=name)
    axes[1].barh(place + 0.27 * (j - 1), alarms, 0.25)
axes[0].set(title="poisons found", xlim=(0, 1.02), yticks=place)
axes[0].set_yticklabels(list(attacks))
axes[1].set(title="clean rows removed")
axes[1].axvline(0.03, color="0.6", linestyle=":")
axes[0].invert_yaxis()
axes[0].legend(fontsize="small", loc="upper left")
plt.show()

# %%
# Why a class was flagged
# -----------------------
# The decision comes by class, with its reasons: where a group of rows was found that a
# gap separates from all others, how wide the gap is in standard deviations, and how
# many of these rows their neighbours outside of the group take for another class.

for kind in attacks:
    detector = found[kind, "PoisonDetector"][0]
    classes = detector.classes_[detector.is_poisoned_class_]
    print(f"{kind:15} poisoned classes: {classes}")
    for label in classes[:2]:
        print(
            f"{'':17}{label}: {detector.evidence_[label]:9}"
            f"gap {detector.separations_[label]:6.1f}   "
            f"disagreement {detector.disagreements_[label]:.2f}   "
            f"p-value of label issues {detector.p_values_[label]:.1e}"
        )

# %%
# A clean-label patch is known by its gap alone (the neighbours agree with the labels),
# a dirty one by both. A gap is no proof of malice: a class may hold a small group of
# odd rows for good reasons. Look at what was flagged before it is thrown away.

detector = found["dirty, 1 %", "PoisonDetector"][0]
data = attacks["dirty, 1 %"].poison(X, y)
worst = np.argsort(-detector.scores_, kind="stable")[:10]
fig, axes = plt.subplots(1, 10, figsize=(8, 1.3), layout="constrained")
for ax, row in zip(axes, worst, strict=True):
    ax.imshow(data.X[row, 0], cmap="gray_r")
    ax.set_title(f"{data.y[row]}, not {detector.proposed_labels_[row]}", fontsize=7)
    ax.axis("off")
plt.show()
