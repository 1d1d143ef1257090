"""
Attack, budget and victim in one search
=======================================

Attacks are parameters like any other: ``GridSearchCV`` runs over the attack, its budget
and the victim at once. Test folds are never poisoned, so ``mean_test_clean`` is the
accuracy on clean rows, and ``attack_success_score`` asks the attacker's question.
"""

# %%
# The search
# ----------
# ``random_state`` of ``PoisonedEstimator`` seeds attack and victim anew in each cell
# with the same seeds, so that the cells are paired. The victims include one that is
# defended: a filter is part of the victim, since it runs after the attack.

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier

from skpoison.attacks import BackdoorAttack, LabelFlipAttack, PatchTrigger
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.metrics import attack_success_score

X, y = load_digits(return_X_y=True)
X = X / 16
trigger = PatchTrigger(size=3, margin=0, input_shape=(1, 8, 8))
attacks = {
    "uniform flips": LabelFlipAttack("uniform"),
    "adversarial flips": LabelFlipAttack("adversarial", chunk_size=0.02),
    "backdoor": BackdoorAttack(trigger, target_class=0),
}
victims = {
    "logistic": LogisticRegression(max_iter=300),
    "neighbours": KNeighborsClassifier(5),
    "forest": RandomForestClassifier(50),
    "filtered neighbours": FilteredEstimator(estimator=KNeighborsClassifier(5)),
}
search = GridSearchCV(
    PoisonedEstimator(random_state=0),
    {
        "attack": list(attacks.values()),
        "attack__budget": [0, 0.05, 0.15],
        "estimator": list(victims.values()),
    },
    scoring={"clean": "accuracy", "attack": attack_success_score},
    cv=StratifiedKFold(3, shuffle=True, random_state=0),
    refit=False,
).fit(X, y)
print(f"{len(search.cv_results_['params'])} settings, {search.n_splits_} folds each")

# %%
# The table
# ---------
# One row a setting, as in every search. For flips the attack's success is the share of
# held-out rows misread; for the backdoor the share of marked rows read as 0, whose
# control is the line at budget 0.

results = pd.DataFrame(search.cv_results_)
attack_names = {id(value): name for name, value in attacks.items()}
victim_names = {id(value): name for name, value in victims.items()}
results["attack"] = [attack_names[id(a)] for a in results["param_attack"]]
results["victim"] = [victim_names[id(v)] for v in results["param_estimator"]]
results["budget"] = results["param_attack__budget"].astype(float)
for score, title in [("clean", "accuracy"), ("attack", "attack success")]:
    table = results.pivot(
        index=["attack", "budget"], columns="victim", values=f"mean_test_{score}"
    )
    print(f"{title} on clean held-out rows, mean of 3 folds")
    print(table.loc[list(attacks), list(victims)].round(3).to_string(), "\n")

# %%
# Neighbours and forests average over labels and shrug off noise. Chosen flips cost
# every victim sixteen points or more at the largest budget, the filtered one too. And
# no victim shrugs off the backdoor, though the accuracy of none of them shows it: a
# model can't be chosen by its accuracy under one attack.

fig, axes = plt.subplots(1, 3, figsize=(11, 3.4), sharey=True, layout="constrained")
for ax, attack in zip(axes, attacks, strict=True):
    part = results[results["attack"] == attack]
    score = "attack" if attack == "backdoor" else "clean"
    grid = part.pivot(index="victim", columns="budget", values=f"mean_test_{score}")
    grid = grid.loc[list(victims)]
    ax.imshow(grid, vmin=0, vmax=1, aspect="auto", cmap="Blues")
    for row in range(grid.shape[0]):
        for column in range(grid.shape[1]):
            value = grid.iloc[row, column]
            shade = "white" if value > 0.6 else "black"
            ax.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade)
    ax.set_xticks(range(grid.shape[1]), [f"{b:.0%}" for b in grid.columns])
    ax.set_yticks(range(grid.shape[0]), grid.index)
    title = "attack success" if attack == "backdoor" else "accuracy"
    ax.set(title=f"{attack}\n{title}", xlabel="budget")
plt.show()
