"""Row keys, random streams, validation and the public checks for attacks."""

from skpoison.utils._random import (
    RandomStreams,
    draw_seed,
    local_torch_seed,
    set_random_states,
)
from skpoison.utils._rows import row_keys
from skpoison.utils._validation import n_budget

__all__ = [
    "RandomStreams",
    "draw_seed",
    "get_versions",
    "local_torch_seed",
    "make_table_encoder",
    "n_budget",
    "row_keys",
    "set_random_states",
]


def __getattr__(name):
    if name == "make_table_encoder":  # pulls in scikit-learn
        from skpoison.utils._tabular import make_table_encoder

        return make_table_encoder
    raise AttributeError(f"module 'skpoison.utils' has no attribute {name!r}")


def get_versions():
    """Return the versions that a report should carry, as a dict of str.

    Examples
    --------
    >>> from skpoison.utils import get_versions
    >>> sorted(get_versions())[:3]
    ['cvxpy', 'joblib', 'numpy']
    """
    import platform
    from importlib.metadata import PackageNotFoundError, version

    versions = {"python": platform.python_version()}
    for name in (
        "skpoison",
        "numpy",
        "scipy",
        "scikit-learn",
        "joblib",
        "torch",
        "skorch",
        "cvxpy",
        "scikit-image",
    ):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions
