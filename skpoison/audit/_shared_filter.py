"""A detector that runs once where several victims are filtered by it."""

import time

import joblib
from sklearn.base import clone

from skpoison.compose import FilteredEstimator


class _RunOnce:
    """Stands for a detector: what it has found for equal rows is not sought again.

    What is equal is decided by content: the detector with its parameters and seeds,
    X and y.
    """

    def __init__(self, detector, memory):
        self.detector, self.memory = detector, memory
        self.spared = 0.0

    def __getattr__(self, name):
        if name == "detector":  # not there while it is unpickled
            raise AttributeError(name)
        return getattr(self.detector, name)

    def __sklearn_clone__(self):
        return _RunOnce(clone(self.detector), self.memory)

    def fit_predict(self, X, y):
        key = joblib.hash((self.detector, X, y))
        known = key in self.memory
        if not known:
            start = time.perf_counter()
            labels = self.detector.fit_predict(X, y)
            seconds = time.perf_counter() - start
            self.memory[key] = self.detector, labels, seconds
        self.detector, labels, seconds = self.memory[key]
        self.spared = seconds if known else 0.0
        return labels


def share_filter(model, memory):
    """Have the detector of a filtered estimator look in `memory` before it works.

    Parameters
    ----------
    model : estimator
        Changed in place if it is a FilteredEstimator with a detector that can be
        told from others by its content.
    memory : dict

    Returns
    -------
    model : estimator
    """
    if type(model) is not FilteredEstimator or model.detector is None:
        return model
    if getattr(model.detector, "_estimator_type", None) == "sampler":
        return model
    try:
        joblib.hash(model.detector)
    except Exception:  # pickle raises whatever the object does
        return model
    return model.set_params(detector=_RunOnce(clone(model.detector), memory))


def take_back_filter(model):
    """Give a fitted estimator its own detector; return the seconds that it was spared.

    Parameters
    ----------
    model : estimator
        Fitted.

    Returns
    -------
    seconds : float
    """
    once = getattr(model, "detector_", None)
    if not isinstance(once, _RunOnce):
        return 0.0
    model.detector_ = once.detector
    return once.spared
