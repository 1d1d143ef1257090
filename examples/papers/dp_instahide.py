"""Mixing with noise against backdoors, and its privacy bill.

    python examples/papers/dp_instahide.py --out instahide.jsonl
    python examples/papers/dp_instahide.py --out instahide.jsonl --show
    python examples/papers/dp_instahide.py --out full.jsonl --full

E. Borgnia et al. DP-InstaHide: provably defusing poisoning and backdoor attacks with
differentially private data augmentations. 2021. arXiv:2103.02079.

Claims: mixtures of k rows with Laplace noise stop poisons at a weak cost in accuracy;
mixing alone does not, and DP-SGD costs more; and mixing k rows gives a privacy
guarantee that is at least k times as strong as that of the same noise on single rows.

Here: first table, a patch on 3 % of the rows, relabelled, Fashion-MNIST of 14 by 14
pixels, 4,000 rows, a small convolutional network and 12 epochs, 20 with DP-SGD, in
place of CIFAR-10 with a ResNet-18. "laplace alone" is noise on single rows, the least
that is billed no more than the first DP-InstaHide is: with less of it the accountant
has only the pure bound, which is a thousand times as high. Columns are those of
augmentation.py; the second table has the bills at delta 1e-5. The abstract has the
claims, other figures of the paper were not at hand.

Last table: the pure bill of one release from 1,000 rows, exact, by how many times it is
below that of noise of the same scale on single rows. "ours" bills these without
counting that few of them are drawn, which is the paper's comparison; "sampling" counts
it, and there the gain depends on the noise: much more than k where single rows would
be badly hidden, hardly any where they are well hidden.

Why it may differ: networks this small need many more epochs to learn from mixtures than
plain training does; and the bill in pixel space is far above anything that proves
something, so that what is measured here is an empirical defense.
"""

import numpy as np
from _backdoored import (
    backdoor_arguments,
    cells,
    change,
    chosen_poisons,
    figures,
    run_backdoors,
    show_backdoors,
)
from _runs import Runs, print_table, sign
from _verdicts import conclude, told

from skpoison.privacy import mix_epsilon

OURS, ALONE, MIXED = "dp-instahide 4, .1", "laplace alone, .278", "mixup of 4"
DEFENSES = ["none", MIXED, ALONE, OURS, "dp-instahide 4, .3", "dp-sgd"]


def show_bills(runs, args):
    """Print the epsilon that each training was billed."""
    rows = []
    for poison, name in cells(args):
        found = figures(runs, args, "epsilon", name, poison)
        if len(found) and np.isfinite(found).all():
            rows.append((f"{poison}: {name}", f"{found.mean():.4g}"))
    print_table(rows, ("training", "epsilon"))


def show_mixing(n=1000, scale=0.2, sensitivity=1.0):
    """Print how much stronger the guarantee of mixtures is; exact, no trials.

    Returns
    -------
    stronger : bool
        Whether k rows are at least k times as well hidden as single rows are by a
        mechanism that counts no sampling.
    """
    bills = {
        k: mix_epsilon(n, k, scale, n_releases=1, sensitivity=sensitivity, labels=None)
        for k in (1, 2, 4, 8)
    }
    naive = sensitivity / scale
    rows = [
        (
            k,
            f"at least {k} times",
            f"{naive / bill:.0f} times",
            f"{bills[1] / bill:.1f} times",
            f"{bill:.5f}",
        )
        for k, bill in bills.items()
    ]
    head = ("rows in a mixture", "published", "ours", "ours, sampling", "epsilon")
    print_table(rows, head)
    return all(naive / bill >= k for k, bill in bills.items())


def main(argv=None):
    """Measure what is missing, print the tables and the verdict."""
    parser = backdoor_arguments(__doc__, DEFENSES, ["badnets-3"], 12)
    args = parser.parse_args(argv)
    runs = Runs(args.out)
    if not args.show:
        run_backdoors(runs, args)
    show_backdoors(runs, args, {})
    print()
    show_bills(runs, args)
    print()
    parts = {"at least k times the guarantee": show_mixing()}
    print()
    for poison in chosen_poisons(args):
        for other in ("none", MIXED, ALONE, "dp-sgd"):
            success = change(runs, args, OURS, "success", poison, other)
            if success is None:
                continue
            accuracy = change(runs, args, OURS, "accuracy", poison, other)
            print(
                f"{OURS} against {poison}, beside {other}: success "
                f"{told(success)}, accuracy {told(accuracy, 3)}"
            )
            if other == "dp-sgd":
                parts[f"{poison}, more accurate than DP-SGD"] = sign(accuracy) > 0
            else:
                parts[f"{poison}, weaker than with {other}"] = sign(success) < 0
    conclude(parts)


if __name__ == "__main__":
    main()
