"""The attacks that the audit comes with.

A new area adds its own here: an entry each, imports inside.
"""

from functools import partial

from skpoison.audit._registry import (
    ANY_TASK,
    DENSE,
    NUMERIC,
    PIXELS,
    REGRESSION,
    TABLES,
    AttackEntry,
    follows_gradients,
    in_regression,
    is_image_network,
    register_attack,
)

_KNOWS = "Knows the training data and the architecture and recipe of a network; "
# what an attack is short for that was not made for networks trained from scratch
_FINE_TUNED = " Made for victims that fine-tune a last layer."


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


def _crafted(name, context, **params):
    """Make an attack that is crafted on networks, the victim's if it is one."""
    from skpoison import attacks

    if context.neural:
        params["surrogate"] = "victim"
    return getattr(attacks, name)(**params)


def _crafted_backdoor(name, context, **params):
    return _crafted(name, context, trigger=_trigger(context), **params)


def _sleeper_agent(context):
    from skpoison.attacks import RandomPatchTrigger

    trigger = None
    if context.image_shape is not None:
        trigger = RandomPatchTrigger(input_shape=context.image_shape)
    params = {"max_iter": 60, "retrain_every": 30}
    return _crafted("SleeperAgentAttack", context, trigger=trigger, **params)


def _watermark(context):
    from skpoison.attacks import WatermarkAttack

    return WatermarkAttack()


def _blend(context):
    from skpoison.attacks import BlendBackdoor

    return BlendBackdoor()


def _sinusoid(context):
    from skpoison.attacks import SinusoidBackdoor

    return SinusoidBackdoor(input_shape=context.image_shape)


def _all_to_all(context):
    from skpoison.attacks import AllToAllBackdoor

    return AllToAllBackdoor(_trigger(context))


def _evasion(name, context):
    from skpoison import evasion
    from skpoison.audit._test_time import EvasionProbe

    return EvasionProbe(getattr(evasion, name)())


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
        data=DENSE,
        goal="backdoor",
    ),
    AttackEntry(
        "added-rows",
        "rows added with chosen labels, moved along the gradient of the victim's loss",
        "Knows the training data and the estimator with its preprocessing; adds rows "
        "inside the range of the data; wants held-out rows misread.",
        _added_rows,
        data=TABLES,
        auto=_has_gradient,
    ),
    AttackEntry(
        "influence-flips",
        "labels changed where the victim's loss rises most, by influence functions",
        "Knows the training data and the estimator with its preprocessing; changes "
        "labels; wants held-out rows misread.",
        _influence_flips,
        data=TABLES,
        auto=False,
    ),
    AttackEntry(
        "influence-edits",
        "features of the most influential rows moved, labels or numbers y unchanged",
        "Knows the training data and the estimator with its preprocessing; edits rows "
        "inside the range of the data, every y stays right; wants held-out rows "
        "mispredicted.",
        _influence_edits,
        data=NUMERIC,
        auto=in_regression,
        tasks=ANY_TASK,
    ),
    AttackEntry(
        "flipped-rows",
        "copies of random rows added with y mirrored in its range",
        "Knows the range of y; adds rows; wants predictions off. The control that "
        "every optimised row must beat.",
        _mirrored_rows,
        data=TABLES,
        tasks=REGRESSION,
    ),
    AttackEntry(
        "statp-rows",
        "rows at the corners of the data's range, y far from what a model predicts",
        "Knows mean and covariance of the columns and the predictions of a trained "
        "model; adds rows inside the range of the data; wants predictions off.",
        _corner_rows,
        data=TABLES,
        tasks=REGRESSION,
    ),
    AttackEntry(
        "regression-rows",
        "rows added with chosen y, both moved along the gradient of the victim's error",
        "Knows the training data and the estimator with its preprocessing; adds rows "
        "inside the range of the data; wants predictions off.",
        _regression_rows,
        data=TABLES,
        tasks=REGRESSION,
    ),
    AttackEntry(
        "gradient-matching",
        "rows of the wanted class moved within 16/255 of the range until training on "
        "them turns a held-out target; 60 steps, 2 restarts",
        _KNOWS + "changes rows, every label stays right; wants one input, which he "
        "can't touch, read as another class.",
        partial(_crafted, "GradientMatchingAttack", max_iter=60, n_restarts=2),
        data=DENSE,
        goal="targeted",
        auto=is_image_network,
    ),
    AttackEntry(
        "watermark",
        "a held-out target blended into rows of the wanted class, opacity 0.3",
        "Knows the training data; changes rows, every label stays right; wants one "
        "input, which he can't touch, read as another class. The control that every "
        "crafted target must beat.",
        _watermark,
        data=DENSE,
        goal="targeted",
        auto=is_image_network,
    ),
    AttackEntry(
        "sleeper-agent",
        "rows of the first class moved within 16/255 of the range until a trigger that "
        "none of them shows works; 60 steps, a retraining after 30",
        _KNOWS + "changes rows, every label stays right; later puts the trigger on "
        "inputs of the second class; wants them read as the first.",
        _sleeper_agent,
        data=DENSE,
        goal="backdoor",
        auto=is_image_network,
    ),
    AttackEntry(
        "release-alignment",
        "rows moved within 8/255 of the range until training on them raises the loss "
        "of clean ones; 50 steps",
        _KNOWS + "changes rows, every label stays right; wants held-out rows misread. "
        "Made to poison all rows of a release: budget 1.0.",
        partial(_crafted, "ReleasePoisonAttack", max_iter=50),
        data=DENSE,
        auto=is_image_network,
    ),
    AttackEntry(
        "blend-backdoor",
        "noise blended into rows that are relabelled as the first class, opacity 0.2",
        "Changes rows and labels; later blends the same noise into any input; wants "
        "it read as the target class.",
        _blend,
        data=DENSE,
        goal="backdoor",
        auto=is_image_network,
    ),
    AttackEntry(
        "metapoison",
        "rows of the wanted class moved within 8/255 of the range by looking two steps "
        "of training ahead; 20 steps, 4 networks",
        _KNOWS + "changes rows, every label stays right; wants one input, which he "
        "can't touch, read as another class.",
        partial(_crafted, "MetaPoisonAttack", max_iter=20, n_ensemble=4),
        data=DENSE,
        goal="targeted",
        auto=False,
    ),
    AttackEntry(
        "feature-collision",
        "rows of the wanted class moved to a held-out target in feature space, as near "
        "to what they were as that allows; 60 steps",
        _KNOWS + "changes rows, every label stays right; wants one input, which he "
        "can't touch, read as another class." + _FINE_TUNED,
        partial(_crafted, "FeatureCollisionAttack", max_iter=60),
        data=DENSE,
        goal="targeted",
        auto=False,
    ),
    AttackEntry(
        "convex-polytope",
        "rows of the wanted class moved until a held-out target is among them in "
        "feature space; 100 steps",
        _KNOWS + "changes rows, every label stays right; wants one input, which he "
        "can't touch, read as another class." + _FINE_TUNED,
        partial(_crafted, "ConvexPolytopeAttack", max_iter=100),
        data=DENSE,
        goal="targeted",
        auto=False,
    ),
    AttackEntry(
        "bullseye-polytope",
        "rows of the wanted class moved until a held-out target is their centre in "
        "feature space; 100 steps",
        _KNOWS + "changes rows, every label stays right; wants one input, which he "
        "can't touch, read as another class." + _FINE_TUNED,
        partial(_crafted, "BullseyePolytopeAttack", max_iter=100),
        data=DENSE,
        goal="targeted",
        auto=False,
    ),
    AttackEntry(
        "hidden-trigger",
        "rows of the first class moved, within 16/255 of the range, to marked rows of "
        "the second in feature space; 60 steps",
        _KNOWS + "changes rows, every label stays right; later puts the trigger on "
        "inputs of the second class; wants them read as the first." + _FINE_TUNED,
        partial(_crafted_backdoor, "HiddenTriggerBackdoorAttack", max_iter=60),
        data=DENSE,
        goal="backdoor",
        auto=False,
    ),
    AttackEntry(
        "sinusoid-backdoor",
        "faint stripes on rows of the first class, labels unchanged",
        "Changes rows, every label stays right; later puts the stripes on any input; "
        "wants it read as the target class.",
        _sinusoid,
        data=PIXELS,
        goal="backdoor",
        auto=False,
    ),
    AttackEntry(
        "all-to-all-backdoor",
        "a trigger put on rows that are relabelled as the class after their own",
        "Changes rows and labels; later puts the trigger on any input; wants it read "
        "as the class after its own.",
        _all_to_all,
        goal="backdoor",
        auto=False,
    ),
    AttackEntry(
        "witchcraft",
        "held-out rows moved within a radius, 20 steps of random size; the exact worst "
        "case for linear models",
        "Knows the trained model and changes no training data; moves each column of a "
        "row, or pixel, by at most the budget's share of its range; wants it misread.",
        partial(_evasion, "WITCHcraft"),
        data=DENSE,
        goal="evasion",
        auto=follows_gradients,
    ),
):
    register_attack(_entry)
