"""The attacks and defenses that the audit comes with.

A new area adds its own here: an entry each, imports inside.
"""

from functools import partial

from sklearn.base import clone

from skpoison.audit._registry import (
    CLASSIFICATION,
    REGRESSION,
    AttackEntry,
    DefenseEntry,
    filter_with,
    final_step,
    register_attack,
    register_defense,
)

_ANY_TASK = CLASSIFICATION | REGRESSION
_NUMERIC = frozenset({"numeric"})
_TABLES = frozenset({"numeric", "mixed"})
_DENSE = frozenset({"numeric", "images"})


def _in_regression(context):
    return context.task == "regression"


def _has_gradient(context):
    # a network has none here: rows made for another model hardly touch it
    return not context.neural


def _flips(strategy, context):
    from skpoison.attacks import LabelFlipAttack

    return LabelFlipAttack(strategy)


def _trigger(context):
    from skpoison.attacks import PatchTrigger

    if context.image_shape is None:
        return None
    size = max(1, min(3, min(context.image_shape[1:]) // 3))
    return PatchTrigger(size=size, input_shape=context.image_shape)


def _backdoor(context):
    from skpoison.attacks import BackdoorAttack

    return BackdoorAttack(_trigger(context))


def _clean_label(context):
    from skpoison.attacks import CleanLabelBackdoorAttack

    return CleanLabelBackdoorAttack(_trigger(context))


def _added_rows(context):
    from skpoison.attacks import BilevelPoisoningAttack

    return BilevelPoisoningAttack("victim")


def _influence_flips(context):
    from skpoison.attacks import LabelFlipAttack

    return LabelFlipAttack("influence", surrogate="victim")


def _influence_edits(context):
    from skpoison.attacks import InfluenceAttack

    return InfluenceAttack("victim")


def _mirrored_rows(context):
    from skpoison.attacks import RegressionPoisoningAttack

    return RegressionPoisoningAttack(init="inv_flip", max_iter=0)


def _corner_rows(context):
    from skpoison.attacks import RegressionPoisoningAttack

    return RegressionPoisoningAttack("victim", init="statp", max_iter=0)


def _regression_rows(context):
    from skpoison.attacks import RegressionPoisoningAttack

    return RegressionPoisoningAttack("victim")


def _mixup(estimator):
    from skpoison.defenses import MixupClassifier

    network = final_step(estimator)
    defended = MixupClassifier(**network.get_params(deep=False))
    if network is estimator:
        return defended
    return clone(estimator).set_params(**{estimator.steps[-1][0]: defended})


def _isolation_forest(estimator):
    from sklearn.ensemble import IsolationForest

    return filter_with(IsolationForest(), estimator)


def _label_filter(estimator):
    from skpoison.defenses import LabelIssueDetector

    return filter_with(LabelIssueDetector(), estimator)


for _entry in (
    AttackEntry(
        "random-flips",
        "labels of random rows changed to a random other class",
        "Knows nothing; changes labels; wants held-out rows misread. The control that "
        "every chosen flip must beat.",
        partial(_flips, "uniform"),
    ),
    AttackEntry(
        "adversarial-flips",
        "labels changed where a surrogate objects most, refitted as the flips go on",
        "Knows the training data; changes labels; wants held-out rows misread.",
        partial(_flips, "adversarial"),
    ),
    AttackEntry(
        "far-flips",
        "labels of the rows farthest from a surrogate's boundary changed",
        "Knows the training data; changes labels; wants held-out rows misread.",
        partial(_flips, "far"),
        auto=False,
    ),
    AttackEntry(
        "margin-flips",
        "labels of the rows nearest to a surrogate's boundary changed",
        "Knows the training data; changes labels that are hard to notice; wants "
        "held-out rows misread.",
        partial(_flips, "margin"),
        auto=False,
    ),
    AttackEntry(
        "pair-flips",
        "labels of random rows changed to the next class",
        "Knows nothing; changes labels; wants held-out rows misread.",
        partial(_flips, "pair"),
        auto=False,
    ),
    AttackEntry(
        "backdoor",
        "a trigger put on rows that are relabelled as the first class",
        "Changes rows and labels; later puts the trigger on any input; wants it read "
        "as the target class.",
        _backdoor,
        goal="backdoor",
    ),
    AttackEntry(
        "clean-label-backdoor",
        "a trigger put on rows of the first class, labels unchanged",
        "Changes rows, every label stays right; later puts the trigger on any input; "
        "wants it read as the target class.",
        _clean_label,
        data=_DENSE,
        goal="backdoor",
    ),
    AttackEntry(
        "added-rows",
        "rows added with chosen labels, moved along the gradient of the victim's loss",
        "Knows the training data and the estimator with its preprocessing; adds rows "
        "inside the range of the data; wants held-out rows misread.",
        _added_rows,
        data=_TABLES,
        auto=_has_gradient,
    ),
    AttackEntry(
        "influence-flips",
        "labels changed where the victim's loss rises most, by influence functions",
        "Knows the training data and the estimator with its preprocessing; changes "
        "labels; wants held-out rows misread.",
        _influence_flips,
        data=_TABLES,
        auto=False,
    ),
    AttackEntry(
        "influence-edits",
        "features of the most influential rows moved, labels or numbers y unchanged",
        "Knows the training data and the estimator with its preprocessing; edits rows "
        "inside the range of the data, every y stays right; wants held-out rows "
        "mispredicted.",
        _influence_edits,
        data=_NUMERIC,
        auto=_in_regression,
        tasks=_ANY_TASK,
    ),
    AttackEntry(
        "flipped-rows",
        "copies of random rows added with y mirrored in its range",
        "Knows the range of y; adds rows; wants predictions off. The control that "
        "every optimised row must beat.",
        _mirrored_rows,
        data=_TABLES,
        tasks=REGRESSION,
    ),
    AttackEntry(
        "statp-rows",
        "rows at the corners of the data's range, y far from what a model predicts",
        "Knows mean and covariance of the columns and the predictions of a trained "
        "model; adds rows inside the range of the data; wants predictions off.",
        _corner_rows,
        data=_TABLES,
        tasks=REGRESSION,
    ),
    AttackEntry(
        "regression-rows",
        "rows added with chosen y, both moved along the gradient of the victim's error",
        "Knows the training data and the estimator with its preprocessing; adds rows "
        "inside the range of the data; wants predictions off.",
        _regression_rows,
        data=_TABLES,
        tasks=REGRESSION,
    ),
):
    register_attack(_entry)

for _defense in (
    DefenseEntry(
        "label-filter",
        "rows whose labels out-of-fold models contradict are dropped",
        _label_filter,
    ),
    DefenseEntry(
        "mixup",
        "the network is trained on mixtures of rows",
        _mixup,
        neural=True,
    ),
    DefenseEntry(
        "isolation-forest",
        "rows that an isolation forest finds unusual are dropped",
        _isolation_forest,
        data=_NUMERIC,
        auto=_in_regression,
        tasks=_ANY_TASK,
    ),
):
    register_defense(_defense)
