"""Clean accuracy and backdoor success where poisons are dropped, unlearnt or repaired.

    python examples/tables/repair.py --out repair.jsonl
    python examples/tables/repair.py --out repair.jsonl --show

4,000 Fashion-MNIST images of 14 by 14 pixels and a small convolutional network. "epic"
and "abl" train on the poisoned rows alone. "fine-pruning" and "neural cleanse" repair
the network of "none" with 200 other rows, known to be clean. A seed moves the poisoned
rows and the training. Every run is a line of the output file, and a second call runs
only what is missing.

badnets-5, badnets-3, badnets-1  a 3 by 3 patch on that share of all rows, relabelled 0
clean-75                         the patch on 75 % of class 0, labels unchanged
clean                            no poison: what the defense costs
"""

from functools import lru_cache

import numpy as np
from _papers import NETWORK, TRIGGER, Runs, arguments, load, print_table, shown
from sklearn.frozen import FrozenEstimator

from skpoison.attacks import BackdoorAttack, CleanLabelBackdoorAttack
from skpoison.datasets import fetch_fashion_mnist
from skpoison.defenses import (
    ABLClassifier,
    EPICClassifier,
    FinePruning,
    NeuralCleanse,
)
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
    rows = np.random.default_rng(0).permutation(60000)[4000:4200]
    X, y = fetch_fashion_mnist(
        subset="train", layout="nchw", dtype="float32", return_X_y=True
    )
    X = X[rows].reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
    kind = FinePruning if name == "fine-pruning" else NeuralCleanse
    return kind(FrozenEstimator(network), random_state=seed).fit(X, y[rows])


@lru_cache(maxsize=1)
def undefended(poison_name, seed, size):
    """Return the attack, the poisoned rows and the network trained on them."""
    X, y, _, _ = load(size)
    attack, X, y, is_poison = poison(poison_name, seed, X, y)
    return attack, X, y, is_poison, make("none", seed).fit(X, y)


def measure(defense, poison, seed, size):
    """Return the figures of one defense."""
    attack, X, y, is_poison, network = undefended(poison, seed, size)
    _, _, X_test, y_test = load(size)
    if defense == "none":
        victim = network
    elif defense in REPAIR:
        victim = repair(defense, seed, network)
    else:
        victim = make(defense, seed).fit(X, y)
    removed = ~getattr(victim, "is_clean_", np.ones(len(y), bool))
    success = attack and attack.attack_success(victim.predict, X_test, y_test)
    flagged = getattr(victim, "flagged_classes_", ())
    return {
        "accuracy": float(np.mean(victim.predict(X_test) == y_test)),
        "success": np.nan if success is None else success,
        "removed": int(removed.sum()),
        "found": int((removed & is_poison).sum()),
        "flagged": " ".join(map(str, np.asarray(flagged).tolist())),
    }


def show(runs, size):
    """Print one row a poison and defense."""
    rows = []
    for poison_name in POISONS:
        for name in TRAINING + REPAIR:
            which = {"defense": name, "poison": poison_name, "size": size}
            accuracy, success, removed, found, flagged, seconds = (
                runs.values(key, **which)
                for key in (
                    "accuracy", "success", "removed", "found", "flagged", "seconds"
                )
            )  # fmt: skip
            if not len(accuracy):
                continue
            cells = shown(accuracy, 3), shown(success, 3), f"{removed.mean():.0f}"
            cells = *cells, f"{found.mean():.1f}", len(found), f"{seconds.mean():.1f}"
            rows.append((f"{poison_name}, {name}", *cells, "; ".join(flagged)))
    head = ("poison, defense", "accuracy", "success", "removed", "poisons", "seeds")
    print_table(rows, (*head, "seconds", "flagged classes"))


def main(argv=None):
    """Run what is missing, print the table."""
    parser = arguments(__doc__, seeds=3, full=False)
    names = TRAINING + REPAIR
    parser.add_argument("--defenses", nargs="+", choices=names, default=names)
    parser.add_argument("--poisons", nargs="+", choices=POISONS, default=POISONS)
    args = parser.parse_args(argv)
    runs = Runs(args.out)
    for poison_name in [] if args.show else args.poisons:
        for seed in range(args.seeds):
            for name in args.defenses:
                run = {"defense": name, "poison": poison_name, "seed": seed}
                runs.get({**run, "size": args.size}, measure)
    show(runs, args.size)


if __name__ == "__main__":
    main()
