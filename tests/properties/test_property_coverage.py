"""Every public name is used by a property, or it says here why not."""

import ast
import importlib.util
from pathlib import Path

HERE = Path(__file__).parent

_DRAWING = "a drawing: tests of displays look at it"
_BASE = "a base class: its subclasses are drawn"
_FLOWER = "runs other processes: tests/federated/test_flower.py"
_PAPER = "a record of a paper, compared word by word in tests/model_selection"
#: Public names that no property draws, with the reason.
NOT_DRAWN = {
    "AttackEntry": "a record of the audit's registry",
    "AuditContext": "a record of the audit's registry",
    "AuditReport": "a result: test_cli_fuzz.py prints it",
    "BaseAggregator": _BASE,
    "BaseAttack": _BASE,
    "BaseDetector": _BASE,
    "BaseUpdateAttack": _BASE,
    "BoundDisplay": _DRAWING,
    "DatasetCorruptError": "an OSError, which the fuzzed readers raise",
    "DatasetNotFoundError": "an OSError, which the fuzzed readers raise",
    "DefenseEntry": "a record of the audit's registry",
    "DisparityDisplay": _DRAWING,
    "GramAggregator": _BASE,
    "LeakageCurveDisplay": _DRAWING,
    "LossSliceDisplay": _DRAWING,
    "NTKWidthDisplay": _DRAWING,
    "NormAccuracyDisplay": _DRAWING,
    "OrderAggregator": _BASE,
    "PerturbationMixin": _BASE,
    "PreAggregator": _BASE,
    "PublishedFigure": _PAPER,
    "PublishedSetting": _PAPER,
    "ReconstructionDisplay": _DRAWING,
    "RobustAccuracyDisplay": _DRAWING,
    "RobustStrategy": _FLOWER,
    "RobustnessCurveDisplay": _DRAWING,
    "RobustnessSweepDisplay": _DRAWING,
    "RoundContext": "what an attack on a round is told: drawn with the attacks",
    "RoundFailedError": _FLOWER,
    "SamplerMixin": _BASE,
    "SegmentationDisplay": _DRAWING,
    "SplitBatches": "needs other processes",
    "SpectrumDisplay": _DRAWING,
    "TargetedReport": "a result of evaluate_targeted, which is drawn",
    "audit": "test_cli_fuzz.py calls it",
    "compare_defenses": "an audit and a table of it: tests/audit looks at both",
    "byzantine_mod": _FLOWER,
    "check_attack": "a test itself",
    "get_versions": "takes nothing",
    "make_client_app": _FLOWER,
    "make_server_app": _FLOWER,
    "parametrize_with_attack_checks": "a test itself",
    "print_report": "test_cli_fuzz.py calls it",
    "published_setting": _PAPER,
    "published_settings": _PAPER,
    "register_attack": "changes the process for good",
    "register_defense": "changes the process for good",
    "write_html": "test_report.py reads what it writes",
}


def _public_names():
    path = HERE.parents[1] / "docs" / "api_reference.py"
    spec = importlib.util.spec_from_file_location("api_reference_of_properties", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return {n for entry in module.API_REFERENCE.values() for n in entry["names"]}


def _drawn_names():
    """Return the names imported from skpoison and used by the modules here."""
    found = set()
    for path in [*HERE.glob("*_properties.py"), *HERE.glob("*_fuzz.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        imported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module.startswith("skpoison")
            for alias in node.names
        }
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        found |= imported & used
    return found


def test_every_public_name_is_drawn_or_excused():
    public, drawn = _public_names(), _drawn_names()
    assert sorted(public - drawn - set(NOT_DRAWN)) == [], "no property uses these"
    assert not set(NOT_DRAWN) - public, "no public names"
    assert not set(NOT_DRAWN) & drawn, "they are drawn: no excuse is needed"
