"""One network trained by several processes: the shares of a batch make the whole."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import distributed

from skpoison.defenses import DPSGDClassifier
from skpoison.models import MLP, SplitBatches, TorchClassifier
from skpoison.models._processes import Share

ROOT = Path(__file__).parents[2]
PARAMS = {"max_epochs": 2, "device": "cpu", "random_state": 0}


@pytest.fixture
def one_process():
    distributed.init_process_group(
        "gloo", store=distributed.HashStore(), rank=0, world_size=1
    )
    yield
    distributed.destroy_process_group()


def weights(model):
    return [t.numpy() for t in model.module_.state_dict().values()]


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return (X[:200] / 16).astype(np.float32), y[:200]


def test_one_of_one_trains_as_without(digits, one_process):
    with_callback = TorchClassifier(callbacks=[SplitBatches()], **PARAMS).fit(*digits)
    alone = TorchClassifier(**PARAMS).fit(*digits)
    for a, b in zip(weights(with_callback), weights(alone), strict=True):
        np.testing.assert_array_equal(a, b)
    assert with_callback.net_.share_ is None  # what is left can be pickled


@pytest.mark.parametrize("n_rows", [50, 7, 5, 1])
def test_weighted_shares_give_the_gradient_of_the_batch(n_rows, digits):
    module = MLP((64,), 10)
    X, y = torch.from_numpy(digits[0][:n_rows]), torch.from_numpy(digits[1][:n_rows])

    def gradient(X, y):
        loss = torch.nn.functional.cross_entropy(module(X), y)
        return torch.autograd.grad(loss, [*module.parameters()])

    total = 0
    for rank in range(3):
        share = Share(rank, 3)
        part = share.take(X, y)
        assert len(part[0]) >= min(n_rows, 2)
        total = total + share.weight * gradient(*part)[0]
    torch.testing.assert_close(total, gradient(X, y)[0])


def test_processes_that_are_not_connected(digits, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    model = TorchClassifier(callbacks=[SplitBatches()], **PARAMS)
    with pytest.raises(RuntimeError, match="2 processes, but they are not connected"):
        model.fit(*digits)


def test_a_privacy_bill_is_refused(digits, one_process):
    model = DPSGDClassifier(callbacks=[SplitBatches()], **PARAMS)
    with pytest.raises(ValueError, match="privacy bill that counts whole batches"):
        model.fit(*digits)


SCRIPT = """
import sys
import numpy as np
from accelerate import Accelerator
from sklearn.datasets import load_digits
from torch.nn import BatchNorm1d, Linear, ReLU, Sequential
from skpoison.defenses import GradientShapingClassifier, MixupClassifier
from skpoison.models import SplitBatches, TorchClassifier

accelerator = Accelerator()
rank = accelerator.process_index
X, y = load_digits(return_X_y=True)
X, y = X[:301] / 16, y[:301]
normalized = Sequential(Linear(64, 16), BatchNorm1d(16), ReLU(), Linear(16, 10))
for parameter in normalized.parameters():
    parameter.data.fill_(0.1)
params = {
    "max_epochs": 2,
    "batch_size": 50,
    "device": accelerator.device,
    "random_state": 0,
    "callbacks": [SplitBatches()],
}
found = {}
for name, model in [
    ("plain", TorchClassifier(**params)),
    ("mixup", MixupClassifier(normalized, **params)),
    ("shaping", GradientShapingClassifier(noise=0.05, **params)),
]:
    model.fit(X, y)
    found[name] = np.concatenate(
        [t.ravel() for t in model.module_.state_dict().values()]
    )
    found[name + "_loss"] = model.history_[:, "train_loss"]
model = TorchClassifier(**{**params, "random_state": rank})
try:
    model.fit(X, y)
except ValueError as error:
    found["error"] = str(error)
np.savez(f"{sys.argv[1]}/{rank}.npz", **found)
"""


def launch(*command):
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        + ["--nproc-per-node", "2", *map(str, command)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "ACCELERATE_USE_CPU": "true",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        },
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow  # two processes that import torch, twice
def test_two_processes_end_with_one_network(tmp_path, digits):
    pytest.importorskip("accelerate")
    (tmp_path / "train.py").write_text(textwrap.dedent(SCRIPT))
    launch(tmp_path / "train.py", tmp_path)
    first, second = (np.load(tmp_path / f"{rank}.npz") for rank in range(2))
    assert first.files == second.files
    for name in first.files:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
    assert str(first["error"]) == (
        "the random_state must be the same in all 2 processes: give an int"
    )
    X, y = load_digits(return_X_y=True)
    X, y = X[:301] / 16, y[:301]
    alone = TorchClassifier(batch_size=50, **PARAMS).fit(X, y)
    flat = np.concatenate([w.ravel() for w in weights(alone)])
    np.testing.assert_allclose(first["plain"], flat, atol=1e-4)
    np.testing.assert_allclose(
        first["plain_loss"], alone.history_[:, "train_loss"], rtol=1e-4
    )

    lines = launch(ROOT / "docs" / "snippets" / "several_gpus.py").splitlines()
    assert lines == ["processes: 2", "accuracy above 0.9: True"]
