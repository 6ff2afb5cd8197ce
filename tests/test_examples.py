"""Every example, run small: it finishes, anywhere, and its last numbers are within bounds."""

import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
# The law of all training targets, without the patients' measurements, has an NLL of 5.76.
BOUNDS = {
    "advection_inverse": {"deviations": 4.0, "relative_width": 0.2},
    "allen_cahn_2d": {"relative_error": 1e-3, "newton_steps": 5},
    "bayesian_regression": {"nll_network": 5.6, "nll_linear": 5.6},
    "bnn_digits": {"error": 0.5, "nll": 2.2},  # guessing: 0.9 and log 10 = 2.30
    "bnn_uci": {"nll_learned": 5.76, "excess_rmse": 5.0},
    "burgers": {"relative_to_heat": 0.7},
    "darcy_forward": {"relative_to_mean": 0.95, "projection_error": 0.05},
    "darcy_inverse": {"wrong_pixels": 0.3, "missed": 0.5},  # a guess: 0.5 of the pixels
    "functional_prior_1d": {"covariance_error": 0.05, "nll_matched": 1.8},
    "high_frequency_poisson": {"largest_error": 1e-4, "rms_z": 5.0},
    "nngp_uci": {"nll_integrated": 5.6},
    "np_bayesian_optimisation": {"excess_regret": 0.15},  # over random search
    "np_digits": {"excess_nll": 0.6},
    "np_hare_lynx": {"excess_simulated": -0.3, "excess_real": 3.0},
    "np_vs_gp": {"gap": 2.0, "defect": 1.0},
    "student_t_process": {"excess_nll": 0.0},
}


@pytest.mark.slow
# smoke runs: a thousandth of the steps, networks too small for their target
@pytest.mark.filterwarnings("ignore:the chains' predictions:inference.InferenceWarning")
@pytest.mark.filterwarnings("ignore:this architecture cannot:inference.InferenceWarning")
@pytest.mark.parametrize("name", BOUNDS)
def test_example(name, monkeypatch, tmp_path):
    monkeypatch.setenv("PROBNET_SMOKE", "1")
    monkeypatch.chdir(tmp_path)  # an example may not depend on where it is run
    result = runpy.run_path(str(EXAMPLES / f"{name}.py"))
    assert all(result[key] < bound for key, bound in BOUNDS[name].items())


def test_every_example_is_listed():
    assert sorted(path.stem for path in EXAMPLES.glob("*.py")) == sorted(BOUNDS)
