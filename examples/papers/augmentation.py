"""Strong augmentation against backdoors, beside DP-SGD.

    python examples/papers/augmentation.py --out augmentation.jsonl
    python examples/papers/augmentation.py --out augmentation.jsonl --show
    python examples/papers/augmentation.py --out full.jsonl --full

E. Borgnia et al. Strong data augmentation sanitizes poisoning and backdoor attacks
without an accuracy tradeoff. ICASSP 2021. arXiv:2011.09527.

Claim: CutMix, and to a lesser degree mixup, take much of a backdoor's success, where
DP-SGD takes accuracy. The abstract has CutMix raise the accuracy by 9 points in the
context of backdoors, on CIFAR-10; other figures of the paper were not at hand.

Here: Fashion-MNIST of 14 by 14 pixels, 4,000 rows, a small convolutional network and 24
epochs, 20 with DP-SGD, in place of 40 on CIFAR-10 with a ResNet-18. "accuracy" is that
on clean test images, "success" the share of marked test images of other classes that
are read as the target, "training" the accuracy on the training rows as given, which
says whether the network has learned them. The row of clean data is the control: what
the trigger does by itself. A seed moves poisoned rows and training and is shared by all
defenses; intervals are Student's at 95 %, over seeds. What is reduced matters: a
network that has learned less is also harder to poison, so compare at equal accuracy.

--defenses and --poisons take others than the paper's, for example all, as trained in
the guide to training defenses:

    python examples/papers/augmentation.py --out table.jsonl --epochs 12 --seeds 3 \\
        --defenses all --poisons all
"""

from _backdoored import (
    backdoor_arguments,
    change,
    chosen_poisons,
    run_backdoors,
    show_backdoors,
)
from _runs import Runs, sign
from _verdicts import conclude, told

PUBLISHED = {"cutmix": "mitigates greatly, accuracy +.09"}


def show_verdict(runs, args):
    """Print whether the paper's claim is seen in these runs."""
    parts = {}
    for poison in chosen_poisons(args):
        success = change(runs, args, "cutmix", "success", poison)
        accuracy = change(runs, args, "cutmix", "accuracy", poison)
        private = change(runs, args, "cutmix", "accuracy", poison, "dp-sgd")
        if success is None or private is None:
            continue
        print(
            f"CutMix against {poison}: success {told(success)}, accuracy "
            f"{told(accuracy, 3)}, beside DP-SGD {told(private, 3)}"
        )
        parts[f"{poison} weakened"] = sign(success) < 0
        parts[f"{poison} without a loss of accuracy"] = sign(accuracy) >= 0
        parts[f"{poison} more accurate than DP-SGD"] = sign(private) > 0
    conclude(parts)


def main(argv=None):
    """Measure what is missing, print the table and the verdict."""
    defenses = ["none", "mixup of 2", "cutmix", "dp-sgd"]
    parser = backdoor_arguments(__doc__, defenses, ["badnets-1", "clean-75"], 24)
    args = parser.parse_args(argv)
    runs = Runs(args.out)
    if not args.show:
        run_backdoors(runs, args)
    show_backdoors(runs, args, PUBLISHED)
    show_verdict(runs, args)


if __name__ == "__main__":
    main()
