"""
Audit a pipeline
================

The audit answers one question about an estimator and its training data: how much of
the data has to be poisoned before the model breaks, and would a defense have helped?
It cross-validates several attacks over several budgets, with and without defenses,
on the same folds, seeds and poisoned rows, and says what follows from the numbers.
"""

# %%
# The victim
# ----------
# A scaler and a logistic regression on the breast cancer data: 569 rows, 30 columns,
# two classes. Any classifier with scikit-learn's API would do, on a table with text
# columns and missing values too if its pipeline copes with them.

import textwrap

import matplotlib.pyplot as plt
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.audit import audit, defend

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
pipeline = make_pipeline(StandardScaler(), LogisticRegression())

# %%
# The audit
# ---------
# Budgets are shares of the training fold. Budget 0, the control, is always there, and
# so is the bare estimator, called ``none``. Without ``attacks`` and ``defenses`` the
# audit takes what is registered for such data; here it is some of that. Who mounts
# ``adaptive-flips`` knows the defense, and replaces the flips that a filter drops.

report = audit(
    pipeline,
    X,
    y,
    attacks=["random-flips", "adversarial-flips", "adaptive-flips", "backdoor"],
    defenses=["label-filter", "partition-aggregation"],
    budgets=(0, 0.01, 0.1),
    random_state=0,
    verbose=0,
    name="breast cancer",
)
print(textwrap.fill(report.recommendation, 88))

# %%
# What it found
# -------------
# ``damage`` is what an attack costs: for flipped labels the clean score lost, for
# backdoors the success above that of a model trained on clean data. Flips of random
# labels are the control that chosen flips have to beat.

report.heat_map()
plt.show()

# %%
# The same numbers with their 95 % intervals, which hold over held-out rows and given
# the models that were trained.

columns = ["attack", "defense", "clean_score", "damage", "damage_low", "damage_high"]
summary = report.summary()
largest = summary[summary["budget"] == 0.1]
print(largest[columns].round(3).to_string(index=False))

# %%
# Defenses ranked
# ---------------
# ``price`` is the clean score that a defense loses when there is no attack; below 0 it
# gains some. The worst damage over all attacks and budgets decides the rank, among
# defenses that cost little. ``reason`` says it in words.

ranking = report.ranking()
columns = ["rank", "defense", "price", "worst_damage", "worst_attack", "verdict"]
print(ranking[columns].round(3).to_string(index=False))
for place, reason in zip(ranking["defense"], ranking["reason"], strict=True):
    print(textwrap.fill(f"{place}: {reason}", 88))

# %%
# Damage against budget
# ---------------------
# ``report.to_html("report.html")`` writes everything as one self-contained page, with
# the rows that were poisoned and what each defense costs.

report.plot(figsize=(11, 3))
plt.show()

# %%
# The rows to look at
# -------------------
# Nobody has poisoned these: they are rows of the data as they came, dropped by a filter
# in some or all of the folds that held them.

print(report.suspects().head()[["row", "label", "n_dropped", "n_seen"]].to_string())

# %%
# What cannot be poisoned a little
# --------------------------------
# A certificate is no measurement. It says how many held-out rows are read rightly
# whatever is done to so many training rows.

curve = report.certificates().groupby("radius")["certified_accuracy"].mean()
fig, ax = plt.subplots(figsize=(5, 3), layout="constrained")
ax.step(curve.index, curve, where="post")
ax.set(xlabel="poisoned rows", ylabel="certified accuracy", ylim=(0, 1))
ax.grid(alpha=0.3)
plt.show()

# %%
# A name of the ranking becomes a model by ``defend``.

defended = defend(pipeline, "partition-aggregation").fit(X, y)
print(defended.predict(X[:10]))
