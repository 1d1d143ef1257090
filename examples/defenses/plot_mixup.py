"""
What mixup buys, and what it does not
=====================================

Mixup trains on weighted means of rows and of their labels, so that no poisoned row is
seen alone. Published results on larger images find that it weakens backdoors without
a loss of accuracy. Here it is measured on small digits, against wrong labels and
against backdoors of two sizes, over several seeds.
"""

# %%
# The setting
# -----------
# A small convolutional network, trained plainly, on mixtures of two rows and on mixtures
# of four, for the same number of epochs. A seed decides the split, the poisoned rows
# and the initial weights together, and all networks of one seed share them: their
# differences are paired.

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.stats import t as student
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from skpoison.attacks import BackdoorAttack, LabelFlipAttack, PatchTrigger
from skpoison.defenses import MixupClassifier
from skpoison.models import TorchClassifier

torch.set_num_threads(1)
X, y = load_digits(return_X_y=True)
X = (X / 16).astype(np.float32).reshape(-1, 1, 8, 8)
trigger = PatchTrigger(size=3, margin=0)
attacks = {
    "no attack": LabelFlipAttack(budget=0),
    "pair flips 30 %": LabelFlipAttack("pair", budget=0.3),
    "backdoor 1 %": BackdoorAttack(trigger, target_class=0, budget=0.01),
    "backdoor 5 %": BackdoorAttack(trigger, target_class=0, budget=0.05),
}
common = {"max_epochs": 20, "device": "cpu"}
networks = {
    "plain": TorchClassifier(**common),
    "mixup of 2": MixupClassifier(n_mix=2, **common),
    "mixup of 4": MixupClassifier(n_mix=4, **common),
}
n_seeds = 4

# %%
# The measurement
# ---------------
# Accuracy on the training rows as they were before the attack is kept too: a network
# that has not learned its clean rows proves nothing by not learning the poison.

shape = (len(attacks), len(networks), n_seeds)
accuracy, success, learned = (np.empty(shape) for _ in range(3))
for seed in range(n_seeds):
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, test_size=1 / 3, stratify=y, random_state=seed
    )
    for i, attack in enumerate(attacks.values()):
        data = attack.set_params(random_state=seed).poison(X_train, y_train)
        for j, network in enumerate(networks.values()):
            network.set_params(random_state=seed).fit(data.X, data.y)
            accuracy[i, j, seed] = network.score(X_test, y_test)
            learned[i, j, seed] = network.score(X_train, y_train)
            success[i, j, seed] = attack.attack_success(network.predict, X_test, y_test)


def interval(values):
    """Return mean and half width of the 95 % interval over seeds."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean(), half


print(f"means and 95 % t intervals over {n_seeds} seeds\n")
print("attack           network       accuracy          backdoor success  clean train")
for i, attack in enumerate(attacks):
    for j, network in enumerate(networks):
        mean, half = interval(accuracy[i, j])
        line = f"{attack:16} {network:10} {mean:9.3f} ± {half:.3f}"
        if attack.startswith("backdoor"):
            mean, half = interval(success[i, j])
            line += f" {mean:13.3f} ± {half:.3f}"
        else:
            line += " " * 22
        print(line + f"{learned[i, j].mean():13.3f}")

# %%
# The paired differences, mixup less plain on the same seed:

for j, network in enumerate(networks):
    if j == 0:
        continue
    for i, attack in enumerate(attacks):
        kind, values = "accuracy", accuracy
        if attack.startswith("backdoor"):
            kind, values = "success", success
        mean, half = interval(values[i, j] - values[i, 0])
        print(f"{network}, {attack:15}: {kind} {mean:+.3f} ± {half:.3f}")

# %%
# Intervals over four seeds are wide, and where all seeds agree a t interval may pass 0
# or 1. They still tell a network's luck from a defense's work.

fig, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
panels = [
    (axes[0], accuracy, list(attacks), "accuracy on clean held-out rows"),
    (axes[1], success, list(attacks)[2:], "marked rows read as 0"),
]
for ax, values, names, title in panels:
    for j, network in enumerate(networks):
        place = np.arange(len(names)) + 0.22 * (j - 1)
        rows = [list(attacks).index(name) for name in names]
        mean, half = np.array([interval(values[i, j]) for i in rows]).T
        ax.errorbar(place, mean, half, fmt="o", capsize=4, label=network)
        for i, x in zip(rows, place, strict=True):
            ax.plot(np.full(n_seeds, x), values[i, j], ".", color="gray", zorder=1)
    ax.set_xticks(range(len(names)), names, fontsize="small")
    ax.set_title(title)
    ax.grid(axis="y", alpha=0.3)
axes[0].legend()
plt.show()
