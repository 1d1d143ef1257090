"""
Four beliefs about neural networks
==================================

Local minima are no problem. Small weights generalise best. Wide networks train as
kernel machines do. Low rank makes networks robust. Each of these can be tested on a
network of your own; here they are tested on the digits, in seconds.
"""

# %%
# Is every local minimum good?
# ----------------------------
# A deep network can be put where it computes what the best linear model does, and where
# no small step leads anywhere better. The same network trained from its usual start has
# a far lower loss: the point is a bad local minimum. The check finds no way down.

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from torch.nn import functional as F

from skpoison.evasion import PGD, robust_accuracy
from skpoison.landscape import (
    LossSliceDisplay,
    NormAccuracyDisplay,
    NormBias,
    NTKTracker,
    NTKWidthDisplay,
    SpectralProjection,
    SpectrumDisplay,
    check_local_minimum,
    construct_suboptimal_minimum,
)
from skpoison.models import MLP, TorchClassifier

torch.set_num_threads(1)
X, y = load_digits(return_X_y=True)
few = PCA(8, whiten=True, random_state=0).fit_transform(X).astype(np.float32)

network = construct_suboptimal_minimum(MLP((8,), 10, hidden=(32, 32)), few, y)
report = check_local_minimum(network, few, y, random_state=0)
print(report.summary)

trained = TorchClassifier(module__hidden=(32, 32), device="cpu", random_state=0)
trained.fit(few, y)
with torch.no_grad():
    scores = trained.module_(torch.from_numpy(few))
loss = F.cross_entropy(scores, torch.from_numpy(y)).item()
print(f"\nloss of the minimum {report.loss:.3f}, of the trained network {loss:.3f}")

# %%
# The loss along random lines through both points, and along the direction of the least
# curvature. The constructed point lies at the bottom of a valley that is flat along one
# line; from the trained one, directions lead further down.

fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for ax, (title, module) in zip(
    axes, {"constructed": network, "trained": trained}.items(), strict=True
):
    LossSliceDisplay.from_module(
        module,
        few,
        y,
        directions=("smallest", "random"),
        n_random=3,
        radius=0.5,
        n_points=21,
        random_state=0,
        ax=ax,
    )
    ax.set_title(title)
plt.show()

# %%
# Must weights be small?
# ----------------------
# Weight decay pulls the squared norm of the weights to zero, norm bias to a number of
# your choice. Nothing is lost at a norm several times that of weight decay.

X, X_test, y, y_test = train_test_split(
    (X / 16).astype(np.float32), y, train_size=500, stratify=y, random_state=0
)
recipe = {"optimizer": "sgd", "optimizer__weight_decay": 0, "lr": 0.05, "device": "cpu"}
groups, networks = [], []
for target in (0, 100, 200):
    for seed in range(5):
        bias = NormBias(target, coef=0.01)
        net = TorchClassifier(
            **recipe, max_epochs=20, callbacks=[("norm", bias)], random_state=seed
        )
        networks.append(net.fit(X, y))
        groups.append(f"norm bias to {target}" if target else "weight decay")
_, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
NormAccuracyDisplay.from_estimators(networks, X_test, y_test, names=groups, ax=ax)
plt.show()

# %%
# Do wide networks stay where they start?
# ---------------------------------------
# If a network trained as a kernel machine, its tangent kernel would be the same after
# training as before. The wider a fully connected one is, the closer it comes to that.

widths, networks = [], []
for width in (16, 64, 256):
    for seed in range(3):
        tracker = NTKTracker(n_probe=15, at=20, random_state=seed)
        net = TorchClassifier(
            **{**recipe, "lr": 0.01},
            module__hidden=(width, width),
            max_epochs=20,
            callbacks=[("ntk", tracker)],
            random_state=seed,
        )
        networks.append(net.fit(X, y))
        widths.append(width)
_, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
NTKWidthDisplay.from_estimators(networks, widths, ax=ax)
plt.show()

# %%
# Is low rank robust?
# -------------------
# Singular values of the convolutions are set to zero below a threshold ("min"), which
# lowers the rank, or cut down to one ("max"), which raises it. Then accuracy is
# measured again, also under PGD.

networks = {}
for mode, threshold in ((None, None), ("min", 0.6), ("max", 1.0)):
    callbacks = []
    if mode:
        rank = SpectralProjection(
            mode, threshold, at_epochs=(5, 10, 15), skip_first=False
        )
        callbacks = [("rank", rank)]
    net = TorchClassifier(
        input_shape=(1, 8, 8),
        max_epochs=20,
        callbacks=callbacks,
        device="cpu",
        random_state=0,
    )
    networks[mode or "as trained"] = net.fit(X, y)

attack = PGD(eps=0.1, bounds=(0, 1), random_state=0)
fig, axes = plt.subplots(1, 3, figsize=(9, 3), sharey=True, layout="constrained")
for ax, (name, net) in zip(axes, networks.items(), strict=True):
    robust = robust_accuracy(net, X_test, y_test, attack=attack)
    print(f"{name:10} clean {net.score(X_test, y_test):.3f}, attacked {robust:.3f}")
    SpectrumDisplay.from_module(net, X, layers=["features.0", "features.3"], ax=ax)
    ax.set_title(name)
plt.show()

# %%
# One seed and a thousand digits decide nothing. The tables in `examples/papers` do the
# same with several seeds, with intervals, on Fashion-MNIST; see :ref:`landscape`.
