"""
Segmenting an image on its super-pixels
=======================================

Segmentation gives each pixel the label that fits its colour, at a price for every
boundary between labels. The problem can be solved on the pixels or, much faster, on
super-pixels. What does that cost in quality? The energies tell, because a labelling of
super-pixels has the same energy as the labelling of pixels that it stands for.
"""

# %%
# On the pixels
# -------------
# A photograph at a quarter of its size. :class:`~skpoison.partition.LiftedPartition`
# finds six colours by k-means and solves the convex relaxation of the problem on the
# grid of pixels. The relaxed solution is rounded to a labelling, and a dual solution
# gives a lower bound of the energy of all labellings.

import time

import matplotlib.pyplot as plt
import numpy as np
from skimage.data import coffee
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV

from skpoison.partition import (
    BoundDisplay,
    LiftedPartition,
    SegmentationDisplay,
    SuperpixelGraph,
)

image = coffee()[::2, ::2] / 255.0
shared = {"n_labels": 6, "regularization": 0.1, "tol": 1e-3, "random_state": 0}


def fit(**params):
    start = time.process_time()
    model = LiftedPartition(**shared, **params).fit(image)
    return model, time.process_time() - start


grid, grid_seconds = fit(discretization="grid")
print(f"energy {grid.energy_:.2f}, lower bound {grid.lower_bound_:.2f}")

fig, axes = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
SegmentationDisplay.from_estimator(grid, image, ax=axes[0])
BoundDisplay.from_estimator(grid, kind="gap", x="iterations", ax=axes[1])
axes[0].set_title("six labels on the grid")
axes[1].set_title("how far from the best labelling at most")
plt.show()

# %%
# On super-pixels
# ---------------
# :class:`~skpoison.partition.SuperpixelGraph` joins pixels into cells by SLIC or by cut
# pursuit, which looks for cells that the energy can be small on. The unary costs of a
# cell are sums over its pixels, and the weight of two neighbours is the length of their
# interface. Boundaries of labels now follow boundaries of cells, so the energy is
# larger. Solving again on all pixels, started from the solution on the cells, takes
# this back.

slic = SuperpixelGraph(n_segments=1500)
models = {
    "SLIC": fit(discretization=slic),
    "SLIC, then bands": fit(discretization=slic, refine=True),
    "SLIC, then all pixels": fit(discretization=slic, refine="full"),
    "cut pursuit": fit(discretization=SuperpixelGraph("cut_pursuit", mu=0.03)),
    "grid": (grid, grid_seconds),
}
print(f"{'':24}{'nodes':>8}{'CPU s':>8}{'energy':>9}{'bound':>9}")
for name, (model, seconds) in models.items():
    print(
        f"{name:24}{model.graph_.n_nodes:8}{seconds:8.2f}"
        f"{model.energy_:9.2f}{model.lower_bound_:9.2f}"
    )

fig, axes = plt.subplots(2, 2, figsize=(9, 6.2), layout="constrained")
cells = SuperpixelGraph(n_segments=1500).fit(image)
SegmentationDisplay.from_labels(image, cells.labels_, ax=axes[0, 0], alpha=0.0)
axes[0, 0].set_title(f"{cells.n_segments_} cells of SLIC")
for ax, name in zip(axes.flat[1:], list(models)[:4:2] + ["cut pursuit"], strict=True):
    SegmentationDisplay.from_estimator(models[name][0], image, ax=ax)
    ax.set_title(f"{name}: {models[name][0].energy_ / grid.energy_:.3f} of the grid's")
plt.show()

# %%
# The bound of a solution on cells holds for labellings of the cells. After a refinement
# it holds for all labellings of the pixels. Bands fix what is far from a boundary, and
# their bound is loose; the bound of the solve on all pixels is as tight as the grid's.

# %%
# A search over parameters
# ------------------------
# Here a wanted segmentation is at hand: the grid's. Which cells and which price of
# boundaries come closest? ``GridSearchCV`` cuts its data along the first axis, so the
# split names all rows of the image for both sides.


def agreement(estimator, X, y):
    return adjusted_rand_score(y.ravel(), estimator.predict(X).ravel())


rows = np.arange(len(image))
search = GridSearchCV(
    LiftedPartition(discretization=SuperpixelGraph(), **shared),
    {"regularization": [0.03, 0.1], "discretization__n_segments": [300, 3000]},
    scoring=agreement,
    cv=[(rows, rows)],
    refit=False,
).fit(image, grid.labels_)
results = search.cv_results_
for params, score in zip(results["params"], results["mean_test_score"], strict=True):
    print(f"{score:.3f}  {params}")
