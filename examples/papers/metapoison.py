"""Targeted poisoning by unrolled training, beside a watermark and feature collision.

    python examples/papers/metapoison.py --out metapoison.jsonl
    python examples/papers/metapoison.py --out metapoison.jsonl --show
    python examples/papers/metapoison.py --out full.jsonl --full

W. R. Huang et al. MetaPoison: practical general-purpose clean-label data poisoning.
NeurIPS 2020. arXiv:2004.00225.

Claim: poisons that were crafted through steps of training on an ensemble of networks,
1 % of CIFAR-10, moved by at most 8 of 255 and in colour, make victims trained from
scratch misread a given test image, 90 % of the time; attacks by feature collision,
made for networks that are only fine-tuned, don't carry over to training from scratch.

Here: 2,000 rows of Fashion-MNIST, a multilayer perceptron from scratch, 5 % poisons of
the wished class, radius 16 of 255, no colour, 8 surrogates in place of 24, 8 targets of
near classes, 4 victims each. The published figure is "misclassified": any wrong label.
The watermark blends the target into the same rows within the same radius. Columns and
intervals are those of witches_brew.py.

Why it may differ: the targets are of near classes, which is easier; the poisons are
unrolled on networks that are trained already, which is cheaper and was the stronger
form at this size; and a shallow network lets a watermark pass, see witches_brew.py.

--full runs the published settings by name, a target at a time; --targets 10 and
--victims 8 take all of their trials.
"""

from _runs import Runs, sign
from _targeted import (
    difference,
    published_figures,
    run_keys,
    run_settings,
    run_small,
    show_targeted,
    small_victim,
    targeted_arguments,
)
from _verdicts import compared, conclude

from skpoison.attacks import FeatureCollisionAttack, MetaPoisonAttack, WatermarkAttack
from skpoison.model_selection import published_setting

COMPARISONS = [
    (f"comparison-metapoison-{net}", f"comparison-{other}-{net}")
    for net in ("convnet", "resnet18")
    for other in ("poison-frogs", "watermark")
]
FULL = [
    "metapoison-cifar10",
    "metapoison-cifar10-plane-frog",
    *dict.fromkeys(name for pair in COMPARISONS for name in pair),
]
PUBLISHED = {"one class, metapoison": "misclassified .90"}


def make_arms(args):
    """Return the attacks of the CPU's setting."""
    tiny = args.size == "tiny"
    shared = {"budget": 0.05, "eps": 16 / 255, "bounds": (0.0, 1.0), "random_state": 0}
    n_ensemble, max_iter = (2, 2) if tiny else (8, 60)
    arms = {
        "one class, metapoison": MetaPoisonAttack(
            surrogate="victim", n_ensemble=n_ensemble, max_iter=max_iter, **shared
        ),
        "one class, feature collision": FeatureCollisionAttack(
            surrogate="victim", n_ensemble=n_ensemble, max_iter=max_iter, **shared
        ),
        "one class, watermark": WatermarkAttack(**shared),
    }
    return {title: (attack, small_victim(args)) for title, attack in arms.items()}


def main(argv=None):
    """Measure what is missing, print the table and the verdict."""
    parser = targeted_arguments(__doc__)
    args = parser.parse_args(argv)
    runs, arms = Runs(args.out), make_arms(args)
    settings = {name: published_setting(name) for name in FULL if args.full}
    if not args.show:
        run_settings(runs, args, settings) if args.full else run_small(runs, args, arms)
    named = run_keys(args, arms, settings)
    show_targeted(runs, named, PUBLISHED | published_figures(settings))
    title, *others = arms
    parts = {}
    for title, other in [(title, other) for other in others] + COMPARISONS:
        gap = difference(runs, named, title, other, "misclassified")
        if gap is not None:
            print(f"targets misread after {title}: {compared(gap, other)}")
            parts[f"{title}: more than {other}"] = sign(gap) > 0
    conclude(parts)


if __name__ == "__main__":
    main()
