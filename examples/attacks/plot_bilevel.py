"""
Added rows: placed by a gradient against placed by chance
=========================================================

An attacker who may add rows to a training set asks where they hurt most. The answer is
a derivative: that of the retrained model's loss by the place of a row. This example
draws it for a single row in two dimensions, and then measures on real data what
optimised rows cost, beside as many rows that were only mislabelled.
"""

# %%
# One row
# -------
# Two classes, sixty training rows, and validation rows that the attacker wants misread.
# He adds one row with the label of the right-hand class. The background is the victim's
# validation loss after training with that row at each place, from a complete refit a
# pixel. The lines are gradient ascents from five rows of the left-hand class;
# :func:`~skpoison.attacks.implicit_gradient` needs one refit a step.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import t
from sklearn.datasets import load_breast_cancer, make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from skpoison.attacks import BilevelPoisoningAttack, implicit_gradient

X, y = make_blobs(460, centers=[[-1.5, 0], [1.5, 0]], random_state=0)
X_train, y_train, X_val, y_val = X[:60], y[:60], X[60:], y[60:]
labels = np.append(y_train, 1)
box = 5.0


def log_loss(scores):
    return np.logaddexp(0, -np.where(y_val == 1, scores, -scores)).mean()


def hinge_loss(scores):
    return np.maximum(0, 1 - np.where(y_val == 1, scores, -scores)).mean()


def refitted_loss(victim, loss, row):
    victim.fit(np.vstack([X_train, row]), labels)
    return loss(victim.decision_function(X_val))


def ascend(victim, row, n_steps=60, step=0.2):
    path = [row]
    for i in range(n_steps):
        rows = np.vstack([X_train, row])
        slope = implicit_gradient(victim, rows, labels, X_val, y_val).X[-1]
        slope = slope / max(np.linalg.norm(slope), 1e-12)
        row = np.clip(row + step * (1 - i / n_steps) * slope, -box, box)
        path.append(row)
    return np.array(path)


victims = {
    "logistic regression": (LogisticRegression(), log_loss),
    "support vectors, RBF kernel": (SVC(gamma=0.5), hinge_loss),
}
grid = np.linspace(-box, box, 25)
starts = X_train[y_train == 0][:5]
fig, axes = plt.subplots(1, 2, figsize=(10, 4.4), layout="constrained")
for ax, (name, (victim, loss)) in zip(axes, victims.items(), strict=True):
    image = [[refitted_loss(victim, loss, [a, b]) for a in grid] for b in grid]
    picture = ax.contourf(grid, grid, image, levels=15, cmap="viridis")
    fig.colorbar(picture, ax=ax, label="validation loss")
    ax.scatter(*X_train.T, c=y_train, cmap="coolwarm", s=12, edgecolors="white", lw=0.4)
    gains = []
    for start in starts:
        path = ascend(victim, start)
        ax.plot(*path.T, color="black", lw=1.2)
        ax.plot(*path[-1], "k*", ms=9)
        ends = (refitted_loss(victim, loss, row) for row in (start, path[-1]))
        gains.append(tuple(ends))
    ax.set_title(name)
    print(name + ": " + ", ".join(f"{a:.3f} -> {b:.3f}" for a, b in gains))

# %%
# Logistic regression is moved most by rows as far out as they may lie: its loss has no
# limit, and the box is what holds them. The kernel machine forgets a row that is far
# from all others, and the worst places lie among the rows of the other class or near
# them. The ascents end on a hill, but not always on the highest: each is a local
# search.
#
# Many rows, real data
# --------------------
# :class:`~skpoison.attacks.BilevelPoisoningAttack` moves all its rows together. The
# control is the same rows with the same labels before they are moved, ``max_iter=0``.
# Ten seeds, each with its own 200 training rows, start rows and victim.

X, y = load_breast_cancer(return_X_y=True)
models = {
    "logistic regression": LogisticRegression(),
    "support vectors": SVC(),
}
budgets = [0, 0.02, 0.05, 0.1]
n_seeds = 10
settings = {"rows as they are": 0, "rows optimised": 60}
accuracy = np.empty((len(models), len(settings), len(budgets), n_seeds))
for seed in range(n_seeds):
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, train_size=200, stratify=y, random_state=seed
    )
    for m, model in enumerate(models.values()):
        victim = make_pipeline(StandardScaler(), model)
        for s, max_iter in enumerate(settings.values()):
            for b, budget in enumerate(budgets):
                attack = BilevelPoisoningAttack(
                    victim, budget=budget, max_iter=max_iter, random_state=seed
                )
                data = attack.poison(X_train, y_train)
                victim.fit(data.X, data.y)
                accuracy[m, s, b, seed] = victim.score(X_test, y_test)

half = t.ppf(0.975, n_seeds - 1) * accuracy.std(axis=-1, ddof=1) / np.sqrt(n_seeds)
mean = accuracy.mean(axis=-1)
print("held-out accuracy            " + "".join(f"{b:>15.0%}" for b in budgets))
for m, name in enumerate(models):
    for s, setting in enumerate(settings):
        cells = zip(mean[m, s], half[m, s], strict=True)
        cells = "".join(f"{a:9.3f} ± {h:.3f}" for a, h in cells)
        print(f"{name:20} {setting:17}" + cells)

# %%
# Intervals are 95 % of the mean over seeds: what another split, other start rows and
# another victim would give.

fig, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True, layout="constrained")
for m, (ax, name) in enumerate(zip(axes, models, strict=True)):
    for s, setting in enumerate(settings):
        style = {"color": "black", "linestyle": "--"} if s == 0 else {}
        ax.errorbar(
            budgets,
            mean[m, s],
            half[m, s],
            marker="o",
            capsize=3,
            label=setting,
            **style,
        )
    ax.set(title=name, xlabel="rows added, as a share of the clean rows")
    ax.grid(alpha=0.3)
axes[0].set_ylabel("accuracy on clean held-out rows")
axes[0].legend()
plt.show()
