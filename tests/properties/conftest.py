"""How hypothesis runs here: few examples, one seed, nothing left on disk.

``SKPOISON_PROPERTIES=thorough`` tries twenty times as many examples and looks for the
smallest one that fails; ``HYPOTHESIS_SEED=7`` tries other ones. A failure prints its
example and the decorator that replays it.
"""

import os
import tempfile
from pathlib import Path

try:
    import hypothesis
except ImportError:
    hypothesis, collect_ignore_glob = None, ["test_*.py"]

if hypothesis:
    # Hypothesis keeps tables of characters even without a database of examples.
    os.environ.setdefault(
        "HYPOTHESIS_STORAGE_DIRECTORY",
        str(Path(tempfile.gettempdir(), "skpoison-examples")),
    )
    common = {
        "database": None,
        "deadline": None,  # the first example pays for imports
        "print_blob": True,
        "suppress_health_check": list(hypothesis.HealthCheck),
    }
    phases = hypothesis.Phase.explicit, hypothesis.Phase.generate
    hypothesis.settings.register_profile("ci", max_examples=6, phases=phases, **common)
    hypothesis.settings.register_profile("thorough", max_examples=120, **common)
    hypothesis.settings.load_profile(os.environ.get("SKPOISON_PROPERTIES", "ci"))


def pytest_collection_modifyitems(config, items):
    if config.getoption("hypothesis_seed", None) is not None:
        return  # --hypothesis-seed has its way
    seed = int(os.environ.get("HYPOTHESIS_SEED", "0"))
    here = Path(__file__).parent
    for item in items:
        test = getattr(item, "obj", None)
        if item.path.is_relative_to(here) and hasattr(test, "hypothesis"):
            hypothesis.seed(seed)(test)
