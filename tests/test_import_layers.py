"""Layers: a module imports only from rows above its own; heavy parts load late."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import skpoison

ROOT = Path(skpoison.__file__).parent
LAYERS = [
    {"utils"},
    {"privacy"},
    {"base", "datasets"},
    {"models"},
    {"attacks", "inversion", "partition", "landscape"},
    {"evasion"},
    {"defenses", "federated"},
    {"compose", "metrics"},
    {"model_selection"},
    {"audit"},
    {"__main__"},
]
RANK = {room: i for i, layer in enumerate(LAYERS) for room in layer}


def _room(path):
    return path.relative_to(ROOT).with_suffix("").parts[0]


def _imports(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "skpoison":
                yield from (f"skpoison.{a.name}" for a in node.names)
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names)


FILES = sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def test_every_room_has_a_layer():
    assert {_room(p) for p in FILES} <= set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    room = _room(path)
    for name in _imports(ast.parse(path.read_text(encoding="utf-8"))):
        if not name.startswith("skpoison."):
            continue
        other = name.split(".")[1]
        if other in RANK:
            assert other == room or RANK[other] < RANK[room], f"{room} imports {name}"


@pytest.mark.parametrize(
    "statement, absent",
    [
        ("import skpoison", ["torch", "sklearn", "numpy", "cvxpy", "pandas"]),
        ("import skpoison.attacks", ["torch", "matplotlib", "imblearn"]),
        ("import skpoison.compose", ["torch", "matplotlib", "skorch"]),
        ("import skpoison.metrics", ["torch", "matplotlib"]),
        ("import skpoison.privacy", ["torch", "sklearn"]),
        ("import skpoison.model_selection", ["torch", "matplotlib"]),
        ("import skpoison.audit", ["torch", "matplotlib", "click"]),
        ("import skpoison.partition", ["torch", "cvxpy", "skimage", "sklearn"]),
        (
            "from skpoison.partition import LiftedLabelRepair, LiftedStereo",
            ["torch", "skorch", "cvxpy", "matplotlib"],
        ),
        ("import skpoison.datasets", ["torch", "pandas", "PIL"]),
        ("from skpoison.defenses import LabelIssueDetector", ["torch", "skorch"]),
    ],
)
def test_heavy_parts_load_late(statement, absent):
    code = f"import sys; {statement}; print([m for m in {absent} if m in sys.modules])"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_subpackages_are_reachable_and_listed():
    packages = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert {*packages, "show_versions"} <= set(dir(skpoison))
    assert skpoison.metrics.wilson_interval(1, 2)[0] < 0.5
    with pytest.raises(AttributeError, match="no attribute 'attack'"):
        skpoison.attack  # noqa: B018
