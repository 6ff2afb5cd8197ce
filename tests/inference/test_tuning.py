"""The suggested step: right on what has a closed form, and kept by `inference.sample`."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import inference
from inference import LogDensity, linear_theory, suggest_step_size

FLOAT = torch.float64


def gaussian(values, dtype=FLOAT):
    precision = torch.as_tensor(values, dtype=dtype)
    return LogDensity(
        log_density=lambda p: -(precision * p["x"].square()).sum() / 2,
        scale="sum",
        params={"x": torch.zeros(len(precision), dtype=dtype)},
    )


class Rows:
    """Regression with known noise: gradient noise with closed-form variance."""

    random = np.random.default_rng(0)
    x = torch.as_tensor(random.normal(size=(600, 4)) * [1.0, 1.0, 2.0, 3.0])
    y = x @ torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=FLOAT) + torch.as_tensor(
        random.normal(size=600)
    )
    data = (x, y)
    target = LogDensity(
        lambda p: -p["w"].square().sum() / 2,
        lambda p, rows: -(rows[1] - rows[0] @ p["w"]).square() / 2,
        params={"w": torch.zeros(4, dtype=FLOAT)},
    )
    precision = (x.mT @ x + torch.eye(4, dtype=FLOAT)).numpy()


def test_a_gaussian_gets_half_the_stable_step_and_the_friction_of_its_softest_direction():
    found = suggest_step_size(gaussian(np.geomspace(1, 100, 30)))
    assert found.largest_curvature == pytest.approx(100, rel=1e-3)
    assert found.smallest_curvature == pytest.approx(1, rel=1e-6)
    assert found.step_size == pytest.approx((2 / 100) ** 0.5, rel=0.02)
    assert found.friction == pytest.approx(1, rel=0.1)
    assert abs(found.discretisation_inflation) < 1e-9
    assert found.gradient_noise_inflation == 0
    assert found.options == {
        "method": "sghmc",
        "step_size": found.step_size,
        "friction": found.friction,
        "integrator": "baoa",
    }


@pytest.mark.parametrize("control_variates", [None, "mode"])
def test_noise_of_minibatches_is_predicted(control_variates):
    """V in closed form from all per-row gradients; the rule then gives the inflation.

    Far from the mode the control variates' noise is that of the curvature of a batch alone.
    """
    n, total = 30, 600
    found = suggest_step_size(
        Rows.target, Rows.data, batch_size=n, control_variates=control_variates
    )
    values, vectors = np.linalg.eigh(Rows.precision)
    mode = np.linalg.solve(Rows.precision, (Rows.x.mT @ Rows.y).numpy())
    x = Rows.x.numpy()
    if control_variates:
        draws = np.random.default_rng(1).normal(size=(400, 4)) / np.sqrt(values) @ vectors.T
        rows = (x @ draws.T)[:, :, None] * x[:, None, :]
    else:
        rows = ((Rows.y.numpy() - x @ mode)[:, None] * x)[:, None]
    along = rows @ vectors
    variance = (total**2 / n * (1 - n / total) * along.var(0, ddof=1)).mean(0).max()
    step = linear_theory.baoa(values, np.array(found.step_size), np.array(found.friction))
    rule = linear_theory.predict(step, values, np.full(4, variance), total / n)
    rule = rule.gradient_noise.max()
    # 512 pairs: 6 % for one direction; 16 displacements: 35 % for the control variates
    assert found.gradient_noise_inflation == pytest.approx(
        rule, rel=0.6 if control_variates else 0.2
    )
    assert 0.02 < found.gradient_noise_inflation <= 0.0301


def test_control_variates_and_a_budget_by_parameter_allow_larger_steps():
    plain = suggest_step_size(Rows.target, Rows.data, batch_size=30)
    varied = suggest_step_size(Rows.target, Rows.data, batch_size=30, control_variates="mode")
    assert varied.autocorrelation_time < plain.autocorrelation_time / 4
    assert varied.options["control_variates"] == "mode"
    assert varied.options["batch_size"] == 30
    loose = suggest_step_size(Rows.target, Rows.data, batch_size=30, bias_of="parameters")
    assert loose.autocorrelation_time < plain.autocorrelation_time
    assert loose.gradient_noise_inflation > plain.gradient_noise_inflation


@pytest.mark.parametrize(
    ("method", "integrator"),
    [
        ("sghmc", "baoa"),
        ("sghmc", "symplectic"),
        ("sghmc_adaptive", "symplectic"),
        ("sghmc_adaptive", "baoa"),
        ("sgnht", None),
    ],
)
def test_sampling_with_the_suggestion_keeps_the_budget(method, integrator):
    """Each variance is within the predicted error, and no further than chance allows."""
    values = np.geomspace(1, 30, 12)
    found = suggest_step_size(gaussian(values), method=method, integrator=integrator)
    assert abs(found.discretisation_inflation) <= 0.03 + 1e-9
    draws = inference.sample(
        gaussian(values),
        **found.options,
        num_chains=200,
        num_warmup=600,
        num_samples=60,
        thin=max(1, round(found.autocorrelation_time / 4)),
        progress=False,
    )
    squares = values * draws.draws["x"] ** 2
    ess = 200 * 60 / 4
    # 0.01 for the masses that each chain has learnt by itself, and a thermostat of 12 parts
    allowed = 4 * (2 / ess) ** 0.5 + 0.01
    assert (np.abs(squares.mean((0, 1)) - 1) < 0.03 + allowed).all()


def test_langevin_dynamics_spends_its_budget_on_the_stiffest_direction():
    """1/(1 − ελ/2) = 1.03."""
    found = suggest_step_size(gaussian([1.0, 100.0]), method="sgld")
    assert found.step_size == pytest.approx(2 * (1 - 1 / 1.03) / 100, rel=0.02)
    assert found.friction is None
    assert set(found.options) == {"method", "step_size"}


def test_scale_adapted_steps_do_not_depend_on_the_units():
    """Its mass is the root of the gradient's second moment: half of a rescaling is undone."""
    plain = suggest_step_size(gaussian([1.0, 1.0]), method="sghmc_adaptive")
    scaled = suggest_step_size(gaussian([100.0, 100.0]), method="sghmc_adaptive")
    assert plain.momentum_decay == pytest.approx(scaled.momentum_decay, rel=0.05)
    assert plain.step_size / scaled.step_size == pytest.approx(100**0.25, rel=0.05)


def test_a_pyro_model_with_a_scale_is_sampled_right():
    """Conjugate: y ~ N(0, s²), s² ~ InverseGamma. The log scale is not Gaussian."""
    y = torch.tensor([0.3, -1.2, 0.8, 2.0, -0.4], dtype=FLOAT)

    def model(y):
        precision = pyro.sample("precision", dist.Gamma(y.new_tensor(2.0), y.new_tensor(1.0)))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(0.0, precision**-0.5), obs=y)

    found = suggest_step_size(model, y)
    draws = inference.sample(
        model,
        y,
        **found.options,
        num_chains=256,
        num_warmup=200,
        num_samples=40,
        thin=5,
        progress=False,
    )
    shape, rate = 2 + 5 / 2, 1 + float(y.square().sum()) / 2
    values = draws.draws["precision"]
    error = values.mean(1).std() / 16
    assert abs(values.mean() - shape / rate) < 4 * error
    assert values.std() / (shape**0.5 / rate) == pytest.approx(1, abs=0.08)


def test_more_than_500_dimensions_are_judged_by_the_ends_of_the_spectrum():
    values = np.concatenate([[1.0], np.full(518, 25.0), [100.0]])
    found = suggest_step_size(gaussian(values, torch.float32))
    assert found.step_size == pytest.approx((2 / 100) ** 0.5, rel=0.2)
    assert found.friction == pytest.approx(1, rel=0.2)
    with pytest.raises(ValueError, match="bias_of='parameters' needs the whole spectrum"):
        suggest_step_size(gaussian(values, torch.float32), bias_of="parameters")


def test_flat_directions_are_reported():
    with pytest.warns(inference.InferenceWarning, match="1 of 2 directions have no positive"):
        suggest_step_size(
            LogDensity(
                log_density=lambda p: -(p["x"][0] ** 2) / 2 - p["x"][1] ** 4,
                scale="sum",
                params={"x": torch.zeros(2, dtype=FLOAT)},
            ),
            init="params",
        )


def test_the_same_seed_suggests_the_same_and_leaves_global_streams_alone():
    state = torch.get_rng_state()
    first = suggest_step_size(Rows.target, Rows.data, batch_size=30, seed=3)
    assert first == suggest_step_size(Rows.target, Rows.data, batch_size=30, seed=3)
    assert torch.equal(state, torch.get_rng_state())


def test_it_reads_as_text():
    found = suggest_step_size(Rows.target, Rows.data, batch_size=30)
    text = str(found)
    for part in ("step_size=", "friction=", "by minibatches", "effective draws per 1000 steps"):
        assert part in text
    assert found.ess_per_1000_steps == pytest.approx(1000 / found.autocorrelation_time)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"method": "nuts"}, ValueError, "`method`"),
        ({"bias": 0.0}, ValueError, "`bias`"),
        ({"bias": 1.5}, ValueError, "`bias`"),
        ({"bias_of": "parameter"}, ValueError, "Did you mean 'parameters'"),
        ({"seed": -1}, ValueError, "`seed`"),
        ({"method": "sgld", "integrator": "baoa"}, ValueError, "no `integrator`"),
        ({"integrator": "leapfrog"}, ValueError, "`integrator`"),
        ({"control_variates": "mode"}, ValueError, "`control_variates` need a `batch_size`"),
        ({"batch_size": 601}, ValueError, "`batch_size`"),
        ({"batch_size": 1, "bias": 1e-9, "method": "sgld"}, ValueError, "no step size keeps"),
        ({"dtype": torch.int64}, ValueError, "`dtype`"),
    ],
)
def test_bad_arguments_are_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        suggest_step_size(Rows.target, Rows.data, **options)


def test_a_target_without_a_mode_is_refused():
    spec = LogDensity(
        log_density=lambda p: p["x"].sum(), scale="sum", params={"x": torch.zeros(2)}
    )
    with pytest.raises(ValueError, match="no mode was found"):
        suggest_step_size(spec)
