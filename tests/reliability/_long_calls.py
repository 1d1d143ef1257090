"""Long calls with a folder to resume from, run in forks that may be killed.

``python _long_calls.py`` imports once, reads orders from stdin, one a line, and carries
each out in a fork of its own: see `Calls.run` of ``test_kill_and_resume.py``.
"""

import hashlib
import json
import os
import signal
import sys
import time
import traceback
import warnings

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import LocalOutlierFactor
from sklearn.svm import SVC

from skpoison import attacks as attacks_
from skpoison.attacks import _protect
from skpoison.attacks._craft import _features, _minimise
from skpoison.attacks._implicit import _ascent, _queries
from skpoison.audit import audit
from skpoison.federated import (
    CenteredClipping,
    FederatedClassifier,
    Median,
    MimicAttack,
    SignFlipAttack,
    _saved,
    robustness_sweep,
)
from skpoison.models import TorchClassifier

X, Y = load_digits(n_class=3, return_X_y=True)
X, Y = X[:60] / 16, Y[:60]
NUMBERS = X[:, :40] @ np.linspace(-1, 1, 40)
NET = TorchClassifier(max_epochs=2, device="cpu")
CRAFTED = {"surrogate": NET, "budget": 0.2, "max_iter": 6}


def _audit(folder, seed=0):
    report = audit(
        GaussianNB(),
        X,
        Y,
        attacks=["random-flips", "clean-label-backdoor"],
        defenses={"lof": LocalOutlierFactor()},
        budgets=(0, 0.2),
        cv=3,
        random_state=seed,
        checkpoint=folder,
        verbose=0,
    )
    return [report.table.to_csv(), report.recommendation]


def _unseeded(folder):
    return _audit(folder, None)


def _sweep(folder):
    table = robustness_sweep(
        FederatedClassifier(n_clients=5),
        {"none": None, "flip": SignFlipAttack()},
        [Median()],
        0.2,
        *(X, Y, X, Y),
        seeds=(0, 1),
        param_grid={"n_rounds": [6]},
        every=3,
        checkpoint=folder,
    )
    return table.drop(columns="seconds").to_csv()


def _federated(folder):
    clf = FederatedClassifier(
        n_clients=7,
        n_byzantine=2,
        aggregator=CenteredClipping(),
        attack=MimicAttack(),
        n_rounds=12,
        snapshot_every=3,
        record_updates=5,
        select="best",
        random_state=0,
        checkpoint=folder,
    ).fit(X, Y)
    history = {k: v for k, v in clf.history_.items() if not k.startswith("time")}
    seen = clf.observed_update(5, 3)
    update = [tensor.numpy() for tensor in seen.update.values()]
    snapshots = [weights for _, weights in clf._state.snapshots]
    return [clf.weights_, history, update, snapshots, clf.predict(X)]


def _protected(folder):
    source = os.path.join(folder, "in")
    for row in range(8):
        kind = os.path.join(source, f"digit {Y[row]}")
        os.makedirs(kind, exist_ok=True)
        grey = (X[row].reshape(8, 8) * 255).astype(np.uint8)
        mine = f"{folder}/{os.getpid()}.png"
        Image.fromarray(grey).save(mine)
        os.rename(mine, os.path.join(kind, f"{row}.png"))  # two may do this at once
    target = os.path.join(folder, "out")
    attack = attacks_.ReleasePoisonAttack(online=True, max_iter=3, surrogate=NET)
    attacks_.protect_images(source, target, "folders", attack=attack, preview=2)
    written = sorted(_files_of(target))
    names = [os.path.relpath(path, target) for path in written]
    return names, [_content(p) for p in written if p.endswith(".png")]


def _content(path):
    with open(path, "rb") as file:
        return file.read()


def _poisoning(make, y=Y):
    def run(folder):
        attack = make(random_state=0, checkpoint=folder)
        if hasattr(attack, "fit_resample"):
            return list(attack.fit_resample(X, y))
        return attack.fit(X, y).transform(X)

    return run


def _attack(name, *args, **params):
    return lambda **more: getattr(attacks_, name)(*args, **params, **more)


CALLS = {
    "audit": _audit,
    "unseeded audit": _unseeded,
    "sweep": _sweep,
    "federated": _federated,
    "protect": _protected,
    "release": _poisoning(
        _attack("ReleasePoisonAttack", surrogate=NET, max_iter=6, eps=0.1)
    ),
    "matching": _poisoning(
        _attack("GradientMatchingAttack", **CRAFTED, n_restarts=2, n_ensemble=2)
    ),
    "sleeper": _poisoning(_attack("SleeperAgentAttack", **CRAFTED, retrain_every=2)),
    "metapoison": _poisoning(_attack("MetaPoisonAttack", **CRAFTED, n_ensemble=2)),
    "collision": _poisoning(_attack("FeatureCollisionAttack", **CRAFTED)),
    "polytope": _poisoning(_attack("ConvexPolytopeAttack", **CRAFTED)),
    "bullseye": _poisoning(_attack("BullseyePolytopeAttack", **CRAFTED)),
    "hidden": _poisoning(_attack("HiddenTriggerBackdoorAttack", **CRAFTED)),
    "bilevel": _poisoning(
        _attack("BilevelPoisoningAttack", SVC(), max_iter=5, budget=3)
    ),
    "influence": _poisoning(
        _attack("InfluenceAttack", LogisticRegression(), max_iter=5, budget=5)
    ),
    "regression": _poisoning(
        _attack("RegressionPoisoningAttack", LinearRegression(), max_iter=5, budget=3),
        NUMBERS,
    ),
    "back-gradient": _poisoning(
        _attack("BackGradientAttack", max_iter=4, n_steps=10, budget=2)
    ),
}


def _digest(value):
    """Hash a nest of lists, dicts, arrays, texts and bytes, to the last bit."""
    found = hashlib.sha256()

    def add(part):
        if isinstance(part, dict):
            part = [item for pair in part.items() for item in pair]
        if isinstance(part, list | tuple):
            found.update(f"[{len(part)}".encode())
            for inner in part:
                add(inner)
        elif isinstance(part, np.ndarray):
            found.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        else:
            found.update(part if isinstance(part, bytes) else repr(part).encode())

    add(value)
    return found.hexdigest()


def _files_of(folder):
    for where, _, names in os.walk(folder):
        yield from (os.path.join(where, name) for name in names)


def _save_often():
    """Make every step one after which a call can go on."""
    _minimise._SECONDS_BETWEEN_SAVES = _features._SECONDS_BETWEEN_SAVES = -1
    _ascent._SAVE_EVERY = _queries._SAVE_EVERY = 1
    _saved._SECONDS_BETWEEN_SAVES = -1
    _protect._BATCH = 2


def _die_in_writing(moment, number):
    """Send SIGKILL at one moment of the `number`-th file that is written.

    Parameters
    ----------
    moment : {"half", "whole", "there"}
        Half of it is written; all is; it has its name.
    number : int
        From 1; 0 only counts.
    """
    fsync, replace, n_written = os.fsync, os.replace, [0]

    def die():
        os.kill(os.getpid(), signal.SIGKILL)

    def counted_fsync(handle):
        n_written[0] += 1
        if n_written[0] == number and moment == "half":
            os.ftruncate(handle, os.fstat(handle).st_size // 2)
            die()
        fsync(handle)

    def deadly_replace(source, target):
        if n_written[0] == number and moment == "whole":
            die()
        replace(source, target)
        if n_written[0] == number and moment == "there":
            die()

    os.fsync, os.replace = counted_fsync, deadly_replace
    return n_written


def _carry_out(order):
    """Do one call and write how it went; never comes back."""
    warnings.simplefilter("ignore")
    _save_often()
    n_written = _die_in_writing(*order["in_writing"])
    start = time.perf_counter()
    try:
        answer = {"digest": _digest(CALLS[order["call"]](order["folder"]))}
    except BaseException as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
        if order["in_writing"][1] == 0 and order["signal"] is None:
            traceback.print_exc()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # one that comes late
    answer["seconds"] = time.perf_counter() - start
    answer["n_written"] = n_written[0]
    with open(order["answer"], "w") as file:
        json.dump(answer, file)
    os._exit(0)


def _fork(order):
    pid = os.fork()
    if pid == 0:
        _carry_out(order)
    return pid


def serve():
    torch.set_num_threads(1)  # forks have no other threads
    NET.fit(X, Y)  # what torch loads at first use is there for all forks
    for line in sys.stdin:
        orders = json.loads(line)
        pids = [_fork(order) for order in orders]
        answers = []
        for order, pid in zip(orders, pids, strict=True):
            if order["signal"] is not None:
                time.sleep(order["after"])
                os.kill(pid, order["signal"])
        for order, pid in zip(orders, pids, strict=True):
            _, status = os.waitpid(pid, 0)
            if status == 0:
                with open(order["answer"]) as file:
                    answers.append(json.load(file))
                os.unlink(order["answer"])
            else:
                answers.append({"killed": os.waitstatus_to_exitcode(status)})
        print(json.dumps(answers), flush=True)


if __name__ == "__main__":
    serve()
