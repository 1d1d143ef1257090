"""Random step sizes against fixed ones on adversarially trained networks.

    python examples/evasion_table.py --data mnist --out mnist.jsonl
    python examples/evasion_table.py --data fashion_mnist --out fashion.jsonl
    python examples/evasion_table.py --data mnist --out mnist.jsonl --show

Robust accuracy of a small convolutional network (two convolutions of 4 x 4 at stride 2,
hidden layer of 100) under attacks of 20 steps, at eps .3 on MNIST and .1 on
Fashion-MNIST, on images that were not trained on. Several networks are trained, each on
rows and a seed of its own, and each is attacked with several seeds. Attacks of ten
restarts cost ten times as much and run with one seed.

Means and 95 % intervals are over networks, of which each contributes its mean over
seeds (Student's t). The last lines compare WITCHcraft with the best of the fixed step
sizes, chosen after the fact, on the same networks, images and seeds. Every run is a
line of the output file, and a second call runs only what is missing. A network trains
in about one minute on one core, and is attacked in as much.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student
from sklearn.base import clone
from torch import nn

from skpoison.datasets import fetch_fashion_mnist, fetch_mnist
from skpoison.evasion import (
    APGD,
    FGSM,
    PGD,
    AdversarialClassifier,
    MomentumPGD,
    WITCHcraft,
)

FETCH = {"mnist": fetch_mnist, "fashion_mnist": fetch_fashion_mnist}
EPS = {"mnist": 0.3, "fashion_mnist": 0.1}
EPOCHS = {"mnist": 8, "fashion_mnist": 4}
STEPS = (0.05, 0.125, 0.25, 1.0)
MODES = ("sample", "pixel", "batch")


def attacks(eps, max_iter):
    """Return {name: (attack, whether it draws, whether it is a costly one)}."""
    found = {"FGSM": (FGSM(), False, False)}
    for share in STEPS:
        found[f"PGD {share:g} eps"] = (PGD(step_size=share * eps), True, False)
    found["MomentumPGD"] = (MomentumPGD(), False, False)
    for mode in MODES:
        found[f"WITCHcraft {mode}"] = (WITCHcraft(step_mode=mode), True, False)
    found["APGD cross entropy"] = (APGD(), True, False)
    found["APGD dlr"] = (APGD(loss="dlr"), True, False)
    ten = {"n_restarts": 10}
    found["PGD .25 eps, 10 restarts"] = (PGD(step_size=0.25 * eps, **ten), True, True)
    found["WITCHcraft, 10 restarts"] = (WITCHcraft(**ten), True, True)
    for attack, _, _ in found.values():
        attack.set_params(eps=eps, bounds=(0, 1))
        if "max_iter" in attack.get_params():
            attack.set_params(max_iter=max_iter)
    return found


def network():
    """Return the untrained network."""
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


def trained(folder, data, seed, n_train, device):
    """Return an adversarially trained network, from the folder if it is there."""
    path = folder / f"{data}-{n_train}-{seed}.pt"
    if path.exists():
        module = network().to(device)
        module.load_state_dict(torch.load(path, weights_only=True, map_location=device))
        return module
    X, y = FETCH[data](
        n_samples=n_train, layout="nchw", random_state=seed, return_X_y=True
    )
    model = AdversarialClassifier(
        network,
        attack="pgd",  # what is compared should not be what was trained with
        eps=EPS[data],
        max_iter=5,
        max_epochs=EPOCHS[data],
        lr=0.002,
        device=device,
        random_state=seed,
    )
    start = time.perf_counter()
    module = model.fit(X, y).module_
    print(f"network {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(module.state_dict(), path)
    return module


def measure(module, attack, X, y, seed):
    """Attack once; return robust rows, gradients an image and CPU seconds."""
    attack = clone(attack).set_params(surrogate=module, random_state=seed)
    start = time.process_time()
    found = attack.attack(X, y)
    return {
        "n_robust": int((~found.success).sum()),
        "gradients": found.n_gradients / len(y),
        "seconds": round(time.process_time() - start, 2),
    }


def interval(values, confidence=0.95):
    """Return the mean of independent values and half the width of its interval."""
    values = np.asarray(values)
    if len(values) < 2:
        return values.mean(), np.nan
    error = values.std(ddof=1) / np.sqrt(len(values))
    return values.mean(), student.ppf(0.5 + confidence / 2, len(values) - 1) * error


def by_network(records, name, n_test):
    """Return the robust accuracy of each network in per cent, its seeds averaged."""
    shares = {}
    for record in records:
        if record["attack"] == name:
            share = 100 * record["n_robust"] / n_test
            shares.setdefault(record["net"], []).append(share)
    return np.array([np.mean(shares[net]) for net in sorted(shares)])


def show(records, names, n_test):
    """Print a row for each attack, and the differences that matter."""
    values = {name: by_network(records, name, n_test) for name in names}
    print(f"{'attack':26}{'robust %':>9}{'+-':>6}{'gradients':>11}{'s':>7}  networks")
    for name, found in values.items():
        own = [record for record in records if record["attack"] == name]
        mean, half = interval(found)
        each = " ".join(f"{value:.1f}" for value in found)
        gradients = np.mean([record["gradients"] for record in own])
        seconds = np.median([record["seconds"] for record in own])
        print(f"{name:26}{mean:9.2f}{half:6.2f}{gradients:11.1f}{seconds:7.2f}  {each}")
    fixed = [name for name in names if name.startswith("PGD") and "," not in name]
    best = min(fixed, key=lambda name: values[name].mean())
    pairs = [(f"WITCHcraft {mode}", best) for mode in MODES]
    pairs += [("WITCHcraft, 10 restarts", "PGD .25 eps, 10 restarts")]
    pairs += [("WITCHcraft sample", "APGD cross entropy")]
    print("\ndifference in points, paired by network; below 0 the first is stronger")
    for one, other in pairs:
        mean, half = interval(values[one] - values[other])
        verdict = "a tie" if abs(mean) <= half else one if mean < 0 else other
        print(f"{one} - {other}: {mean:+.2f} +- {half:.2f}: {verdict}")


def main(argv=None):
    """Train and attack what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=FETCH, default="mnist")
    parser.add_argument("--out", type=Path, default=Path("evasion_table.jsonl"))
    parser.add_argument("--nets", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--n-train", type=int, default=12_000)
    parser.add_argument("--n-test", type=int, default=500)
    parser.add_argument("--max-iter", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=Path("evasion_networks"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--show", action="store_true", help="only print what is there")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    cases = attacks(EPS[args.data], args.max_iter)
    done = {(r["net"], r["attack"], r["seed"]) for r in records}
    X, y = FETCH[args.data](
        subset="test", n_samples=args.n_test, layout="nchw", return_X_y=True
    )
    for net in [] if args.show else range(args.nets):
        module = trained(args.folder, args.data, net, args.n_train, args.device)
        for name in ["clean", *cases]:
            attack, draws, is_costly = cases.get(name, (FGSM(eps=0), False, False))
            for seed in range(args.seeds if draws and not is_costly else 1):
                if (net, name, seed) in done:
                    continue
                found = measure(module, attack, X, y, seed)
                records.append({"net": net, "attack": name, "seed": seed, **found})
                with args.out.open("a") as file:
                    file.write(json.dumps(records[-1]) + "\n")
    show(records, ["clean", *cases], args.n_test)


if __name__ == "__main__":
    main()
