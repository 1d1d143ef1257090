"""
Poisoning a regression
======================

In regression an attacker also chooses the numbers ``y`` of the rows that he adds. This
example repeats the setting of Jagielski et al. (2018) on the diabetes data: rows with
wrong numbers, their attack that needs statistics only, and two that follow the gradient
of the retrained ridge regression.
"""

# %%
# The attacks
# -----------
# All of them are settings of :class:`~skpoison.attacks.RegressionPoisoningAttack`. The
# first two are the controls: random rows, their ``y`` mirrored in its range or pushed
# to the far end of it. StatP draws rows at the corners of the box from the columns'
# mean and covariance, and asks a trained model which end of the range is farther off.
# BGD moves the rows by the gradient and leaves ``y`` alone. OptP starts from the best
# of six starts and moves rows and ``y``.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import t
from sklearn.datasets import load_diabetes
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import HuberRegressor, Ridge
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import minmax_scale

from skpoison.attacks import RegressionPoisoningAttack

X, y = load_diabetes(return_X_y=True)
X, y = minmax_scale(X), minmax_scale(y)

attacks = {
    "mirrored y": {"init": "inv_flip", "max_iter": 0},
    "y at the far end": {"init": "b_flip", "max_iter": 0},
    "StatP": {"init": "statp", "max_iter": 0},
    "BGD": {"init": "inf_flip", "move_targets": False},
    "OptP": {"init": "best"},
}
budgets = [0.02, 0.05, 0.1, 0.2]
n_seeds = 10

# %%
# The same rows against three victims
# -----------------------------------
# Rows are made against the ridge regression. A Huber regression, which trusts large
# errors less, and a random forest are trained on the same poisoned rows. Shares are of
# the clean rows: 0.2 adds 60 rows to 300.

victims = {
    "ridge": Ridge(alpha=3.0),
    "Huber": HuberRegressor(max_iter=1000),
    "random forest": RandomForestRegressor(20, random_state=0),
}


def error(victim, X_fit, y_fit):
    return mean_squared_error(y_test, victim.fit(X_fit, y_fit).predict(X_test))


factor = np.full((len(victims), len(attacks), len(budgets), n_seeds), np.nan)
for seed in range(n_seeds):
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, train_size=300, random_state=seed
    )
    clean = [error(victim, X_train, y_train) for victim in victims.values()]
    for a, settings in enumerate(attacks.values()):
        for b, budget in enumerate(budgets):
            attack = RegressionPoisoningAttack(
                victims["ridge"], budget=budget, random_state=seed, **settings
            )
            data = attack.poison(X_train, y_train)
            for v, victim in enumerate(victims.values()):
                if v == 0 or budget == budgets[-1]:
                    factor[v, a, b, seed] = error(victim, data.X, data.y) / clean[v]

half = t.ppf(0.975, n_seeds - 1) * factor.std(axis=-1, ddof=1) / np.sqrt(n_seeds)
mean = factor.mean(axis=-1)

# %%
# Held-out squared error as a multiple of the clean model's, mean over ten seeds and
# its 95 % interval:

print("ridge             " + "".join(f"{b:>14.0%}" for b in budgets))
for a, name in enumerate(attacks):
    cells = zip(mean[0, a], half[0, a], strict=True)
    print(f"{name:18}" + "".join(f"{m:8.2f} ± {h:.2f}" for m, h in cells))

print("\nat 20 %           " + "".join(f"{name:>15}" for name in victims))
for a, name in enumerate(attacks):
    cells = zip(mean[:, a, -1], half[:, a, -1], strict=True)
    print(f"{name:18}" + "".join(f"{m:8.2f} ± {h:.2f} " for m, h in cells))

# %%
# Six rows in three hundred, placed by the gradient, cost the ridge regression more than
# sixty random rows with mirrored numbers. StatP doubles the error without any gradient.
# That OptP also moves ``y`` gains nothing here: it stands at an end of its range from
# the start.
#
# A robust loss is no defense against rows that were placed. The Huber regression shrugs
# off wrong numbers on ordinary rows, and loses to BGD and OptP as much as ridge: far
# out, a row draws the model to itself and has no large error any more. The forest is
# hardly moved by rows that were made for a linear model; what costs it most are wrong
# numbers on ordinary rows.

fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
for a, name in enumerate(attacks):
    style = {"color": "black", "linestyle": "--"} if a == 0 else {}
    axes[0].errorbar(
        budgets, mean[0, a], half[0, a], marker="o", capsize=3, label=name, **style
    )
axes[0].set(title="ridge", xlabel="rows added, as a share of the clean rows")
axes[0].set_ylabel("held-out error, multiple of the clean one")
axes[0].grid(alpha=0.3)
axes[0].legend()
place = np.arange(len(attacks))
for v, name in enumerate(victims):
    axes[1].bar(
        place + 0.27 * (v - 1), mean[v, :, -1], 0.25, yerr=half[v, :, -1], label=name
    )
axes[1].axhline(1, color="black", lw=0.8)
axes[1].set_xticks(place, [name.replace(" ", "\n", 1) for name in attacks])
axes[1].set(title="the same rows against others, 20 %")
axes[1].legend()
plt.show()
