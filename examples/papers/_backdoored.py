"""Backdoored images, and the defenses that meet them: shared by several papers.

The CPU's setting is 4,000 rows of Fashion-MNIST halved to 14 by 14, 2,000 test images
and a small convolutional network; with --full it is CIFAR-10 and a ResNet-18.

badnets-3, badnets-1    a 3 by 3 patch on 3 % or 1 % of all rows, relabelled as class 0
clean-75                the patch on 75 % of class 0, labels unchanged
none                    clean data: what the trigger does by itself
"""

import time
from argparse import Namespace

import numpy as np
import torch
from _runs import FETCH, arguments, images, print_table, shown
from sklearn.base import clone

from skpoison.attacks import BackdoorAttack, CleanLabelBackdoorAttack, PatchTrigger
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
from skpoison.models import ConvNet, TorchClassifier, fit_together, training_recipe

NETWORK = {
    "module": ConvNet,
    "module__channels": (12, 24),
    "lr": 3e-3,
    "max_epochs": 12,
    "device": "cpu",
}
PRIVATE = {"optimizer": torch.optim.SGD, "lr": 1.0, "batch_size": 256, "max_epochs": 20}
PIXELS = (0.0, 1.0)

PATCH = np.ones((3, 3))
PATCH[1, 0] = PATCH[1, 2] = 0
TRIGGER = PatchTrigger(PATCH, margin=1)
POISONS = {
    "badnets-3": BackdoorAttack(TRIGGER, target_class=0, budget=0.03),
    "badnets-1": BackdoorAttack(TRIGGER, target_class=0, budget=0.01),
    "clean-75": CleanLabelBackdoorAttack(TRIGGER, target_class=0),
}


def load(size="cpu"):
    """Return training rows, labels, test rows, labels; size as in the arguments."""
    if size == "full":
        return images("cifar10", None, None, 0)
    layout = {"layout": "nchw", "dtype": "float32", "return_X_y": True}
    counts = (4000, 2000) if size == "cpu" else (200, 100)
    found = []
    for subset, n_rows in zip(("train", "test"), counts, strict=True):
        X, y = FETCH["fashion_mnist"](subset=subset, **layout)
        rows = np.arange(n_rows)
        if subset == "train":
            rows = np.random.default_rng(0).permutation(len(X))[:n_rows]
        found += [X[rows].reshape(-1, 1, 14, 2, 14, 2).mean((3, 5)), y[rows]]
    return found


def n_epochs(args):
    """Return the epochs of all networks but DP-SGD's; None is the published number."""
    return args.epochs or (None if args.size == "full" else args.small_epochs)


def networks(args):
    """Return the parameters of the network, and of the one that DP-SGD trains.

    DP-SGD takes no batch normalisation, and has a rate and epochs of its own.
    """
    epochs = n_epochs(args)
    if args.size != "full":
        network = {**NETWORK, "max_epochs": epochs, "device": args.device}
        private = {**network, **PRIVATE}
        return network, {**private, "max_epochs": 1} if args.size == "tiny" else private
    recipe = training_recipe("conservative", max_epochs=epochs, device=args.device)
    network = recipe.get_params(deep=False)
    network.pop("random_state")
    private = {"module__normalization": "fixup", "callbacks": None, "augment": None}
    # of the recipe's optimizer
    private |= dict.fromkeys(("optimizer__momentum", "optimizer__weight_decay"), 0.0)
    return network, {**network, **PRIVATE, **private, "optimizer__nesterov": False}


def make_defenses(args):
    """Return the defenses by name."""
    network, private = networks(args)
    mixing = {"bounds": PIXELS, **network}
    return {
        "none": TorchClassifier(**network),
        "mixup of 2": MixupClassifier(**network),
        "mixup of 4": MixupClassifier(n_mix=4, **network),
        "cutmix": CutMixClassifier(**network),
        "cutout 7": CutoutClassifier(size=7, **network),
        "maxup": MaxUpClassifier(warmup_epochs=0, **network),
        "gaussian .2": NoiseClassifier(noise_scale=0.2, bounds=PIXELS, **network),
        "cutmix + gaussian .2": AugmentedClassifier(
            augmentation=[CutMix(), Noise(scale=0.2, bounds=PIXELS)], **network
        ),
        "mixup of 2 + laplace .3": AugmentedClassifier(
            augmentation=[Mixup(), Noise("laplace", scale=0.3, bounds=PIXELS)],
            **network,
        ),
        "dp-instahide 4, .1": DPInstaHideClassifier(noise_scale=0.1, **mixing),
        "dp-instahide 4, .3": DPInstaHideClassifier(noise_scale=0.3, **mixing),
        # the least noise that is billed no more than the first of these
        "laplace alone, .278": DPInstaHideClassifier(
            n_mix=1, noise_scale=0.278, **mixing
        ),
        "adversarial patches": AdversarialPoisonClassifier(attack="patch", **network),
        "gradient shaping .05": GradientShapingClassifier(noise=0.05, **network),
        "dp-sgd": DPSGDClassifier(noise_multiplier=1.0, delta=1e-5, **private),
    }


DEFENSES = [*make_defenses(Namespace(size="cpu", device="cpu", epochs=1))]


def backdoor_arguments(description, defenses, poisons, epochs):
    """Return the parser of a script with these defaults."""
    parser = arguments(description, seeds=4)
    parser.set_defaults(small_epochs=epochs)
    parser.add_argument(
        "--epochs", type=int, help="of all networks but those of DP-SGD, which have 20"
    )
    for name, choices, default in [
        ("--defenses", DEFENSES, defenses),
        ("--poisons", POISONS, poisons),
    ]:
        choices = [*choices, "all"]
        parser.add_argument(name, nargs="+", choices=choices, default=default)
    return parser


def chosen_poisons(args):
    """Return the names of the poisons that are asked for."""
    return POISONS if "all" in args.poisons else args.poisons


def cells(args):
    """Return pairs of a poison and a defense, the control first."""
    defenses = DEFENSES if "all" in args.defenses else args.defenses
    control = [("none", "none")] if "none" in defenses else []
    return control + [
        (poison, name) for poison in chosen_poisons(args) for name in defenses
    ]


def run_backdoors(runs, args):
    """Measure what is missing, the seeds of one cell together."""
    defenses, data = make_defenses(args), None
    for poison, name in cells(args):
        keys = {seed: key(args, name, poison, seed) for seed in range(args.seeds)}
        missing = [seed for seed in keys if runs.get(keys[seed]) is None]
        if not missing:
            continue
        data = data or load(args.size)
        found = run_cell(defenses[name], poison, missing, data)
        for seed, result in zip(missing, found, strict=True):
            runs.keep({"run": keys[seed], **result})


def key(args, defense, poison, seed):
    """Return what names a run; DP-SGD's epochs are its own."""
    epochs = None if defense == "dp-sgd" else n_epochs(args)
    what = {"defense": defense, "poison": poison, "epochs": epochs}
    return {**what, "seed": seed, "size": args.size}


def run_cell(victim, poison, seeds, data):
    """Train one victim a seed, together where that is possible."""
    X, y, X_test, y_test = data
    attack = clone(POISONS["badnets-1" if poison == "none" else poison])
    if poison == "clean-75":
        attack.set_params(budget=int(0.75 * np.sum(y == 0)))
    attacks = [clone(attack).set_params(random_state=seed) for seed in seeds]
    sets = [attack.poison(X, y) for attack in attacks]
    given = [(X, y)] * len(seeds) if poison == "none" else [(s.X, s.y) for s in sets]
    victims = [clone(victim).set_params(random_state=seed) for seed in seeds]
    start = time.process_time()
    victims = fit_together(victims, *map(list, zip(*given, strict=True)))
    seconds = (time.process_time() - start) / len(seeds)
    for (X_given, y_given), attack, one in zip(given, attacks, victims, strict=True):
        yield {
            "accuracy": one.score(X_test, y_test),
            "success": attack.attack_success(one.predict, X_test, y_test),
            "training": one.score(X_given, y_given),
            "epsilon": float(getattr(one, "epsilon_", np.inf)),
            "seconds": round(seconds, 1),
        }


def figures(runs, args, name, defense, poison):
    """Return a figure of one cell, in order of seeds."""
    wanted = [key(args, defense, poison, seed) for seed in range(args.seeds)]
    return np.array([runs.get(k)[name] for k in wanted if runs.get(k)])


def show_backdoors(runs, args, published):
    """Print a row a cell; `published` maps defenses to what is in print."""
    rows = []
    for poison, name in cells(args):
        found = {
            figure: figures(runs, args, figure, name, poison)
            for figure in ("accuracy", "success", "training", "seconds")
        }
        if n := len(found["accuracy"]):
            rows.append(
                (
                    f"{poison}: {name}",
                    published.get(name, "-") if poison != "none" else "-",
                    *(shown(found[f], 3) for f in ("accuracy", "success")),
                    f"{found['training'].mean():.2f}",
                    n,
                    f"{found['seconds'].mean():.1f}",
                )
            )
    head = ("setting", "published", "accuracy", "success", "training", "n", "seconds")
    print_table(rows, head)


def change(runs, args, name, figure, poison, than="none"):
    """Return a defense's differences to another one, seed by seed, None below two."""
    pair = [figures(runs, args, figure, one, poison) for one in (name, than)]
    n = min(map(len, pair))
    return pair[0][:n] - pair[1][:n] if n > 1 else None
