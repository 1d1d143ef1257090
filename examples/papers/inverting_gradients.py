"""How well images are recovered from the gradients that a client sends.

    python examples/papers/inverting_gradients.py --out inverting.jsonl
    python examples/papers/inverting_gradients.py --out inverting.jsonl --show
    python examples/papers/inverting_gradients.py --out cifar.jsonl --data cifar10
    python examples/papers/inverting_gradients.py --out four.jsonl --settings four
    python examples/papers/inverting_gradients.py --out full.jsonl --full --seeds 100

J. Geiping, H. Bauermeister, H. Droege and M. Moeller. Inverting gradients: how easy is
it to break privacy in federated learning? NeurIPS 2020, arXiv:2003.14053. Table 1 has
the first 100 test images of CIFAR-10, labels known.

A seed is a group of images, which one network sees: by default an untrained LeNet with
sigmoids. PSNR in decibels after matching, its mean and 95 % interval over groups
(Student's t) and, as in the paper, its standard deviation over images. A reconstruction
above 200 dB counts as 200. The default images are tiles of the two photographs that
come with scikit-learn: the one setting that needs no data set. CIFAR-10 is that of the
paper.

cosine            cosine, total variation .01, signed Adam, 4,800 iterations
lbfgs32           1,500 evaluations of L-BFGS from a gradient in single precision
lbfgs             the same in double precision
closed32, closed  the closed form, layer by layer, which the paper does not have
features          "cosine" with what the last layer's gradient tells
four, eight       batches, one gradient, L-BFGS
four-tv           the same with total variation .01 from a gray start: for colour, where
                  the gradient has fewer equations than the batch has pixels
fedavg-one        one image, five local steps at rate 1e-4
fedavg-fast       the same at rate .1
fedavg-four       four images, two local steps on two each

--full is table 1: both of the paper's attacks with 4,800 iterations on LeNet and on
ResNet-20 of fourfold width, each untrained and trained on CIFAR-10. The recipe of that
training is this script's choice.
"""

import time
import warnings
from functools import lru_cache, partial

import numpy as np
import torch
from _runs import FETCH, Runs, arguments, images, interval, print_table, shown
from sklearn.datasets import load_sample_images

from skpoison.inversion import AnalyticInversion, GradientInversion, client_update
from skpoison.metrics import match_reconstruction, psnr
from skpoison.models import LeNet, ResNet20, training_recipe
from skpoison.utils import local_torch_seed

#: Mean and standard deviation of the pixels, one a channel.
COLOUR = {"mean": (0.4914, 0.4822, 0.4465), "scale": (0.2470, 0.2435, 0.2616)}
GREY = {"mean": 0.2860, "scale": 0.3530}

COSINE = {"solver": "signed_adam", "feature_weight": 0.0, "max_iter": 4800}
LBFGS = {"solver": "lbfgs", "max_iter": 1500}
FEDAVG = {"solver": "lbfgs", "max_iter": 600, "update": "weights", "local_steps": 5}
#: images a group, the attack's parameters, type of the gradients
SETTINGS = {
    "cosine": (1, COSINE, "float32"),
    "lbfgs32": (1, LBFGS, "float32"),
    "lbfgs": (1, LBFGS, "float64"),
    "closed32": (1, None, "float32"),
    "closed": (1, None, "float64"),
    "features": (1, {"solver": "signed_adam", "max_iter": 4800}, "float32"),
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
NETS = {
    "LeNet": (LeNet, {}, False),
    "LeNet, trained": (LeNet, {}, True),
    "ResNet-20-4": (ResNet20, {"width": 64}, False),
    "ResNet-20-4, trained": (ResNet20, {"width": 64}, True),
}
#: mean and standard deviation of the PSNR, table 1
PUBLISHED = {
    ("LeNet", "cosine"): (18.00, 3.33),
    ("LeNet, trained", "cosine"): (18.08, 4.27),
    ("ResNet-20-4", "cosine"): (19.83, 2.96),
    ("ResNet-20-4, trained", "cosine"): (13.95, 3.38),
    ("LeNet", "lbfgs32"): (46.25, 12.66),
    ("LeNet, trained", "lbfgs32"): (13.24, 5.44),
    ("ResNet-20-4", "lbfgs32"): (10.29, 5.38),
    ("ResNet-20-4, trained", "lbfgs32"): (6.90, 2.80),
}


@lru_cache(maxsize=1)
def load(data, path):
    """Return images in [0, 1], labels and the normalisation of their pixels."""
    if data == "patches":
        photographs = np.stack(load_sample_images().images) / 255  # 427 by 640
        small = photographs[:, :384].reshape(2, 96, 4, 160, 4, 3).mean((2, 4))
        tiles = small.reshape(2, 3, 32, 5, 32, 3).swapaxes(2, 3).reshape(-1, 32, 32, 3)
        order = np.random.RandomState(0).permutation(len(tiles))
        return tiles[order].transpose(0, 3, 1, 2), order % 10, COLOUR
    found = FETCH[data](path=path, subset="test", layout="nchw", dtype="uint8")
    pixels = COLOUR if data == "cifar10" else GREY
    return found.data / 255, found.target.astype(int), pixels


@lru_cache(maxsize=1)
def trained(net, device):
    """Return a network that was trained on CIFAR-10."""
    make, params, _ = NETS[net]
    params = {f"module__{name}": value for name, value in params.items()}
    X, y, _, _ = images("cifar10", None, 10, 0)
    recipe = training_recipe("conservative", make, device=device, random_state=0)
    return recipe.set_params(**params).fit(X, y).module_.network.cpu()


def measure(net, setting, data, size, seed, path, device):
    """Attack what one group of images gives away; return a PSNR for each of them."""
    X, y, pixels = load(data, path)
    n_rows, params, dtype = SETTINGS[setting]
    rows = slice(seed * n_rows, (seed + 1) * n_rows)
    if rows.stop > len(X):
        raise SystemExit(
            f"{setting}: {data} has {len(X)} images, {seed + 1} groups of {n_rows} "
            "were asked for"
        )
    X, y = X[rows], y[rows]
    make, options, is_trained = NETS[net]
    with local_torch_seed(rows.start):
        network = make(X.shape[1:], 10, **options)
    network = trained(net, device) if is_trained else network
    network = network.to(getattr(torch, dtype)).eval()
    attack = AnalyticInversion(network, polish=False, **pixels)
    recipe = {}
    if params is not None:
        if size != "cpu":
            params = {**params, "max_iter": 2 if size == "tiny" else 4800}
        attack = GradientInversion(
            network, n_samples=n_rows, device=device, random_state=0, **pixels, **params
        )
        recipe = {k: params[k] for k in ("update", "local_steps") if k in params}
        recipe["local_lr"] = attack.local_lr
        recipe["batch_size"] = attack.local_batch_size
    mean, scale = (np.reshape(pixels[k], (-1, 1, 1)) for k in ("mean", "scale"))
    seen = client_update(network, (X - mean) / scale, y, **recipe)
    start = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = attack.reconstruct(seen, labels=y, shape=X.shape[1:])
    seconds = time.process_time() - start
    order = match_reconstruction(X, found.X)
    return {
        "psnr": np.minimum(psnr(X, found.X[order], average=False), 200.0).tolist(),
        "evaluations": int(found.get("n_iter", 0)),
        "seconds": round(seconds, 1),
    }


def show(runs, shared, nets, settings):
    """Print the table, and whether the paper's figures are reached."""
    rows, verdicts = [], []
    for net in nets:
        for setting in settings:
            which = {**shared, "net": net, "setting": setting}
            groups = runs.values("psnr", **which)
            if not len(groups):
                continue
            paper = PUBLISHED.get((net, setting))
            rows.append(
                (
                    f"{net}, {setting}",
                    f"{paper[0]:.2f} (sd {paper[1]:.2f})" if paper else "-",
                    f"{shown(groups.mean(axis=1))} (sd {groups.std():.2f}, worst "
                    f"{groups.min():.1f})",
                    groups.size,
                    f"{runs.values('evaluations', **which).mean():.0f}",
                    f"{runs.values('seconds', **which).mean():.1f}",
                )
            )
            if paper:
                mean, half = interval(groups.mean(axis=1))
                side = "below" if mean + half < paper[0] else "at or above"
                verdicts.append(f"{net}, {setting}: {side} the paper's mean")
    head = ("setting", "published", "PSNR", "images", "evaluations", "seconds")
    print_table(rows, head)
    print(f"{'; '.join(verdicts) or 'none of these settings is in table 1'}.")


def main(argv=None):
    """Run what is missing, print the table."""
    parser = arguments(__doc__, seeds=4)
    sets = ("patches", "cifar10", "fashion_mnist")
    parser.add_argument("--data", choices=sets, help="cifar10 with --full")
    parser.add_argument("--path", help="of the data set, see its fetch function")
    parser.add_argument("--settings", nargs="+", choices=SETTINGS)
    parser.add_argument("--nets", nargs="+", choices=NETS)
    args = parser.parse_args(argv)
    data = args.data or ("cifar10" if args.full else "patches")
    settings = args.settings or [*SETTINGS][: 2 if args.full else 5]
    nets = args.nets or ([*NETS] if args.full else ["LeNet"])
    runs, shared = Runs(args.out), {"data": data, "size": args.size}
    for net in [] if args.show else nets:
        for setting in settings:
            for seed in range(args.seeds):
                run = {**shared, "net": net, "setting": setting, "seed": seed}
                runs.get(run, partial(measure, path=args.path, device=args.device))
    show(runs, shared, nets, settings)


if __name__ == "__main__":
    main()
