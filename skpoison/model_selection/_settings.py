"""The table of published settings, as plain values.

An entry holds the fields of PublishedSetting, but

- ``attack``: name and parameters; a surrogate may be written as a victim is;
- ``victim``: recipe, network and parameters of the recipe;
- ``figures``: quantity, share, source and, where known, standard error.
"""

from typing import Any

from skpoison.attacks import RandomPatchTrigger

_WITCHES_BREW = (
    "J. Geiping et al. Witches' Brew: industrial scale data poisoning via gradient "
    "matching. ICLR 2021. arXiv:2009.02276."
)
_BENCHMARK = (
    "A. Schwarzschild et al. Just how toxic is data poisoning? A unified benchmark for "
    "backdoor and data poisoning attacks. ICML 2021. arXiv:2006.12557."
)
_METAPOISON = (
    "W. R. Huang et al. MetaPoison: practical general-purpose clean-label data "
    "poisoning. NeurIPS 2020. arXiv:2004.00225."
)
_SLEEPER_AGENT = (
    "H. Souri et al. Sleeper Agent: scalable hidden trigger backdoors for neural "
    "networks trained from scratch. NeurIPS 2022. arXiv:2106.08970."
)
_RELEASE = (
    "L. Fowl et al. Preventing unauthorized use of proprietary data: poisoning for "
    "secure dataset release. 2021. arXiv:2103.02683."
)
_STRONG_POISONS = (
    "L. Fowl et al. Adversarial examples make strong poisons. NeurIPS 2021. "
    "arXiv:2106.10807."
)

#: Seeds of the ten trials of the study in [Witches' Brew].
_KEYS = (
    2000000000,
    2100000000,
    2110000000,
    2111000000,
    2111100000,
    2111110000,
    2111111000,
    2111111100,
    2111111110,
    2111111111,
)
#: All attacks: crafted on what they attack, inside the box of pixels.
_ANY = {"surrogate": "victim", "bounds": (0.0, 1.0)}
#: How the code of [Witches' Brew] descends, whatever the objective.
_BREWING = {"optimizer": "sign_adam", "max_iter": 250}
_MATCHING = {**_ANY, **_BREWING, "budget": 0.01, "n_restarts": 8}
#: First-order MetaPoison: one trained network that stays as it is, and steps on the
#: poisons alone; the published one asks for its loss after the last step only.
_FIRST_ORDER = {
    **_ANY,
    **_BREWING,
    "budget": 0.01,
    "n_ensemble": 1,
    "ensemble_stagger": None,
    "unroll_on": "poisons",
    "objective": "xent",
    "schedule": "steps",
    "init": "randn",
    "bn_mode": "eval",
}
_RESNET18: tuple[str, str, dict[str, Any]] = ("conservative", "ResNet18", {})
# as wide as the published network, which pools after the fourth convolution only
_CONVNET: tuple[str, str, dict[str, Any]] = (
    "conservative",
    "ConvNet",
    {"module__channels": (64, 128, 256)},
)


def metapoison_rate(step, n_steps):
    """Return MetaPoison's factor of the rate: a warm-up, then tenths at thirds."""
    return min(((step + 1) / 5) ** 2, 1.0) * 0.1 ** (3 * step // n_steps)


def _brewed(summary, figures, *, victim=_RESNET18, **attack):
    return {
        "summary": f"gradient matching, ResNet-18 from scratch; {summary}",
        "reference": _WITCHES_BREW,
        "dataset": "cifar10",
        "attack": ("GradientMatchingAttack", {**_MATCHING, "eps": 16 / 255, **attack}),
        "victim": victim,
        "seeds": _KEYS,
        "n_victims": 8,
        "figures": figures,
    }


def _compared(attack, params, net, summary, *figure):
    """Return one cell of the comparison at 1 % of the rows."""
    victim, eps, shown = {
        "convnet": (_CONVNET, 32 / 255, "ConvNet"),
        "resnet18": (_RESNET18, 16 / 255, "ResNet-18"),
    }[net]
    return {
        "summary": f"comparison, {shown}: {summary}",
        "reference": _WITCHES_BREW,
        "dataset": "cifar10",
        "attack": (attack, {**params, "eps": eps}),
        "victim": victim,
        "seeds": _KEYS,
        "n_victims": 8,
        "figures": (("success", figure[0], "memory", figure[1]),) if figure else (),
    }


def _benchmark(attack, params, summary, figures):
    return {
        "summary": f"the benchmark from scratch, ResNet-18; {summary}",
        "reference": _BENCHMARK,
        "dataset": "cifar10",
        "attack": (attack, {**_ANY, "budget": 0.01, "eps": 8 / 255, **params}),
        "victim": ("benchmark_scratch", "ResNet18", {}),
        "seeds": tuple(range(100)),
        "n_victims": 1,
        "figures": figures,
    }


def _metapoison(pair, classes):
    return {
        "summary": f"from scratch, {classes}, colours moved by up to 0.04; the figure "
        "is the abstract's",
        "reference": _METAPOISON,
        "dataset": "cifar10",
        "attack": (
            "MetaPoisonAttack",
            {
                **_ANY,
                "budget": 0.01,
                "eps": 8 / 255,
                "color_eps": 0.04,
                "n_ensemble": 24,
                "ensemble_stagger": "even",
                "max_iter": 60,
                "n_unroll": 2,
                "unroll_on": "batches",
                "optimizer": "adam",
                "step_size": 25.0,
                "schedule": metapoison_rate,
            },
        ),
        "victim": ("metapoison", "ResNet20", {}),
        "seeds": tuple(range(10)),
        "n_victims": 8,
        "class_pair": pair,
        "figures": (("misclassified", 0.90, "read"),),
    }


def _released(method, accuracy, summary, **params):
    return {
        "summary": f"release of all rows, ResNet-18 from scratch; {summary}",
        # the figures are all of the second paper's table
        "reference": _STRONG_POISONS
        if method != "alignment"
        else f"{_RELEASE} Figures: {_STRONG_POISONS}",
        "dataset": "cifar10",
        "attack": (
            "ReleasePoisonAttack",
            {**_ANY, "method": method, "eps": 8 / 255, "max_iter": 250, **params},
        ),
        "victim": _RESNET18,
        "seeds": (0, 1, 2, 3),
        "n_victims": 1,
        "figures": (
            ("test accuracy", accuracy, "memory"),
            ("test accuracy without poison", 0.9456, "memory"),
        ),
    }


def _small(attack, params, eps, budget, summary, *figure):
    """Return a setting of 2,000 rows that one CPU core runs in minutes."""
    return {
        "summary": f"on one CPU core, two hidden layers, drawn classes; {summary}",
        "reference": "measured by this project",
        "dataset": "fashion_mnist",
        "n_train": 2000,
        "attack": (attack, {**params, "eps": eps, "budget": budget}),
        "victim": (
            "conservative",
            "MLP",
            {
                "module__hidden": (128, 64),
                "mean": 0.286,
                "std": 0.353,
                "lr": 0.05,
                "augment": None,
            },
        ),
        "seeds": tuple(range(12)),
        "n_victims": 8,
        "figures": (("success", figure[0], "measured", figure[1]),) if figure else (),
    }


_WATERMARK = {"bounds": (0.0, 1.0), "budget": 0.01}
_BULLSEYE = {
    **_ANY,
    **_BREWING,
    "budget": 0.01,
    "init": "randn",
    "schedule": "steps",
}
_FROGS = {**_ANY, **_BREWING, "budget": 0.01}
_ENSEMBLE = {**_ANY, "n_ensemble": 4, "max_iter": 60}

SETTINGS: dict[str, dict[str, Any]] = {
    "witches-brew-cifar10-resnet18": _brewed(
        "augmented in crafting and in training",
        (("success", 0.9125, "memory", 0.0614),),
    ),
    "witches-brew-cifar10-resnet18-ensemble-8": _brewed(
        "eight surrogates, augmented in training alone",
        (("success", 0.7875, "memory", 0.1177),),
        n_ensemble=8,
        augment=None,
    ),
    "witches-brew-cifar10-resnet18-crafted-plainly": _brewed(
        "augmented in training alone",
        (("success", 0.3250, "memory", 0.1227),),
        augment=None,
    ),
    "witches-brew-cifar10-resnet18-no-augmentation": _brewed(
        "never augmented",
        (("success", 1.0, "memory", 0.0),),
        victim=("conservative", "ResNet18", {"augment": None}),
        augment=None,
    ),
    "comparison-gradient-matching-convnet": _compared(
        "GradientMatchingAttack",
        _MATCHING,
        "convnet",
        "gradient matching",
        0.8625,
        0.0943,
    ),
    "comparison-gradient-matching-resnet18": _compared(
        "GradientMatchingAttack",
        _MATCHING,
        "resnet18",
        "gradient matching",
        0.90,
        0.0387,
    ),
    "comparison-bullseye-convnet": _compared(
        "BullseyePolytopeAttack",
        _BULLSEYE,
        "convnet",
        "bullseye, one start where the paper has eight",
        0.7875,
        0.0766,
    ),
    "comparison-bullseye-resnet18": _compared(
        "BullseyePolytopeAttack",
        _BULLSEYE,
        "resnet18",
        "bullseye, one start where the paper has eight",
        0.0375,
        0.0366,
    ),
    "comparison-poison-frogs-convnet": _compared(
        "FeatureCollisionAttack",
        _FROGS,
        "convnet",
        "feature collision of each poison, where the paper's code matches the mean",
        0.5250,
        0.1285,
    ),
    "comparison-poison-frogs-resnet18": _compared(
        "FeatureCollisionAttack",
        _FROGS,
        "resnet18",
        "feature collision of each poison, where the paper's code matches the mean",
        0.0125,
        0.0119,
    ),
    "comparison-metapoison-convnet": _compared(
        "MetaPoisonAttack",
        _FIRST_ORDER,
        "convnet",
        "MetaPoison on one trained network",
        0.35,
        0.1101,
    ),
    "comparison-metapoison-resnet18": _compared(
        "MetaPoisonAttack",
        _FIRST_ORDER,
        "resnet18",
        "MetaPoison on one trained network",
        0.4250,
        0.0833,
    ),
    "comparison-watermark-convnet": _compared(
        "WatermarkAttack",
        _WATERMARK,
        "convnet",
        "the control that does not optimise; not in the paper",
    ),
    "comparison-watermark-resnet18": _compared(
        "WatermarkAttack",
        _WATERMARK,
        "resnet18",
        "the control that does not optimise; not in the paper",
    ),
    "witches-brew-benchmark": _benchmark(
        "GradientMatchingAttack",
        {**_MATCHING, "surrogate": _RESNET18},
        "gradient matching, crafted on ResNet-18 whatever the victim",
        (("success", 0.45, "read"),),
    ),
    "witches-brew-benchmark-ensemble-4": _benchmark(
        "GradientMatchingAttack",
        {**_MATCHING, "surrogate": _RESNET18, "n_ensemble": 4},
        "gradient matching on four ResNet-18",
        (("success", 0.55, "memory"),),
    ),
    "feature-collision-benchmark": _benchmark(
        "FeatureCollisionAttack",
        {"max_iter": 120},
        "feature collision",
        (("success", 0.0, "read"),),
    ),
    "convex-polytope-benchmark": _benchmark(
        "ConvexPolytopeAttack",
        {"max_iter": 1200},
        "convex polytope",
        (("success", 0.0, "read"),),
    ),
    "bullseye-benchmark": _benchmark(
        "BullseyePolytopeAttack",
        {"max_iter": 1200},
        "bullseye polytope",
        (("success", 0.03, "read"),),
    ),
    "metapoison-cifar10": _metapoison((2, 5), "birds read as dogs"),
    "metapoison-cifar10-plane-frog": _metapoison((0, 6), "planes read as frogs"),
    "sleeper-agent-cifar10-resnet18": {
        "summary": "hidden trigger, ResNet-18 from scratch, four retrainings",
        "reference": _SLEEPER_AGENT,
        "dataset": "cifar10",
        "attack": (
            "SleeperAgentAttack",
            {
                **_ANY,
                **_BREWING,
                "budget": 0.01,
                "eps": 16 / 255,
                "n_restarts": 1,
                "trigger": RandomPatchTrigger(),
                "selection": "max_gradient",
                "retrain_every": 50,
            },
        ),
        "victim": ("conservative", "ResNet18", {"max_epochs": 80}),
        "seeds": (0, 1, 2, 3, 4, 5, 6, 7),
        "n_victims": 1,
        "figures": (("backdoor success", 0.85, "memory"),),
    },
    "release-alignment-cifar10-resnet18": _released(
        "alignment",
        0.5665,
        "gradient alignment",
        n_restarts=8,
    ),
    "release-tensorclog-cifar10-resnet18": _released(
        "tensorclog", 0.8424, "vanishing gradients, a baseline of the follow-up"
    ),
    "release-error-min-cifar10-resnet18": _released(
        "error_min", 0.1993, "unlearnable examples, a baseline of the follow-up"
    ),
    "release-class-target-cifar10-resnet18": _released(
        "class_target", 0.0625, "adversarial examples for another class"
    ),
    "gradient-matching-fashion-mnist-mlp": _small(
        "GradientMatchingAttack",
        {**_ENSEMBLE, "n_restarts": 1},
        16 / 255,
        0.05,
        "gradient matching",
        0.1354,
        0.0942,
    ),
    "gradient-matching-fashion-mnist-mlp-eps-32": _small(
        "GradientMatchingAttack",
        {**_ENSEMBLE, "n_restarts": 1},
        32 / 255,
        0.05,
        "gradient matching, wider radius",
        0.4688,
        0.1428,
    ),
    "metapoison-fashion-mnist-mlp": _small(
        "MetaPoisonAttack",
        {**_FIRST_ORDER, **_ENSEMBLE},
        16 / 255,
        0.05,
        "MetaPoison on trained networks",
    ),
    "watermark-fashion-mnist-mlp": _small(
        "WatermarkAttack",
        {"bounds": (0.0, 1.0)},
        16 / 255,
        0.05,
        "the control that does not optimise",
        0.2604,
        0.1292,
    ),
}
