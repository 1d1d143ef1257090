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
    REGRESSION,
    TABLES,
    DefenseEntry,
    filter_with,
    final_step,
    has_rows_to_spare,
    in_regression,
    is_dense_table,
    is_image_network,
    is_network,
    register_defense,
)


def _with_last(estimator, step):
    """Put another learner in the place of an estimator, or of a pipeline's last."""
    if not hasattr(estimator, "steps"):
        return step
    return clone(estimator).set_params(**{estimator.steps[-1][0]: step})


def _trained_by(name, estimator, **params):
    """Put a defended classifier of the same recipe in the network's place."""
    from skpoison import defenses, evasion

    module = evasion if name == "AdversarialClassifier" else defenses
    recipe = final_step(estimator).get_params(deep=False)
    return _with_last(estimator, getattr(module, name)(**recipe, **params))


def _repaired_by(name, estimator):
    """Repair the network once it is trained, on the rows it was trained on."""
    from skpoison import defenses

    repair = getattr(defenses, name)(clone(final_step(estimator)))
    return _with_last(estimator, repair)


def _behind(name, estimator, **params):
    """Put an estimator behind a defense that takes one."""
    from skpoison import defenses

    return getattr(defenses, name)(estimator, **params)


def _filtered_by(name, estimator):
    """Train on what a detector keeps."""
    from skpoison import defenses

    return filter_with(getattr(defenses, name)(), estimator)


def _filtered_by_model(name, estimator, any_model=False):
    """The same with a detector that reads a model: the victim, if it can."""
    from skpoison import defenses

    own = clone(estimator) if any_model or is_network(estimator) else None
    return filter_with(getattr(defenses, name)(own), estimator)


def _label_repair(estimator):
    """Train on labels repaired by their neighbours among standardised rows."""
    from skpoison.partition import LiftedLabelRepair

    return filter_with(LiftedLabelRepair(encoder="table"), estimator)


def _label_flip_smoothing(estimator):
    from skpoison.defenses import LabelFlipSmoothingClassifier

    return _with_last(estimator, LabelFlipSmoothingClassifier())


def _isolation_forest(estimator):
    from sklearn.ensemble import IsolationForest

    return filter_with(IsolationForest(), estimator)


for _defense in (
    DefenseEntry(
        "label-filter",
        "rows whose labels out-of-fold models contradict are dropped",
        partial(_filtered_by, "LabelIssueDetector"),
    ),
    DefenseEntry(
        "label-repair",
        "labels that neighbouring rows contradict are replaced by theirs",
        _label_repair,
        data=TABLES,
        auto=False,
    ),
    DefenseEntry(
        "poison-detector",
        "rows are dropped where a class shows that it is poisoned",
        partial(_filtered_by_model, "PoisonDetector"),
        data=DENSE,
        auto=is_image_network,
    ),
    DefenseEntry(
        "spectral-signatures",
        "rows that stand out from their class along the main direction of a network's "
        "features are dropped",
        partial(_filtered_by_model, "SpectralSignatures"),
        data=DENSE,
        auto=False,
    ),
    DefenseEntry(
        "activation-clustering",
        "small clusters of a class in a network's features are dropped",
        partial(_filtered_by_model, "ActivationClustering"),
        data=DENSE,
        auto=False,
    ),
    DefenseEntry(
        "deep-knn",
        "rows that neighbours in a network's features contradict are dropped",
        partial(_filtered_by_model, "DeepKNN"),
        data=DENSE,
        auto=False,
    ),
    DefenseEntry(
        "sanitizer",
        "of each class the 5 % farthest from its mean are dropped",
        partial(_filtered_by, "DataSanitizer"),
        data=DENSE,
        auto=is_dense_table,
    ),
    DefenseEntry(
        "roni",
        "rows that cost accuracy on trusted rows are dropped",
        partial(_filtered_by, "RONI"),
        data=NUMERIC,
        auto=False,
    ),
    DefenseEntry(
        "strip",
        "rows whose reading no other row laid over them changes are dropped",
        partial(_filtered_by_model, "STRIP", any_model=True),
        data=DENSE,
        auto=False,
    ),
    DefenseEntry(
        "partition-aggregation",
        "ten models, each trained on rows of its own, vote",
        partial(_behind, "DeepPartitionAggregationClassifier", n_partitions=10),
        data=TABLES | {"images"},
        auto=has_rows_to_spare,
    ),
    DefenseEntry(
        "label-flip-smoothing",
        "the last step is replaced by the vote of ridge classifiers trained on noisy "
        "labels",
        _label_flip_smoothing,
        data=DENSE,
        auto=False,
    ),
    DefenseEntry(
        "trim",
        "the fifth of the rows that the model explains worst is left out, again and "
        "again",
        partial(_behind, "TRIMRegressor"),
        tasks=REGRESSION,
    ),
    DefenseEntry(
        "epic",
        "rows whose gradients stand alone are dropped while the network is trained",
        partial(_trained_by, "EPICClassifier"),
        data=DENSE,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "abl",
        "the rows that are learned first are unlearned at the end",
        partial(_trained_by, "ABLClassifier"),
        data=DENSE,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "fine-pruning",
        "channels that ordinary rows leave silent are pruned, and the network is "
        "trained a little more, on the same rows",
        partial(_repaired_by, "FinePruning"),
        data=DENSE,
        neural=True,
        auto=False,
    ),
    DefenseEntry(
        "neural-cleanse",
        "triggers are sought in the trained network, and unlearned on the same rows",
        partial(_repaired_by, "NeuralCleanse"),
        data=DENSE,
        neural=True,
        auto=False,
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
        "adversarial-training",
        "the network is trained on rows moved against it, by up to 0.1 a pixel",
        partial(_trained_by, "AdversarialClassifier"),
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
