"""PGD against the bare passes, torchattacks, foolbox and ART; restarts; agreement."""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from skpoison.datasets import fetch_fashion_mnist, find_dataset
from skpoison.evasion import PGD, AdversarialClassifier, WITCHcraft

_EPS, _STEP, _N_STEPS = 0.1, 0.0125, 20
#: Largest ratios that are good enough, of what users meet by default: peers make all
#: steps for all rows, ours stop at broken rows.
_BARS = {"bare passes": 1.05, "torchattacks": 0.95, "foolbox": 0.8, "ART": 0.7}
_N_RESTARTS = 10


def network():
    """Return two convolutions and two linear layers, for images of 28 x 28."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 4, 2, 1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 49, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def images(n_train, n_test):
    """Return training and test images in [0, 1], and their name."""
    if find_dataset("fashion_mnist") is not None:
        found = [
            fetch_fashion_mnist(
                subset=subset,
                n_samples=n,
                layout="nchw",
                dtype="float32",
                return_X_y=True,
                download_if_missing=False,
            )
            for subset, n in (("train", n_train), ("test", n_test))
        ]
        return *found[0], *found[1], "Fashion-MNIST"
    rng = np.random.default_rng(0)
    y = np.arange(n_train + n_test) % 10
    X = rng.random((len(y), 1, 28, 28), dtype=np.float32) / 2
    X[np.arange(len(y)), 0, 2 * y] += 0.5  # a bright line tells the class
    return X[:n_train], y[:n_train], X[n_train:], y[n_train:], "random pixels"


def passes(module, x, y):
    """Make the forward and backward passes of the steps, and nothing else."""
    for _ in range(_N_STEPS):
        leaf = x.clone().requires_grad_()
        loss = F.cross_entropy(module(leaf), y, reduction="sum")
        torch.autograd.grad(loss, leaf)


def peers_of(bench, module, x, y):
    """Return {name: callable that returns attacked rows} for what is installed."""
    found = {}
    torchattacks = bench.optional("torchattacks")
    if torchattacks is not None:
        theirs = torchattacks.PGD(module, eps=_EPS, alpha=_STEP, steps=_N_STEPS)
        found["torchattacks"] = lambda: theirs(x, y)
    foolbox = bench.optional("foolbox")
    if foolbox is not None:
        model = foolbox.PyTorchModel(module, bounds=(0, 1), device=x.device)
        linf = foolbox.attacks.LinfPGD(abs_stepsize=_STEP, steps=_N_STEPS)
        found["foolbox"] = lambda: linf(model, x, y, epsilons=_EPS)[1]
    art = bench.optional("art.attacks.evasion")
    if art is not None:
        from art.estimators.classification import PyTorchClassifier

        wrapped = PyTorchClassifier(
            module,
            nn.CrossEntropyLoss(),
            tuple(x.shape[1:]),
            10,
            clip_values=(0, 1),
            device_type="gpu" if x.is_cuda else "cpu",
        )
        rows, labels = x.cpu().numpy(), y.cpu().numpy()
        for name, batch_size in (("ART", len(x)), ("ART, batches of 32", 32)):
            attack = art.ProjectedGradientDescent(
                wrapped,
                eps=_EPS,
                eps_step=_STEP,
                max_iter=_N_STEPS,
                num_random_init=1,
                batch_size=batch_size,
                verbose=False,
            )
            found[name] = lambda attack=attack: attack.generate(rows, labels)
    return found


def robust(module, x, y, moved):
    """Return the share of rows read right before and after."""
    with torch.no_grad():
        moved = torch.as_tensor(moved).to(x)
        right = (module(x).argmax(1) == y) & (module(moved).argmax(1) == y)
    return float(right.float().mean())


def measure(bench):
    """Time one network's attacks, and compare what they leave."""
    n = bench.size(500, 100)
    X_train, y_train, X, y, origin = images(bench.size(4_000, 500), n)
    y = y.astype(np.int64)
    bench.title(f"PGD of {_N_STEPS} steps, seconds for all images")
    print(f"adversarially trained ConvNet, {n} x 1 x 28 x 28 {origin}")
    trainer = AdversarialClassifier(
        network,
        attack="fast",
        max_epochs=bench.size(4, 1),
        lr=2e-3,
        device=bench.device,
        random_state=0,
    )
    module = trainer.fit(X_train, y_train).module_.eval()
    theirs = copy.deepcopy(module)  # theirs may fill gradients
    x, t = (torch.as_tensor(part, device=bench.device) for part in (X, y))
    setting = {"eps": _EPS, "bounds": (0, 1), "max_iter": _N_STEPS, "random_state": 0}
    ours = PGD(module, step_size=_STEP, early_stop=False, **setting)
    peers = {"bare passes": lambda: passes(theirs, x, t)}
    peers |= peers_of(bench, theirs, x, t)
    stopping = PGD(module, step_size=_STEP, **setting)
    bench.compare(
        "PGD, default: rows leave once broken",
        lambda: stopping.perturb(X, y),
        peers,
        repeats=7,
        bars=_BARS,
    )
    bench.compare(
        "PGD, early_stop=False, for information",
        lambda: ours.perturb(X, y),
        {"by default": lambda: stopping.perturb(X, y), **peers},
        repeats=7,
    )
    del peers["bare passes"]
    random_steps = WITCHcraft(module, early_stop=False, **setting)
    bench.compare(
        "WITCHcraft, all steps for all rows",
        lambda: random_steps.perturb(X, y),
        {"PGD": lambda: ours.perturb(X, y)},
        repeats=5,
    )
    restarts = PGD(module, step_size=_STEP, n_restarts=_N_RESTARTS, **setting)
    bench.compare(
        f"PGD, {_N_RESTARTS} restarts, a restart",
        lambda: restarts.perturb(X, y),
        {"one run": lambda: [stopping.perturb(X, y) for _ in range(_N_RESTARTS)]},
        repeats=1,
        work=_N_RESTARTS,
    )
    error = 100 * (0.25 / n) ** 0.5
    print(f"\nrobust accuracy in per cent, counting error at most {error:.1f}")
    for name, attack in {
        "ours": ours,
        "ours, rows leave once broken": stopping,
        "ours, WITCHcraft": random_steps,
        f"ours, {_N_RESTARTS} restarts": restarts,
    }.items():
        print(f"{name:32}{100 * robust(module, x, t, attack.perturb(X, y)):6.1f}")
    for name, run in peers.items():
        print(f"{name:32}{100 * robust(theirs, x, t, run()):6.1f}")
