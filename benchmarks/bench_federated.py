"""A round of federated training: all clients at once against one after the other.

Softmax regression on 60,000 rows of 784 values, those of MNIST where they are on this
machine, and a small network; 100 clients, batches of 32. The bar is a third of the time
of clients that take turns and differentiate by autograd, as simulators do.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from skpoison.datasets import fetch_mnist, find_dataset
from skpoison.federated import FederatedClassifier, Krum, Median, TrimmedMean
from skpoison.federated._clients import BatchPlan, Clients
from skpoison.federated._engines import LoopEngine, VectorizedEngine
from skpoison.federated._learners import make_learner
from skpoison.models import MLP, LinearModel

N_CLIENTS = 100


def data(bench):
    """Return images as rows and their labels."""
    n_rows = bench.size(60_000, 6_000)
    if find_dataset("mnist") is not None:
        found = fetch_mnist(subset="train", download_if_missing=False)
        X = np.asarray(found.data, np.float32).reshape(-1, 784)[:n_rows]
        return X, np.asarray(found.target, int)[:n_rows]
    rng = np.random.default_rng(0)
    X = rng.random((n_rows, 784), np.float32)
    return X, (X @ rng.normal(size=(784, 10))).argmax(axis=1)


def clients_of(estimator, X, y):
    """Return clients with the same number of rows."""
    learner = make_learner(
        estimator, X.shape[1:], 10, dtype=X.dtype, device="cpu", seed=0
    )
    starts = np.linspace(0, len(X), N_CLIENTS + 1).astype(int)
    return Clients(learner, X, y, starts, BatchPlan(0, 32), 0.1)


def rounds_of(engine):
    """Return a function that runs one round after the other and gives its updates."""
    weights = engine.clients.learner.initial_weights(0)
    numbers = np.arange(N_CLIENTS)
    counter = iter(range(10**9))

    def run():
        return engine.updates(next(counter), weights, numbers)[0]

    return run


def with_loaders(X, y):
    """Return a round as simulators write it: a loader, a model, an optimizer each."""
    parts = zip(np.array_split(X, N_CLIENTS), np.array_split(y, N_CLIENTS), strict=True)
    loaders = [
        DataLoader(
            TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), 32, shuffle=True
        )
        for X, y in parts
    ]
    model = nn.Linear(784, 10)
    start = {k: v.clone() for k, v in model.state_dict().items()}

    def run():
        updates = []
        for loader in loaders:
            model.load_state_dict(start)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            rows, labels = next(iter(loader))
            F.cross_entropy(model(rows), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            flat = nn.utils.parameters_to_vector(model.parameters())
            updates.append(flat.detach().clone())
        return torch.stack(updates)

    return run


def products(clients):
    """Return the two products that no gradient of one round does without."""
    rows = [clients.plan.rows(i, int(n), 0)[0] for i, n in enumerate(clients.sizes)]
    X = clients.X[np.stack(rows) + clients.starts[:-1, np.newaxis]]
    coef = np.ones((10, 784), X.dtype)
    slope = np.ones((N_CLIENTS, 10, 32), X.dtype)

    def run():
        logits = X.reshape(-1, 784) @ coef.T
        return logits, slope @ X

    return run


def measure(bench):
    """Time rounds of all clients, and the phases of whole rounds."""
    X, y = data(bench)
    bench.title(
        "A round of 100 clients, batches of 32; bound: the two matrix products of "
        "softmax regression"
    )
    closed = clients_of(None, X, y)
    fast, slow = VectorizedEngine(closed), LoopEngine(closed)
    autograd = LoopEngine(clients_of(LinearModel, X, y))
    ours, alone = rounds_of(fast)(), rounds_of(slow)()
    np.testing.assert_allclose(ours, alone, atol=1e-6)
    bench.compare(
        "softmax regression, d = 7,850",
        rounds_of(fast),
        {
            "in turn, autograd": rounds_of(autograd),
            "in turn, DataLoaders": with_loaders(X, y),
            "in turn, closed form": rounds_of(slow),
        },
        repeats=9,
        bound=products(closed),
        bars={"in turn, autograd": 1 / 3, "in turn, DataLoaders": 1 / 3},
    )
    clients = clients_of(MLP, X, y)
    fast, slow = rounds_of(VectorizedEngine(clients)), rounds_of(LoopEngine(clients))
    np.testing.assert_allclose(fast(), slow(), atol=1e-6)
    bench.compare("MLP, d = 50,890", fast, {"in turn, autograd": slow}, repeats=5)
    print("\nWhole rounds with 20 Byzantine clients, milliseconds")
    for rule in (None, Krum(), TrimmedMean(), Median()):
        clf = FederatedClassifier(
            aggregator=rule, n_rounds=bench.size(50, 5), random_state=0
        )
        history = clf.fit(X, y).history_
        phases = {k: v for k, v in history.items() if k.startswith("time")}
        shown = [f"{k} {np.median(v) * 1e3:.2f}" for k, v in phases.items()]
        print(f"{rule or 'Mean()'!s:16}", ", ".join(shown), flush=True)
