"""What PoisonDetector finds on Fashion-MNIST, and what it throws away.

    python examples/poison_detector_table.py --out detector.jsonl
    python examples/poison_detector_table.py --out detector.jsonl --show
    python examples/poison_detector_table.py --out detector.jsonl --detectors input

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

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
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


def load(seed, n_rows=5000):
    """Return the rows and labels of a seed."""
    X, y = fetch_fashion_mnist(
        subset="train", layout="nchw", dtype="float32", return_X_y=True
    )
    rows = np.random.default_rng(seed).permutation(len(X))[:n_rows]
    return X[rows], y[rows]


def run(name, poison, seed, X, y):
    """Return the record of one run."""
    mask = np.zeros(len(y), dtype=bool)
    if POISONS[poison] is not None:
        attack = clone(POISONS[poison]).set_params(random_state=seed)
        if poison == "clean-label-75":
            attack.set_params(budget=int(0.75 * np.sum(y == attack.target_class)))
        data = attack.poison(X, y)
        X, y, mask = data.X, data.y, data.poison_mask
    detector = clone(DETECTORS[name]).set_params(random_state=seed)
    start = time.perf_counter()
    detector.fit(X, y)
    seconds = time.perf_counter() - start
    report = detection_report(mask, detector.is_clean_, detector.scores_)
    return {
        "detector": name,
        "poison": poison,
        "seed": seed,
        "recall": report.recall,
        "false_alarms": report.n_false_alarms / len(y),
        "auc": report.auc,
        "seconds": round(seconds, 1),
    }


def show(records):
    """Print one row a poison and detector: mean over seeds, and the worst seed."""
    print(f"{'poison':16}{'detector':12}{'recall (worst)':>16}", end="")
    print(f"{'flagged wrongly':>18}{'auc':>7}  seeds  seconds")
    for poison in POISONS:
        for name in DETECTORS:
            found = [
                r for r in records if (r["detector"], r["poison"]) == (name, poison)
            ]
            if not found:
                continue
            recall, alarms, auc, seconds = (
                np.array([r[k] for r in found])
                for k in ("recall", "false_alarms", "auc", "seconds")
            )
            caught = f"{recall.mean():.3f} ({recall.min():.3f})"
            wrong = f"{alarms.mean():.3f} ({alarms.max():.3f})"
            print(
                f"{poison:16}{name:12}{caught:>16}{wrong:>18}{auc.mean():7.3f}"
                f"{len(found):7}{seconds.mean():9.1f}"
            )


def main(argv=None):
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("poison_detector_table.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--detectors", nargs="+", choices=DETECTORS, default=[*DETECTORS]
    )
    parser.add_argument("--poisons", nargs="+", choices=POISONS, default=[*POISONS])
    parser.add_argument("--show", action="store_true", help="only print what is there")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(r["detector"], r["poison"], r["seed"]) for r in records}
    for seed in range(0 if args.show else args.seeds):
        X, y = load(seed)
        for poison in args.poisons:
            for name in args.detectors:
                if (name, poison, seed) in done:
                    continue
                records.append(run(name, poison, seed, X, y))
                with args.out.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
                print(records[-1])
    show(records)


if __name__ == "__main__":
    main()
