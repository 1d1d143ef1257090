"""What PoisonDetector finds on Fashion-MNIST, and what it throws away.

    python examples/tables/poison_detector.py --out detector.jsonl
    python examples/tables/poison_detector.py --out detector.jsonl --show
    python examples/tables/poison_detector.py --out detector.jsonl --detectors input

5,000 training images, 28 by 28, drawn anew for each seed. Every run is a line of the
output file, and a second call runs only what is missing.

clean           as they are
badnets-P       a 3 by 3 patch on P % of all rows, relabelled as one class
middle-5        the same with a white square in the middle of the picture
blend-5         faint noise blended into 5 % of the rows, relabelled
clean-label-75  the patch on 75 % of one class, labels unchanged
all-to-all-5    the patch on 5 % of the rows, each class relabelled as the next
flips-P         P % of the labels wrong at random
pairs-5         5 % of the labels wrong, each class for one other
"""

from functools import lru_cache

import numpy as np
from _papers import Runs, arguments, print_table
from sklearn.base import clone

from skpoison.attacks import (
    AllToAllBackdoor,
    BackdoorAttack,
    BlendTrigger,
    CleanLabelBackdoorAttack,
    LabelFlipAttack,
    PatchTrigger,
)
from skpoison.datasets import fetch_fashion_mnist
from skpoison.defenses import ActivationClustering, PoisonDetector, SpectralSignatures
from skpoison.metrics import detection_report
from skpoison.models import TorchClassifier

SQUARE = PatchTrigger("solid", position=(13, 13))
POISONS = {
    "clean": None,
    "badnets-1": BackdoorAttack(target_class=0, budget=0.01),
    "badnets-5": BackdoorAttack(target_class=0, budget=0.05),
    "badnets-10": BackdoorAttack(target_class=6, budget=0.10),
    "middle-5": BackdoorAttack(SQUARE, target_class=3, budget=0.05),
    "blend-5": BackdoorAttack(BlendTrigger(alpha=0.1), target_class=3, budget=0.05),
    "clean-label-75": CleanLabelBackdoorAttack(PatchTrigger(), target_class=0),
    "all-to-all-5": AllToAllBackdoor(PatchTrigger(), budget=0.05),
    "flips-5": LabelFlipAttack("uniform", budget=0.05),
    "flips-10": LabelFlipAttack("uniform", budget=0.10),
    "pairs-5": LabelFlipAttack("pair", budget=0.05),
}
NETWORK = TorchClassifier(max_epochs=10, device="cpu")
DETECTORS = {
    "input": PoisonDetector(features="input"),
    "network": PoisonDetector(NETWORK),
    "spectral": SpectralSignatures(NETWORK),
    "clustering": ActivationClustering(NETWORK),
}


@lru_cache(maxsize=1)
def load(seed, n_rows):
    """Return the rows and labels of a seed."""
    X, y = fetch_fashion_mnist(
        subset="train", layout="nchw", dtype="float32", return_X_y=True
    )
    rows = np.random.default_rng(seed).permutation(len(X))[:n_rows]
    return X[rows], y[rows]


def measure(detector, poison, seed, size):
    """Return the figures of one run."""
    X, y = load(seed, 5000 if size == "cpu" else 500)
    mask = np.zeros(len(y), dtype=bool)
    if POISONS[poison] is not None:
        attack = clone(POISONS[poison]).set_params(random_state=seed)
        if poison == "clean-label-75":
            attack.set_params(budget=int(0.75 * np.sum(y == attack.target_class)))
        data = attack.poison(X, y)
        X, y, mask = data.X, data.y, data.poison_mask
    fitted = clone(DETECTORS[detector]).set_params(random_state=seed).fit(X, y)
    report = detection_report(mask, fitted.is_clean_, fitted.scores_)
    return {
        "recall": report.recall,
        "false_alarms": report.n_false_alarms / len(y),
        "auc": report.auc,
    }


def show(runs, size):
    """Print one row a poison and detector: mean over seeds, and the worst seed."""
    rows = []
    for poison in POISONS:
        for name in DETECTORS:
            which = {"detector": name, "poison": poison, "size": size}
            recall, alarms, auc, seconds = (
                runs.values(key, **which)
                for key in ("recall", "false_alarms", "auc", "seconds")
            )
            if not len(recall):
                continue
            caught = f"{recall.mean():.3f} ({recall.min():.3f})"
            wrong = f"{alarms.mean():.3f} ({alarms.max():.3f})"
            cells = (
                caught,
                wrong,
                f"{auc.mean():.3f}",
                len(auc),
                f"{seconds.mean():.1f}",
            )
            rows.append((f"{poison}, {name}", *cells))
    head = ("poison, detector", "recall (worst)", "flagged wrongly", "auc", "seeds")
    print_table(rows, (*head, "seconds"))


def main(argv=None):
    """Run what is missing, print the table."""
    parser = arguments(__doc__, seeds=3, full=False)
    names = [*DETECTORS]
    parser.add_argument("--detectors", nargs="+", choices=names, default=names)
    parser.add_argument("--poisons", nargs="+", choices=POISONS, default=[*POISONS])
    args = parser.parse_args(argv)
    runs = Runs(args.out)
    for seed in range(0 if args.show else args.seeds):
        for poison in args.poisons:
            for name in args.detectors:
                run = {"detector": name, "poison": poison, "seed": seed}
                runs.get({**run, "size": args.size}, measure)
    show(runs, args.size)


if __name__ == "__main__":
    main()
