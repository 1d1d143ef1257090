"""The attacks that the audit comes with.

A new area adds its own here: an entry each, imports inside.
"""

from functools import partial

from skpoison.audit import _attack_makers as make
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


def _is_tried_cheaply(context):
    # on images a network is trained for each trial, by filters that train others
    return not is_image_network(context)


for _entry in (
    AttackEntry(
        "random-flips",
        "labels of random rows changed to a random other class",
        "Knows nothing; changes labels; wants held-out rows misread. The control that "
        "every chosen flip must beat.",
        partial(make.flips, "uniform"),
    ),
    AttackEntry(
        "adversarial-flips",
        "labels changed where a surrogate objects most, refitted as the flips go on",
        "Knows the training data; changes labels; wants held-out rows misread.",
        partial(make.flips, "adversarial"),
    ),
    AttackEntry(
        "far-flips",
        "labels of the rows farthest from a surrogate's boundary changed",
        "Knows the training data; changes labels; wants held-out rows misread.",
        partial(make.flips, "far"),
        auto=False,
    ),
    AttackEntry(
        "margin-flips",
        "labels of the rows nearest to a surrogate's boundary changed",
        "Knows the training data; changes labels that are hard to notice; wants "
        "held-out rows misread.",
        partial(make.flips, "margin"),
        auto=False,
    ),
    AttackEntry(
        "pair-flips",
        "labels of random rows changed to the next class",
        "Knows nothing; changes labels; wants held-out rows misread.",
        partial(make.flips, "pair"),
        auto=False,
    ),
    AttackEntry(
        "backdoor",
        "a trigger put on rows that are relabelled as the first class",
        "Changes rows and labels; later puts the trigger on any input; wants it read "
        "as the target class.",
        make.backdoor,
        goal="backdoor",
    ),
    AttackEntry(
        "clean-label-backdoor",
        "a trigger put on rows of the first class, labels unchanged",
        "Changes rows, every label stays right; later puts the trigger on any input; "
        "wants it read as the target class.",
        make.clean_label,
        data=DENSE,
        goal="backdoor",
    ),
    AttackEntry(
        "added-rows",
        "rows added with chosen labels, moved along the gradient of the victim's loss",
        "Knows the training data and the estimator with its preprocessing; adds rows "
        "inside the range of the data; wants held-out rows misread.",
        make.added_rows,
        data=TABLES,
        auto=_has_gradient,
    ),
    AttackEntry(
        "back-gradient",
        "rows added with chosen labels, moved along the gradient of 100 steps of the "
        "victim's training",
        "Knows the training data and the estimator with its preprocessing; adds rows "
        "inside the range of the data; wants held-out rows misread.",
        make.back_gradient,
        data=TABLES,
        auto=False,
    ),
    AttackEntry(
        "influence-flips",
        "labels changed where the victim's loss rises most, by influence functions",
        "Knows the training data and the estimator with its preprocessing; changes "
        "labels; wants held-out rows misread.",
        make.influence_flips,
        data=TABLES,
        auto=False,
    ),
    AttackEntry(
        "influence-edits",
        "features of the most influential rows moved, labels or numbers y unchanged",
        "Knows the training data and the estimator with its preprocessing; edits rows "
        "inside the range of the data, every y stays right; wants held-out rows "
        "mispredicted.",
        make.influence_edits,
        data=NUMERIC,
        auto=in_regression,
        tasks=ANY_TASK,
    ),
    AttackEntry(
        "flipped-rows",
        "copies of random rows added with y mirrored in its range",
        "Knows the range of y; adds rows; wants predictions off. The control that "
        "every optimised row must beat.",
        make.mirrored_rows,
        data=TABLES,
        tasks=REGRESSION,
    ),
    AttackEntry(
        "statp-rows",
        "rows at the corners of the data's range, y far from what a model predicts",
        "Knows mean and covariance of the columns and the predictions of a trained "
        "model; adds rows inside the range of the data; wants predictions off.",
        make.corner_rows,
        data=TABLES,
        tasks=REGRESSION,
    ),
    AttackEntry(
        "regression-rows",
        "rows added with chosen y, both moved along the gradient of the victim's error",
        "Knows the training data and the estimator with its preprocessing; adds rows "
        "inside the range of the data; wants predictions off.",
        make.regression_rows,
        data=TABLES,
        tasks=REGRESSION,
    ),
    AttackEntry(
        "gradient-matching",
        "rows of the wanted class moved within 16/255 of the range until training on "
        "them turns a held-out target; 60 steps, 2 restarts",
        _KNOWS + "changes rows, every label stays right; wants one input, which he "
        "can't touch, read as another class.",
        partial(make.crafted, "GradientMatchingAttack", max_iter=60, n_restarts=2),
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
        make.watermark,
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
        make.sleeper_agent,
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
        partial(make.crafted, "ReleasePoisonAttack", max_iter=50),
        data=DENSE,
        auto=is_image_network,
    ),
    AttackEntry(
        "blend-backdoor",
        "noise blended into rows that are relabelled as the first class, opacity 0.2",
        "Changes rows and labels; later blends the same noise into any input; wants "
        "it read as the target class.",
        make.blend,
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
        partial(make.crafted, "MetaPoisonAttack", max_iter=20, n_ensemble=4),
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
        partial(make.crafted, "FeatureCollisionAttack", max_iter=60),
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
        partial(make.crafted, "ConvexPolytopeAttack", max_iter=100),
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
        partial(make.crafted, "BullseyePolytopeAttack", max_iter=100),
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
        partial(make.crafted_backdoor, "HiddenTriggerBackdoorAttack", max_iter=60),
        data=DENSE,
        goal="backdoor",
        auto=False,
    ),
    AttackEntry(
        "sinusoid-backdoor",
        "faint stripes on rows of the first class, labels unchanged",
        "Changes rows, every label stays right; later puts the stripes on any input; "
        "wants it read as the target class.",
        make.sinusoid,
        data=PIXELS,
        goal="backdoor",
        auto=False,
    ),
    AttackEntry(
        "all-to-all-backdoor",
        "a trigger put on rows that are relabelled as the class after their own",
        "Changes rows and labels; later puts the trigger on any input; wants it read "
        "as the class after its own.",
        make.all_to_all,
        goal="backdoor",
        auto=False,
    ),
    AttackEntry(
        "adaptive-flips",
        "adversarial flips, tried on the filter: those that it finds give way to "
        "others; 3 rounds",
        "Knows the training data and the defense; changes labels; wants held-out rows "
        "misread.",
        partial(make.flips, "adversarial"),
        auto=_is_tried_cheaply,
        adaptive=True,
    ),
    AttackEntry(
        "adaptive-rows",
        "added rows, tried on the filter: those that it finds give way to copies of "
        "survivors; 3 rounds",
        "Knows the training data, the estimator with its preprocessing and the "
        "defense; adds rows inside the range of the data; wants held-out rows "
        "mispredicted.",
        make.any_added_rows,
        data=TABLES,
        auto=_has_gradient,
        tasks=ANY_TASK,
        adaptive=True,
    ),
    AttackEntry(
        "adaptive-backdoor",
        "a trigger on rows relabelled as the first class, tried on the filter: rows "
        "that it finds give way to others; 3 rounds",
        "Knows the training data and the defense; changes rows and labels; later puts "
        "the trigger on any input; wants it read as the target class.",
        make.backdoor,
        goal="backdoor",
        auto=False,
        adaptive=True,
    ),
    AttackEntry(
        "adaptive-gradient-matching",
        "gradient matching through what the defense does to a batch or a gradient, or "
        "past detectors that read features; 60 steps, 2 restarts",
        _KNOWS + "and the defense; changes rows, every label stays right; wants one "
        "input, which he can't touch, read as another class.",
        partial(make.crafted, "GradientMatchingAttack", max_iter=60, n_restarts=2),
        data=DENSE,
        goal="targeted",
        auto=is_image_network,
        adaptive=True,
    ),
):
    register_attack(_entry)

for _name, _class, _summary in (
    (
        "witchcraft",
        "WITCHcraft",
        "20 steps of random size; the exact worst case for linear models",
    ),
    ("fgsm", "FGSM", "one step along the signs of the gradient"),
    ("pgd", "PGD", "20 projected gradient steps"),
    ("momentum-pgd", "MomentumPGD", "20 steps along a sum of normalised gradients"),
    ("apgd", "APGD", "100 projected gradient steps that set their own size"),
):
    register_attack(
        AttackEntry(
            _name,
            f"held-out rows moved within a radius, {_summary}",
            "Knows the trained model and changes no training data; moves each column "
            "of a row, or pixel, by at most the budget's share of its range; wants it "
            "misread.",
            partial(make.evasion, _class),
            data=DENSE,
            goal="evasion",
            auto=follows_gradients if _name == "witchcraft" else False,
        )
    )
