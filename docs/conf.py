"""Sphinx settings; `make docs` treats warnings as errors and needs no network."""

import os
import tomllib
from pathlib import Path

os.environ.setdefault("PROBNET_SMOKE", "1")  # the gallery runs every example, small
os.environ.setdefault("MPLBACKEND", "Agg")

_metadata = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]

project = "probnet"
author = "The probnet developers"
project_copyright = f"2026, {author}"
release = version = _metadata["version"]

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
suppress_warnings = ["config.cache"]  # sphinx-gallery keeps an object in the settings
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"probnet {release}"
html_static_path = ["_static"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True}
default_role = "code"  # `name` in a docstring is code
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# Names of other packages resolve only with PROBNET_DOCS_ONLINE=1; our own must always resolve.
nitpick_ignore_regex = [(r"py:.*", r"(?!inference\b|probnet\b).*")]
nitpick_ignore = [
    ("py:class", "inference.targets.Target"),  # in a private field of Draws
    ("py:class", "probnet.neural_process.rules.State"),  # a type variable
]
if os.environ.get("PROBNET_DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "arviz": ("https://python.arviz.org/en/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "numpyro": ("https://num.pyro.ai/en/stable/", None),
        "pyro": ("https://docs.pyro.ai/en/stable/", None),
        "python": ("https://docs.python.org/3/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
        "xarray": ("https://docs.xarray.dev/en/stable/", None),
    }

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
}
