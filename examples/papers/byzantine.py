"""Test error of federated learning by aggregation rule, attack and rejection.

    python examples/papers/byzantine.py --out byzantine.jsonl
    python examples/papers/byzantine.py --out byzantine.jsonl --show
    python examples/papers/byzantine.py --out byzantine.jsonl --seeds 2 --cells all
    python examples/papers/byzantine.py --out cancer.jsonl --data breast_cancer
    python examples/papers/byzantine.py --out cnn.jsonl --model cnn
    python examples/papers/byzantine.py --out cnn_full.jsonl --full

M. Fang, X. Cao, J. Jia and N. Gong. Local model poisoning attacks to Byzantine-robust
federated learning. USENIX Security 2020, arXiv:1911.11815: attacks made for an
aggregation rule break it, those of before do not.

The setting of the paper: 100 clients, 20 of them compromised, bias .5, one local step a
round, learning rate .096 on the mean loss, 500 rounds for softmax regression on all of
MNIST. This is no smaller version. Test error after the last round, beside what tables 2
(MNIST column), 4, 6 and 7b of the paper print; means and 95 % intervals over seeds
(Student's t). "tail" is the mean over the last hundred rounds. --cells own has each
rule without an attack and under the attack made for it, "all" has the others and
rejection too. A run takes 5 to 10 seconds on one core.

The convolutional network runs at a scale for one core by default (30 clients, 6
compromised, 150 rounds); --full is the paper's, on MNIST or with --data fashion_mnist.
Its ResNet-20 on CH-MNIST and its DNN on breast cancer are softmax regression here.
"""

import time
import warnings
from functools import lru_cache, partial

import numpy as np
from _runs import Runs, arguments, images, print_table, shown, sign
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from torch import nn

from skpoison.datasets import fetch_ch_mnist
from skpoison.federated import (
    Bulyan,
    ClientLabelFlipAttack,
    FangKrumAttack,
    FangTrimAttack,
    FederatedClassifier,
    GaussianAttack,
    Krum,
    Mean,
    Median,
    TrimmedMean,
    partition_clients,
)

# the paper sums distances, not their squares
KRUM = Krum(metric="euclidean")
RULES = {
    "krum": KRUM,
    "trimmed mean": TrimmedMean(),
    "median": Median(),
    "bulyan": Bulyan(),
    "mean": Mean(),
}
ATTACKS = {
    "none": None,
    "gaussian": GaussianAttack(),
    "label flip": ClientLabelFlipAttack(),
    "krum partial": FangKrumAttack(knowledge="partial"),
    "krum full": FangKrumAttack(knowledge="full"),
    "trim partial": FangTrimAttack(knowledge="partial"),
    "trim full": FangTrimAttack(knowledge="full"),
}
OWN = {"krum": "krum", "bulyan": "krum"}  # the attack made for a rule, or "trim"


def _published():
    """Return what the paper prints for softmax regression on MNIST, by cell."""
    few = "none", "krum partial", "trim partial"
    columns = {"": [*ATTACKS], "err": few, "lfr": few, "union": few}
    rows = {
        ("krum", ""): (0.14, 0.13, 0.13, 0.72, 0.80, 0.13, None),
        ("krum", "err"): (0.14, 0.62, 0.13),
        ("krum", "lfr"): (0.14, 0.58, 0.14),
        ("krum", "union"): (0.14, 0.48, 0.14),
        ("trimmed mean", ""): (0.12, 0.11, 0.13, 0.15, None, 0.23, 0.52),
        ("trimmed mean", "err"): (0.12, 0.17, 0.21),
        ("trimmed mean", "lfr"): (0.12, 0.18, 0.12),
        ("trimmed mean", "union"): (0.12, 0.18, 0.12),
        ("median", ""): (0.13, 0.13, 0.15, 0.17, None, 0.19, 0.29),
        ("median", "err"): (0.13, 0.21, 0.25),
        ("median", "lfr"): (0.13, 0.20, 0.13),
        ("median", "union"): (0.13, 0.19, 0.14),
        ("bulyan", ""): (0.14, None, None, 0.36, 0.38, None, None),
    }
    return {
        (*row, attack): error
        for row, errors in rows.items()
        for attack, error in zip(columns[row[1]], errors, strict=True)
        if error is not None
    }


PUBLISHED = _published()


def cells(model, data, wanted):
    """Return the (rule, rejection, attack) to run."""
    on_mnist = (model, data) == ("lr", "mnist")
    if wanted == "all" and on_mnist:
        return [*PUBLISHED, ("mean", "", "none"), ("mean", "", "trim full")]
    rules = [
        rule for rule in RULES if rule != "mean" and (on_mnist or rule != "bulyan")
    ]
    others = ("none", "gaussian", "label flip") if wanted == "all" else ("none",)
    return [
        (rule, "", attack)
        for rule in rules
        for own in [OWN.get(rule, "trim")]
        for attack in (*others, f"{own} partial", f"{own} full")
    ]


class ConvolutionalNet(nn.Sequential):
    """The paper's network: two convolutions, two poolings, a hidden layer of 200.

    Its kernels of 3 by 3 have no padding.
    """

    def __init__(self, input_shape, n_outputs):
        channels, side, _ = input_shape
        width = 50 * (((side - 2) // 2 - 2) // 2) ** 2
        super().__init__(
            nn.Conv2d(channels, 30, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(30, 50, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(width, 200),
            nn.ReLU(),
            nn.Linear(200, n_outputs),
        )


@lru_cache(maxsize=1)
def load(data, model, size):
    """Return training and test rows: images, or flat rows for softmax regression."""
    if data == "breast_cancer":
        X, y = load_breast_cancer(return_X_y=True)
        X = (X - X.mean(axis=0)) / np.ptp(X, axis=0)
        X, X_test, y, y_test = train_test_split(
            X.astype("float32"), y, test_size=114, stratify=y, random_state=0
        )
        return X, y, X_test, y_test
    if data == "ch_mnist":
        X, y = fetch_ch_mnist(layout="nchw", dtype="float32", return_X_y=True)
        order = np.random.default_rng(0).permutation(len(y))
        X, y = X[order], y[order]
        parts = X[:4000], y[:4000], X[4000:], y[4000:]
    else:
        n_rows = 600 if size == "tiny" else None
        parts = images(data, n_rows, n_rows, 0)
    if model == "cnn":
        return parts
    return tuple(
        part.reshape(len(part), -1) if part.ndim > 1 else part for part in parts
    )


def federation(model, data, size, device):
    """Return the estimator of a setting."""
    params = {
        "n_clients": 100,
        "n_byzantine": 0.2,
        "lr": 0.096,
        "n_rounds": 500,
        "batch_size": 64 if data == "fashion_mnist" else 32,
        "bias": 0.5,
        "device": device,
    }
    if data == "breast_cancer":
        even = partial(partition_clients, bias=0.5, within="even")
        params |= {"n_rounds": 1000, "batch_size": None, "partition": even}
    if model == "cnn":
        params |= {"estimator": ConvolutionalNet, "n_rounds": 2000}
        if size == "cpu":
            params |= {"n_clients": 30, "n_rounds": 150, "batch_size": 16, "lr": 0.1}
    if size == "tiny":
        params |= {"n_clients": 15, "n_rounds": 3, "batch_size": 4}
    return FederatedClassifier(**params)


def measure(model, data, size, rule, rejection, attack, seed, device):
    """Train one federation; return its errors."""
    X, y, X_test, y_test = load(data, model, size)
    attack = clone(ATTACKS[attack], safe=False)
    if attack is not None and "assumed_aggregator" in attack.get_params():
        # an attack made for another rule than the server's does not know better
        made_for_krum = isinstance(attack, FangKrumAttack)
        assumed = KRUM if made_for_krum and OWN.get(rule) != "krum" else None
        attack.set_params(assumed_aggregator=assumed)
    params = {"aggregator": RULES[rule], "attack": attack, "random_state": seed}
    if rejection:
        # 100 rows drawn at the server; the paper draws them from the test set
        params |= {"rejection": rejection, "validation": 100}
    federated = federation(model, data, size, device).set_params(**params)
    n_rounds, errors, done = federated.n_rounds, [], 0
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of rows left over
        for stop in range(max(1, n_rounds - 100), n_rounds + 1):
            if (n_rounds - stop) % 20:
                continue
            federated.partial_fit(X, y, n_rounds=stop - done)
            done = stop
            errors.append(float(1 - federated.score(X_test, y_test)))
    return {
        "error": errors[-1],
        "tail": float(np.mean(errors)),
        "seconds": round(time.process_time() - start, 1),
    }


def show(runs, shared, wanted, published):
    """Print the table, and whether the attacks beat the rules they were made for."""
    rows, broken, own_attacks = [], 0, 0
    for cell in wanted:
        which = dict(zip(("rule", "rejection", "attack"), cell, strict=True))
        errors, tail, seconds = (
            runs.values(name, **which, **shared)
            for name in ("error", "tail", "seconds")
        )
        if not len(errors):
            continue
        name = f"{cell[0]}{cell[1] and ' + ' + cell[1].upper()}, {cell[2]}"
        paper = f"{published[cell]:.2f}" if cell in published else "-"
        cells = paper, shown(errors, 3), f"{tail.mean():.3f}", len(errors)
        rows.append((name, *cells, f"{seconds.mean():.1f}"))
        none = runs.values("error", **{**which, "attack": "none"}, **shared)
        n = min(len(none), len(errors))
        if cell[2].startswith(OWN.get(cell[0], "trim")) and not cell[1] and n:
            own_attacks += 1
            broken += sign(errors[:n] - none[:n]) > 0
    head = ("rule, attack", "published", "test error", "tail", "n", "seconds")
    print_table(rows, head)
    print(
        f"{broken} of {own_attacks} attacks raise the error of the rule they were made "
        "for beyond the interval."
    )


def main(argv=None):
    """Run what is missing, print the table."""
    parser = arguments(__doc__, seeds=5)
    sets = ["mnist", "fashion_mnist", "breast_cancer", "ch_mnist"]
    parser.add_argument("--data", choices=sets, default="mnist")
    parser.add_argument("--model", choices=["lr", "cnn"], help="cnn with --full")
    parser.add_argument("--cells", choices=["own", "all"], default="own")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=[*RULES])
    args = parser.parse_args(argv)
    model = args.model or ("cnn" if args.full else "lr")
    if model == "cnn" and args.data == "breast_cancer":
        parser.error("--model cnn needs images, and breast_cancer has none")
    runs = Runs(args.out)
    shared = {"model": model, "data": args.data, "size": args.size}
    wanted = [c for c in cells(model, args.data, args.cells) if c[0] in args.rules]
    for seed in [] if args.show else range(args.seeds):
        for rule, rejection, attack in wanted:
            which = {"rule": rule, "rejection": rejection, "attack": attack}
            runs.get(
                {**shared, **which, "seed": seed}, partial(measure, device=args.device)
            )
    on_mnist = (model, args.data) == ("lr", "mnist")
    show(runs, shared, wanted, PUBLISHED if on_mnist else {})


if __name__ == "__main__":
    main()
