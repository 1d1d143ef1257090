"""The pages of the documentation name what exists, and print what they say."""

import doctest
import importlib
import importlib.util
import re
from pathlib import Path

import pytest
import torch

from skpoison.audit._registry import ATTACKS, DEFENSES

DOCS = Path(__file__).parents[1] / "docs"
PAGES = sorted(DOCS.glob("*.rst"), key=lambda path: path.stem)
_ROLE = re.compile(
    r":(?:class|func|mod|meth|attr|exc):`(?:[^`<]*<)?~?(skpoison[\w.]*)>?`", re.DOTALL
)


def _exists(name):
    """Whether a dotted name is a module, or attributes of one."""
    parts = name.split(".")
    for n in range(len(parts), 0, -1):
        try:
            if importlib.util.find_spec(".".join(parts[:n])) is None:
                continue
        except ModuleNotFoundError:  # the parent is no package
            continue
        found = importlib.import_module(".".join(parts[:n]))
        for part in parts[n:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


def test_pages_refer_to_what_exists():
    named = {}
    for page in PAGES:
        for name in _ROLE.findall(page.read_text(encoding="utf-8")):
            named.setdefault(name, page.name)
    assert len(named) > 100
    missing = {}
    for name, page in named.items():
        try:
            known = _exists(name)
        except ImportError as error:
            if "pip install skpoison[" not in str(error):
                raise
            continue  # an extra that is not there
        if not known:
            missing[name] = page
    assert not missing


def test_every_attack_of_the_audit_answers_a_question():
    page = (DOCS / "which_attack.rst").read_text(encoding="utf-8")
    # those that other tests have registered are made elsewhere
    ours = {
        name
        for name, entry in ATTACKS.entries.items()
        if getattr(entry.make, "func", entry.make).__module__.startswith("skpoison.")
    }
    assert len(ours) > 30
    assert not {name for name in ours if f"``{name}``" not in page}


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [p for p in PAGES if ">>> " in p.read_text(encoding="utf-8")],
    ids=lambda page: page.stem,
)
def test_blocks_print_what_the_page_says(page, monkeypatch):
    monkeypatch.chdir(DOCS)
    for registry in (ATTACKS, DEFENSES):  # a page adds one of its own
        monkeypatch.setattr(registry, "entries", dict(registry.entries))
    threads = torch.get_num_threads()
    try:
        done = doctest.testfile(
            str(page),
            module_relative=False,
            optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS,
            encoding="utf-8",
        )
    finally:
        torch.set_num_threads(threads)
    assert done.attempted and not done.failed
