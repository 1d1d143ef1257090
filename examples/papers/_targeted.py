"""Targeted attacks on networks that are trained from scratch: shared by two papers.

The CPU's setting is 200 rows a class of Fashion-MNIST and a multilayer perceptron,
trained by the recipe of Witches' Brew; targets are test images of a class that is
often taken for the wished one, all read rightly by three clean networks. With --full
the settings are the published ones, by name, one run a target.
"""

import time
from dataclasses import replace

import numpy as np
from _runs import FETCH, arguments, images, print_table, shown_share
from sklearn.base import clone

from skpoison.model_selection import evaluate_targeted, published_setting
from skpoison.models import fit_together

#: (true class, wished class): shirts, coats and pullovers; shoes.
NEAR = [(0, 6), (6, 0), (2, 4), (4, 2), (2, 6), (6, 2), (4, 6), (6, 4), (5, 7), (7, 9)]


def targeted_arguments(description):
    """Return the parser of a script."""
    parser = arguments(description, seeds=1)
    add_counts(parser, 8, 4)
    return parser


def add_counts(parser, n_targets, n_victims):
    """Add the numbers of targets and of their victims."""
    parser.add_argument("--targets", type=int, default=n_targets)
    parser.add_argument("--victims", type=int, default=n_victims, help="of each target")


def small_victim(args):
    """Return the network of the CPU's setting."""
    epochs = 5 if args.size == "tiny" else None
    victim = published_setting("watermark-fashion-mnist-mlp", max_epochs=epochs).victim
    return victim.set_params(device=args.device)


def small_data(args):
    """Return training rows and labels, test rows and labels."""
    n_train, n_test = (2000, None) if args.size == "cpu" else (200, 400)
    return images("fashion_mnist", n_train, n_test, 0)


def draw_targets(net, data, args, seed):
    """Draw targets that clean networks read rightly, near pairs in turn.

    Returns
    -------
    targets, wished labels, true labels
    """
    X, y, X_test, y_test = data
    judges = [clone(net).set_params(random_state=s) for s in (1, 2, 3)]
    judges = fit_together(judges, [X] * 3, [y] * 3)
    X_test, y_test = X_test[:2000], y_test[:2000]
    right = np.all([judge.predict(X_test) == y_test for judge in judges], axis=0)
    rng, rows, wished = np.random.default_rng(seed), [], []
    pairs = [p for p in NEAR if (right & (y_test == p[0])).any()]
    if not pairs:
        raise ValueError("clean networks read no test image of near classes rightly")
    while len(rows) < args.targets:
        true, label = pairs[len(rows) % len(pairs)]
        found = np.setdiff1d(np.flatnonzero(right & (y_test == true)), rows)
        rows.append(int(rng.choice(found)))
        wished.append(label)
    return X_test[rows], np.array(wished), y_test[rows]


def run_small(runs, args, arms):
    """Measure what is missing; `arms` maps titles to attack and victim."""
    data = None
    for seed in range(args.seeds):
        targets = None
        for title, (attack, victim) in arms.items():
            key = small_key(args, title, seed)
            if runs.get(key) is not None:
                continue
            data = data or small_data(args)
            targets = targets or draw_targets(small_victim(args), data, args, seed)
            start = time.process_time()
            report = evaluate_targeted(
                attack.set_params(random_state=seed),
                victim,
                *data[:2],
                *targets[:2],
                target_true_labels=targets[2],
                n_victims=args.victims,
                X_test=data[2],
                y_test=data[3],
                random_state=seed,
            )
            runs.keep(summary(key, report, time.process_time() - start))


def run_settings(runs, args, settings):
    """Measure what is missing of settings by title, a run a target."""
    layout = {"layout": "nchw", "dtype": "uint8", "return_X_y": True}
    data = None
    for title, setting in settings.items():
        for seed in setting.seeds[: args.targets]:
            key = full_key(args, title, seed)
            if runs.get(key) is not None:
                continue
            data = data or [
                *FETCH[setting.dataset](subset="train", **layout),
                *FETCH[setting.dataset](subset="test", **layout),
            ]
            start = time.process_time()
            report = replace(setting, seeds=(seed,)).evaluate(
                *data, n_victims=args.victims, device=args.device
            )
            runs.keep(summary(key, report, time.process_time() - start))


def small_key(args, title, seed):
    """Return what names the run of an arm, whose seed draws its targets too."""
    counts = {"targets": args.targets, "victims": args.victims, "size": args.size}
    return {"arm": title, "seed": seed, **counts}


def full_key(args, title, seed):
    """Return what names the run of a setting and target."""
    return {"arm": title, "seed": seed, "victims": args.victims, "size": "full"}


def run_keys(args, arms, settings):
    """Return the names of all runs, by title: of the settings where there are any."""
    if settings:
        return {
            title: [full_key(args, title, s) for s in setting.seeds[: args.targets]]
            for title, setting in settings.items()
        }
    return {t: [small_key(args, t, s) for s in range(args.seeds)] for t in arms}


def summary(key, report, seconds):
    """Return what is kept of a report: shares of victims, target by target."""
    return {
        "run": key,
        "success": report.success.mean(axis=1).tolist(),
        "misclassified": report.misclassified.mean(axis=1).tolist(),
        "control": report.control.mean(axis=1).tolist(),
        "clean_accuracy": report.clean_accuracy,
        "poisoned_accuracy": report.poisoned_accuracy,
        "train_accuracy": report.train_accuracy,
        "seconds": round(seconds, 1),
    }


def shares(runs, keys, figure):
    """Return the shares of victims, target by target, of some runs."""
    found = [runs.get(key)[figure] for key in keys if runs.get(key)]
    return np.concatenate(found or [np.empty(0)])


def published_figures(settings):
    """Return the figures of settings in words, by title."""
    return {
        title: "; ".join(f"{f.quantity} {f.value:.3g}" for f in setting.figures)
        for title, setting in settings.items()
    }


def show_targeted(runs, keys, published):
    """Print a row a title."""
    rows = []
    for title in keys:
        kept = [runs.get(key) for key in keys[title] if runs.get(key)]
        if not kept:
            continue
        success, wrong, control = (
            shares(runs, keys[title], figure)
            for figure in ("success", "misclassified", "control")
        )
        means = [
            np.mean([r[f"{figure}_accuracy"] for r in kept])
            for figure in ("clean", "poisoned", "train")
        ]
        rows.append(
            (
                title,
                published.get(title) or "-",
                # a target is a trial: its victims share its poisons
                *(shown_share(found.sum(), len(found)) for found in (success, wrong)),
                f"{control.mean():.2f}",
                *(f"{mean:.3f}" for mean in means),
                f"{len(success)} x {keys[title][0]['victims']}",
                f"{sum(r['seconds'] for r in kept):.0f}",
            )
        )
    figures = ("success", "misclassified", "control", "clean", "poisoned", "training")
    print_table(rows, ("setting", "published", *figures, "n", "seconds"))


def difference(runs, keys, title, other, figure="success"):
    """Return an arm's differences to another, target by target, None below two."""
    pair = [shares(runs, keys.get(one, []), figure) for one in (title, other)]
    return pair[0] - pair[1] if len(pair[0]) == len(pair[1]) > 1 else None
