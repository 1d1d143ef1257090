"""Packages whose names load on first use."""

import importlib
import sys


def load_on_use(package, modules):
    """Return the ``__getattr__`` and ``__dir__`` of a package.

    Parameters
    ----------
    package : str
    modules : dict of str to str
        The module, within the package, of each public name.
    """

    def load(name):
        if name in modules:
            module = importlib.import_module(f"{package}.{modules[name]}")
            return getattr(module, name)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def names():
        return sorted({*vars(sys.modules[package]), *modules})

    return load, names
