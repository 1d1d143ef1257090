"""The arithmetic behind LabelIssueDetector: out-of-fold models and a noise model."""

import warnings

import numpy as np
from joblib import Parallel, delayed
from scipy.sparse import issparse
from scipy.special import softmax
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, Normalizer
from sklearn.utils import check_consistent_length

from skpoison.utils import RandomStreams, make_table_encoder, set_random_states
from skpoison.utils._containers import is_frame, take_rows

# Chosen on digits, breast cancer, wine and blobs (benchmarks/bench_label_issues.py).
FLOOR = 0.05  # mass spread evenly: a vote of neighbours that says 0 means "rare"
SHARPNESS = 2.5  # centre of the prior: averages of models are underconfident
SHARPNESS_PENALTY = 0.03  # a row, times the squared log distance from the centre
SHARPNESS_GRID = SHARPNESS * 2.0 ** np.arange(-2.5, 1.51, 0.25)
N_EM_STEPS = 30
WEIGHT_POWER = 4  # a model half as far above chance as the best counts 1/16


def default_estimators(X):
    """Return the models for data that come without any."""
    if issparse(X):
        return [
            make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=1000)),
            make_pipeline(Normalizer(), KNeighborsClassifier(10)),
        ]
    encoder = make_table_encoder(X)
    estimators = [
        make_pipeline(encoder, LogisticRegression(C=0.1, max_iter=1000)),
        make_pipeline(encoder, KNeighborsClassifier(10)),
    ]
    if not is_frame(X) and X.dtype.kind in "biuf" and not np.isnan(X).any():
        estimators.append(KNeighborsClassifier(10))
    return estimators


def seeded_estimators(estimators, X, streams):
    """Clone the estimators, or the defaults for X, and seed each by position."""
    if estimators is None:
        estimators = default_estimators(X)
    elif not isinstance(estimators, list | tuple) or not estimators:
        raise TypeError(
            f"estimators must be a non-empty list of classifiers, got {estimators!r}"
        )
    clones = []
    for position, estimator in enumerate(estimators):
        if not hasattr(estimator, "predict_proba"):
            raise TypeError(
                f"estimators[{position}] = {estimator!r} has no predict_proba; "
                "sklearn.calibration.CalibratedClassifierCV gives it one"
            )
        clones.append(clone(estimator))
        seed = streams.seed(f"estimator {position}")
        set_random_states(clones[-1], RandomStreams(seed))
    return clones


def make_folds(y, groups, n_folds, seed):
    """Return stratified folds, and which classes they allow to judge.

    Fewer folds than asked for when no class has as many members (or groups).
    """
    n_classes = y.max() + 1
    if groups is None:
        sizes = np.bincount(y)
    else:
        check_consistent_length(y, groups)
        groups = np.unique(np.asarray(groups), return_inverse=True)[1]
        sizes = np.array([len(set(groups[y == k])) for k in range(n_classes)])
    n_folds = min(n_folds, sizes.max())
    if n_folds < 2:
        raise ValueError(
            f"no class has two {'members' if groups is None else 'groups'} among "
            f"n_samples = {len(y)}: out-of-fold models cannot be trained"
        )
    Splitter = StratifiedKFold if groups is None else StratifiedGroupKFold
    splitter = Splitter(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # the detector says it, by name of the class
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(splitter.split(np.zeros(len(y)), y, groups)), sizes >= n_folds


def out_of_fold(estimators, X, y, folds, keep, n_jobs):
    """Return probabilities by models that saw only kept rows of the other folds.

    Shape (n_estimators, n_samples, n_classes).
    """
    tables = np.zeros((len(estimators), len(y), y.max() + 1))
    jobs = []
    for train, test in folds:
        kept = train[keep[train]]
        # a class that lost all its rows here comes back whole
        kept = train[keep[train] | ~np.isin(y[train], y[kept])]
        if len(kept) and len(test):  # folds by group may be empty
            jobs += [(m, kept, test) for m in range(len(estimators))]
    answers = Parallel(n_jobs=n_jobs)(
        delayed(_predict)(estimators[m], X, y, kept, test) for m, kept, test in jobs
    )
    for (m, _, test), (present, answer) in zip(jobs, answers, strict=True):
        tables[m][np.ix_(test, present)] = answer
    return tables


def _predict(estimator, X, y, train, test):
    present = np.unique(y[train])
    if len(present) == 1:  # many classifiers refuse a single class
        return present, np.ones((len(test), 1))
    estimator = clone(estimator)
    for name, value in estimator.get_params().items():
        # neighbours can't be more than there are rows: a vote of all, not an error
        if name.split("__")[-1] == "n_neighbors" and isinstance(value, int):
            estimator.set_params(**{name: min(value, len(train))})
    estimator.fit(take_rows(X, train), y[train])
    return estimator.classes_, estimator.predict_proba(take_rows(X, test))


def check_tables(pred_proba, n_samples, n_classes):
    """Check the caller's own probabilities; shape as from :func:`out_of_fold`."""
    tables = np.asarray(pred_proba, dtype=float)
    tables = tables[None] if tables.ndim == 2 else tables
    if tables.ndim != 3 or tables.shape[1:] != (n_samples, n_classes):
        raise ValueError(
            f"pred_proba must have shape (n_samples={n_samples}, n_classes="
            f"{n_classes}), or be a list of such tables, got shape "
            f"{np.shape(pred_proba)}"
        )
    totals = tables.sum(axis=2, keepdims=True)
    if not np.isfinite(tables).all() or (tables < 0).any() or (totals <= 0).any():
        raise ValueError("pred_proba must be finite, >= 0, and positive in each row")
    return tables / totals


def pool_weights(tables, y):
    """Weigh each model by how far above the largest class's share it agrees with y."""
    agreement = (tables.argmax(axis=2) == y).mean(axis=1)
    above = np.maximum(agreement - np.bincount(y).max() / len(y), 0.0)
    if above.max() == 0:
        return np.full(len(tables), 1.0 / len(tables))
    weights = (above / above.max()) ** WEIGHT_POWER
    return weights / weights.sum()


def calibrate(table, y):
    """Fit the noise matrix by EM for each sharpness; keep the likeliest.

    Returns
    -------
    sharpness : float
    proba : ndarray of shape (n_samples, n_classes)
        The table at that sharpness.
    noise : ndarray of shape (n_classes, n_classes)
        Probability of each label (column) given the truth (row).
    truth : ndarray of shape (n_samples, n_classes)
        Posterior probabilities of the truth given x and the label.
    """
    n_samples, n_classes = table.shape
    log_table = np.log(table + FLOOR / n_classes)
    order = np.argsort(y, kind="stable")
    starts = np.searchsorted(y[order], np.arange(n_classes))
    best: tuple = (-np.inf,)
    for sharpness in SHARPNESS_GRID:
        proba = softmax(sharpness * log_table, axis=1)
        in_order = proba[order]  # rows of one label together: sums by label are slices
        noise = np.full((n_classes, n_classes), 0.05 / (n_classes - 1))
        np.fill_diagonal(noise, 0.95)
        for _ in range(N_EM_STEPS):
            joint = in_order * noise.T[y[order]]
            joint /= joint.sum(axis=1, keepdims=True)
            counts = np.add.reduceat(joint, starts).T + np.eye(n_classes)
            noise = counts / counts.sum(axis=1, keepdims=True)
        joint = proba * noise.T[y]
        total = joint.sum(axis=1, keepdims=True)
        distance = np.log(sharpness / SHARPNESS)
        objective = (
            np.log(total).sum()
            + np.log(noise.diagonal()).sum()
            - SHARPNESS_PENALTY * n_samples * distance**2
        )
        if objective > best[0]:
            best = objective, sharpness, proba, noise, joint / total
    return best[1:]
