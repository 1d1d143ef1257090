"""The API table is complete and every name in it is documented."""

import importlib
import importlib.util
import inspect
from pathlib import Path

import pytest
from _instances import NOT_ESTIMATORS, estimators

DOCS = Path(__file__).parents[1] / "docs"


def _table():
    spec = importlib.util.spec_from_file_location(
        "api_reference", DOCS / "api_reference.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.API_REFERENCE


TABLE = _table()
NAMES = [(m, n) for m, entry in TABLE.items() for n in entry["names"]]


def _module(name):
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if "pip install skpoison[" in str(error):  # an extra that is not there
            pytest.skip(str(error))
        raise


@pytest.mark.parametrize("module", sorted(TABLE))
def test_table_equals_all(module):
    found = _module(module)
    assert sorted(TABLE[module]["names"]) == sorted(found.__all__)


@pytest.mark.parametrize("module, name", NAMES)
def test_name_is_documented(module, name):
    thing = getattr(_module(module), name)
    doc = inspect.getdoc(thing)
    assert doc and doc.splitlines()[0].endswith((".", "?")), doc
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    parameters = [
        p
        for p in inspect.signature(thing).parameters.values()
        if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if inspect.isclass(thing) and thing.__init__ is object.__init__:
        parameters = []
    inherited = set()
    for base in inspect.getmro(thing)[1:] if inspect.isclass(thing) else ():
        if base.__module__.startswith("skpoison"):
            inherited |= set(inspect.signature(base.__init__).parameters)
    for parameter in parameters:
        if parameter.name not in inherited:
            assert parameter.name in doc, f"{name}: {parameter.name} undocumented"


def test_every_public_estimator_is_tested():
    tested = {type(e).__name__ for e in estimators()}
    for module, name in NAMES:
        if name in NOT_ESTIMATORS:
            continue
        thing = getattr(_module(module), name)
        if inspect.isclass(thing):
            assert name in tested, f"{name} is not in tests/_instances.py"
