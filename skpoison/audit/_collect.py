"""From the results of jobs to one row for each setting, fold and trial."""


def collect(plan, done):
    """Return the tidy rows of a report and, apart from them, the seconds of each.

    Parameters
    ----------
    plan : Plan
    done : dict
        From job to result.

    Returns
    -------
    table, timings : list of dict
    """
    table, timings = [], []
    for i, entry in enumerate(plan.attacks):
        for fold, (train, _) in enumerate(plan.folds):
            for trial in range(plan.n_trials):
                clean_job = (None, 0, fold, trial)
                clean = done[clean_job]["rows"]
                for at, budget in enumerate([0, *plan.budgets]):
                    poisoned = budget != 0 and entry.poisons
                    rows = clean
                    if poisoned:
                        rows = plan.rows(done, i, budget, fold, trial)
                    for row, control in zip(rows, clean, strict=True):
                        column = 0 if poisoned else i
                        wins, tries = row["wins"][column], row["tries"][column]
                        if budget != 0 and not poisoned:
                            wins, tries = row["later"][str(i)][at - 1]
                        key = {
                            "estimator": row["estimator"],
                            "attack": entry.name,
                            "defense": row["defense"],
                            "budget": budget,
                            "fold": fold,
                            "trial": trial,
                        }
                        table.append(
                            {
                                **key,
                                "n_poisoned": row["n_poisoned"],
                                "n_train": len(train),
                                "clean_score": row["score"],
                                "n_success": wins,
                                "n_tries": tries,
                                "attack_success": _share(wins, tries),
                                "n_control": control["wins"][i],
                                "n_control_tries": control["tries"][i],
                                "control_success": _share(
                                    control["wins"][i], control["tries"][i]
                                ),
                            }
                        )
                        seconds = {
                            "craft_seconds": row["craft_seconds"],
                            "fit_seconds": row["seconds"],
                        }
                        timings.append({**key, **seconds})
    return table, timings


def _share(wins, tries):
    return wins / tries if tries else float("nan")
