"""How Sphinx builds the pages: ``sphinx-build -W --keep-going -n docs site``."""

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS / "_ext"), str(DOCS.parent / "cli"), str(DOCS.parent)]

import spp  # noqa: E402  (found through the path above, so that a clone that is not installed can be built too)

project = "spp"
author = "The spp developers"
release = version = spp.__version__
html_title = f"spp {release}"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "navigation",
    "public_names",
    "command_reference",
]
exclude_patterns = ["_ext", "_build"]

# Markdown: headings can be linked to, and $...$ is mathematics.
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "colon_fence"]

# Docstrings are written in google style; types stand in the signature, so the text does not repeat them.
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # properties have entries of their own, which would be double otherwise
autodoc_inherit_docstrings = False  # forward() says what it does, or nothing
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 100

# Every reference must lead somewhere; what exists but has no page here (torch's classes, types of the inside) is named
# without a link by the extension ``public_names``, since looking it up elsewhere would need a network.
nitpicky = True
# a signature with a function as a default cannot be parsed by Sphinx, which then cuts annotations at their commas
nitpick_ignore = [("py:class", "collections.abc.Mapping[str")]

html_theme = "furo"
html_theme_options = {"source_directory": "docs/"}
html_static_path = ["_static"]
html_css_files = ["spp.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "monokai"
