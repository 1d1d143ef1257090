"""Run one published setting, whole or in part, and print what came out.

For example the main setting of Witches' Brew on two of its ten targets, with half of
the training:

    python examples/published_setting.py witches-brew-cifar10-resnet18 \
        --targets 2 --epochs 20 --device cuda

The data set is fetched on the first run. Whole settings on CIFAR-10 take hours on a
GPU; those whose names hold fashion-mnist take minutes on one CPU core.
"""

import argparse

from skpoison import datasets
from skpoison.model_selection import published_setting, published_settings


def main(argv=None):
    """Fetch the data, run the setting, print the report beside the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=published_settings(), metavar="name")
    parser.add_argument("--targets", type=int, help="trials, all by default")
    parser.add_argument("--victims", type=int, help="victims a target")
    parser.add_argument("--epochs", type=int, help="of victims and surrogates")
    parser.add_argument("--device", help="cpu or cuda")
    args = parser.parse_args(argv)

    setting = published_setting(args.name, max_epochs=args.epochs)
    print(setting, end="\n\n")
    fetch = getattr(datasets, f"fetch_{setting.dataset}")
    layout = {"layout": "nchw", "dtype": "uint8", "return_X_y": True}
    X, y = fetch(n_samples=setting.n_train, **layout)
    X_test, y_test = fetch(subset="test", **layout)
    report = setting.evaluate(
        X,
        y,
        X_test,
        y_test,
        n_targets=args.targets,
        n_victims=args.victims,
        device=args.device,
        verbose=1,
    )
    print(report)
    return report


if __name__ == "__main__":
    main()
