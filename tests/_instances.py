"""One table of every public estimator, with fast parameters.

The common tests run scikit-learn's, imbalanced-learn's and our own checks over it;
`test_public_api` fails when a public estimator is missing.
"""

from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, LocalOutlierFactor
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeRegressor

from skpoison.attacks import (
    AllToAllBackdoor,
    BackdoorAttack,
    BackGradientAttack,
    BilevelPoisoningAttack,
    BlendBackdoor,
    BlendTrigger,
    BullseyePolytopeAttack,
    CleanLabelBackdoorAttack,
    ConvexPolytopeAttack,
    FeatureCollisionAttack,
    GradientMatchingAttack,
    HiddenTriggerBackdoorAttack,
    InfluenceAttack,
    LabelFlipAttack,
    MetaPoisonAttack,
    RegressionPoisoningAttack,
    ReleasePoisonAttack,
    SinusoidBackdoor,
    SleeperAgentAttack,
    WatermarkAttack,
)
from skpoison.compose import FilteredEstimator, PoisonedEstimator
from skpoison.defenses import (
    RONI,
    STRIP,
    ABLClassifier,
    ActivationClustering,
    AdversarialPoisonClassifier,
    AugmentedClassifier,
    CutMix,
    CutMixClassifier,
    CutoutClassifier,
    DataSanitizer,
    DeepKNN,
    DeepPartitionAggregationClassifier,
    DPInstaHideClassifier,
    DPSGDClassifier,
    EPICClassifier,
    FinePruning,
    GradientShapingClassifier,
    InstaHideRelease,
    LabelFlipSmoothingClassifier,
    LabelIssueDetector,
    MaxUpClassifier,
    MixupClassifier,
    NeuralCleanse,
    Noise,
    NoiseClassifier,
    PoisonDetector,
    SanitizedSVMBound,
    SpectralSignatures,
    TRIMRegressor,
)
from skpoison.evasion import (
    APGD,
    FGSM,
    PGD,
    AdversarialClassifier,
    MomentumPGD,
    WITCHcraft,
)
from skpoison.federated import (
    ARC,
    CAF,
    MDA,
    NNM,
    ALIEAttack,
    Bucketing,
    Bulyan,
    CenteredClipping,
    ClientLabelFlipAttack,
    Clipping,
    DataPoisoningAttack,
    DnC,
    FangKrumAttack,
    FangTrimAttack,
    FaultAttack,
    FederatedClassifier,
    FoolsGold,
    GaussianAttack,
    GaussianNoiseAttack,
    GeometricMedian,
    IPMAttack,
    Krum,
    MeaMed,
    Mean,
    Median,
    MimicAttack,
    MinMaxAttack,
    MinSumAttack,
    ModelReplacementAttack,
    MoNNA,
    MultiKrum,
    NormClipping,
    SignFlipAttack,
    SignMajority,
    SybilAttack,
    TrimmedMean,
)
from skpoison.landscape import TangentKernel
from skpoison.models import LinearModel, TorchClassifier, TorchRegressor
from skpoison.partition import (
    LiftedFlow,
    LiftedLabelPropagation,
    LiftedLabelRepair,
    LiftedPartition,
    LiftedStereo,
    SuperpixelGraph,
)

#: Surrogate of the attacks that are crafted on networks.
_NET = TorchClassifier(max_epochs=2, device="cpu")


def samplers():
    """Attacks that change y or the rows."""
    return [
        LabelFlipAttack(),
        LabelFlipAttack("pair"),
        LabelFlipAttack("margin", cv=2),
        LabelFlipAttack("far", cv=2),
        LabelFlipAttack("adversarial", chunk_size=0.05),
        LabelFlipAttack("influence", chunk_size=0.05),
        BackdoorAttack(),
        BackdoorAttack(mode="append"),
        BlendBackdoor(budget=0.1),
        AllToAllBackdoor(),
        BilevelPoisoningAttack(max_iter=3),
        BilevelPoisoningAttack(max_iter=1, init="adaptive", strategy="greedy"),
        BackGradientAttack(max_iter=2, n_steps=20),
    ]


def numeric_samplers():
    """Those that imbalanced-learn's suite has no data for: for numbers X, numbers y."""
    return [
        BilevelPoisoningAttack(SVC(), max_iter=3, init="mean_opposite"),
        BilevelPoisoningAttack(KNeighborsClassifier(), max_iter=2),
        RegressionPoisoningAttack(max_iter=3),
        RegressionPoisoningAttack(init="statp", max_iter=0),
    ]


def perturbations():
    """Attacks that change X alone."""
    return [
        CleanLabelBackdoorAttack(),
        CleanLabelBackdoorAttack(BlendTrigger(), budget=0.2),
        SinusoidBackdoor(budget=0.2),
        WatermarkAttack(budget=0.2),
        WatermarkAttack(budget=0.2, eps=0.1),
        InfluenceAttack(max_iter=2),
        InfluenceAttack(Ridge(), max_iter=2),
        InfluenceAttack(SVC(), eps=0.1, norm="l2", max_iter=2),
        CleanLabelBackdoorAttack(
            eps=0.1, max_iter=2, surrogate=TorchClassifier(max_epochs=2, device="cpu")
        ),
    ]


def crafted():
    """Perturbations that descend an objective on networks."""
    fast = {"surrogate": _NET, "max_iter": 2, "budget": 0.2}
    return [
        GradientMatchingAttack(**fast, n_restarts=2, n_ensemble=2),
        GradientMatchingAttack(
            **fast, n_restarts=1, norm="l2", eps=0.5, selection="nearest"
        ),
        SleeperAgentAttack(**fast, retrain_every=1),
        MetaPoisonAttack(**fast, n_ensemble=2),
        ReleasePoisonAttack(surrogate=_NET, max_iter=2),
        ReleasePoisonAttack(
            "error_max", surrogate=_NET, max_iter=2, norm="l2", eps=0.5
        ),
        ReleasePoisonAttack("error_min", surrogate=_NET, max_iter=2, budget=0.5),
        ReleasePoisonAttack(surrogate=_NET, max_iter=2, online=True),
        FeatureCollisionAttack(**fast),
        FeatureCollisionAttack(**fast, optimizer="sign_adam", eps=0.1),
        ConvexPolytopeAttack(**fast, init="randn"),
        BullseyePolytopeAttack(**fast),
        HiddenTriggerBackdoorAttack(**fast),
    ]


def attacks():
    return [*samplers(), *numeric_samplers(), *perturbations(), *crafted()]


def detectors():
    return [
        LabelIssueDetector(cv=3),
        LabelIssueDetector(),
        PoisonDetector(_NET),
        PoisonDetector(features="input", random_state=0),
        SpectralSignatures(_NET),
        SpectralSignatures(features="input"),
        ActivationClustering(_NET, random_state=0),
        ActivationClustering(features="input", analysis="distance"),
        DeepKNN(_NET),
        DeepKNN(features="input", vote="majority", balance=True),
        DataSanitizer("sphere"),
        DataSanitizer("slab"),
        DataSanitizer("sphere+slab"),
        DataSanitizer("knn"),
        DataSanitizer("loss"),
        DataSanitizer("svd"),
        RONI(GaussianNB(), n_trials=1, max_fits=30),
        STRIP(LogisticRegression(), false_rejection=0.1),
        STRIP(_NET, n_overlays=5, random_state=0),
    ]


def certified():
    """Learners with a certificate, and repaired networks."""
    return [
        DeepPartitionAggregationClassifier(n_partitions=5),
        DeepPartitionAggregationClassifier(LogisticRegression(), n_partitions=3),
        LabelFlipSmoothingClassifier(n_draws=40),
        LabelFlipSmoothingClassifier(StandardScaler(), n_draws=40, random_state=0),
        SanitizedSVMBound((0, 0.1), max_iter=100, burn_in=20),
        TRIMRegressor(),
        TRIMRegressor(Ridge(), init="random", n_restarts=2, random_state=0),
        TRIMRegressor(DecisionTreeRegressor(max_depth=4), random_state=0),
        FinePruning(_NET, finetune_epochs=1),
        NeuralCleanse(_NET, max_iter=5, finetune_epochs=1),
    ]


def defended():
    """Classifiers whose training poisons find hard to bend, and a release of rows."""
    return [
        AugmentedClassifier(device="cpu"),
        AugmentedClassifier(
            augmentation=[CutMix(), Noise(scale=0.1)], device="cpu", random_state=0
        ),
        MixupClassifier(device="cpu"),
        MixupClassifier(n_mix=3, weights="uniform", device="cpu", random_state=0),
        CutMixClassifier(device="cpu"),
        CutoutClassifier(device="cpu"),
        MaxUpClassifier(warmup_epochs=1, device="cpu"),
        NoiseClassifier(device="cpu"),
        AdversarialPoisonClassifier(max_iter=1, max_epochs=8, device="cpu"),
        AdversarialPoisonClassifier(attack="patch", device="cpu", random_state=0),
        AdversarialPoisonClassifier(
            attack="evasion", max_iter=1, max_epochs=6, device="cpu", random_state=0
        ),
        DPInstaHideClassifier(device="cpu"),
        DPInstaHideClassifier(
            release="fixed",
            labels="noisy",
            sampling="poisson",
            device="cpu",
            random_state=0,
        ),
        InstaHideRelease(),
        DPSGDClassifier(device="cpu"),
        GradientShapingClassifier(device="cpu"),
        EPICClassifier(start=2, every=3, max_epochs=10, device="cpu"),
        EPICClassifier(start=2, every=3, max_epochs=10, metric="cosine", device="cpu"),
        ABLClassifier(device="cpu"),
        ABLClassifier(loss_control="local_ascent", device="cpu", random_state=0),
    ]


def aggregators():
    """Rules, used alone: every client is trusted.

    With ``n_byzantine`` they take as many rows with NaN, where scikit-learn asks for an
    error, or for none whatever the number.
    """
    return [
        Mean(),
        Krum(),
        Krum(metric="euclidean"),
        MultiKrum(),
        Bulyan(),
        TrimmedMean(),
        Median(),
        MeaMed(),
        GeometricMedian(),
        CenteredClipping(),
        MDA(),
        CAF(),
        MoNNA(),
        DnC(random_state=0),
        FoolsGold(),
        NormClipping(),
        NormClipping(noise_std=1.0, random_state=0),
        SignMajority(),
    ]


def update_attacks():
    return [
        FangKrumAttack(),
        FangTrimAttack(),
        GaussianAttack(),
        GaussianNoiseAttack(),
        FaultAttack(),
        SignFlipAttack(),
        IPMAttack(),
        ALIEAttack(),
        MimicAttack(),
        MinMaxAttack(),
        MinSumAttack(),
        ModelReplacementAttack(),
        DataPoisoningAttack(),
        ClientLabelFlipAttack(),
        SybilAttack(),
        SybilAttack(IPMAttack()),
    ]


def federated():
    """What trains over clients, and its parts."""
    return [
        *aggregators(),
        NNM(),
        Bucketing(),
        Clipping(),
        ARC(),
        *update_attacks(),
        FederatedClassifier(),
        FederatedClassifier(
            LinearModel,
            n_clients=5,
            n_byzantine=1,
            aggregator=TrimmedMean(),
            attack=SignFlipAttack(),
            n_rounds=200,
            random_state=0,
        ),
        FederatedClassifier(
            SGDClassifier(random_state=0), n_clients=5, n_byzantine=0, n_rounds=60
        ),
    ]


def partitions():
    """Labellings of graphs; what takes images alone runs the checks without data."""
    return [
        LiftedPartition(),
        LiftedLabelPropagation(),
        LiftedLabelRepair(),
        LiftedStereo(2),
        LiftedFlow(1),
        SuperpixelGraph(),
    ]


def evasions():
    """Attacks at test time, and training against them."""
    return [
        FGSM(),
        PGD(),
        PGD(_NET, norm="l2", max_iter=3, n_restarts=2, random_state=0),
        WITCHcraft(),
        WITCHcraft(SVC(), max_iter=3, step_mode="pixel", bounds="data"),
        MomentumPGD(_NET, max_iter=3),
        APGD(),
        APGD(_NET, max_iter=5, random_state=0),
        AdversarialClassifier(device="cpu"),
        AdversarialClassifier(attack="free", device="cpu", random_state=0),
        AdversarialClassifier(attack="fast", device="cpu"),
    ]


def estimators():
    """Everything that scikit-learn's suite runs on."""
    return [
        *attacks(),
        *detectors(),
        TorchClassifier(device="cpu"),
        TorchRegressor(device="cpu"),
        *defended(),
        *certified(),
        *federated(),
        *partitions(),
        *evasions(),
        TangentKernel(device="cpu", random_state=0),
        PoisonedEstimator(),
        PoisonedEstimator(LabelFlipAttack(), LogisticRegression()),
        PoisonedEstimator(BackdoorAttack(budget=0.05), random_state=0),
        PoisonedEstimator(CleanLabelBackdoorAttack(), LogisticRegression()),
        FilteredEstimator(LabelIssueDetector(cv=2)),
        FilteredEstimator(LocalOutlierFactor(), LogisticRegression()),
        FilteredEstimator(SpectralSignatures(features="input"), random_state=0),
        PoisonedEstimator(
            LabelFlipAttack(), FilteredEstimator(LocalOutlierFactor()), random_state=0
        ),
    ]


_MIXES_ROWS = {
    "check_methods_subset_invariance": "each new row is made of all rows given",
}

#: Expected failures of scikit-learn's suite: of what makes rows out of others alone.
EXPECTED_SKLEARN = {
    "NNM": _MIXES_ROWS,
    "Bucketing": {
        **_MIXES_ROWS,
        "check_methods_sample_order_invariance": "rows are put together at random",
        "check_transformer_data_not_an_array": "it returns fewer rows",
        "check_transformer_general": "it returns fewer rows",
        "check_transformers_unfitted_stateless": "it returns fewer rows",
    },
}

#: imbalanced-learn's suite asks every sampler to balance classes. Ours poison.
EXPECTED_IMBLEARN = {
    "check_samplers_one_label": "one class is legal: there is nothing to flip",
    "check_samplers_fit": "there is no sampling_strategy_ to fit",
    "check_samplers_multiclass_ova": "y is 1-d; one-vs-all targets are refused",
    "check_samplers_sample_indices": "reads sampler_tags, which scikit-learn lacks",
}

#: The same for one sampler.
EXPECTED_IMBLEARN_ONE = {
    ("BackGradientAttack", "check_samplers_pandas_sparse"): "descent from zero depends "
    "on centring, which the default encoder spares sparse columns",
}

#: Public classes that are no estimators of their own, with the reason.
NOT_ESTIMATORS = {
    "Adaptation": "what an attacker knows: part of an attack",
    "AdversarialPoison": "a batch hook: part of a classifier",
    "AnalyticInversion": "reconstructs; there is nothing to fit",
    "AttackEntry": "a record of the audit's registry",
    "AuditContext": "a record of the audit's registry",
    "AuditReport": "a result",
    "BaseAggregator": "a base class",
    "BaseAttack": "a base class",
    "BaseDetector": "a base class",
    "BaseUpdateAttack": "a base class",
    "BatchNormStatistics": "a prior: part of an inversion",
    "BlendTrigger": "a trigger: part of an attack",
    "BoundDisplay": "a drawing",
    "ColumnTrigger": "a trigger: part of an attack",
    "Compose": "a batch hook: part of a classifier",
    "ConvNet": "a torch module",
    "CutMix": "a batch hook: part of a classifier",
    "Cutout": "a batch hook: part of a classifier",
    "DatasetCorruptError": "an error",
    "DatasetNotFoundError": "an error",
    "DefenseEntry": "a record of the audit's registry",
    "DisparityDisplay": "a drawing",
    "FLTrust": "an aggregator that can't fit without an update of the server's own",
    "GradientInversion": "reconstructs; there is nothing to fit",
    "GramAggregator": "a base class",
    "LeNet": "a torch module",
    "LeakageCurveDisplay": "a drawing",
    "LiftedProblem": "a problem of cvxpy",
    "LiftedResult": "a result",
    "LinearModel": "a torch module",
    "LossSliceDisplay": "a drawing",
    "MLP": "a torch module",
    "MaxUp": "a batch hook: part of a classifier",
    "Mixup": "a batch hook: part of a classifier",
    "NTKTracker": "a callback: part of a classifier",
    "NTKWidthDisplay": "a drawing",
    "Noise": "a batch hook: part of a classifier",
    "NormAccuracyDisplay": "a drawing",
    "NormBias": "a callback: part of a classifier",
    "Normalized": "a torch module",
    "OrderAggregator": "a base class",
    "PartitionGraph": "a graph",
    "PatchTrigger": "a trigger: part of an attack",
    "PerturbationMixin": "a base class",
    "PoorInitialization": "a callback: part of a classifier",
    "PreAggregator": "a base class",
    "PrivacyWarning": "a warning",
    "PublishedFigure": "a record of a paper",
    "PublishedSetting": "a record of a paper",
    "RandomPatchTrigger": "a trigger: part of an attack",
    "RandomStreams": "a source of seeds",
    "ReconstructionDisplay": "a drawing",
    "Rejection": "part of FederatedClassifier: it has keep() and no fit()",
    "ResNet18": "a torch module",
    "ResNet20": "a torch module",
    "RobustAccuracyDisplay": "a drawing",
    "RobustStrategy": "a strategy of Flower",
    "RobustnessCurveDisplay": "a drawing",
    "RobustnessSweepDisplay": "a drawing",
    "RoundContext": "what an attack on a round knows",
    "RoundFailedError": "an error",
    "SamplerMixin": "a base class",
    "SegmentationDisplay": "a drawing",
    "ShiftFlip": "an augmentation: part of a classifier",
    "SinusoidTrigger": "a trigger: part of an attack",
    "SpectralProjection": "a callback: part of a classifier",
    "SpectrumDisplay": "a drawing",
    "SplitBatches": "a callback: part of a classifier",
    "SquaredNorm": "a prior: part of an inversion",
    "TargetedReport": "a result",
    "TotalVariation": "a prior: part of an inversion",
}
