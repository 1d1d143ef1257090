"""The defenses that the audit comes with.

A new area adds its own here: an entry each, imports inside.
"""

from functools import partial

from sklearn.base import clone

from skpoison.audit._registry import (
    ANY_TASK,
    DENSE,
    NUMERIC,
    PIXELS,
    DefenseEntry,
    filter_with,
    final_step,
    in_regression,
    is_image_network,
    register_defense,
)


def _trained_by(name, estimator, **params):
    """Put a defended classifier of the same recipe in the network's place."""
    from skpoison import defenses

    network = final_step(estimator)
    defended = getattr(defenses, name)(**network.get_params(deep=False), **params)
    if network is estimator:
        return defended
    return clone(estimator).set_params(**{estimator.steps[-1][0]: defended})


def _isolation_forest(estimator):
    from sklearn.ensemble import IsolationForest

    return filter_with(IsolationForest(), estimator)


def _label_filter(estimator):
    from skpoison.defenses import LabelIssueDetector

    return filter_with(LabelIssueDetector(), estimator)


for _defense in (
    DefenseEntry(
        "label-filter",
        "rows whose labels out-of-fold models contradict are dropped",
        _label_filter,
    ),
    DefenseEntry(
        "mixup",
        "the network is trained on mixtures of rows",
        partial(_trained_by, "MixupClassifier"),
        neural=True,
    ),
    DefenseEntry(
        "cutmix",
        "the network is trained on rows with a box of another row pasted in",
        partial(_trained_by, "CutMixClassifier"),
        data=PIXELS,
        neural=True,
        auto=is_image_network,
    ),
    DefenseEntry(
        "cutout",
        "the network is trained on rows with a box blanked",
        partial(_trained_by, "CutoutClassifier"),
        data=PIXELS,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "maxup",
        "the network is trained on the worst of four blanked copies of each row",
        partial(_trained_by, "MaxUpClassifier"),
        data=PIXELS,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "noise",
        "the network is trained on rows with Gaussian noise of 0.1",
        partial(_trained_by, "NoiseClassifier"),
        data=DENSE,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "adversarial-patches",
        "the network is trained on rows that carry random patches, a class each, and "
        "learns to ignore them",
        partial(_trained_by, "AdversarialPoisonClassifier", attack="patch"),
        data=PIXELS,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "adversarial-poisons",
        "the network is trained on poisons crafted against it batch by batch, by "
        "gradient matching within 16/255",
        partial(_trained_by, "AdversarialPoisonClassifier"),
        data=PIXELS,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "dp-instahide",
        "the network is trained on means of four rows with Laplace noise of 0.1",
        partial(_trained_by, "DPInstaHideClassifier", bounds=(0, 1)),
        data=PIXELS,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "dp-sgd",
        "each row's gradient is clipped to norm 1 and noise of deviation 1 is added",
        partial(_trained_by, "DPSGDClassifier"),
        data=DENSE,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "gradient-shaping",
        "each batch's gradient is clipped to norm 1 and noise of 0.01 is added",
        partial(_trained_by, "GradientShapingClassifier"),
        data=DENSE,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "isolation-forest",
        "rows that an isolation forest finds unusual are dropped",
        _isolation_forest,
        data=NUMERIC,
        auto=in_regression,
        tasks=ANY_TASK,
    ),
):
    register_defense(_defense)
