"""Calibrated classifiers as torch sees them."""

import math

import torch
from torch.nn import functional as F

from skpoison.models._sklearn_modules import no_gradient

#: Probabilities of isotonic regression stay so far from 0 and 1.
_FLOOR = 1e-12
#: Log-odds that an isotonic regression spans, as far as its gradient is concerned.
_SPAN = 8.0


def calibrated_scores(estimator, views):
    """Return the log-probabilities of a ``CalibratedClassifierCV`` as a function.

    Parameters
    ----------
    estimator : CalibratedClassifierCV
        Fitted.
    views : list of View
        Of its calibrated classifiers, whose scores are decision values.

    Returns
    -------
    scores : callable

    Notes
    -----
    Isotonic regression is a staircase: its values are exact, its gradient is that of a
    logistic curve over the same range.
    """
    members = [
        _Member(member, view)
        for member, view in zip(estimator.calibrated_classifiers_, views, strict=True)
    ]

    def scores(x):
        logs = torch.stack([member(x) for member in members])
        return logs.logsumexp(dim=0) - math.log(len(members))

    return scores


class _Member:
    """Log-probabilities of one calibrated classifier."""

    def __init__(self, member, view):
        n_classes = len(member.classes)
        if view.classes is not None and len(view.classes) != n_classes:
            raise no_gradient("CalibratedClassifierCV with a fold without some class")
        self.view, self.method = view, member.method
        self.calibrators = member.calibrators
        self.decides = hasattr(member.estimator, "decision_function")

    def __call__(self, x):
        scores = self.view.scores(x.to(self.view.dtype)).double()
        if self.method == "temperature":
            return self._tempered(scores)
        if scores.shape[1] == 2:
            scores = scores[:, 1:] - scores[:, :1]
            values = scores if self.decides else scores.sigmoid()
            odds = _log_odds(self.calibrators[0], values[:, 0])
            return F.logsigmoid(torch.stack([-odds, odds], dim=1))
        values = scores if self.decides else scores.softmax(dim=1)
        odds = [
            _log_odds(calibrator, value)
            for calibrator, value in zip(self.calibrators, values.T, strict=True)
        ]
        return F.logsigmoid(torch.stack(odds, dim=1)).log_softmax(dim=1)

    def _tempered(self, scores):
        if not self.decides:
            scores = torch.log(scores.softmax(dim=1) + 1e-12)
        elif scores.shape[1] == 2:
            d = scores[:, 1] - scores[:, 0]
            scores = torch.stack([-d, d], dim=1)
        return (float(self.calibrators[0].beta_) * scores).log_softmax(dim=1)


def _log_odds(calibrator, values):
    if hasattr(calibrator, "a_"):
        return -(calibrator.a_ * values + calibrator.b_)
    found = calibrator.predict(values.detach().cpu().numpy())
    found = torch.from_numpy(found).to(values).clamp(_FLOOR, 1 - _FLOOR)
    width = max(float(calibrator.X_max_ - calibrator.X_min_), _FLOOR)
    return torch.logit(found) + _SPAN / width * (values - values.detach())
