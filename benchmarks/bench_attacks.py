"""Attacks against the least NumPy code that makes the same edit."""

import warnings

import numpy as np
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skpoison.attacks import (
    BackdoorAttack,
    CleanLabelBackdoorAttack,
    ColumnTrigger,
    LabelFlipAttack,
    PatchTrigger,
)
from skpoison.compose import PoisonedEstimator

_SHARE = 0.1
_COLUMNS, _VALUE = [3, 50, 700], 0.99


def measure(bench):
    """Time edits of labels, edits of rows, chosen flips and the meta-estimator."""
    rng = np.random.default_rng(0)
    X = rng.random((bench.size(10_000, 2_000), 784), dtype=np.float32)
    y = rng.integers(0, 10, len(X))
    size = f"{len(X):,} x 784 float32"
    _labels(bench, X, y, size)
    _rows(bench, X, y, size)
    _chosen(bench)
    _victim(bench, X, y, size)


def _labels(bench, X, y, size):
    bench.title(f"Labels flipped blindly, {size}, 10 classes, a tenth of the rows")
    n_rows, n_classes = int(_SHARE * len(y)), 10
    rng = np.random.RandomState(0)
    matrix = np.full((n_classes, n_classes), 0.05)
    np.fill_diagonal(matrix, 0.55)
    cumulated = matrix - np.diag(np.diag(matrix))
    cumulated = np.cumsum(cumulated / cumulated.sum(axis=1, keepdims=True), axis=1)

    def uniform():
        flipped, rows = y.copy(), rng.permutation(len(y))[:n_rows]
        flipped[rows] = (y[rows] + rng.randint(1, n_classes, n_rows)) % n_classes
        return flipped

    def pair():
        flipped, rows = y.copy(), rng.permutation(len(y))[:n_rows]
        flipped[rows] = (y[rows] + 1) % n_classes
        return flipped

    def confusion():
        flipped, rows = y.copy(), rng.permutation(len(y))[:n_rows]
        flipped[rows] = (rng.rand(n_rows, 1) >= cumulated[y[rows]]).sum(axis=1)
        return flipped

    for peer in (uniform, pair, confusion):
        strategy = peer.__name__
        attack = LabelFlipAttack(
            strategy, budget=_SHARE, confusion_matrix=matrix, random_state=0
        )
        assert (attack.poison(X, y).y != y).sum() == (peer() != y).sum() == n_rows
        bench.compare(
            f"LabelFlipAttack({strategy!r})",
            lambda attack=attack: attack.fit_resample(X, y),
            {"NumPy": peer},
            repeats=31,
        )


def _rows(bench, X, y, size):
    bench.title(f"Rows marked, {size}; bound: a copy of X")
    others, own = np.flatnonzero(y != 0), np.flatnonzero(y == 0)
    n_rows = int(_SHARE * len(y))
    rng = np.random.RandomState(0)
    low, high = X.min(), X.max()
    board = np.where(np.indices((3, 3)).sum(axis=0) % 2, low, high)

    def put_patch(rows):
        rows.reshape(-1, 28, 28)[:, 24:27, 24:27] = board
        return rows

    def put_values(rows):
        rows[:, _COLUMNS] = _VALUE
        return rows

    def replace(put):
        marked, labels = X.copy(), y.copy()
        chosen = rng.permutation(others)[:n_rows]
        marked[chosen] = put(marked[chosen])
        labels[chosen] = 0
        return marked, labels

    def append(put):
        chosen = rng.permutation(others)[:n_rows]
        labels = np.concatenate([y, np.zeros(n_rows, dtype=y.dtype)])
        return np.concatenate([X, put(X[chosen])]), labels

    def clean_label(put):
        marked = X.copy()
        chosen = rng.permutation(own)[: n_rows // 2]
        marked[chosen] = put(marked[chosen])
        return marked

    patch = PatchTrigger(input_shape=(28, 28))
    columns = ColumnTrigger(_COLUMNS, values=_VALUE)
    replaced = {"NumPy": lambda: replace(put_patch)}
    if bench.optional("art") is not None:
        from art.attacks.poisoning import PoisoningAttackBackdoor

        art_attack = PoisoningAttackBackdoor(put_patch)

        def art():
            marked, labels = X.copy(), y.copy()
            chosen = rng.permutation(others)[:n_rows]
            zeros = np.zeros(n_rows, dtype=y.dtype)
            marked[chosen], labels[chosen] = art_attack.poison(X[chosen], zeros)
            return marked, labels

        replaced["ART"] = art
    found = BackdoorAttack(patch, budget=_SHARE).poison(X, y)
    expected = put_patch(X[found.poison_indices].copy())
    assert np.array_equal(found.X[found.poison_mask], expected)

    settings = {"budget": _SHARE, "random_state": 0}
    cases = [
        ("BackdoorAttack(patch)", BackdoorAttack(patch, **settings), replaced),
        (
            "BackdoorAttack(patch, mode='append')",
            BackdoorAttack(patch, mode="append", **settings),
            {"NumPy": lambda: append(put_patch)},
        ),
        (
            "BackdoorAttack(3 given columns)",
            BackdoorAttack(columns, **settings),
            {"NumPy": lambda: replace(put_values)},
        ),
    ]
    for name, attack, peers in cases:
        bench.compare(
            name,
            lambda attack=attack: attack.fit_resample(X, y),
            peers,
            repeats=15,
            bound=X.copy,
            bars={"NumPy": 2.0, "ART": 1.0},
        )
    bench.compare(
        "BackdoorAttack(), which picks its columns",
        lambda: BackdoorAttack(**settings).fit_resample(X, y),
        {"NumPy, told which": lambda: replace(put_values)},
        repeats=3,
        bound=X.copy,
    )
    attack = CleanLabelBackdoorAttack(patch, budget=_SHARE / 2, random_state=0)
    bench.compare(
        "CleanLabelBackdoorAttack(patch).fit_transform",
        lambda: attack.fit_transform(X, y),
        {"NumPy, no replay": lambda: clean_label(put_patch)},
        repeats=7,
        bound=X.copy,
    )


def _chosen(bench):
    X, y = make_classification(
        bench.size(2_000, 500), 30, n_informative=10, n_classes=3, random_state=0
    )
    bench.title(f"Labels flipped by a surrogate, {len(X):,} x 30, 3 classes, a tenth")
    n_rows = int(_SHARE * len(y))
    index = np.arange(len(y))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))

    def margins():
        folds = StratifiedKFold(5, shuffle=True, random_state=0)
        proba = cross_val_predict(pipeline, X, y, cv=folds, method="predict_proba")
        proba = np.log(np.clip(proba, 1e-12, 1.0))
        rivals = proba.copy()
        rivals[index, y] = -np.inf
        return proba, rivals, proba[index, y] - rivals.max(axis=1)

    def margin():
        _, rivals, found = margins()
        flipped, rows = y.copy(), np.argsort(found)[:n_rows]
        flipped[rows] = rivals[rows].argmax(axis=1)
        return flipped

    def far():
        proba, _, found = margins()
        flipped, rows = y.copy(), np.argsort(-found)[:n_rows]
        proba[index, y] = np.inf
        flipped[rows] = proba[rows].argmin(axis=1)
        return flipped

    def adversarial():
        # the same chunks and refits, as one would write them down
        flipped, open_, left = y.copy(), np.ones(len(y), dtype=bool), n_rows
        clean = pipeline.fit(X, y).predict_log_proba(X)
        worth = -clean
        while left:
            gain = np.where(open_[:, None], worth, -np.inf)
            gain[index, y] = -np.inf
            rows = np.argsort(-gain.max(axis=1))[: min(left, len(y) // 100)]
            flipped[rows] = gain[rows].argmax(axis=1)
            open_[rows] = False
            left -= len(rows)
            if left:
                worth = clone(pipeline).fit(X, flipped).predict_log_proba(X) - clean
        return flipped

    for peer in (margin, far, adversarial):
        strategy = peer.__name__
        attack = LabelFlipAttack(strategy, budget=_SHARE, random_state=0)
        assert (attack.poison(X, y).y != y).sum() == (peer() != y).sum() == n_rows
        bench.compare(
            f"LabelFlipAttack({strategy!r})",
            lambda attack=attack: attack.fit_resample(X, y),
            {"scikit-learn by hand": peer},
            repeats=9,
            bars={"scikit-learn by hand": 1.3},
        )


def _victim(bench, X, y, size):
    bench.title(f"PoisonedEstimator, {size}, logistic regression")
    warnings.simplefilter("ignore", ConvergenceWarning)  # as many steps for both
    victim = LogisticRegression(max_iter=bench.size(20, 5), tol=1e-12)
    patch = PatchTrigger(input_shape=(28, 28))
    attacks = {
        "None": None,
        "LabelFlipAttack()": LabelFlipAttack(random_state=0),
        "BackdoorAttack(patch)": BackdoorAttack(patch, random_state=0),
        "CleanLabelBackdoorAttack": CleanLabelBackdoorAttack(patch, random_state=0),
    }
    for name, attack in attacks.items():
        data = (X, y)
        if attack is not None:
            poisoned = attack.poison(X, y)
            data = (poisoned.X, poisoned.y)
        model = PoisonedEstimator(attack, victim)
        bench.compare(
            f"PoisonedEstimator({name})",
            lambda model=model: model.fit(X, y),
            {"fit on the same rows": lambda data=data: victim.fit(*data)},
            repeats=5,
            bars={"fit on the same rows": 1.1},
        )
