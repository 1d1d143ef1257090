"""The user guide's sweeps on clusters of processes: the numbers of one core."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SNIPPETS = Path(__file__).parents[2] / "docs" / "snippets"


@pytest.mark.slow  # starts of clusters: 9 s of CPU time with Dask, 6 s with Ray
@pytest.mark.parametrize("name, module", [("dask", "distributed"), ("ray", "ray")])
def test_cluster_of_processes_gives_the_numbers_of_one_core(name, module):
    pytest.importorskip(module)
    done = subprocess.run(
        [sys.executable, SNIPPETS / f"{name}_sweep.py"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "grid search: [0.975 0.946 0.916 0.842]",
        "audit: 6 rows",
        "as on one core: True",
    ]
