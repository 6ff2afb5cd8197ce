"""The bias meter: against closed forms, and against three faults that it must catch."""

import json

import numpy as np
import pytest
import torch

import inference
from inference import BiasCheck, LogDensity
from inference.bias_verdict import Estimate
from inference.samplers import SGHMC
from inference.schedules import Polynomial

pytestmark = pytest.mark.filterwarnings("ignore::inference.InferenceWarning")

CURVATURE = torch.tensor([1.0, 4.0, 25.0], dtype=torch.float64)
GAUSSIAN = LogDensity(
    log_density=lambda p: -(CURVATURE * p["x"].square()).sum() / 2,
    scale="sum",
    params={"x": torch.zeros(3).double()},
)

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(1000, 4)) * [1.0, 0.7, 0.5, 0.3]
Y = (_RNG.uniform(size=1000) < 1 / (1 + np.exp(-X.sum(1)))).astype(float)


def log_prior(p):
    return -p["w"].square().sum() / 2


def log_lik(p, data):
    logits = data[0] @ p["w"]
    return data[1] * logits - torch.nn.functional.softplus(logits)


PARAMS = {"w": torch.zeros(4).double()}
LOGISTIC = LogDensity(log_prior, log_lik, PARAMS)
UNSCALED = LogDensity(  # N/n is missing
    log_density=lambda p, d: log_prior(p) + log_lik(p, d).sum(),
    scale="sum",
    num_data=1000,
    params=PARAMS,
)
LEVEL = 0.03


def run(target, data=None, **options):
    given = {"num_warmup": 1000, "num_samples": 2000, "bias_check": True, "compile": False}
    return inference.sample(target, data, progress=False, **(given | options))


def bias_of(*args, **options):
    return run(*args, **options).diagnostics()["bias"]


@pytest.fixture(scope="module")
def suggestion():
    return inference.suggest_step_size(LOGISTIC, (X, Y), batch_size=50, bias=LEVEL)


@pytest.mark.parametrize(
    ("options", "worst"),
    [
        (
            {"step_size": 0.1, "friction": 2.0, "integrator": "symplectic"},
            1 / (1 - 0.25 / (2 * (2 - 0.2))) - 1,
        ),
        ({"method": "sgld", "step_size": 0.006}, 1 / (1 - 0.006 * 25 / 2) - 1),
    ],
)
def test_discretisation_bias_is_that_of_the_closed_form(options, worst):
    found = bias_of(GAUSSIAN, **options)
    assert found["predicted"]["worst"] == pytest.approx(worst, rel=1e-6)
    measured = found["paired_variance"]
    assert abs(measured["worst"] - worst) < 4 * measured["worst_standard_error"]
    assert measured["worst_standard_error"] < worst / 4
    assert found["verdict"] == "biased"
    assert found["remedy"] == "take a smaller `step_size`"


def test_baoa_has_no_bias_on_a_gaussian():
    found = bias_of(GAUSSIAN, step_size=0.2, friction=1.0)
    assert found["verdict"] == "ok"
    assert found["reasons"] == []
    assert abs(found["predicted"]["worst"]) < 1e-10
    for name in ("paired_variance", "paired_mean", "stein", "kinetic"):
        figures = found[name]
        assert abs(figures["mean"]) < 4 * figures["mean_standard_error"], name


@pytest.mark.slow  # nine runs
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_suggested_step_passes_and_faults_do_not(suggestion, seed, monkeypatch):
    options = suggestion.options | {"seed": seed, "thin": 2}
    good = bias_of(LOGISTIC, (X, Y), **options)
    assert good["verdict"] == "ok", good["reasons"]
    worst = good["paired_variance"]
    assert abs(worst["worst"] - good["predicted"]["worst"]) < worst["half_width"]

    doubled = options | {"step_size": 2 * suggestion.step_size}
    found = bias_of(LOGISTIC, (X, Y), **doubled)
    assert found["verdict"] == "biased"
    assert "the step and minibatches" in found["reasons"][0]
    assert "batch_size" in found["remedy"]

    coefficients = SGHMC.coefficients

    def halved(self, settings):
        found = coefficients(self, settings)
        return found._replace(noise=found.noise / 2)

    monkeypatch.setattr(SGHMC, "coefficients", halved)
    found = bias_of(LOGISTIC, (X, Y), **options)
    assert found["verdict"] == "biased"
    assert "kinetic temperature" in found["reasons"][0]
    assert found["stein"]["mean"] == pytest.approx(-0.5, abs=0.2)
    assert "noise is too small" in found["remedy"]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_missing_scale_is_found_and_named(suggestion, seed):
    short = {"num_samples": 400, "bias_check": BiasCheck(num_chains=8, num_steps=100)}
    found = bias_of(UNSCALED, (X, Y), seed=seed, **suggestion.options, **short)
    assert found["verdict"] == "biased"
    assert found["gradient"]["worst"] == pytest.approx(50 / 1000 - 1, abs=0.05)
    assert "N/n" in found["remedy"]
    right = bias_of(LOGISTIC, (X, Y), seed=seed, **suggestion.options, **short)
    assert abs(right["gradient"]["worst"]) < right["gradient"]["half_width"]


@pytest.mark.parametrize(
    "options",
    [
        {"control_variates": "mode"},
        {"control_variates": "epoch", "resample_every": 20},
        {"method": "sghmc_adaptive", "friction": None, "step_size": 0.05},
        {"method": "sgnht", "noise_correction": 0.5},
        {"temperature": 0.5, "dtype": torch.float32},
    ],
)
def test_every_sampler_can_be_measured(options):
    given = {"batch_size": 100, "step_size": 0.003, "friction": 10.0, "num_samples": 200}
    given |= {"bias_check": BiasCheck(num_chains=8, num_steps=100)} | options
    found = bias_of(LOGISTIC, (X, Y), **{n: v for n, v in given.items() if v is not None})
    json.dumps(found, allow_nan=False)
    assert found["verdict"] in ("ok", "undecided", "biased")
    assert found["cost"]["minibatch_gradients"] == 3 * 8 * 100
    assert np.isfinite(found["paired_variance"]["worst"])


def test_draws_are_the_same_and_the_check_is_kept(tmp_path):
    check = BiasCheck(num_chains=8, num_steps=100)
    options = {"batch_size": 50, "step_size": 0.002, "num_warmup": 100, "num_samples": 100}
    plain = run(LOGISTIC, (X, Y), **options, bias_check=False)
    checked = run(LOGISTIC, (X, Y), **options, bias_check=check)
    again = run(LOGISTIC, (X, Y), **options, bias_check=check)
    np.testing.assert_array_equal(plain.draws["w"], checked.draws["w"])
    assert "bias" not in plain.diagnostics()
    assert checked.diagnostics() == again.diagnostics()
    other = run(LOGISTIC, (X, Y), **options, bias_check=check, seed=1)
    assert other.diagnostics()["bias"]["stein"] != checked.diagnostics()["bias"]["stein"]
    loaded = inference.load(checked.save(tmp_path / "draws.nc"))
    assert loaded.diagnostics() == checked.diagnostics()
    assert "bias" in checked.to_arviz().attrs


def test_a_biased_run_warns_with_its_remedy():
    with pytest.warns(inference.InferenceWarning, match="biased: .* Remedy: take a smaller"):
        run(GAUSSIAN, method="sgld", step_size=0.02, num_samples=500)


def test_a_short_run_is_undecided():
    found = bias_of(
        GAUSSIAN,
        step_size=0.02,
        num_samples=40,
        bias_check=BiasCheck(num_chains=8, num_steps=100),
    )
    assert found["verdict"] == "undecided"
    assert any(reason.startswith("stein: known to") for reason in found["reasons"])
    assert "lengthen the run" in found["remedy"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "nuts"}, "HMC and NUTS are exact"),
        ({"method": "hmc"}, "HMC and NUTS are exact"),
        ({"method": "csghmc", "num_cycles": 2}, "the run has a schedule"),
        ({"schedule": Polynomial()}, "the run has a schedule"),
        ({"temperature": 0.0}, "`temperature` 0"),
    ],
)
def test_where_it_makes_no_sense_it_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        run(GAUSSIAN, num_warmup=10, num_samples=10, **options)


def test_bad_values_are_named():
    with pytest.raises(TypeError, match="`bias_check` must be True"):
        run(GAUSSIAN, bias_check="yes")
    with pytest.raises(ValueError, match="`num_chains` must be even"):
        BiasCheck(num_chains=9)
    with pytest.raises(ValueError, match="`num_steps`"):
        BiasCheck(num_steps=10)
    with pytest.raises(ValueError, match="`level`"):
        BiasCheck(level=0.0)


def test_false_alarms_are_as_rare_as_stated():
    """Intervals for all directions together, of skewed ratios from few units too."""
    rng = np.random.default_rng(5)
    normal = [Estimate(rng.normal(size=(24, 6))).beyond(0.0) for _ in range(2000)]
    assert np.mean(normal) < 0.02 + 4 * (0.02 / 2000) ** 0.5  # 1 % each, directions and mean
    skewed = rng.chisquare(2, size=(2000, 24, 6)) / 2 - 1
    alarms = [Estimate(units, of_ratio=True).beyond(0.0) for units in skewed]
    naive = [Estimate(units).beyond(0.0) for units in skewed]
    assert np.mean(alarms) < 0.02 + 4 * (0.02 / 2000) ** 0.5
    assert np.mean(naive) > 2 * np.mean(alarms)


def test_gradients_that_are_not_finite_leave_it_undecided():
    """A minibatch target whose log density of all the data has no gradient."""

    def log_density(p, x):
        value = -p["x"].square().sum() / 2
        return value if len(x) < 10 else value / (p["x"].sum() * 0)

    target = LogDensity(log_density=log_density, scale="sum", params={"x": torch.ones(1)})
    options = {"batch_size": 5, "num_samples": 50, "step_size": 0.1, "init": {"x": [1.0]}}
    found = bias_of(target, np.zeros((10, 1)), **options)
    assert found["verdict"] == "undecided"
    assert "not finite" in found["reasons"][0]
