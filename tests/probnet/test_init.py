"""`import probnet`: what it refuses, and what it leaves unloaded."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import probnet
from probnet import _companion

REPOSITORY = Path(probnet.__file__).parents[1]


def run_python(code, *first_on_path):
    path = os.pathsep.join([*map(str, first_on_path), str(REPOSITORY)])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "source",
    [
        "__version__ = '0.51.0'",
        "__distribution__ = 'inference'",
        "from missing_dependency import x",
    ],
)
def test_a_foreign_inference_is_named_with_its_path_and_a_remedy(tmp_path, source):
    intruder = tmp_path / "inference" / "__init__.py"
    intruder.parent.mkdir()
    intruder.write_text(source)
    result = run_python("import probnet", tmp_path)
    assert result.returncode == 1
    message = result.stderr.splitlines()[-1]
    assert message.startswith("ImportError: probnet ")
    assert str(intruder) in message
    assert "reinstall" in message.lower()
    assert "probnet-bayes" in message


def test_a_missing_inference_is_named_with_a_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "inference", None)  # as if it were not installed
    with pytest.raises(ImportError, match=r"\(not installed\).*pip install"):
        _companion.require_own_inference()


def test_our_own_inference_is_accepted_and_heavy_libraries_stay_unloaded():
    """The second line printed is the negative control: by then one of them is imported."""
    heavy = ["arviz", "jax", "matplotlib", "numpyro", "pandas", "sklearn", "xarray"]
    ask = f"print(*(m for m in {heavy} if m in sys.modules))"
    result = run_python(f"import probnet, sys; {ask}; import xarray; {ask}")
    assert result.returncode == 0, result.stderr
    before, after = result.stdout.splitlines()
    assert before == ""
    assert "xarray" in after


def test_every_public_name_exists():
    assert all(hasattr(probnet, name) for name in probnet.__all__)
    assert probnet.__version__ == "0.1.0"
