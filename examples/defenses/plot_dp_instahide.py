"""
What mixing is worth in privacy
===============================

DP-InstaHide trains on noisy means of k rows. The noise on a mean hides a row k times
better than the same noise on the row, and a row is in few of the means. On the other
hand a mean tells less than a row. What is left of the gain is asked here at equal
privacy: for each k the noise is set so that the bill is the same, and the same model is
trained on what comes out.
"""

# %%
# The noise that a bill asks for
# ------------------------------
# 20,000 rows of 8 columns, clipped to a box that is declared, not measured; as many
# releases as there are rows. Labels are public, the features are not.

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import t as student
from sklearn.datasets import make_classification
from sklearn.linear_model import Ridge

from skpoison.defenses import InstaHideRelease
from skpoison.privacy import noise_for_epsilon, poisoning_success_bound

n_rows, n_columns, delta = 20_000, 8, 1e-5
X, y = make_classification(
    n_rows + 5_000,
    n_columns,
    n_informative=6,
    n_redundant=0,
    n_clusters_per_class=1,
    class_sep=1.2,
    random_state=0,
)
X = np.clip(X / 4, -1, 1)
X, X_test, y, y_test = X[:n_rows], X[n_rows:], y[:n_rows], y[n_rows:]

setting = {
    "n": n_rows,
    "n_releases": n_rows,
    "sensitivity": 2.0 * n_columns,
    "class_counts": np.bincount(y),
    "delta": delta,
}
epsilons, sizes = [1, 4, 16], [1, 2, 4, 8]
scales = {
    (epsilon, k): noise_for_epsilon(epsilon, k=k, **setting)
    for epsilon in epsilons
    for k in sizes
}
print("Laplace scale that reaches epsilon at delta = 1e-5\n")
print("epsilon " + "".join(f"{f'k = {k}':>9}" for k in sizes))
for epsilon in epsilons:
    print(f"{epsilon:7} " + "".join(f"{scales[epsilon, k]:9.3f}" for k in sizes))

# %%
# What can still be learned
# -------------------------
# The released rows go to a ridge regression on the mixed labels: nothing that is done
# with them adds to the bill. Ten seeds, and the differences to k = 1 seed by seed.

n_seeds = 10
accuracy = {}


def score(rows, labels):
    """Train on some rows and return the accuracy on held-out ones."""
    read = Ridge().fit(rows, labels).predict(X_test) > 0.5
    return np.mean(read == y_test)


for (epsilon, k), scale in scales.items():
    scores = []
    for seed in range(n_seeds):
        release = InstaHideRelease(
            k,
            noise_scale=scale,
            clip_output=False,
            hard_labels=False,
            delta=delta,
            random_state=seed,
        )
        Z, T = release.fit_resample(X, y)
        scores.append(score(Z, T[:, 1]))
    assert release.epsilon_ <= epsilon
    accuracy[epsilon, k] = np.array(scores)


def interval(values):
    """Return the mean and the half width of the 95 % t interval over seeds."""
    half = student.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean(), half


clean = score(X, y)
print(f"accuracy without noise {clean:.3f}\n")
print("epsilon" + "".join(f"{f'k = {k}':>16}" for k in sizes) + "     4 against 1")
for epsilon in epsilons:
    row = [interval(accuracy[epsilon, k]) for k in sizes]
    row.append(interval(accuracy[epsilon, 4] - accuracy[epsilon, 1]))
    print(f"{epsilon:7}" + "".join(f"   {m:+.3f} ± {h:.3f}" for m, h in row))

# %%
# Mixing allows less noise, and at a small epsilon the model is better for it. The gain
# is largest where the noise of single rows would be large, and it shrinks as epsilon
# grows: mixing costs something too.

fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
for place, k in enumerate(sizes):
    mean, half = np.transpose([interval(accuracy[e, k]) for e in epsilons])
    where = np.arange(len(epsilons)) + 0.08 * (place - 1.5)
    ax.errorbar(where, mean, half, fmt="o", capsize=3, label=f"k = {k}")
ax.axhline(clean, color="gray", linewidth=1, linestyle="--", label="no noise")
ax.set_xticks(range(len(epsilons)), epsilons)
ax.set(xlabel="epsilon", ylabel="accuracy on held-out rows")
ax.legend(ncols=2, fontsize=8)
ax.grid(axis="y", alpha=0.3)
plt.show()

# %%
# What it bounds
# --------------
# The same bill bounds every attack. If an event, such as a wrong answer on one input,
# has probability 0.02 without poisons, then m added rows raise it at most to

print("poisons" + "".join(f"{f'epsilon {e}':>13}" for e in epsilons))
for n_poisons in (1, 2, 3, 5):
    bounds = [poisoning_success_bound(e, delta, n_poisons, 0.02) for e in epsilons]
    print(f"{n_poisons:7}" + "".join(f"{bound:13.3f}" for bound in bounds))

# %%
# A handful of rows is all that a proof covers. Against more, and for images, where the
# bill runs into the thousands, mixing and noise are an empirical defense:
# ``examples/papers/dp_instahide.py`` measures that.
