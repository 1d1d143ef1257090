"""How far can training data be trusted, and what to do about it.

Attacks on training data are transformers or samplers, defenses are classifiers
and detectors, and both sit in scikit-learn pipelines and searches. Sub-packages
load on first use, so that ``import skpoison`` costs nothing.
"""

import importlib

__version__ = "0.1.0"

_SUBPACKAGES = (
    "attacks",
    "audit",
    "base",
    "compose",
    "datasets",
    "defenses",
    "evasion",
    "federated",
    "inversion",
    "landscape",
    "metrics",
    "model_selection",
    "models",
    "partition",
    "privacy",
    "utils",
)

__all__ = [*_SUBPACKAGES, "show_versions", "__version__"]


def __getattr__(name):
    if name in _SUBPACKAGES:
        return importlib.import_module(f"skpoison.{name}")
    raise AttributeError(f"module 'skpoison' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})


def show_versions():
    """Print the versions that a bug report should carry.

    Examples
    --------
    >>> import skpoison
    >>> skpoison.show_versions()  # doctest: +ELLIPSIS
    python: 3...
    """
    from skpoison.utils import get_versions

    for name, version in get_versions().items():
        print(f"{name}: {version}")
