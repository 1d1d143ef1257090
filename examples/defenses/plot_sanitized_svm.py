"""
How much harm can pass a sanitizer?
===================================

A sanitizer that stops today's attack says little of tomorrow's. For a linear SVM on two
classes, and a sanitizer that keeps its statistics, there is an answer for every attack
at once: a bound on the training loss, and an attack that nearly reaches it.
"""

# %%
# The bound, and the attack
# -------------------------
# The sanitizer lets a row pass if it is near enough to the centre of its class, and,
# with the slab, near enough in the direction of the other centre. Centres and radii are
# those of the clean data: radii at the 70th percentile of each class's distances.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.preprocessing import scale
from sklearn.svm import LinearSVC

from skpoison.defenses import DataSanitizer, SanitizedSVMBound

X, y = load_breast_cancer(return_X_y=True)
X = scale(X) / X.shape[1] ** 0.5
X_train, y_train, X_test, y_test = X[:400], y[:400], X[400:], y[400:]

epsilons = (0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3)
fitted = {
    rule: SanitizedSVMBound(epsilons, rule=rule, rho_sq=25).fit(X_train, y_train)
    for rule in ("sphere", "sphere+slab")
}

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for (rule, bound), color in zip(fitted.items(), ("C1", "C0"), strict=True):
    ax.plot(bound.epsilons_, bound.bounds_, color, label=f"{rule}: no attack above")
    ax.plot(
        bound.epsilons_, bound.attack_losses_, f"{color}x", label=f"{rule}: an attack"
    )
ax.set(xlabel="poisons as a share of the clean rows", ylabel="training loss (hinge)")
ax.legend()
plt.show()

# %%
# Attack and bound meet: the gap is what neither side can gain any more. The slab is
# worth a lot. Without it an attacker moves his rows from one class into the other, and
# the sphere of a class has room for that.

print("epsilon   " + "".join(f"{rule + ', gap':>20}" for rule in fitted))
for k, epsilon in enumerate(epsilons):
    print(
        f"{epsilon:7.0%}   "
        + "".join(f"{b.gaps_[k] / b.bounds_[k]:20.2%}" for b in fitted.values())
    )

# %%
# What the learner makes of it
# ----------------------------
# The attack passes the sanitizer that it was made for, as it must. The bound is on the
# training loss; the error on test rows is measured here, for an SVM of about the norm
# that the bound is for.

print("epsilon" + "".join(f"{rule:>32}" for rule in fitted))
print(" " * 7 + "  poisons that pass   test error" * 2)
for k, epsilon in enumerate(epsilons):
    line = f"{epsilon:7.0%}"
    for rule, bound in fitted.items():
        X_all = np.vstack([X_train, bound.X_attack_[k]])
        y_all = np.append(y_train, bound.y_attack_[k])
        sanitizer = DataSanitizer(rule, oracle_stats=bound.oracle_stats_)
        X_kept, y_kept = sanitizer.fit_resample(X_all, y_all)
        passed = sanitizer.is_clean_[400:]
        svm = LinearSVC(C=1.0, loss="hinge", max_iter=100_000, random_state=0)
        error = 1 - svm.fit(X_kept, y_kept).score(X_test, y_test)
        line += f"{passed.sum():11} of {len(passed):4}{error:13.3f}"
    print(line)

# %%
# A bound that stays low is a promise, whatever the attack. A bound that rises is a
# warning only: the loss can be reached on the training rows, at the price of other
# errors than those that an attacker may want. And the promise is worth as much as the
# statistics: a sanitizer that takes its centres from the poisoned data is moved by it.
