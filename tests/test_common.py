"""Every public estimator through scikit-learn's, imbalanced-learn's and our checks."""

import warnings

import pytest
from _instances import (
    EXPECTED_IMBLEARN,
    EXPECTED_IMBLEARN_ONE,
    EXPECTED_SKLEARN,
    attacks,
    estimators,
    samplers,
)
from sklearn.base import clone
from sklearn.utils.estimator_checks import parametrize_with_checks

from skpoison.utils.estimator_checks import parametrize_with_attack_checks


def _expected(estimator):
    return EXPECTED_SKLEARN.get(type(estimator).__name__, {})


# of each class one setting, and, in the long tests, the others
ALL = estimators()
FIRST = {type(estimator): estimator for estimator in reversed(ALL)}
OTHERS = [estimator for estimator in ALL if estimator is not FIRST[type(estimator)]]


@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks([*FIRST.values()], expected_failed_checks=_expected)
def test_sklearn_checks(estimator, check):
    check(estimator)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::UserWarning")
@parametrize_with_checks(OTHERS, expected_failed_checks=_expected)
def test_sklearn_checks_of_more_settings(estimator, check):
    check(estimator)


@parametrize_with_attack_checks(attacks())
def test_attack_checks(attack, check):
    check(attack)


def _imblearn_checks():
    checks = pytest.importorskip("imblearn.utils.estimator_checks")
    for sampler in samplers():
        for check in checks._yield_sampler_checks(sampler):
            yield pytest.param(sampler, check, id=f"{sampler!r}-{check.__name__}")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("sampler, check", list(_imblearn_checks()))
def test_imblearn_checks(sampler, check, request):
    reason = EXPECTED_IMBLEARN.get(check.__name__) or EXPECTED_IMBLEARN_ONE.get(
        (type(sampler).__name__, check.__name__)
    )
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    sampler = clone(sampler).set_params(random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check(type(sampler).__name__, sampler)
