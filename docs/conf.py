"""Configuration of the documentation. The build needs no network.

    python -m sphinx -W --keep-going -b html docs docs/_build/html

Links into the pages of other projects are resolved only when the environment variable
SKPOISON_DOCS_ONLINE is set, because their inventories have to be fetched.
"""

import os
import re
import sys
import warnings
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["SKPOISON_OFFLINE"] = "1"  # no example may download

import matplotlib

matplotlib.use("agg")

DOCS = Path(__file__).parent.resolve()
sys.path[:0] = [str(DOCS.parent), str(DOCS)]

import torch
from api_reference import write_pages
from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from performance_page import write_performance
from sphinx.util import logging

import skpoison

torch.set_num_threads(1)
logger = logging.getLogger(__name__)

# What is documented

project = "skpoison"
author = "The skpoison developers"
project_copyright = author
version = release = skpoison.__version__

extensions = [
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
if os.environ.get("SKPOISON_DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "imblearn": ("https://imbalanced-learn.org/stable", None),
        "skorch": ("https://skorch.readthedocs.io/en/stable", None),
    }

exclude_patterns = ["_build", "snippets", "**sg_execution_times.rst"]
default_role = "literal"
templates_path = []
nitpicky = False

write_pages(DOCS / "generated")
write_performance(DOCS / "generated")

autodoc_typehints = "none"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
# attributes stand in the docstrings of their classes, and nowhere else
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False

# The gallery

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"plot_",
    "ignore_pattern": r"(demo|published_setting|__init__)\.py",
    "subsection_order": ["../examples/quickstart", "../examples/attacks", "*"],
    "doc_module": ("skpoison",),
    "reference_url": {"skpoison": None},
    "backreferences_dir": "generated/backreferences",
    "capture_repr": (),
    "matplotlib_animations": False,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "min_reported_time": 0,
    "plot_gallery": "True",
    "parallel": 2,
    "download_all_examples": False,
}
# the figures are shown in the page: nothing is lost by not opening windows
warnings.filterwarnings("ignore", message=".*FigureCanvasAgg is non-interactive.*")

# The pages

html_theme = "pydata_sphinx_theme"
html_title = "skpoison"
html_static_path = ["_static"]
html_css_files = ["skpoison.css"]
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
html_theme_options = {
    "logo": {"text": "skpoison"},
    "header_links_before_dropdown": 6,
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": False,
    "pygments_light_style": "tango",
    "pygments_dark_style": "monokai",
}
html_sidebars = {"index": [], "install": [], "quickstart": []}


# Equations are MathML, which browsers draw by themselves: the usual renderer would
# fetch a script.


def _to_mathml(self, node, as_block):
    # brackets of MathML stretch without being told, and ``frac12`` wants its braces
    source = re.sub(r"\\[bB]ig+[lr]?(?![a-zA-Z])", "", node.astext())
    source = re.sub(r"(\\[td]?frac)(\w)(\w)", r"\1{\2}{\3}", source)
    try:
        self.body.append(latex2mathml.tex2mathml(source, as_block=as_block))
    except MathError as error:
        logger.warning("equation %r: %s", source, error, location=node)
        self.body.append(f"<code>{self.encode(source)}</code>")


def _visit_math(self, node):
    _to_mathml(self, node, as_block=False)
    raise nodes.SkipNode


def _visit_displaymath(self, node):
    self.body.append('<div class="math">')
    _to_mathml(self, node, as_block=True)
    self.body.append("</div>")
    raise nodes.SkipNode


# numpydoc writes the type of a parameter as it stands, and reStructuredText takes
# ``n_poisoned_`` for a link and ``*input_shape_`` for emphasis.

_TYPED = re.compile(r"^(\s*\*\*[^*]+\*\*\s*:)(.*)$")


def _escape_types(app, what, name, obj, options, lines):
    for i, line in enumerate(lines):
        found = _TYPED.match(line)
        if found and "`" not in found[2]:
            text = re.sub(r"(?<=\w)_(?!\w)", r"\\_", found[2])
            lines[i] = found[1] + re.sub(r"(?<!\\)\*", r"\\*", text)


def setup(app):
    """Register what this file defines."""
    app.add_html_math_renderer(
        "mathml", (_visit_math, None), (_visit_displaymath, None)
    )
    app.connect("autodoc-process-docstring", _escape_types, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
