"""
Robustness curves
=================

How does a model fare as the poisoned share of its training data grows? A robustness
curve cross-validates one victim over one parameter of an attack. Test folds are never
poisoned, the first budget is 0, and the poisoned rows of a smaller budget are among
those of a larger one.
"""

# %%
# Three victims, one attack
# -------------------------
# A tenth of the labels, then more, is flipped to the next class. A single nearest
# neighbour believes every label; many neighbours and a margin average over them.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

from skpoison.attacks import BackdoorAttack, LabelFlipAttack, PatchTrigger
from skpoison.model_selection import RobustnessCurveDisplay, robustness_curve

X, y = load_digits(return_X_y=True)
X = X / 16
budgets = [0, 0.1, 0.2, 0.3, 0.4]
victims = {
    "1 neighbour": KNeighborsClassifier(1),
    "15 neighbours": KNeighborsClassifier(15),
    "support vectors": SVC(),
}
attack = LabelFlipAttack("pair", random_state=0)

fig, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
print("clean accuracy   " + "".join(f"{b:8.0%}" for b in budgets))
for ax, (name, victim) in zip(axes, victims.items(), strict=True):
    curve = robustness_curve(victim, X, y, attack=attack, param_range=budgets, cv=3)
    RobustnessCurveDisplay(budgets, curve.clean_score, curve.attack_success).plot(ax)
    ax.set_title(name)
    means = curve.clean_score.mean(axis=1)
    print(f"{name:17}" + "".join(f"{m:8.3f}" for m in means))

# %%
# For an attack on availability "attack success" is the share of held-out rows that
# are misread, one minus the accuracy. Bands are one standard deviation over folds.
#
# Paired settings
# ---------------
# All budgets see the same folds, and all victims the same flips, so their scores may
# be compared fold by fold. The spread of the difference is then what counts.

one, many = (
    robustness_curve(
        victims[name], X, y, attack=attack, param_range=[0.2], cv=3
    ).clean_score[0]
    for name in ("1 neighbour", "15 neighbours")
)
print(f"difference by fold at 20 %: {np.round(many - one, 3)}")

# %%
# A backdoor
# ----------
# The second curve of a backdoor tells more: the share of marked held-out rows that
# are read as the attacker's class. It climbs to one while the clean accuracy barely
# moves. At budget 0 it is the control, the share that a clean model reads so.

trigger = PatchTrigger(size=3, margin=0, input_shape=(1, 8, 8))
display = RobustnessCurveDisplay.from_estimator(
    SVC(),
    X,
    y,
    attack=BackdoorAttack(trigger, target_class=0, random_state=0),
    param_range=[0, 0.002, 0.005, 0.01, 0.02, 0.05],
    cv=3,
)
display.ax_.set_title("support vectors")
for budget, clean, success in zip(
    display.param_range,
    display.clean_score.mean(axis=1),
    display.attack_success.mean(axis=1),
    strict=True,
):
    print(f"budget {budget:5.1%}: accuracy {clean:.3f}, attack success {success:.3f}")
plt.show()

# sphinx_gallery_thumbnail_number = 2
