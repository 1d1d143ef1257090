"""Clean accuracy and backdoor success of each training defense, on Fashion-MNIST.

    python examples/defense_table.py --out table.jsonl
    python examples/defense_table.py --out table.jsonl --show
    python examples/defense_table.py --out long.jsonl --epochs 36 --defenses none cutmix

4,000 training images halved to 14 by 14, 2,000 test images; a small convolutional
network, Adam, 12 epochs. A seed moves the poisoned rows and the training. Every run is
a line of the output file, and a second call runs only what is missing. All of it takes
about a quarter of an hour on one core.

badnets-3, badnets-1    a 3 by 3 patch on 3 % or 1 % of all rows, relabelled as class 0
clean-75                the patch on 75 % of class 0, labels unchanged
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from scipy.stats import t as student

from skpoison.attacks import BackdoorAttack, CleanLabelBackdoorAttack, PatchTrigger
from skpoison.datasets import fetch_fashion_mnist
from skpoison.defenses import (
    AdversarialPoisonClassifier,
    AugmentedClassifier,
    CutMix,
    CutMixClassifier,
    CutoutClassifier,
    DPInstaHideClassifier,
    DPSGDClassifier,
    GradientShapingClassifier,
    MaxUpClassifier,
    Mixup,
    MixupClassifier,
    Noise,
    NoiseClassifier,
)
from skpoison.models import ConvNet, TorchClassifier, fit_together

NETWORK = {
    "module": ConvNet,
    "module__channels": (12, 24),
    "lr": 3e-3,
    "max_epochs": 12,
    "device": "cpu",
}
PRIVATE = {"optimizer": torch.optim.SGD, "lr": 1.0, "batch_size": 256, "max_epochs": 20}
PIXELS = (0.0, 1.0)
MIXING = {"bounds": PIXELS, **NETWORK}

DEFENSES = {
    "none": TorchClassifier(**NETWORK),
    "mixup of 2": MixupClassifier(**NETWORK),
    "mixup of 4": MixupClassifier(n_mix=4, **NETWORK),
    "cutmix": CutMixClassifier(**NETWORK),
    "cutout 7": CutoutClassifier(size=7, **NETWORK),
    "maxup": MaxUpClassifier(warmup_epochs=0, **NETWORK),
    "gaussian .2": NoiseClassifier(noise_scale=0.2, bounds=PIXELS, **NETWORK),
    "cutmix + gaussian .2": AugmentedClassifier(
        augmentation=[CutMix(), Noise(scale=0.2, bounds=PIXELS)], **NETWORK
    ),
    "mixup of 2 + laplace .3": AugmentedClassifier(
        augmentation=[Mixup(), Noise("laplace", scale=0.3, bounds=PIXELS)], **NETWORK
    ),
    "dp-instahide 4, .1": DPInstaHideClassifier(noise_scale=0.1, **MIXING),
    "dp-instahide 4, .3": DPInstaHideClassifier(noise_scale=0.3, **MIXING),
    # at the same epsilon as the first of these
    "laplace alone, .278": DPInstaHideClassifier(n_mix=1, noise_scale=0.278, **MIXING),
    "adversarial patches": AdversarialPoisonClassifier(attack="patch", **NETWORK),
    "gradient shaping .05": GradientShapingClassifier(noise=0.05, **NETWORK),
    "dp-sgd": DPSGDClassifier(
        noise_multiplier=1.0, delta=1e-5, **{**NETWORK, **PRIVATE}
    ),
}

PATCH = np.ones((3, 3))
PATCH[1, 0] = PATCH[1, 2] = 0
TRIGGER = PatchTrigger(PATCH, margin=1)
POISONS = {
    "badnets-3": BackdoorAttack(TRIGGER, target_class=0, budget=0.03),
    "badnets-1": BackdoorAttack(TRIGGER, target_class=0, budget=0.01),
    "clean-75": CleanLabelBackdoorAttack(TRIGGER, target_class=0),
}


def load():
    """Return the 4,000 training rows and labels, the test rows and labels."""
    X, y = fetch_fashion_mnist(
        subset="all", layout="nchw", dtype="float32", return_X_y=True
    )
    X = X.reshape(-1, 1, 14, 2, 14, 2).mean((3, 5))
    rows = np.random.default_rng(0).permutation(60000)[:4000]
    return X[rows], y[rows], X[60000:62000], y[60000:62000]


def run(name, poison, seeds, data):
    """Train one victim a seed, together where that is possible; yield a record each."""
    X, y, X_test, y_test = data
    attack, victim = POISONS[poison], DEFENSES[name]
    if poison == "clean-75":
        attack.set_params(budget=int(0.75 * np.sum(y == 0)))
    attacks = [type(attack)(**attack.get_params(deep=False)) for _ in seeds]
    sets = [
        a.set_params(random_state=s).poison(X, y)
        for a, s in zip(attacks, seeds, strict=True)
    ]
    victims = [
        type(victim)(**{**victim.get_params(deep=False), "random_state": s})
        for s in seeds
    ]
    start = time.perf_counter()
    victims = fit_together(victims, [s.X for s in sets], [s.y for s in sets])
    seconds = (time.perf_counter() - start) / len(seeds)
    for seed, attack, victim in zip(seeds, attacks, victims, strict=True):
        yield {
            "defense": name,
            "poison": poison,
            "seed": seed,
            "accuracy": victim.score(X_test, y_test),
            "success": attack.attack_success(victim.predict, X_test, y_test),
            "epsilon": float(getattr(victim, "epsilon_", np.inf)),
            "seconds": round(seconds, 1),
        }


def interval(values):
    """Return the mean over seeds and its 95 % t interval, cut to [0, 1]."""
    mean, n = np.mean(values), len(values)
    if n < 2:
        return f"{mean:.3f}              "
    half = student.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5
    return f"{mean:.3f} [{max(mean - half, 0):.3f}, {min(mean + half, 1):.3f}]"


def show(records):
    """Print one row a defense and poison."""
    print(f"{'poison':11}{'defense':26}{'accuracy':24}{'success':24}seeds  seconds")
    for poison in POISONS:
        for name in DEFENSES:
            found = [
                r for r in records if (r["defense"], r["poison"]) == (name, poison)
            ]
            if found:
                parts = [
                    interval([r[k] for r in found]) for k in ("accuracy", "success")
                ]
                time_each = np.mean([r["seconds"] for r in found])
                print(
                    f"{poison:11}{name:26}{parts[0]:24}{parts[1]:24}"
                    f"{len(found):5}{time_each:9.1f}"
                )


def main(argv=None):
    """Run what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("defense_table.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--epochs", type=int, help="of all networks, with an --out of its own"
    )
    parser.add_argument("--defenses", nargs="+", choices=DEFENSES, default=[*DEFENSES])
    parser.add_argument("--poisons", nargs="+", choices=POISONS, default=[*POISONS])
    parser.add_argument("--show", action="store_true", help="only print what is there")
    args = parser.parse_args(argv)

    torch.set_num_threads(1)
    for defense in DEFENSES.values() if args.epochs else ():
        defense.set_params(max_epochs=args.epochs)
    lines = args.out.read_text().splitlines() if args.out.exists() else []
    records = [json.loads(line) for line in lines]
    data = None if args.show else load()
    for poison in [] if args.show else args.poisons:
        for name in args.defenses:
            done = {
                r["seed"]
                for r in records
                if (r["defense"], r["poison"]) == (name, poison)
            }
            missing = [seed for seed in range(args.seeds) if seed not in done]
            if not missing:
                continue
            found = list(run(name, poison, missing, data))
            with args.out.open("a") as file:
                file.writelines(json.dumps(r) + "\n" for r in found)
            records += found
            print(
                poison,
                name,
                *(f"{r['accuracy']:.3f}/{r['success']:.3f}" for r in found),
            )
    show(records)


if __name__ == "__main__":
    main()
