"""What defenses leave of a client's images when its gradient is inverted.

    python examples/tables/inversion_defenses.py
    python examples/tables/inversion_defenses.py --images 4 --nets mlp --defenses noise

Fashion-MNIST test images where the data set is found, else scikit-learn's digits. The
networks are untrained, where gradients tell most: "lenet" with sigmoids, 24 thousand
weights for Fashion-MNIST, and "mlp" with one layer of 64 ReLUs. The attacker knows the
network, the labels (of mixtures their shares), the client's recipe, and how strong the
defense is. Each row is for the best of the attacks that apply, by its mean PSNR:

auto      GradientInversion as it is
closed    AnalyticInversion without polish, which a change of scale does not mislead
cosine    L-BFGS on the cosine with a total variation that grows with the noise

noise s     Gaussian noise of s times the gradient's root mean square
clip        to norm 1, which changes the scale alone
dp-sgd      clipped to norm 1, and noise of that multiplier; "eps" is of this one step
            without amplification, at delta 1e-5
prune p     that share of each array's smallest entries set to zero
batch B     the mean gradient of B images
steps K     weights after K steps at 0.1 less those before
mixup k     the gradient of the mean of k images: compared with the nearest of them
instahide   the same of centred images, each pixel's sign flipped at random: compared
            by absolute value, the better of either sign for all pixels

"cosine" is that of what is sent to the images' own gradients, "> 20 dB" the share of
images that can be recognised. Above 200 dB, 200 counts.
"""

import argparse
import time
import warnings
from dataclasses import dataclass, field

import numpy as np
import torch
from sklearn.datasets import load_digits

from skpoison.datasets import fetch_fashion_mnist, find_dataset
from skpoison.inversion import (
    AnalyticInversion,
    GradientInversion,
    client_update,
    clip_update,
    noise_update,
    prune_update,
)
from skpoison.metrics import match_reconstruction, psnr, ssim
from skpoison.models import MLP, LeNet
from skpoison.privacy import dpsgd_epsilon, noise_for_epsilon

NETS = {"lenet": LeNet, "mlp": MLP}
# ten epochs over 60,000 images in batches of 256
STRICT = noise_for_epsilon(
    8.0, mechanism="dpsgd", n=60_000, batch_size=256, n_steps=2_350, delta=1e-5
)
DEFENSES = {
    "none": {},
    **{f"noise {s}": {"noise": s} for s in (0.01, 0.1, 1.0)},
    "clip": {"clip": 1.0},
    **{f"dp-sgd {s:.3g}": {"clip": 1.0, "sigma": s} for s in (0.001, 0.01, STRICT)},
    **{f"prune {p}": {"prune": p} for p in (0.5, 0.9, 0.99)},
    **{f"batch {b}": {"size": b} for b in (2, 4, 8)},
    "steps 5": {"steps": 5},
    **{f"mixup {k}": {"mix": k} for k in (2, 4)},
    **{f"instahide {k}": {"mix": k, "signs": True} for k in (2, 4)},
}


def load(n_images):
    """Return attacked images and labels, and others to mix them with."""
    if find_dataset("fashion_mnist") is None:
        X, y = load_digits(return_X_y=True)
        X = X.reshape(-1, 1, 8, 8) / 16
    else:
        X, y = fetch_fashion_mnist(
            subset="test", layout="nchw", dtype="float32", return_X_y=True
        )
        y = y.astype(int)
    X = X.astype(np.float64)
    return X[:n_images], y[:n_images], X[n_images : n_images + 1000], y[n_images:]


@dataclass
class Client:
    """What one client sends, and what the attacker is told and scored by."""

    sent: dict
    labels: np.ndarray
    truth: np.ndarray
    cosine: float
    recipe: dict = field(default_factory=dict)
    strength: float = 0.0
    mixes: bool = False


def cosine(a, b):
    """Return the cosine of two updates."""
    a, b = (torch.cat([v.double().ravel() for v in u.values()]) for u in (a, b))
    return float(a @ b / a.norm() / b.norm())


def clients(
    net, X, y, others, y_others, seed, *, size=1, mix=1, signs=False, **defense
):
    """Yield the clients of a defense, each with `size` of the images."""
    rng = np.random.default_rng(seed)
    for start in range(0, len(X) - size + 1, size):
        truth, labels = X[start : start + size], y[start : start + size]
        own = [
            client_update(net, x[None], [c]) for x, c in zip(truth, labels, strict=True)
        ]
        images, recipe = truth, {}
        if mix > 1:
            mates = rng.choice(len(others), mix - 1, replace=False)
            truth = np.concatenate([truth, others[mates]])
            labels = np.eye(10)[[*labels, *y_others[mates]]].mean(0, keepdims=True)
            images = truth.mean(axis=0, keepdims=True)
        if signs:
            images = (2 * images - 1) * rng.choice([-1, 1], images.shape)
            recipe["bounds"] = (-1.0, 1.0)
        if "steps" in defense:
            steps = {"local_steps": defense["steps"], "local_lr": 0.1}
            recipe = {"update": "weights", **steps}
        update = client_update(
            net, images, labels, **{k: v for k, v in recipe.items() if k != "bounds"}
        )
        sent = defended(update, seed=[seed, start], **defense)
        sign = -1 if "steps" in defense else 1
        yield Client(
            sent,
            labels,
            truth,
            sign * float(np.mean([cosine(sent, g) for g in own])),
            recipe,
            strength=float(np.sqrt(max(0.0, 1 - cosine(sent, update) ** 2))),
            mixes=mix > 1,
        )


def defended(
    update, *, seed, noise=None, clip=None, sigma=None, prune=None, steps=None
):
    """Return what is sent in the place of an update."""
    seed = int(np.random.default_rng(seed).integers(2**31))
    if clip is not None:
        update = clip_update(update, clip)
    if noise is not None:
        update = noise_update(update, noise, random_state=seed)
    if sigma is not None:
        update = noise_update(update, sigma * clip, relative=False, random_state=seed)
    return update if prune is None else prune_update(update, prune)


def attacks(net, client, max_iter):
    """Return the attacks that apply to a client, by name."""
    n = len(client.labels)
    common = {
        "n_samples": n,
        "max_iter": max_iter if n == 1 else 3 * max_iter,
        "random_state": 0,
        **client.recipe,
    }
    found = {
        "auto": GradientInversion(net, **common),
        "cosine": GradientInversion(
            net,
            solver="lbfgs",
            loss="cosine",
            tv_weight=0.1 * client.strength,
            init="gray",
            **common,
        ),
    }
    if n == 1 and client.labels.ndim == 1 and "update" not in client.recipe:
        found["closed"] = AnalyticInversion(net, polish=False)
    return found


def scores(client, found):
    """Return PSNR and SSIM of each image that a client has."""
    if client.mixes:
        guesses = [found]
        if "bounds" in client.recipe:
            guesses = [(1 + sign * abs(found)) / 2 for sign in (1, -1)]
        pairs = [(t[None], g) for g in guesses for t in client.truth]
        nearest = max(pairs, key=lambda pair: psnr(*pair))
        return [psnr(*nearest)], [ssim(*nearest)]
    found = found[match_reconstruction(client.truth, found)]
    pair = client.truth, found
    return psnr(*pair, average=False), ssim(*pair, average=False)


def measure(net, defense, data, seed, max_iter):
    """Return the row of a defense: figures of the best attack."""
    results: dict = {}
    cosines = []
    for client in clients(net, *data, seed, **DEFENSES[defense]):
        cosines.append(client.cosine)
        for name, attack in attacks(net, client, max_iter).items():
            try:
                found = attack.reconstruct(
                    client.sent, labels=client.labels, shape=client.truth.shape[1:]
                ).X
            except (TypeError, ValueError):  # the closed form has no equations left
                found = np.full(client.truth.shape, 0.5)
            parts = results.setdefault(name, ([], []))
            for part, values in zip(parts, scores(client, found), strict=True):
                part.extend(values)
    # an exact copy is infinite
    results = {name: np.minimum(found, 200.0) for name, found in results.items()}
    best = max(results, key=lambda name: results[name][0].mean())
    return best, results[best], np.mean(cosines)


def show(name, attack, values, cosine="", epsilon="", seconds=""):
    """Print a row."""
    ratio, likeness = values
    print(
        f"{name:15}{attack:8}{ratio.mean():8.1f} +- {ratio.std():5.1f}"
        f"{likeness.mean():8.3f}{np.mean(ratio > 20):9.2f}{cosine:>9}{epsilon:>10}"
        f"{seconds:>9}",
        flush=True,
    )


def main(argv=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS))
    parser.add_argument("--defenses", nargs="+", help="those that start so")
    parser.add_argument("--max-iter", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    warnings.simplefilter("ignore")  # of noise, which is what is measured
    data = load(args.images)
    X, _, others, _ = data
    for name in args.nets:
        with torch.random.fork_rng():
            torch.manual_seed(args.seed)
            net = NETS[name](X.shape[1:], 10)
        print(
            f"\n{name}, {len(X)} images of {X.shape[1:]}\n{'defense':15}{'attack':8}"
            f"{'PSNR':>10}{'sd':>7}{'SSIM':>8}{'> 20 dB':>9}{'cosine':>9}{'eps':>10}"
            f"{'seconds':>9}"
        )
        for guess, image in (
            ("mid-gray", np.full_like(X, 0.5)),
            ("mean image", np.broadcast_to(others.mean(axis=0), X.shape)),
        ):
            show(
                guess,
                "-",
                (psnr(X, image, average=False), ssim(X, image, average=False)),
            )
        for defense, options in DEFENSES.items():
            if args.defenses and not defense.startswith(tuple(args.defenses)):
                continue
            if options.get("size", 1) > len(X):
                continue
            start = time.process_time()
            attack, values, alike = measure(
                net, defense, data, args.seed, args.max_iter
            )
            epsilon = ""
            if "sigma" in options:
                epsilon = f"{dpsgd_epsilon(1, 1, options['sigma'], 1, 1e-5):.3g}"
            seconds = f"{time.process_time() - start:.0f}"
            show(defense, attack, values, f"{alike:.3f}", epsilon, seconds)


if __name__ == "__main__":
    main()
