"""
Backdoors: dirty and clean labels
=================================

A backdoor leaves the model as good as it was, until someone shows it the trigger. Two
kinds of attacker are compared on digits, each with three triggers: one who relabels the
rows that he marks, and one who marks rows of the target class and leaves every label
right.
"""

# %%
# The triggers
# ------------
# A patch in the corner, a fixed picture blended in, and a sinusoid along the rows.
# A trigger is a small object with ``fit`` and ``apply``.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skpoison.attacks import (
    BackdoorAttack,
    BlendTrigger,
    CleanLabelBackdoorAttack,
    LabelFlipAttack,
    PatchTrigger,
    SinusoidTrigger,
)
from skpoison.metrics import wilson_interval
from skpoison.models import TorchClassifier

torch.set_num_threads(1)
X, y = load_digits(return_X_y=True)
X = (X / 16).reshape(-1, 1, 8, 8)
X_train, X_test, y_train, y_test = train_test_split(
    X, y, test_size=1 / 3, stratify=y, random_state=0
)
triggers = {
    "patch": PatchTrigger(size=3, margin=0),
    "blend": BlendTrigger(alpha=0.2),
    "sinusoid": SinusoidTrigger(amplitude=0.4, frequency=2),
}


def show(ax, image, title):
    """Draw one digit."""
    ax.imshow(image[0], cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize="medium")
    ax.axis("off")


fig, axes = plt.subplots(3, 4, figsize=(6, 5), layout="constrained")
digits = [X_test[y_test == label][0] for label in (2, 3, 6)]
for row, image in zip(axes, digits, strict=True):
    show(row[0], image, "before")
    for ax, (name, trigger) in zip(row[1:], triggers.items(), strict=True):
        show(ax, trigger.fit(X_train).apply(image[None])[0], name)
plt.show()

# %%
# Three attackers
# ---------------
# The target class is 0. "dirty" marks rows of other classes and relabels them.
# "clean" marks zeros and no more. "clean, hardened" first pushes these zeros, by
# at most 0.3 a pixel, to where a surrogate finds them hard to read, so that the victim
# has to lean on the trigger. The victim is a small convolutional network.


def attacks(trigger):
    """Return the three attacks with one trigger."""
    common = {"target_class": 0, "budget": 0.05, "random_state": 0}
    surrogate = TorchClassifier(max_epochs=15, device="cpu")
    hardened = CleanLabelBackdoorAttack(
        trigger, eps=0.3, surrogate=surrogate, device="cpu", **common
    )
    return {
        "dirty": BackdoorAttack(trigger, **common),
        "clean": CleanLabelBackdoorAttack(trigger, **common),
        "clean, hardened": hardened,
    }


victim = TorchClassifier(max_epochs=15, device="cpu", random_state=0)
clean_model = TorchClassifier(max_epochs=15, device="cpu", random_state=0)
clean_model.fit(X_train, y_train)
n_others = np.count_nonzero(y_test != 0)
print(f"clean model: {clean_model.score(X_train, y_train):.3f} on its training rows,")
print(f"{clean_model.score(X_test, y_test):.3f} on held-out rows\n")
print("trigger   attack           accuracy  success [95 % interval]  control")
bars = {}
for trigger_name, trigger in triggers.items():
    for attack_name, attack in attacks(trigger).items():
        data = attack.poison(X_train, y_train)
        victim.fit(data.X, data.y)
        success = attack.attack_success(victim.predict, X_test, y_test)
        control = attack.attack_success(clean_model.predict, X_test, y_test)
        low, high = wilson_interval(round(success * n_others), n_others)
        bars[trigger_name, attack_name] = success, low, high
        print(
            f"{trigger_name:9} {attack_name:16} {victim.score(X_test, y_test):8.3f}"
            f"   {success:.3f} [{low:.3f}, {high:.3f}]     {control:.3f}"
        )

# %%
# All nine attackers poison 59 of 1198 rows. Relabelled rows need no help. Rightly
# labelled rows do next to nothing, because the network reads a zero without looking at
# the trigger; made hard, they work as far as the trigger is easy to learn.
# Intervals hold given the one victim that was trained: they say nothing about another
# seed.
#
# Is it the trigger, and is it the craft?
# ---------------------------------------
# Two controls tell. The rows of the dirty attack, relabelled to 0 but not marked: if
# the success came from wrong labels alone, it would show here as well. And the rows of
# the hardened attack, marked, but pushed by random signs of the same size in place of
# the steps against the surrogate.

to_zero = dict.fromkeys(range(1, 10), 0)
patch = attacks(triggers["patch"])
for attack in patch.values():
    attack.poison(X_train, y_train)
dirty, hardened = patch["dirty"], patch["clean, hardened"]

unmarked = LabelFlipAttack("pair", pairs=to_zero, budget=0.05, random_state=0)
data = unmarked.poison(X_train, y_train)
same_rows = np.array_equal(data.poison_indices, dirty.poison_indices_)
victim.fit(data.X, data.y)
share = dirty.attack_success(victim.predict, X_test, y_test)
print(f"relabelled, no trigger (the same rows: {same_rows}): {share:.3f} read as 0")

rng = np.random.default_rng(0)
rows = hardened.poison_indices_
noisy = X_train.copy()
signs = rng.choice([-1.0, 1.0], size=noisy[rows].shape)
noisy[rows] = hardened.apply_trigger(np.clip(noisy[rows] + 0.3 * signs, 0, 1))
victim.fit(noisy, y_train)
share = hardened.attack_success(victim.predict, X_test, y_test)
print(f"random signs in place of hardening: {share:.3f} read as 0")

# %%
# Neither comes near: the success is the trigger's, and hardening is what makes it work
# with right labels.

fig, ax = plt.subplots(figsize=(7, 3.4), layout="constrained")
for i, attack_name in enumerate(["dirty", "clean", "clean, hardened"]):
    success, low, high = np.array([bars[name, attack_name] for name in triggers]).T
    place = np.arange(len(triggers)) + 0.27 * (i - 1)
    ax.bar(place, success, width=0.25, label=attack_name)
    ax.vlines(place, low, high, color="black")
ax.set_xticks(range(len(triggers)), triggers)
ax.set(ylim=(0, 1.05), ylabel="marked rows read as 0")
ax.legend()
plt.show()
