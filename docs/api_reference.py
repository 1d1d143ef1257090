"""The public API as data: the reference pages are written from this table.

``API_REFERENCE`` maps each public module to its title, one line on what it is for, and
its public names. :func:`write_pages` turns it into pages; ``conf.py`` calls it. Nothing
here needs Sphinx, so tests can read the table.
"""

import importlib
import inspect
from pathlib import Path

API_REFERENCE = {
    "skpoison.audit": {
        "title": "Audit",
        "summary": "The main job: how poisonable is an estimator, and what does each "
        "defense buy?",
        "names": [
            "audit",
            "compare_defenses",
            "defend",
            "AuditReport",
            "print_report",
            "write_html",
            "AttackEntry",
            "AuditContext",
            "DefenseEntry",
            "register_attack",
            "register_defense",
        ],
    },
    "skpoison.attacks": {
        "title": "Attacks",
        "summary": "Attacks on training data, the gradient that some follow, and the "
        "triggers of backdoors.",
        "names": [
            "LabelFlipAttack",
            "BilevelPoisoningAttack",
            "RegressionPoisoningAttack",
            "BackGradientAttack",
            "InfluenceAttack",
            "implicit_gradient",
            "GradientMatchingAttack",
            "MetaPoisonAttack",
            "Adaptation",
            "step_size_from_tau",
            "WatermarkAttack",
            "FeatureCollisionAttack",
            "ConvexPolytopeAttack",
            "BullseyePolytopeAttack",
            "ReleasePoisonAttack",
            "protect_images",
            "BackdoorAttack",
            "BlendBackdoor",
            "AllToAllBackdoor",
            "CleanLabelBackdoorAttack",
            "SinusoidBackdoor",
            "SleeperAgentAttack",
            "HiddenTriggerBackdoorAttack",
            "PatchTrigger",
            "RandomPatchTrigger",
            "BlendTrigger",
            "SinusoidTrigger",
            "ColumnTrigger",
        ],
    },
    "skpoison.defenses": {
        "title": "Defenses",
        "summary": "Training that poisons find hard to bend, detectors of suspicious "
        "rows, learners with a certificate, and repair of trained networks.",
        "names": [
            "AugmentedClassifier",
            "MixupClassifier",
            "CutMixClassifier",
            "CutoutClassifier",
            "MaxUpClassifier",
            "NoiseClassifier",
            "AdversarialPoisonClassifier",
            "DPInstaHideClassifier",
            "InstaHideRelease",
            "DPSGDClassifier",
            "GradientShapingClassifier",
            "Mixup",
            "CutMix",
            "Cutout",
            "Noise",
            "MaxUp",
            "AdversarialPoison",
            "Compose",
            "PoisonDetector",
            "LabelIssueDetector",
            "SpectralSignatures",
            "ActivationClustering",
            "DeepKNN",
            "DataSanitizer",
            "RONI",
            "STRIP",
            "BaseDetector",
            "EPICClassifier",
            "ABLClassifier",
            "FinePruning",
            "NeuralCleanse",
            "DeepPartitionAggregationClassifier",
            "LabelFlipSmoothingClassifier",
            "SanitizedSVMBound",
            "TRIMRegressor",
        ],
    },
    "skpoison.inversion": {
        "title": "Gradient inversion",
        "summary": "Inputs recovered from the gradients that a client shares, and what "
        "changes that.",
        "names": [
            "GradientInversion",
            "AnalyticInversion",
            "invert_linear",
            "recover_labels",
            "client_update",
            "TotalVariation",
            "SquaredNorm",
            "BatchNormStatistics",
            "load_update",
            "save_update",
            "noise_update",
            "prune_update",
            "clip_update",
            "ReconstructionDisplay",
        ],
    },
    "skpoison.landscape": {
        "title": "Landscape",
        "summary": "Probes of trained networks: local minima, weight norms, tangent "
        "kernels, and ranks of layers.",
        "names": [
            "construct_suboptimal_minimum",
            "linear_minimum",
            "check_local_minimum",
            "hessian_eigenvalues",
            "poor_initialization",
            "PoorInitialization",
            "NormBias",
            "apply_norm_bias_",
            "empirical_ntk",
            "TangentKernel",
            "ntk_change",
            "NTKTracker",
            "feature_distances",
            "SpectralProjection",
            "conv_singular_values",
            "operator_norm",
            "effective_rank",
            "rank_report",
            "nuclear_norm_penalty",
            "operator_norm_penalty",
            "LossSliceDisplay",
            "NormAccuracyDisplay",
            "NTKWidthDisplay",
            "SpectrumDisplay",
        ],
    },
    "skpoison.partition": {
        "title": "Partitioning and matching",
        "summary": "Labellings of graphs by convex lifting, near the least energy and "
        "with a certificate: segmentation, stereo, flow, labels of tables.",
        "names": [
            "LiftedPartition",
            "LiftedLabelPropagation",
            "LiftedLabelRepair",
            "LiftedStereo",
            "LiftedFlow",
            "SuperpixelGraph",
            "PartitionGraph",
            "solve_lifted",
            "LiftedResult",
            "build_problem",
            "LiftedProblem",
            "SegmentationDisplay",
            "DisparityDisplay",
            "BoundDisplay",
        ],
    },
    "skpoison.evasion": {
        "title": "Evasion",
        "summary": "Inputs that a finished model misreads within a radius, and "
        "training against them.",
        "names": [
            "PGD",
            "WITCHcraft",
            "APGD",
            "MomentumPGD",
            "FGSM",
            "AdversarialClassifier",
            "robust_accuracy",
            "robustness_report",
            "RobustAccuracyDisplay",
        ],
    },
    "skpoison.federated": {
        "title": "Federated learning",
        "summary": "Training over clients of which some lie: estimator, aggregation "
        "rules, attacks and rejection.",
        "names": [
            "FederatedClassifier",
            "partition_clients",
            "robustness_sweep",
            "RobustnessSweepDisplay",
            "aggregate",
            "aggregate_blocks",
            "Mean",
            "TrimmedMean",
            "Median",
            "MeaMed",
            "SignMajority",
            "Krum",
            "MultiKrum",
            "Bulyan",
            "GeometricMedian",
            "CenteredClipping",
            "NormClipping",
            "MDA",
            "CAF",
            "MoNNA",
            "DnC",
            "FLTrust",
            "FoolsGold",
            "NNM",
            "Bucketing",
            "Clipping",
            "ARC",
            "Rejection",
            "FangKrumAttack",
            "FangTrimAttack",
            "GaussianAttack",
            "GaussianNoiseAttack",
            "SignFlipAttack",
            "IPMAttack",
            "ALIEAttack",
            "MinMaxAttack",
            "MinSumAttack",
            "MimicAttack",
            "FaultAttack",
            "ClientLabelFlipAttack",
            "DataPoisoningAttack",
            "ModelReplacementAttack",
            "SybilAttack",
            "RoundContext",
            "BaseUpdateAttack",
            "BaseAggregator",
            "GramAggregator",
            "OrderAggregator",
            "PreAggregator",
        ],
    },
    "skpoison.federated.flower": {
        "title": "Federated learning on Flower",
        "summary": "The same rules and attacks in Flower's apps, on several machines.",
        "names": [
            "RobustStrategy",
            "RoundFailedError",
            "make_client_app",
            "make_server_app",
            "byzantine_mod",
        ],
    },
    "skpoison.privacy": {
        "title": "Privacy",
        "summary": "What a mechanism costs in differential privacy, what that bounds, "
        "and the audit that tests it.",
        "names": [
            "mix_epsilon",
            "dpsgd_epsilon",
            "noise_for_epsilon",
            "poisoning_success_bound",
            "audit_epsilon",
            "PrivacyWarning",
        ],
    },
    "skpoison.compose": {
        "title": "Meta-estimators",
        "summary": "Poison or filter the training set of any estimator.",
        "names": ["PoisonedEstimator", "FilteredEstimator"],
    },
    "skpoison.model_selection": {
        "title": "Model selection",
        "summary": "Sweeps over the parameters of an attack and their drawings, "
        "targeted attacks over many victims, and published settings by name.",
        "names": [
            "robustness_curve",
            "RobustnessCurveDisplay",
            "evaluate_targeted",
            "TargetedReport",
            "published_setting",
            "published_settings",
            "PublishedSetting",
            "PublishedFigure",
            "benchmark_trial",
            "leakage_curve",
            "LeakageCurveDisplay",
        ],
    },
    "skpoison.metrics": {
        "title": "Metrics",
        "summary": "Scores of attacks and detectors, and intervals for shares.",
        "names": [
            "attack_success_score",
            "trigger_scorer",
            "wilson_interval",
            "detection_report",
            "psnr",
            "ssim",
            "feature_mse",
            "match_reconstruction",
        ],
    },
    "skpoison.models": {
        "title": "Models",
        "summary": "Neural classifiers and regressors, and the networks they train.",
        "names": [
            "TorchClassifier",
            "TorchRegressor",
            "MLP",
            "ConvNet",
            "ResNet18",
            "ResNet20",
            "LeNet",
            "LinearModel",
            "Normalized",
            "as_module",
            "ShiftFlip",
            "SplitBatches",
            "extract_features",
            "training_recipe",
            "fit_together",
            "can_train_together",
        ],
    },
    "skpoison.datasets": {
        "title": "Data sets",
        "summary": "Real data sets in scikit-learn's conventions, and one generator.",
        "names": [
            "make_gratings",
            "fetch_mnist",
            "fetch_fashion_mnist",
            "fetch_cifar10",
            "fetch_ch_mnist",
            "fetch_spambase",
            "find_dataset",
            "get_data_home",
            "clear_data_home",
            "DatasetNotFoundError",
            "DatasetCorruptError",
        ],
    },
    "skpoison.base": {
        "title": "The attack contract",
        "summary": "What your own attacks derive from.",
        "names": ["BaseAttack", "PerturbationMixin", "SamplerMixin"],
    },
    "skpoison.utils": {
        "title": "Utilities",
        "summary": "Row keys, random streams and checks of parameters, for those who "
        "write attacks.",
        "names": [
            "RandomStreams",
            "draw_seed",
            "set_random_states",
            "local_torch_seed",
            "n_budget",
            "row_keys",
            "make_table_encoder",
            "get_versions",
        ],
    },
    "skpoison.utils.estimator_checks": {
        "title": "Checks for attacks",
        "summary": "What every attack must do, for ours and for yours.",
        "names": ["parametrize_with_attack_checks", "check_attack"],
    },
}


def write_pages(folder):
    """Write the reference: an overview, a page a module and a page a name.

    Files whose text would stay the same are left alone, and those of names that are
    gone are deleted, so that a second build reads only what has changed.

    Parameters
    ----------
    folder : str or Path
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pages = {"index": _overview()}
    for module, section in API_REFERENCE.items():
        pages[module] = _module_page(module, section)
        for name in section["names"]:
            pages[f"{module}.{name}"] = _name_page(module, name)
    for path in folder.glob("*.rst"):
        if path.stem not in pages:
            path.unlink()
    for stem, text in pages.items():
        path = folder / f"{stem}.rst"
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def _heading(text, line="="):
    return f"{text}\n{line * len(text)}\n\n"


def _toctree(entries):
    return ".. toctree::\n   :hidden:\n\n" + "".join(f"   {e}\n" for e in entries)


def _table(rows):
    lines = [".. list-table::", "   :widths: 35 65", ""]
    for left, right in rows:
        lines += [f"   * - {left}", f"     - {right}"]
    return "\n".join(lines) + "\n\n"


def _overview():
    rows = [
        (f":doc:`{module} <{module}>`", section["summary"])
        for module, section in API_REFERENCE.items()
    ]
    return (
        _heading("API reference")
        + "Everything public, by package. A package loads on first use, so that\n"
        "``import skpoison`` costs nothing.\n\n"
        + _table(rows)
        + _toctree(API_REFERENCE)
    )


def _module_page(module, section):
    found = importlib.import_module(module)
    rows = [
        (f":doc:`{name} <{module}.{name}>`", _summary(getattr(found, name)))
        for name in section["names"]
    ]
    title = f"{section['title']}: ``{module}``"
    return (
        _heading(title)
        + f".. py:module:: {module}\n\n{section['summary']}\n\n"
        + _table(rows)
        + _toctree(f"{module}.{name}" for name in section["names"])
    )


def _name_page(module, name):
    found = getattr(importlib.import_module(module), name)
    kind = "autofunction"
    options = ""
    if inspect.isclass(found):
        kind = "autoexception" if issubclass(found, Exception) else "autoclass"
        methods = _own_methods(found)
        if methods:
            options = f"   :members: {', '.join(methods)}\n"
    gallery = f".. minigallery:: {module}.{name}\n   :add-heading:\n\n"
    return (
        _heading(name)
        + f".. currentmodule:: {module}\n\n.. {kind}:: {name}\n{options}\n"
        + (gallery if _is_shown(module, name) else "")
    )


def _is_shown(module, name):
    """Whether an example of the gallery imports the name."""
    examples = Path(__file__).parents[1] / "examples"
    wanted = f"from {module} import "
    for path in examples.glob("*/plot_*.py"):
        text = path.read_text(encoding="utf-8")
        start = text.find(wanted)
        if start >= 0 and name in text[start:].split("\n\n")[0]:
            return True
    return False


def _own_methods(cls):
    """Return the public methods that skpoison defines.

    Those of scikit-learn are described there, and their docstrings link to its pages.
    """
    return [
        name
        for name, method in inspect.getmembers(cls, callable)
        if not name.startswith("_")
        and str(getattr(method, "__module__", "")).startswith("skpoison.")
    ]


def _summary(found):
    return (inspect.getdoc(found) or "").partition("\n\n")[0].replace("\n", " ")
