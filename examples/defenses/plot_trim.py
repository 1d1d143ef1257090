"""
Regression with poisoned rows among the data
============================================

Rows that were placed by an attacker pull a regression to themselves. TRIM trains on
the rows that it fits best, in rounds, and is compared here with the robust regressions
of scikit-learn on the attacks it was made against.
"""

# %%
# Attacks and regressions
# -----------------------
# StatP draws rows at the corners of the box that the data fill. OptP moves rows and
# ``y`` by the gradient of the trained ridge regression. TRIM is told how many rows are
# poisoned; once with one start, at all rows, and once with its default of ten, nine of
# which train on a few random rows first.

import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_diabetes
from sklearn.linear_model import HuberRegressor, RANSACRegressor, Ridge
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import minmax_scale

from skpoison.attacks import RegressionPoisoningAttack
from skpoison.defenses import TRIMRegressor

X, y = load_diabetes(return_X_y=True)
X, y = minmax_scale(X), minmax_scale(y)

attacks = {
    "StatP": {"init": "statp", "max_iter": 0},
    "OptP": {"init": "best", "max_iter": 20},
}
budgets = [12, 36, 60]
n_seeds = 5
models = {
    "ridge": Ridge(),
    "TRIM, 1 start": TRIMRegressor(n_restarts=1),
    "TRIM, 10 starts": TRIMRegressor(random_state=0),
    "Huber": HuberRegressor(max_iter=2000),
    "RANSAC": RANSACRegressor(random_state=0),
}

# %%
# Held-out error
# --------------
# Poisoned rows are added to 300 clean ones. Mean squared error on clean held-out rows
# as a multiple of that of ridge on clean rows, mean of five splits:

ratio = np.empty((len(attacks), len(models), len(budgets), n_seeds))
left = np.zeros((len(attacks), len(budgets)))
for seed in range(n_seeds):
    X_train, X_test, y_train, y_test = train_test_split(
        X, y, train_size=300, random_state=seed
    )
    reference = Ridge().fit(X_train, y_train).predict(X_test)
    clean = mean_squared_error(y_test, reference)
    for a, settings in enumerate(attacks.values()):
        for b, budget in enumerate(budgets):
            attack = RegressionPoisoningAttack(
                Ridge(), budget=budget, random_state=seed, **settings
            )
            data = attack.poison(X_train, y_train)
            for m, model in enumerate(models.values()):
                model = clone(model)
                if isinstance(model, TRIMRegressor):
                    model.set_params(contamination=budget)
                error = mean_squared_error(
                    y_test, model.fit(data.X, data.y).predict(X_test)
                )
                ratio[a, m, b, seed] = error / clean
                if m == 2:
                    kept = model.inlier_mask_ & data.poison_mask
                    left[a, b] += kept.sum() / budget / n_seeds

mean = ratio.mean(axis=-1)
for a, name in enumerate(attacks):
    print(f"{name:16}" + "".join(f"{b:4} rows" for b in budgets))
    for m, model in enumerate(models):
        print(f"{model:16}" + "".join(f"{value:9.2f}" for value in mean[a, m]))
    shares = "".join(f"{share:9.0%}" for share in left[a])
    print(f"{'poisons kept':16}{shares}\n")

fig, axes = plt.subplots(1, 2, figsize=(10, 3.8), sharey=True, layout="constrained")
for a, name in enumerate(attacks):
    for m, model in enumerate(models):
        axes[a].plot(budgets, mean[a, m], "o-", label=model)
    axes[a].axhline(1, color="black", lw=0.8)
    axes[a].set(title=name, xlabel="rows added to 300", xticks=budgets)
    axes[a].grid(alpha=0.3)
axes[0].set_ylabel("held-out error, multiple of the clean one")
axes[0].legend()
plt.show()

# %%
# TRIM's error stays near that of clean data. A model that was trained on 60 rows of
# OptP fits them so well that TRIM from all rows keeps many of them; some of the small
# random starts meet next to none, and the smallest trimmed loss tells which. Of StatP's
# rows at the corners it keeps those that the clean model fits too. There the smallest
# loss is not the best model, and ten starts are a little worse than one.
# Huber's loss is no help against OptP, whose rows have no large residual. RANSAC trains
# on few rows, and pays for that with an error that is large without any attack.
#
# When the number is wrong
# ------------------------
# Nobody knows how many rows are poisoned. On the last split, 60 rows of OptP:

guesses = [0, 30, 50, 60, 80, 120]
for guess in guesses:
    model = TRIMRegressor(contamination=guess, random_state=0).fit(data.X, data.y)
    error = mean_squared_error(y_test, model.predict(X_test))
    print(f"{guess:4} rows left out: {error / clean:.2f} of the clean error")

# %%
# Leaving out twice as many costs little, half as many lets poisons in: when in doubt,
# leave out more.
