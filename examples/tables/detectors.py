"""What each detector of poisoned rows finds, and what it costs, on Fashion-MNIST.

    python examples/tables/detectors.py --out detectors.jsonl
    python examples/tables/detectors.py --out detectors.jsonl --show
    python examples/tables/detectors.py --out detectors.jsonl --seeds 1 --poisons none

4,000 training images halved to 14 by 14 and a small convolutional network, trained once
a poison and seed; all detectors look at its penultimate features, LabelIssueDetector at
the pixels. A seed moves the poisoned rows and the training. Every run is a line of the
output file, and a second call runs only what is missing.

badnets-3, badnets-1    a 3 by 3 patch on 3 % or 1 % of all rows, relabelled as class 0
clean-75                the patch on 75 % of class 0, labels unchanged
none                    no poison: what is removed is lost
"""

import warnings
from functools import partial

import numpy as np
from _papers import NETWORK, POISONS, Runs, arguments, load, print_table
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from skpoison.defenses import (
    ActivationClustering,
    DeepKNN,
    LabelIssueDetector,
    PoisonDetector,
    SpectralSignatures,
)
from skpoison.metrics import detection_report
from skpoison.models import TorchClassifier, fit_together

DETECTORS = {
    "spectral, z-score": SpectralSignatures(),
    "spectral, budget .05": SpectralSignatures(rule="budget"),
    "spectral, count .05": SpectralSignatures(rule="count"),
    "spectral, count .03": SpectralSignatures(rule="count", expected_poison=0.03),
    "clusters, relative size": ActivationClustering(),
    "clusters, silhouette": ActivationClustering(analysis="silhouette"),
    "clusters, distance": ActivationClustering(analysis="distance"),
    "clusters, smaller": ActivationClustering(analysis="smaller"),
    "clusters, ica": ActivationClustering(reduce="ica"),
    "deep k-NN .05": DeepKNN(),
    "deep k-NN .03": DeepKNN(expected_poison=0.03),
    "deep k-NN .03, majority": DeepKNN(expected_poison=0.03, vote="majority"),
    "label issues": LabelIssueDetector(),
    "PoisonDetector": PoisonDetector(),
}
FIGURES = ("recall", "precision", "false_positive_rate", "auc", "seconds")


def train(poison, seeds, size):
    """Return the poisoned data and the networks trained on them, one a seed."""
    X, y, _, _ = load(size)
    sets = [(X, y, np.zeros(len(y), dtype=bool)) for _ in seeds]
    if poison != "none":
        attack = clone(POISONS[poison])
        if poison == "clean-75":
            attack.set_params(budget=int(0.75 * np.sum(y == 0)))
        made = [attack.set_params(random_state=s).poison(X, y) for s in seeds]
        sets = [(data.X, data.y, data.poison_mask) for data in made]
    nets = [TorchClassifier(random_state=seed, **NETWORK) for seed in seeds]
    return sets, fit_together(nets, [s[0] for s in sets], [s[1] for s in sets])


def measure(data, net, detector, seed, **_):
    """Return the figures of one detector."""
    X, y, is_poison = data
    detector = clone(DETECTORS[detector]).set_params(random_state=seed)
    if hasattr(detector, "estimator"):
        detector.set_params(estimator=FrozenEstimator(net))
    detector.fit(X, y)
    return dict(detection_report(is_poison, detector.is_clean_, detector.scores_))


def show(runs, size):
    """Print one row a poison and detector: means over the seeds."""
    rows = []
    for poison in (*POISONS, "none"):
        for name in DETECTORS:
            which = {"detector": name, "poison": poison, "size": size}
            caught, poisons, removed = (
                runs.values(key, **which)
                for key in ("n_caught", "n_poison", "n_removed")
            )
            if not len(caught):
                continue
            with warnings.catch_warnings():  # all NaN where nothing was removed
                warnings.simplefilter("ignore", RuntimeWarning)
                means = [np.nanmean(runs.values(key, **which)) for key in FIGURES]
            cells = ["" if np.isnan(m) else f"{m:.3f}" for m in means]
            counts = zip(caught, poisons, removed, strict=True)
            each = "  ".join("/".join(map(str, row)) for row in counts)
            rows.append((f"{poison}, {name}", *cells, each))
    names = ("recall", "precision", "clean lost", "AUC", "seconds")
    print_table(rows, ("poison, detector", *names, "caught / poisons / removed"))


def main(argv=None):
    """Run what is missing, print the table."""
    parser = arguments(__doc__, seeds=3, full=False)
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=[])
    kinds = [*POISONS, "none"]
    parser.add_argument("--poisons", nargs="+", choices=kinds, default=kinds)
    args = parser.parse_args(argv)
    runs, names = Runs(args.out), args.detectors or [*DETECTORS]
    for poison in [] if args.show else args.poisons:
        todo: dict = {}
        for seed in range(args.seeds):
            for name in names:
                run = {"detector": name, "poison": poison, "seed": seed}
                run["size"] = args.size
                if runs.get(run) is None:
                    todo.setdefault(seed, []).append(run)
        sets, nets = train(poison, [*todo], args.size) if todo else ([], [])
        for seed, data, net in zip(todo, sets, nets, strict=True):
            for run in todo[seed]:
                runs.get(run, partial(measure, data, net))
    show(runs, args.size)


if __name__ == "__main__":
    main()
