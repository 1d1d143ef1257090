"""Random step sizes against fixed ones on adversarially trained networks.

    python examples/papers/witchcraft.py --out witchcraft.jsonl
    python examples/papers/witchcraft.py --out witchcraft.jsonl --data fashion_mnist
    python examples/papers/witchcraft.py --out witchcraft.jsonl --show
    python examples/papers/witchcraft.py --out full.jsonl --full --data cifar10

P.-Y. Chiang, J. Geiping, M. Goldblum, T. Goldstein, R. Ni, S. Reich and A. Shafahi.
WITCHcraft: efficient PGD attacks with random step size. ICASSP 2020, arXiv:1911.07989.
The abstract promises an attack stronger than PGD at the same number of gradients, on
MNIST and CIFAR-10. Its tables were not at hand.

Robust accuracy in percent of a small convolutional network (two convolutions of 4 x 4
at stride 2, hidden layer of 100) under attacks of 20 steps, at eps .3 on MNIST and .1
on Fashion-MNIST, on 500 images that were not trained on. A seed is a network, trained
on 12,000 rows of its own by PGD with steps of one size; each is attacked with two seeds
where the attack draws, and attacks of ten restarts, which cost ten times as much, run
with one. Means and 95 % intervals are over networks (Student's t). The last rows
compare WITCHcraft with the best of the fixed step sizes, chosen after the fact, on the
same networks, images and seeds. A network takes about a minute on one core, and as long
to be attacked.

--full takes all rows and all test images, and for CIFAR-10 a ResNet-18 trained for 50
epochs against 7 steps at eps 8/255.
"""

import time
from functools import lru_cache, partial

import numpy as np
from _runs import Runs, arguments, images, print_table, shown, sign
from sklearn.base import clone
from torch import nn

from skpoison.evasion import (
    APGD,
    FGSM,
    PGD,
    AdversarialClassifier,
    MomentumPGD,
    WITCHcraft,
)
from skpoison.models import Normalized, ResNet18

EPS = {"mnist": 0.3, "fashion_mnist": 0.1, "cifar10": 8 / 255}
EPOCHS = {"mnist": 8, "fashion_mnist": 4, "cifar10": 50}
#: training rows, test rows, steps of the attacks
SIZES = {"cpu": (12_000, 500, 20), "full": (None, None, 20), "tiny": (64, 16, 2)}
STEPS = (0.05, 0.125, 0.25, 1.0)
FIXED = [f"PGD {share:g} eps" for share in STEPS]
MODES = ("sample", "pixel", "batch")


def attacks(eps, max_iter):
    """Return {name: (attack, whether it draws, whether it is a costly one)}."""
    found = {"clean": (FGSM(), False, False), "FGSM": (FGSM(), False, False)}
    for name, share in zip(FIXED, STEPS, strict=True):
        found[name] = (PGD(step_size=share * eps), True, False)
    found["MomentumPGD"] = (MomentumPGD(), False, False)
    for mode in MODES:
        found[f"WITCHcraft {mode}"] = (WITCHcraft(step_mode=mode), True, False)
    found["APGD cross entropy"] = (APGD(), True, False)
    found["APGD dlr"] = (APGD(loss="dlr"), True, False)
    ten = {"n_restarts": 10}
    found["PGD .25 eps, 10 restarts"] = (PGD(step_size=0.25 * eps, **ten), True, True)
    found["WITCHcraft, 10 restarts"] = (WITCHcraft(**ten), True, True)
    for name, (attack, _, _) in found.items():
        attack.set_params(eps=0 if name == "clean" else eps, bounds=(0, 1))
        if "max_iter" in attack.get_params():
            attack.set_params(max_iter=max_iter)
    return found


def network():
    """Return the untrained network for grey images of 28 x 28."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


@lru_cache(maxsize=1)
def trained(data, n_train, n_epochs, seed, device):
    """Return an adversarially trained network."""
    X, y, _, _ = images(data, n_train, 10, seed)
    params = {"module": network, "max_iter": 5, "lr": 0.002}
    if data == "cifar10":
        params = {
            "module": Normalized,
            "module__network": ResNet18,
            "module__mean": (0.4914, 0.4822, 0.4465),
            "module__std": (0.2470, 0.2435, 0.2616),
            "augment": "default",
            "max_iter": 7,
        }
    model = AdversarialClassifier(
        attack="pgd",  # what is compared should not be what was trained with
        eps=EPS[data],
        max_epochs=n_epochs,
        device=device,
        random_state=seed,
        **params,
    )
    return model.fit(X, y).module_


def measure(data, size, net, attack, seed, device):
    """Attack a network once; return robust rows in percent, gradients and seconds."""
    n_train, n_test, max_iter = SIZES[size]
    n_epochs = 1 if size == "tiny" else EPOCHS[data]
    module = trained(data, n_train, n_epochs, net, device)
    _, _, X, y = images(data, 10, n_test, 0)
    attack = clone(attacks(EPS[data], max_iter)[attack][0])
    attack.set_params(surrogate=module, random_state=seed)
    start = time.process_time()
    found = attack.attack(X, y)
    return {
        "robust": 100 * float(1 - np.mean(found.success)),
        "gradients": found.n_gradients / len(y),
        "seconds": round(time.process_time() - start, 2),
    }


def show(runs, shared, n_nets):
    """Print the table of the networks that all attacks were run on, and the claim."""
    names = [*attacks(1, 1)]
    last = {**shared, "attack": names[-1], "seed": 0}
    nets = [net for net in range(n_nets) if runs.get({**last, "net": net})]
    if not nets:
        raise SystemExit("no network has been attacked by all attacks yet")
    robust = {
        name: np.array(
            [
                runs.values("robust", net=net, attack=name, **shared).mean()
                for net in nets
            ]
        )
        for name in names
    }
    rows = []
    for name, values in robust.items():
        work = [
            np.mean(runs.values(key, attack=name, **shared))
            for key in ("gradients", "seconds")
        ]
        cells = f"{work[0]:.1f}", "-", shown(values), len(values), f"{work[1]:.1f}"
        rows.append((name, *cells))
    head = ("attack", "gradients", "published", "robust %", "networks", "seconds")
    best = min(FIXED, key=lambda name: robust[name].mean())
    pairs = [(f"WITCHcraft {mode}", best) for mode in MODES]
    pairs += [("WITCHcraft, 10 restarts", "PGD .25 eps, 10 restarts")]
    pairs += [("WITCHcraft sample", "APGD cross entropy")]
    verdicts = []
    for one, other in pairs:
        gap = robust[one] - robust[other]
        published = "below 0" if other == best else "-"
        rows.append((f"{one} less {other}", "", published, shown(gap), len(gap), ""))
        verdicts.append(("a tie with", "weaker than", "stronger than")[sign(gap)])
    print_table(rows, head)
    print(
        f"At the same number of gradients WITCHcraft is {verdicts[0]} the best fixed "
        f"step ({best}), {verdicts[-1]} APGD."
    )


def main(argv=None):
    """Train and attack what is missing, print the table."""
    parser = arguments(__doc__, seeds=4)
    parser.add_argument("--data", choices=EPS, default="mnist")
    args = parser.parse_args(argv)
    if args.data == "cifar10" and not args.full:
        parser.error("--data cifar10 needs --full: its network is for a GPU")
    runs, shared = Runs(args.out), {"data": args.data, "size": args.size}
    for net in [] if args.show else range(args.seeds):
        for name, (_, draws, is_costly) in attacks(1, 1).items():
            for seed in range(2 if draws and not is_costly else 1):
                run = {**shared, "net": net, "attack": name, "seed": seed}
                runs.get(run, partial(measure, device=args.device))
    show(runs, shared, args.seeds)


if __name__ == "__main__":
    main()
