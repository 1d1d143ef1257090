"""How well inputs are recovered from gradients, setting by setting.

    python examples/inversion_table.py
    python examples/inversion_table.py --data cifar10 --path cifar10.npz --images 8
    python examples/inversion_table.py --data fashion --settings four eight

An untrained LeNet with sigmoids for every group of images, labels known, double
precision where the solver asks for it. Printed for each setting: PSNR in dB after
matching, mean and standard deviation over the images, the worst image, evaluations and
CPU seconds a reconstruction.

published      cosine, total variation 0.01, signed Adam, 4,800 iterations
features       the same with what the last layer's gradient tells
lbfgs          L-BFGS-B
lbfgs-float32  the same from gradients in single precision
closed         the closed form, layer by layer
closed-float32 the same from gradients in single precision
four, eight    batches, one gradient
four-tv        the same, with total variation 0.01 from a gray start: for colour, where
               the gradient has fewer equations than the batch has pixels
fedavg-one     one image, five local steps at rate 1e-4
fedavg-fast    the same at rate 0.1
fedavg-four    four images, two local steps on two each
"""

import argparse
import os
import time
import warnings

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.datasets import load_sample_images

from skpoison.datasets import fetch_cifar10, fetch_fashion_mnist
from skpoison.inversion import AnalyticInversion, GradientInversion, client_update
from skpoison.metrics import match_reconstruction, psnr
from skpoison.models import LeNet
from skpoison.utils import local_torch_seed

#: Mean and standard deviation of the pixels, one a channel.
COLOUR = {"mean": (0.4914, 0.4822, 0.4465), "scale": (0.2470, 0.2435, 0.2616)}
GREY = {"mean": 0.2860, "scale": 0.3530}

PUBLISHED = {"solver": "signed_adam", "feature_weight": 0.0}
LBFGS = {"solver": "lbfgs"}
FEDAVG = {**LBFGS, "update": "weights", "local_steps": 5}
#: images a batch, the attack's parameters, type of the gradients
SETTINGS = {
    "published": (1, PUBLISHED, "float32"),
    "features": (1, {"solver": "signed_adam"}, "float32"),
    "lbfgs": (1, LBFGS, "float64"),
    "lbfgs-float32": (1, LBFGS, "float32"),
    "closed": (1, None, "float64"),
    "closed-float32": (1, None, "float32"),
    "four": (4, LBFGS, "float64"),
    "four-tv": (4, {**LBFGS, "tv_weight": 0.01, "init": "gray"}, "float64"),
    "eight": (8, LBFGS, "float64"),
    "fedavg-one": (1, FEDAVG, "float64"),
    "fedavg-fast": (1, {**FEDAVG, "local_lr": 0.1}, "float64"),
    "fedavg-four": (
        4,
        {**FEDAVG, "local_steps": 2, "local_batch_size": 2},
        "float64",
    ),
}


def load(data, path, n_images):
    """Return images in [0, 1], labels and the normalisation of their pixels."""
    if data == "patches":
        photographs = np.stack(load_sample_images().images) / 255  # 427 by 640
        small = photographs[:, :384].reshape(2, 96, 4, 160, 4, 3).mean((2, 4))
        tiles = small.reshape(2, 3, 32, 5, 32, 3).swapaxes(2, 3).reshape(-1, 32, 32, 3)
        order = np.random.RandomState(0).permutation(len(tiles))
        return tiles[order].transpose(0, 3, 1, 2)[:n_images], order % 10, COLOUR
    fetch = fetch_cifar10 if data == "cifar10" else fetch_fashion_mnist
    found = fetch(path=path, subset="test", layout="nchw", dtype="uint8")
    X = found.data[:n_images] / 255
    return (
        X,
        np.asarray(found.target[:n_images], int),
        GREY if len(X[0]) == 1 else COLOUR,
    )


def run(setting, X, y, pixels, args):
    """Return PSNR of every image, and evaluations and seconds of each group."""
    size, params, dtype = SETTINGS[setting]
    quality, work = [], []
    for first in range(0, len(X) - size + 1, size):
        rows, labels = X[first : first + size], y[first : first + size]
        with local_torch_seed(args.seed + first):
            net = LeNet(X.shape[1:], 10)
        net = net.to(getattr(torch, dtype))
        attack = AnalyticInversion(net, polish=False, **pixels)
        recipe = {}
        if params is not None:
            attack = GradientInversion(
                net, n_samples=size, max_iter=args.max_iter, device=args.device,
                random_state=args.seed, **pixels, **params,
            )  # fmt: skip
            recipe = {k: params[k] for k in ("update", "local_steps") if k in params}
            recipe["local_lr"] = attack.local_lr
            recipe["batch_size"] = attack.local_batch_size
        mean, scale = (np.reshape(pixels[k], (-1, 1, 1)) for k in ("mean", "scale"))
        seen = client_update(net, (rows - mean) / scale, labels, **recipe)
        start = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = attack.reconstruct(seen, labels=labels, shape=X.shape[1:])
        work.append((found.get("n_iter", 0), time.process_time() - start))
        order = match_reconstruction(rows, found.X)
        quality.extend(psnr(rows, found.X[order], average=False))
    return np.array(quality), np.array(work)


def main(argv=None):
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", choices=("patches", "cifar10", "fashion"), default="patches"
    )
    parser.add_argument("--path", help="of the data set, see its fetch function")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=[*SETTINGS])
    parser.add_argument("--max-iter", type=int, default=4800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args(argv)
    largest = max(SETTINGS[name][0] for name in args.settings)
    if args.images < largest:
        parser.error(f"--images must be at least {largest}, got {args.images}")
    torch.set_num_threads(1)
    X, y, pixels = load(args.data, args.path, args.images)
    print(f"{'setting':15} images   mean     sd  worst  evaluations  CPU seconds")
    for setting in args.settings:
        found, work = run(setting, X, y, pixels, args)
        print(
            f"{setting:15} {len(found):6} {found.mean():6.2f} {found.std():6.2f} "
            f"{found.min():6.2f} {work[:, 0].mean():12.0f} {work[:, 1].mean():12.1f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
