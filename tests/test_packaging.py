"""What a user gets on import, and whether the text about it is true."""

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import inference
import probnet
from inference.rng import scoped_seed

ROOT = Path(__file__).parents[1]
PAGES = [
    page
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
    if "```python" in page.read_text()
]
HEAVY = {"arviz", "jax", "matplotlib", "numpyro", "xarray"}


def test_import_stays_light(tmp_path):
    """Optional and slow libraries are imported where they are used."""
    code = f"import inference, probnet, sys; print(*({HEAVY} & sys.modules.keys()))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    loaded = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, check=True, cwd=tmp_path, env=environment, text=True,
    )  # fmt: skip
    assert loaded.stdout.split() == []


def test_versions_agree():
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    citation = re.search(r"^version: (.+)$", (ROOT / "CITATION.cff").read_text(), re.M)
    assert inference.__version__ == probnet.__version__ == stated == citation[1]
    assert f"## {stated}" in (ROOT / "docs" / "changelog.md").read_text()


@pytest.mark.parametrize("package", [inference, probnet], ids=lambda package: package.__name__)
def test_every_public_module_is_in_the_reference(package):
    listed = (ROOT / "docs" / "api.md").read_text()
    public = [package, *(getattr(package, name) for name in package.__all__)]
    modules = [member.__name__ for member in public if isinstance(member, ModuleType)]
    assert [name for name in modules if f"automodule:: {name}\n" not in listed] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_on_a_page_runs(page, tmp_path, monkeypatch):
    """The Python blocks of a page are one program; tracebacks show the page's line numbers."""
    pieces = re.split(r"^```python\n(.*?)^```$", page.read_text(), flags=re.M | re.S)
    source = "".join(
        piece if number % 2 else "\n" * (piece.count("\n") + 1)
        for number, piece in enumerate(pieces)
    )
    monkeypatch.chdir(tmp_path)
    if "import numpyro" in source:
        with scoped_seed(0):  # its import moves NumPy's global generator
            importlib.import_module("numpyro")
    exec(compile(source, str(page), "exec"), {"__name__": "__main__"})
