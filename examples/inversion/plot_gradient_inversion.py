"""
What a gradient tells about an image
====================================

In federated learning clients send gradients, not images. The gradient of one image
holds the image: layer by layer it solves linear equations. This example solves them,
adds noise to see how much hides the image, and ends with a batch.
"""

# %%
# One gradient
# ------------
# The client's secret is a patch of a photograph. The server knows the network, here an
# untrained LeNet with sigmoid units, and receives one gradient.

import warnings

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits, load_sample_image

from skpoison.inversion import (
    AnalyticInversion,
    client_update,
    invert_linear,
    noise_update,
    recover_labels,
)
from skpoison.metrics import psnr
from skpoison.models import MLP, LeNet

photo = load_sample_image("flower.jpg")[100:196, 250:346] / 255
secret = photo.reshape(24, 4, 24, 4, 3).mean(axis=(1, 3)).transpose(2, 0, 1)[None]

torch.manual_seed(0)
network = LeNet(secret.shape[1:], 10).double()
gradient = client_update(network, secret, [3])

attack = AnalyticInversion(network, device="cpu")
found = attack.reconstruct(gradient, shape=secret.shape[1:])
print(f"label {found.y[0]}, exact: {found.exact}")
print(f"PSNR {psnr(secret, found.X):.0f} dB")

# %%
# There is no optimisation in it. The gradient of the last layer gives its input, from
# which the inputs of the three convolutions follow, one system of equations each.

print("layer       equations  unknowns   mismatch")
for layer in found.layers:
    n_equations, n_unknowns = layer.shape
    print(f"{layer.name:12}{n_equations:9}{n_unknowns:10}   {layer.residual:.0e}")

# %%
# Rounding and noise
# ------------------
# Each layer that is undone multiplies what is wrong with the gradient. Single precision
# leaves the image as it is to the eye. Noise is given relative to the root mean square
# of the gradient's entries; where the equations no longer agree, the attack goes on by
# matching the gradient.

cases = {"float32": {name: g.float() for name, g in gradient.items()}}
for level in (1e-4, 1e-3, 1e-2, 1e-1):
    cases[f"noise {level:g}"] = noise_update(gradient, level, random_state=0)

fig, axes = plt.subplots(1, 6, figsize=(9, 1.9), layout="constrained")
axes[0].imshow(secret[0].transpose(1, 2, 0))
axes[0].set_title("secret", fontsize=8)
for ax, (name, update) in zip(axes[1:], cases.items(), strict=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "noisy, or of a batch": it is
        found = attack.reconstruct(update, [3], secret.shape[1:])
    ax.imshow(found.X[0].transpose(1, 2, 0))
    ax.set_title(f"{name}\n{psnr(secret, found.X):.0f} dB", fontsize=8)
    print(f"{name:12} {found.method:16} residual {found.residual:.1e}")
for ax in axes:
    ax.axis("off")
plt.show()

# %%
# A batch
# -------
# The mean gradient of several samples is another matter: what the first layer gives is
# a mixture. But the labels can be counted, and behind ReLU some units answer to one
# sample alone. Units that agree on an input give it away.

X, y = load_digits(return_X_y=True)
X, y = X[100:108] / 16, y[100:108]
torch.manual_seed(0)
network = MLP((64,), 10, hidden=(1000,)).double()
gradient = client_update(network, X, y)

labels = recover_labels(gradient, network, n_samples=8, random_state=0)
print("labels ", np.sort(y))
print("counted", labels)

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)  # "of a batch": so it is
    mixture, candidates = invert_linear(
        gradient["layers.0.weight"],
        gradient["layers.0.bias"],
        bounds=(0, 1),
        return_candidates=True,
    )
distances = np.linalg.norm(candidates[:, None] - X, axis=2)
errors = distances.min(axis=1)
print(f"{len(candidates)} of 8 samples found, errors up to {errors.max():.0e}")

fig, axes = plt.subplots(2, 9, figsize=(9, 2.2), layout="constrained")
for ax in axes.flat:
    ax.axis("off")
for ax, digit in zip(axes[0, 1:], X, strict=True):
    ax.imshow(digit.reshape(8, 8), cmap="gray_r")
axes[1, 0].imshow(mixture.reshape(8, 8), cmap="gray_r")
axes[1, 0].set_title("mixture", fontsize=8)
for candidate, nearest in zip(candidates, distances.argmin(axis=1), strict=True):
    axes[1, 1 + nearest].imshow(candidate.reshape(8, 8), cmap="gray_r")
axes[0, 0].set_title("secrets", fontsize=8)
plt.show()

# %%
# What keeps an image private is noise of the gradient's own size, or a batch that is
# large for the layer that it meets first. How much is enough is worth measuring on the
# network that is used, with this attack and with ``GradientInversion``, which matches
# the gradient by optimisation and takes batches.
