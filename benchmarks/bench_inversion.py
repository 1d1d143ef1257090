"""Gradient inversion against breaching: one image, restarts, and flat memory."""

import contextlib
import io
import resource
import sys
from types import SimpleNamespace

import numpy as np
import torch
from sklearn.datasets import load_sample_images
from torch import nn

from skpoison.inversion import GradientInversion, client_update
from skpoison.metrics import psnr
from skpoison.models import LeNet
from skpoison.utils import local_torch_seed

_N_RESTARTS = 16
_N_ITER, _N_RESTART_ITER = 1_200, 40
#: Largest ratios that are good enough.
_QUALITY_BAR, _RESTART_BAR = 0.5, 0.25


def setting():
    """Return a sigmoid LeNet, a natural image of 3 x 32 x 32, label and gradient."""
    photograph = load_sample_images().images[0][100:228, 200:328] / 255
    image = photograph.reshape(32, 4, 32, 4, 3).mean((1, 3)).transpose(2, 0, 1)[None]
    image = image.astype(np.float32)
    with local_torch_seed(0):
        net = LeNet((3, 32, 32), 10)
    return net, image, np.array([3]), client_update(net, image, [3])


def restarts_alone(net, seen, y, n_restarts):
    """Return plain loops: a restart after another, as the paper's code runs them."""
    from torch.nn import functional as F

    target = torch.cat([g.flatten() for g in seen.values()])
    weights, y = list(net.parameters()), torch.as_tensor(y)

    def run():
        for _ in range(n_restarts):
            z = torch.randn(1, 3, 32, 32).requires_grad_()
            optimizer = torch.optim.Adam([z], lr=0.1)
            for _ in range(_N_RESTART_ITER):
                optimizer.zero_grad()
                loss = F.cross_entropy(net(z), y)
                found = torch.autograd.grad(loss, weights, create_graph=True)
                u = torch.cat([g.flatten() for g in found])
                objective = 1 - u @ target / (u.norm() * target.norm())
                objective = objective + 0.01 * (
                    z.diff(dim=-1).abs().mean() + z.diff(dim=-2).abs().mean()
                )
                objective.backward(inputs=[z])
                z.grad.sign_()
                optimizer.step()
                with torch.no_grad():
                    z.clamp_(0, 1)

    return run


def theirs(bench, net, seen, y):
    """Return a function that runs breaching, or None where it is not installed."""
    breaching = bench.optional("breaching")
    if breaching is None:
        return None
    constants = SimpleNamespace(
        shape=(3, 32, 32), modality="vision", mean=(0.0,) * 3, std=(1.0,) * 3
    )
    payload = [
        {
            "parameters": [p.detach() for p in net.parameters()],
            "buffers": [],
            "metadata": constants,
        }
    ]
    sent = [
        {
            "gradients": [*seen.values()],
            "buffers": None,
            "metadata": {
                "num_data_points": 1,
                "labels": torch.as_tensor(y),
                "local_hyperparams": None,
            },
        }
    ]

    def run(n_restarts, n_iter):
        overrides = [
            f"optim.max_iterations={n_iter}",
            f"restarts.num_trials={n_restarts}",
            "regularization.total_variation.scale=0.02",  # 0.01 in the unit of ours
        ]
        with contextlib.redirect_stdout(io.StringIO()):
            config = breaching.get_attack_config("invertinggradients", overrides)
            attack = breaching.attacks.prepare_attack(
                net, nn.CrossEntropyLoss(), config
            )
        found, _ = attack.reconstruct(payload, sent, {})
        return found["data"].numpy()

    return run


def measure(bench):
    """Time one image and restarts; print what they look like and what memory does."""
    net, image, y, seen = setting()
    bench.title("gradient inversion, one natural image of 3 x 32 x 32, sigmoid LeNet")
    run = theirs(bench, net, seen, y)
    n_iter = bench.size(_N_ITER, 50)
    quality = {}

    def ours(name, **params):
        attack = GradientInversion(net, device=bench.device, random_state=0, **params)

        def reconstruct():
            found = attack.reconstruct(seen, labels=y, shape=image.shape[1:])
            quality[name] = psnr(image, found.X)

        return reconstruct

    def peer():
        quality["breaching"] = psnr(image, run(1, n_iter))

    published = {"solver": "signed_adam", "feature_weight": 0.0}
    peers = {} if run is None else {"breaching": peer}
    recipe = ours("published recipe", max_iter=n_iter, **published)
    bench.compare(
        "auto", ours("auto"), {**peers, "ours, published recipe": recipe}, repeats=1,
        bars={"breaching": _QUALITY_BAR},
    )  # fmt: skip
    lbfgs = ours("lbfgs, 500 evaluations", solver="lbfgs", max_iter=500)
    bench.compare(
        "lbfgs, 500 evaluations", lbfgs, peers, repeats=1,
        bars={"breaching": _QUALITY_BAR},
    )  # fmt: skip
    print(f"\nPSNR in dB; breaching and the published recipe: {n_iter} iterations")
    for name, found in quality.items():
        print(f"{name:32}{found:8.1f}")

    bench.title(f"{_N_RESTART_ITER} iterations of {_N_RESTARTS} restarts, a restart")
    batched = ours(
        "restarts", max_iter=_N_RESTART_ITER, n_restarts=_N_RESTARTS, **published
    )
    peers = {"a loop over restarts": restarts_alone(net, seen, y, _N_RESTARTS)}
    if run is not None:
        peers["breaching"] = lambda: run(_N_RESTARTS, _N_RESTART_ITER)
    bench.compare(
        f"{_N_RESTARTS} restarts as one batch", batched, peers, repeats=3,
        work=_N_RESTARTS, bars={"breaching": _RESTART_BAR},
    )  # fmt: skip

    before = _peak()
    ours("restarts", max_iter=20 * _N_RESTART_ITER, n_restarts=4, **published)()
    print(f"\nmemory: {_peak() - before:.0f} MB more for 20 times the iterations")


def _peak():
    """Return the largest resident memory so far, in MB."""
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
