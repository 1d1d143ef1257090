"""The crafting engine: beside ART, beside the bare arithmetic, batched and looped.

Every case runs on one convolutional network, trained first, for images of 28 by 28.
"a bare double backward" is the gradient of the loss in the weights, kept in the graph,
and the gradient of its product with a fixed direction in the pixels: what no attack
that matches gradients can do without. "a loop" takes restarts and members one by one,
with the same code.
"""

import tracemalloc

import numpy as np
import torch
from bench_torch import images
from sklearn.frozen import FrozenEstimator
from torch import nn
from torch.nn import functional as F

from skpoison.attacks import GradientMatchingAttack
from skpoison.attacks._craft._goals import stacked_goals
from skpoison.attacks._craft._matching import GradientMatching
from skpoison.attacks._craft._members import stack
from skpoison.models import MLP, ConvNet, TorchClassifier
from skpoison.utils import RandomStreams

_EPS, _SHAPE = 32 / 255, (1, 28, 28)


class StridedNet(nn.Module):
    """Two strided convolutions and two linear layers, 26,874 weights."""

    def __init__(self, input_shape, n_outputs):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(input_shape[0], 8, 5, 2, padding=2),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, 2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(784, 32),
            nn.ReLU(),
            nn.Linear(32, n_outputs),
        )

    def forward(self, X):
        return self.layers(X)


class Problem:
    """One gradient-matching problem on tensors, as the engine sees it."""

    def __init__(self, modules, n_restarts, n_rows, batch_size):
        groups = stack(modules, _SHAPE, torch.device("cpu"))
        generator = torch.Generator().manual_seed(0)
        X = torch.rand(1, n_rows, *_SHAPE, generator=generator)
        y = torch.randint(10, (1, n_rows), generator=generator)
        target = torch.rand(1, *_SHAPE, generator=generator)
        problems = [[(target, torch.tensor([3]))]]
        goals = [stacked_goals(g, problems, "cross_entropy") for g in groups]
        self.objective = GradientMatching(
            groups,
            goals,
            X,
            y,
            loss="cosine",
            streams=RandomStreams(0),
            batch_size=batch_size,
        )
        shape = (1, n_restarts, n_rows, *_SHAPE)
        self.delta = (torch.rand(shape, generator=generator) - 0.5) * _EPS
        self.module, self.X, self.y = modules[0], X[0], y[0]
        self.direction = [torch.randn_like(p) for p in self.module.parameters()]

    def step(self):
        """Take the objective and its gradient once."""
        return self.objective(self.delta, 0)

    def bare(self):
        """Do only what every implementation must."""
        x = (self.X + self.delta[0, 0]).requires_grad_()
        g = torch.autograd.grad(
            F.cross_entropy(self.module(x), self.y),
            list(self.module.parameters()),
            create_graph=True,
        )
        return torch.autograd.grad(g, x, self.direction)


def _modules(kind, n):
    torch.manual_seed(0)
    return [kind(_SHAPE, 10) for _ in range(n)]


def _mlp(shape, n_outputs):
    return MLP(shape, n_outputs, hidden=(128, 64))


def _steps(bench):
    bench.title("One step of crafting, 100 poisons")
    kinds = {"MLP 784-128-64-10": _mlp, "strided": StridedNet, "ConvNet": ConvNet}
    for name, kind in kinds.items():
        problem = Problem(_modules(kind, 1), 1, 100, 512)
        bench.compare(
            f"step, {name}",
            problem.step,
            {"bare double backward": problem.bare},
            repeats=25,
            bars={"bare double backward": 1.5},
        )


def _batching(bench):
    bench.title("8 restarts x 8 members, 40 poisons")
    kinds = {"MLP 784-128-64-10": _mlp, "strided": StridedNet, "ConvNet": ConvNet}
    for name, kind in kinds.items():
        batched = Problem(_modules(kind, 8), 8, 40, 512)
        looped = Problem(_modules(kind, 8), 8, 40, 40)
        bench.compare(
            f"step, {name}",
            batched.step,
            {"a loop": looped.step},
            repeats=5,
            bars={"a loop": 0.5} if kind is StridedNet else None,
        )


def _memory(bench):
    """Show that memory does not grow over the steps."""
    problem = Problem(_modules(StridedNet, 2), 2, 40, 512)
    problem.step()
    tracemalloc.start()
    peaks = []
    for _ in range(2):
        tracemalloc.reset_peak()
        for _ in range(bench.size(100, 10)):
            problem.step()
        peaks.append(tracemalloc.get_traced_memory()[1] / 1e6)
    tracemalloc.stop()
    print(
        "\nPython memory at its peak over the first half of the steps and the second: "
        f"{peaks[0]:.2f} MB, {peaks[1]:.2f} MB"
    )


class _Duel:
    """The same problem for ART's attack and for ours."""

    n_poisons, n_steps = 40, 60

    def __init__(self, bench):
        X, y, source = images(bench.size(2001, 401))
        self.X, self.y = np.asarray(X[:-1], dtype=np.float32), np.asarray(y[:-1])
        self.target = np.asarray(X[-1:], dtype=np.float32)
        if self.X.max() > 1:
            self.X, self.target = self.X / 255, self.target / 255
        self.y = self.y.astype(int)
        self.n_steps = bench.size(self.n_steps, 5)
        self.label = int((y[-1] + 1) % 10)
        net = TorchClassifier(StridedNet, max_epochs=10, device="cpu", random_state=0)
        self.net, self.source = net.fit(self.X, self.y), source
        np.random.seed(0)  # noqa: NPY002 - ART draws from the global stream
        wanted = np.flatnonzero(self.y == self.label)
        self.rows = np.random.permutation(wanted)[: self.n_poisons]  # noqa: NPY002

    def ours(self):
        """Craft with skpoison, on the rows that ART's draw will pick."""
        attack = GradientMatchingAttack(
            self.target,
            self.label,
            budget=self.n_poisons,
            eps=_EPS,
            bounds=(0.0, 1.0),
            surrogate=FrozenEstimator(self.net),
            max_iter=self.n_steps,
            n_restarts=1,
            selection=self.rows,
            random_state=0,
        )
        data = attack.poison(self.X, self.y)
        self.our_loss, self.attack = self.loss(data.X, attack.poison_indices_), attack

    def art(self):
        """Craft with ART; keep the poisons."""
        from art.attacks.poisoning import GradientMatchingAttack as Peer
        from art.estimators.classification import PyTorchClassifier

        np.random.seed(0)  # noqa: NPY002
        classifier = PyTorchClassifier(
            self.net.module_, nn.CrossEntropyLoss(), _SHAPE, 10, clip_values=(0, 1)
        )
        attack = Peer(
            classifier,
            percent_poison=self.n_poisons / len(self.X),
            epsilon=_EPS,
            max_trials=1,
            max_epochs=self.n_steps,
            clip_values=(0, 1),
            batch_size=self.n_poisons,
            verbose=0,
            learning_rate_schedule=(
                [1e-1, 1e-2, 1e-3, 1e-4],
                [int(self.n_steps // f) for f in (2.667, 1.6, 1.142)] + [self.n_steps],
            ),
        )
        label = np.array([self.label])
        found, _ = attack.poison(self.target, label, self.X, self.y)
        self.art_loss = self.loss(found, self.rows)

    def loss(self, X, rows):
        """Return one minus the cosine, computed here for both."""
        module = self.net.module_.eval()

        def gradient(x, labels):
            loss = F.cross_entropy(module(torch.as_tensor(x)), torch.as_tensor(labels))
            parts = torch.autograd.grad(loss, list(module.parameters()))
            return torch.cat([p.flatten() for p in parts])

        goal = gradient(self.target, np.array([self.label]))
        found = gradient(X[rows].astype(np.float32), self.y[rows])
        return 1 - float(F.cosine_similarity(goal, found, dim=0))


def _against_art(bench):
    if bench.optional("art.attacks.poisoning") is None:
        return
    duel = _Duel(bench)
    bench.title(
        f"A whole craft on {duel.source}: {duel.n_poisons} poisons, "
        f"{duel.n_steps} steps"
    )
    bench.compare(
        "gradient matching, strided",
        duel.ours,
        {"ART": duel.art},
        repeats=3,
        bars={"ART": 0.1},
    )
    print(f"1 - cosine at the end: ours {duel.our_loss:.4f}, ART {duel.art_loss:.4f}")


def measure(bench):
    """Time one step, batched and looped steps, and whole crafts."""
    _steps(bench)
    _batching(bench)
    _memory(bench)
    _against_art(bench)
