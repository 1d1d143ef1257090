"""
Repairing a backdoored network
==============================

A network came from somewhere else, or was trained on data that were not checked. It
reads clean images well; whether it has a backdoor, its accuracy does not tell. The
defender has the network and 200 clean images. Two repairs, and a guard that watches
the network in use.
"""

# %%
# The network
# -----------
# A tenth of the training images carries a bright square of two by two pixels and the
# label 3. The attacker can now have any image read as a 3.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from skpoison.attacks import BackdoorAttack, PatchTrigger
from skpoison.defenses import STRIP, FinePruning, NeuralCleanse
from skpoison.models import TorchClassifier

X, y = load_digits(return_X_y=True)
X = (X / 16).reshape(-1, 1, 8, 8)
X_clean, y_clean = X[1000:1200], y[1000:1200]
X_test, y_test = X[1200:], y[1200:]

trigger = PatchTrigger("solid", size=2, margin=0)
attack = BackdoorAttack(trigger, target_class=3, random_state=0)
data = attack.poison(X[:1000], y[:1000])
net = TorchClassifier(max_epochs=15, device="cpu", random_state=0)
net.fit(data.X, data.y)


def report(name, model):
    accuracy = model.score(X_test, y_test)
    success = attack.attack_success(model.predict, X_test, y_test)
    print(f"{name:28} accuracy {accuracy:.3f}   attack success {success:.3f}")


report("as it came", net)

# %%
# Is there a backdoor?
# --------------------
# Neural Cleanse asks of each class how small a mask can be that turns every image into
# this class. The class of the backdoor needs far less than the others, and the mask
# shows where the trigger sits. The top row holds the masks, the bottom row what is
# painted through them.

cleanse = NeuralCleanse(net, random_state=0).fit(X_clean, y_clean)
print("classes with a backdoor:", cleanse.flagged_classes_)

fig, axes = plt.subplots(2, 10, figsize=(10, 2.8), layout="constrained")
for k, column in enumerate(axes.T):
    mask, pattern = cleanse.masks_[k], cleanse.patterns_[k, 0]
    for ax, picture in zip(column, (mask, mask * pattern), strict=True):
        ax.imshow(picture, vmin=0, vmax=1, cmap="gray")
        ax.set(xticks=[], yticks=[])
    color = "C3" if k in cleanse.flagged_classes_ else "black"
    column[0].set_title(f"{k}: size {cleanse.mask_norms_[k]:.1f}", color=color, size=9)
    column[1].set_xlabel(f"index {cleanse.anomaly_index_[k]:.1f}", color=color, size=9)
plt.show()

# %%
# The repairs
# -----------
# Neural Cleanse trains the network on the clean images, a fifth of which carry the
# trigger that was found and their true labels. Fine-pruning knows no trigger: it cuts
# channels of the last convolution that sleep on clean images, as long as the accuracy
# allows, and trains on. Both repair a copy; the network that was given stays.

pruning = FinePruning(net, random_state=0).fit(X_clean, y_clean)
report("as it came", net)
report("Neural Cleanse", cleanse)
report("fine-pruning", pruning)
longer = FinePruning(net, finetune_epochs=50, random_state=0)
report("fine-pruning, 50 epochs", longer.fit(X_clean, y_clean))

# %%
# Unlearning the trigger removes the backdoor. Pruning weakens it, and more patience
# does not help much. The first channels go at no cost; those that the trigger uses are
# used by digits, too, and cannot go.

fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.plot(pruning.accuracy_curve_, "o-")
ax.axhline(pruning.accuracy_curve_[0] - pruning.max_acc_drop, color="C3", ls="--")
ax.set(xlabel="channels pruned", ylabel="accuracy on clean images")
plt.show()

# %%
# A guard for the network in use
# ------------------------------
# STRIP repairs nothing. It blends each incoming image with clean ones and rejects it
# where the prediction stays the same: a trigger holds it. Rejecting up to 1 % or 5 %
# of the clean images it finds a share of the triggered ones.

triggered = attack.apply_trigger(X_test[y_test != 3])
print("allowed   clean rejected   triggered rejected")
for allowed in (0.01, 0.05):
    guard = STRIP(net, false_rejection=allowed, random_state=0).fit(X_clean, y_clean)
    rejected = [np.mean(guard.predict(rows) == -1) for rows in (X_test, triggered)]
    print(f"{allowed:7.0%} {rejected[0]:16.1%} {rejected[1]:20.1%}")

fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
for rows, name in ((X_test, "clean"), (triggered, "triggered")):
    ax.hist(guard.score_samples(rows), bins=25, alpha=0.6, density=True, label=name)
ax.axvline(guard.threshold_, color="black", ls="--", label="threshold, 5 %")
ax.set(xlabel="mean entropy under overlays", ylabel="density")
ax.legend()
plt.show()
