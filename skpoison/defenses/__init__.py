"""Training that poisons cannot bite, and detectors that find them.

Names load on first use: a detector does not pay for torch.
"""

from skpoison.utils._lazy import load_on_use

_MODULES = {
    "ABLClassifier": "_abl",
    "ActivationClustering": "_activation_clustering",
    "AdversarialPoison": "_adversarial",
    "AdversarialPoisonClassifier": "_adversarial",
    "AugmentedClassifier": "_augmentation",
    "BaseDetector": "_detectors",
    "Compose": "_hooks",
    "CutMix": "_plain_hooks",
    "CutMixClassifier": "_augmentation",
    "Cutout": "_plain_hooks",
    "CutoutClassifier": "_augmentation",
    "DPInstaHideClassifier": "_instahide",
    "DPSGDClassifier": "_dpsgd",
    "DataSanitizer": "_sanitizer",
    "DeepKNN": "_deep_knn",
    "DeepPartitionAggregationClassifier": "_partition_aggregation",
    "EPICClassifier": "_epic",
    "FinePruning": "_fine_pruning",
    "GradientShapingClassifier": "_shaping",
    "InstaHideRelease": "_instahide",
    "LabelFlipSmoothingClassifier": "_label_flip_smoothing",
    "LabelIssueDetector": "_detectors",
    "MaxUp": "_hooks",
    "MaxUpClassifier": "_augmentation",
    "Mixup": "_plain_hooks",
    "MixupClassifier": "_augmentation",
    "NeuralCleanse": "_neural_cleanse",
    "Noise": "_plain_hooks",
    "NoiseClassifier": "_augmentation",
    "PoisonDetector": "_poison_detector",
    "RONI": "_roni",
    "STRIP": "_strip",
    "SanitizedSVMBound": "_sanitized_svm",
    "SpectralSignatures": "_spectral_signatures",
    "TRIMRegressor": "_trim",
}

__all__ = sorted(_MODULES)
__getattr__, __dir__ = load_on_use(__name__, _MODULES)
