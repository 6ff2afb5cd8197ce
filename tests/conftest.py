"""Settings of the whole suite, and a guard over process-wide state."""

import os
import sys

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the cores are shared out among pytest's workers

import hypothesis
import numpy as np
import pytest
import torch

torch.set_num_threads(1)  # sums are then rounded alike on every machine
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.register_profile("dev", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device: torch.cuda.is_available() is false")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


def _global_state():
    """What a well-behaved library leaves as it was, in a form that compares with ==."""
    pyro = sys.modules.get("pyro")
    generator, keys, *position = np.random.get_state()  # noqa: NPY002 - the legacy state is the point
    return {
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "NumPy's legacy random state": (generator, keys.tobytes(), *position),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "validation of torch distributions": torch.distributions.Distribution._validate_args,
        "Pyro's parameter store": sorted(pyro.get_param_store()) if pyro else [],
    }


@pytest.fixture(autouse=True)
def _unchanged_global_state():
    """Fail a test that changes process-wide state; restore what would harm the next one."""
    before = _global_state()
    yield
    after = _global_state()
    torch.set_default_dtype(before["torch's default dtype"])
    torch.set_grad_enabled(before["torch's gradient mode"])
    torch.distributions.Distribution.set_default_validate_args(
        before["validation of torch distributions"]
    )
    changed = [name for name, value in before.items() if value != after[name]]
    assert not changed, f"the test changed {', '.join(changed)}"
