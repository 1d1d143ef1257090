"""Without its extras the library works, and says what to install where it can't."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BLOCKED = """
    from importlib.machinery import PathFinder

    find_spec = PathFinder.find_spec

    def find_unless_absent(name, path=None, target=None):
        absent = name.partition(".")[0] in {names!r}
        return None if absent else find_spec(name, path, target)

    PathFinder.find_spec = find_unless_absent
"""

WORKS = """
    import numpy as np
    from sklearn.datasets import load_digits
    from sklearn.linear_model import RidgeClassifier
    from skpoison.attacks import LabelFlipAttack, PatchTrigger
    from skpoison.compose import FilteredEstimator, PoisonedEstimator
    from skpoison.defenses import LabelIssueDetector
    from skpoison.federated import Krum
    from skpoison.model_selection import RobustnessCurveDisplay, robustness_curve

    X, y = load_digits(n_class=3, return_X_y=True)
    attack = LabelFlipAttack(budget=0.1, random_state=0)
    assert PoisonedEstimator(attack, RidgeClassifier()).fit(X, y).score(X, y) > 0.9
    guarded = FilteredEstimator(LabelIssueDetector(random_state=0), RidgeClassifier())
    assert guarded.fit(X, y).score(X, y) > 0.9
    assert Krum(n_byzantine=1).fit_predict(np.eye(5)).shape == (5,)
    robustness_curve(
        RidgeClassifier(), X, y, attack=attack, param_range=[0, 0.1], cv=2
    )

    def asks(extra, call, *args, **kwargs):
        try:
            call(*args, **kwargs)
        except ImportError as error:
            assert f"skpoison[{extra}]" in str(error), error
        else:
            raise AssertionError(f"{call} did not ask for {extra}")
"""

ASKS = {
    "audit of a table": """
        from skpoison.audit import audit

        asks("audit", audit, RidgeClassifier(), X, y, verbose=0)
    """,
    "drawing": """
        asks("plot", RobustnessCurveDisplay([0], [[1.0]], [[0.0]]).plot)
    """,
    "images": """
        from skpoison.attacks import protect_images

        (folder / "in" / "a").mkdir(parents=True)
        (folder / "in" / "a" / "1.png").write_bytes(b"")
        asks("images", protect_images, folder / "in", folder / "out", "folders")
    """,
    "safetensors": """
        from skpoison.inversion import load_update
        from torch.nn import Linear

        (folder / "update.safetensors").write_bytes(b"")
        asks("safetensors", load_update, folder / "update.safetensors", Linear(2, 2))
    """,
    "flower": """
        import importlib

        asks("flower", importlib.import_module, "skpoison.federated.flower")
    """,
    "opacus": """
        from skpoison.defenses import DPSGDClassifier

        private = DPSGDClassifier(engine="opacus", device="cpu", max_epochs=1)
        asks("dp", private.fit, X, y)
    """,
    "maxflow": """
        from skpoison.partition import PartitionGraph, solve_lifted

        graph = PartitionGraph.from_grid((1, 2))
        asks("maxflow", solve_lifted, np.eye(2), graph, solver="maxflow")
    """,
    "the command line": """
        from skpoison.__main__ import main

        assert main() == 2
    """,
}

EXTRAS = {
    *("click", "pandas", "polars", "matplotlib", "pyarrow", "skops", "imblearn"),
    *(
        "dask",
        "distributed",
        "ray",
        "opacus",
        "flwr",
        "accelerate",
        "safetensors",
        "PIL",
        "maxflow",
    ),
}


@pytest.mark.slow
def test_each_part_names_its_extra(tmp_path):
    code = BLOCKED.format(names=EXTRAS) + "\n    from pathlib import Path\n"
    code += f"    folder = Path({str(tmp_path)!r})\n" + WORKS
    parts = [code, *ASKS.values()]
    text = "".join(map(textwrap.dedent, parts))
    done = subprocess.run(
        [sys.executable, "-c", text],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "needs click: pip install 'skpoison[audit]'" in done.stderr
    assert done.stderr.count("\n") == 1 or pytest.fail(done.stderr)
