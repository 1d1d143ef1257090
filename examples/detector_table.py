"""What each detector of poisoned rows finds, and what it costs, on Fashion-MNIST.

    python examples/detector_table.py --out detectors.jsonl
    python examples/detector_table.py --out detectors.jsonl --show
    python examples/detector_table.py --out detectors.jsonl --seeds 1 --poisons none

4,000 training images halved to 14 by 14 and the network of ``defense_table.py``,
trained once a poison and seed; all detectors look at its penultimate features,
LabelIssueDetector at the pixels. A seed moves the poisoned rows and the training. Every
run is a line of the output file, and a second call runs only what is missing.

badnets-3, badnets-1    a 3 by 3 patch on 3 % or 1 % of all rows, relabelled as class 0
clean-75                the patch on 75 % of class 0, labels unchanged
none                    no poison: what is removed is lost
"""

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from defense_table import NETWORK, POISONS, load
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


def train(poison, seeds):
    """Return the poisoned data and the networks trained on them, one a seed."""
    X, y, _, _ = load()
    sets = [(X, y, np.zeros(len(y), dtype=bool)) for _ in seeds]
    if poison != "none":
        attack = clone(POISONS[poison])
        if poison == "clean-75":
            attack.set_params(budget=int(0.75 * np.sum(y == 0)))
        made = [attack.set_params(random_state=s).poison(X, y) for s in seeds]
        sets = [(data.X, data.y, data.poison_mask) for data in made]
    nets = [TorchClassifier(random_state=seed, **NETWORK) for seed in seeds]
    return sets, fit_together(nets, [s[0] for s in sets], [s[1] for s in sets])


def run(name, data, net, seed):
    """Return the figures of one detector."""
    X, y, is_poison = data
    detector = clone(DETECTORS[name]).set_params(random_state=seed)
    if hasattr(detector, "estimator"):
        detector.set_params(estimator=FrozenEstimator(net))
    start = time.perf_counter()
    detector.fit(X, y)
    seconds = time.perf_counter() - start
    report = detection_report(is_poison, detector.is_clean_, detector.scores_)
    return {**report, "seconds": round(seconds, 2)}


def show(records):
    """Print one row a poison and detector: means over the seeds."""
    names = ("recall", "precision", "clean lost", "AUC", "seconds")
    heads = "".join(f"{name:>11}" for name in names)
    print(f"{'poison':11}{'detector':26}{heads}  caught / poisons / removed, a seed")
    for poison in (*POISONS, "none"):
        for name in DETECTORS:
            found = [
                r for r in records if (r["detector"], r["poison"]) == (name, poison)
            ]
            if not found:
                continue
            with warnings.catch_warnings():  # all NaN where nothing was removed
                warnings.simplefilter("ignore", RuntimeWarning)
                means = [np.nanmean([r[figure] for r in found]) for figure in FIGURES]
            counts = "  ".join(
                f"{r['n_caught']}/{r['n_poison']}/{r['n_removed']}"
                for r in sorted(found, key=lambda r: r["seed"])
            )
            cells = "".join(f"{'' if m != m else format(m, '.3f'):>11}" for m in means)
            print(f"{poison:11}{name:26}{cells}  {counts}")


def main(argv=None):
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("detector_table.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--detectors", nargs="+", choices=DETECTORS, default=[])
    kinds = [*POISONS, "none"]
    parser.add_argument("--poisons", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--show", action="store_true", help="only print what is there")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(r["poison"], r["seed"], r["detector"]) for r in records}
    names = args.detectors or [*DETECTORS]
    for poison in [] if args.show else args.poisons:
        seeds = [
            seed
            for seed in range(args.seeds)
            if any((poison, seed, name) not in done for name in names)
        ]
        sets, nets = train(poison, seeds) if seeds else ([], [])
        for seed, data, net in zip(seeds, sets, nets, strict=True):
            for name in names:
                if (poison, seed, name) in done:
                    continue
                found = run(name, data, net, seed)
                record = {"detector": name, "poison": poison, "seed": seed, **found}
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                records.append(record)
            print(f"{poison}, seed {seed}: done", flush=True)
    show(records)


if __name__ == "__main__":
    main()
