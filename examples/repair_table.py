"""Clean accuracy and backdoor success where poisons are dropped, unlearnt or repaired.

    python examples/repair_table.py --out repair.jsonl
    python examples/repair_table.py --out repair.jsonl --show

Data, network and triggers are those of ``defense_table.py``: 4,000 Fashion-MNIST images
of 14 by 14 pixels. "epic" and "abl" train on the poisoned rows alone. "fine-pruning"
and "neural cleanse" repair the network of "none" with 200 other rows, known to be
clean. A seed moves the poisoned rows and the training. Every run is a line of the
output file, and a second call runs only what is missing.

badnets-5, badnets-3, badnets-1  a 3 by 3 patch on that share of all rows, relabelled 0
clean-75                         the patch on 75 % of class 0, labels unchanged
clean                            no poison: what the defense costs
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from defense_table import NETWORK, TRIGGER, interval, load
from sklearn.frozen import FrozenEstimator

from skpoison.attacks import BackdoorAttack, CleanLabelBackdoorAttack
from skpoison.datasets import fetch_fashion_mnist
from skpoison.models import TorchClassifier

POISONS = ["badnets-5", "badnets-3", "badnets-1", "clean-75", "clean"]
# names of the defenses that train, then of those that repair
TRAINING = ["none", "epic .1", "epic .2", "abl", "abl, level .2", "abl of the paper"]
REPAIR = ["fine-pruning", "neural cleanse"]


def poison(name, seed, X, y):
    """Return the attack, None where there is none, and the training set."""
    if name == "clean":
        return None, X, y, np.zeros(len(y), bool)
    params = {"target_class": 0, "random_state": seed}
    if name == "clean-75":
        budget = int(0.75 * np.sum(y == 0))
        attack = CleanLabelBackdoorAttack(TRIGGER, budget=budget, **params)
    else:
        attack = BackdoorAttack(TRIGGER, budget=int(name[-1]) / 100, **params)
    poisoned = attack.poison(X, y)
    return attack, poisoned.X, poisoned.y, poisoned.poison_mask


def make(name, seed):
    """Return the classifier of a defense that trains."""
    from skpoison.defenses import ABLClassifier, EPICClassifier

    network = {**NETWORK, "random_state": seed}
    if name == "none":
        return TorchClassifier(**network)
    if name.startswith("epic"):
        # a sixth of 12 epochs, and then as often
        size = float(name.split()[1])
        return EPICClassifier(subset_size=size, start=2, every=2, **network)
    if name == "abl of the paper":
        return ABLClassifier(unlearn_loss="ascent", **network)
    return ABLClassifier(gamma=0.2 if name.endswith(".2") else 0.5, **network)


def repair(name, seed, network):
    """Return a fitted network as repaired with 200 clean rows it has not seen."""
    from skpoison.defenses import FinePruning, NeuralCleanse

    rows = np.random.default_rng(0).permutation(60000)[4000:4200]
    X, y = fetch_fashion_mnist(
        subset="train", layout="nchw", dtype="float32", return_X_y=True
    )
    X = X[rows].reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
    kind = FinePruning if name == "fine-pruning" else NeuralCleanse
    return kind(FrozenEstimator(network), random_state=seed).fit(X, y[rows])


def run(name, poison_name, seed, data, networks):
    """Return the record of one run; `networks` keeps those of "none"."""
    X, y, X_test, y_test = data
    attack, X, y, is_poison = poison(poison_name, seed, X, y)
    key = (poison_name, seed)
    start = time.perf_counter()
    if name in REPAIR:
        if key not in networks:
            networks[key] = make("none", seed).fit(X, y)
            start = time.perf_counter()
        victim = repair(name, seed, networks[key])
    else:
        victim = make(name, seed).fit(X, y)
    seconds = time.perf_counter() - start
    if name == "none":
        networks[key] = victim
    removed = ~getattr(victim, "is_clean_", np.ones(len(y), bool))
    success = attack and attack.attack_success(victim.predict, X_test, y_test)
    flagged = getattr(victim, "flagged_classes_", None)
    return {
        "defense": name,
        "poison": poison_name,
        "seed": seed,
        "accuracy": float(np.mean(victim.predict(X_test) == y_test)),
        "success": success,
        "removed": int(removed.sum()),
        "found": int((removed & is_poison).sum()),
        "flagged": None if flagged is None else np.asarray(flagged).tolist(),
        "seconds": round(seconds, 1),
    }


def show(records):
    """Print one row a poison and defense."""
    print(
        f"{'poison':11}{'defense':18}{'accuracy':24}{'success':24}"
        f"{'removed':>9}{'poisons':>9}{'seeds':>7}{'seconds':>9}"
    )
    for poison_name in POISONS:
        for name in TRAINING + REPAIR:
            found = [
                r for r in records if (r["defense"], r["poison"]) == (name, poison_name)
            ]
            if not found:
                continue
            success = [r["success"] for r in found]
            parts = [
                interval([r["accuracy"] for r in found]),
                "-" if None in success else interval(success),
            ]
            counts = [np.mean([r[k] for r in found]) for k in ("removed", "found")]
            flagged = [r["flagged"] for r in found if r["flagged"] is not None]
            print(
                f"{poison_name:11}{name:18}{parts[0]:24}{parts[1]:24}"
                f"{counts[0]:9.0f}{counts[1]:9.1f}{len(found):7}"
                f"{np.mean([r['seconds'] for r in found]):9.1f}",
                f"  flagged {flagged}" if flagged else "",
            )


def main(argv=None):
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("repair_table.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    names = TRAINING + REPAIR
    parser.add_argument("--defenses", nargs="+", choices=names, default=names)
    parser.add_argument("--poisons", nargs="+", choices=POISONS, default=POISONS)
    parser.add_argument("--show", action="store_true", help="only print what is there")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    done = {(r["defense"], r["poison"], r["seed"]) for r in records}
    data = None if args.show else load()
    for poison_name in [] if args.show else args.poisons:
        for seed in range(args.seeds):
            networks = {}
            for name in args.defenses:
                if (name, poison_name, seed) in done:
                    continue
                record = run(name, poison_name, seed, data, networks)
                with args.out.open("a") as file:
                    file.write(json.dumps(record) + "\n")
                records.append(record)
                print(*record.values(), flush=True)
    show(records)


if __name__ == "__main__":
    main()
