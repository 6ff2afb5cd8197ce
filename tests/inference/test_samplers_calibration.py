"""Calibration over many synthetic data sets, and Geweke's joint test.

200 data sets are one target: their posteriors are independent, so the log density of all
parameters together is the sum, and one vectorised run samples all of them.
"""

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import inference
from inference import LogDensity
from inference.binding import bind
from inference.gradients import log_density_and_gradient
from inference.samplers import SGHMC, Settings, take_step

DATA_SETS, PARAMETERS, ROWS = 200, 3, 8
LEVELS = np.array([0.5, 0.8, 0.9, 0.95])
RANKS = 99


def normal_means(seed):
    """μ_jk ~ N(0, 1), eight y ~ N(μ_jk, 0.8²): target, the μ that made the data, exact law."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(DATA_SETS, PARAMETERS))
    y = torch.tensor(truth + 0.8 * rng.normal(size=(ROWS, DATA_SETS, PARAMETERS)))

    def log_density(p):
        return -p["m"].square().sum() / 2 - (y - p["m"]).square().sum() / (2 * 0.64)

    spec = LogDensity(
        log_density=log_density,
        scale="sum",
        params={"m": torch.zeros(DATA_SETS, PARAMETERS).double()},
    )
    precision = 1 + ROWS / 0.64
    return spec, truth, y.mean(0).numpy() * ROWS / 0.64 / precision, precision**-0.5


def logistic(seed):
    """w_j ~ N(0, I₂), 20 rows y ~ Bernoulli(σ(x w_j)): target and the w that made the data."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(DATA_SETS, 2))
    x = torch.tensor(rng.normal(size=(DATA_SETS, 20, 2)))
    logits = (x @ torch.tensor(truth)[..., None])[..., 0]
    sign = torch.where(
        torch.tensor(rng.uniform(size=logits.shape)) < logits.sigmoid(), 1.0, -1.0
    )

    def log_density(p):
        logits = (x @ p["m"][..., None])[..., 0]
        likelihood = torch.nn.functional.logsigmoid(sign * logits).sum()
        return likelihood - p["m"].square().sum() / 2

    spec = LogDensity(
        log_density=log_density, scale="sum", params={"m": torch.zeros(DATA_SETS, 2).double()}
    )
    return spec, truth


RUNS = {
    "baoa": {"method": "sghmc", "step_size": 0.12, "friction": 4.0},
    "symplectic": {
        "method": "sghmc",
        "integrator": "symplectic",
        "step_size": 0.03,
        "friction": 6.0,
    },
    "adaptive": {
        "method": "sghmc_adaptive",
        "integrator": "baoa",
        "step_size": 0.3,
        "momentum_decay": 0.3,
    },
    "langevin": {"method": "sgld", "step_size": 0.003},
}
THIN = {"baoa": 20, "symplectic": 60, "adaptive": 20, "langevin": 80}


def draw(spec, way, *, chains, draws, **options):
    """Draws (chain · draw, data set, parameter), thinned until they are nearly independent."""
    found = inference.sample(
        spec,
        num_chains=chains,
        num_warmup=5 * THIN[way],
        num_samples=draws,
        thin=THIN[way],
        init="params",
        progress=False,
        **RUNS[way],
        **options,
    ).draws["m"]
    return found.reshape(chains * draws, *found.shape[2:])


def covered(draws, truth):
    """Share of data sets with the truth in the central interval, (level, parameter)."""
    tails = np.concatenate([(1 - LEVELS) / 2, (1 + LEVELS) / 2])
    low, high = np.split(np.quantile(draws, tails, axis=0), 2)
    return ((low < truth) & (truth < high)).mean(1)


def coverage_error(draws, truth):
    """Largest |share − p| in units of √(p(1−p)/200)."""
    error = np.sqrt(LEVELS * (1 - LEVELS) / DATA_SETS)
    return np.abs((covered(draws, truth) - LEVELS[:, None]) / error[:, None]).max()


def test_central_intervals_cover_as_often_as_they_should():
    """±3√(p(1−p)/200) of 50, 80, 90 and 95 %; draws of the exact law pass, T = 2 does not."""
    spec, truth, mean, sd = normal_means(seed=4)
    exact = mean + sd * np.random.default_rng(0).normal(size=(1600, *mean.shape))
    assert coverage_error(exact, truth) < 3
    assert coverage_error(draw(spec, "baoa", chains=64, draws=10), truth) < 3
    hot = draw(spec, "baoa", chains=64, draws=5, temperature=2.0)
    assert coverage_error(hot, truth) > 3


# -- simulation-based calibration ----------------------------------------------------------


def uniformity(draws, truth):
    """p-values of the ranks of the truth among 99 draws: χ² on 20 bins of 5, and KS."""
    assert len(draws) == RANKS
    ranks = (draws < truth).sum(0).ravel()
    counts = np.bincount(ranks // 5, minlength=20)
    chi = stats.chisquare(counts).pvalue
    return chi, stats.kstest((ranks + 0.5) / (RANKS + 1), "uniform").pvalue


TESTS = 2 * (len(RUNS) + 2)  # p-values that are looked at; Bonferroni


@pytest.mark.parametrize("way", RUNS)
def test_ranks_are_uniform_on_a_conjugate_model(way):
    """200 runs of three independent parameters. Talts et al. (2018)."""
    spec, truth, _, _ = normal_means(seed=1)
    found = uniformity(draw(spec, way, chains=11, draws=9), truth)
    assert min(found) > 0.001 / TESTS


def test_ranks_are_uniform_on_a_logistic_regression():
    """Its two coefficients are dependent within a run, so each is tested alone."""
    spec, truth = logistic(seed=2)
    draws = draw(spec, "baoa", chains=11, draws=9)
    for k in range(2):
        assert min(uniformity(draws[..., k], truth[:, k])) > 0.001 / TESTS


@pytest.mark.parametrize("temperature", [2.0, 0.5])
def test_calibration_catches_a_wrong_noise_variance(temperature):
    """Negative control: doubled, or halved, noise."""
    spec, truth, _, _ = normal_means(seed=1)
    draws = draw(spec, "baoa", chains=11, draws=9, temperature=temperature)
    assert min(uniformity(draws, truth)) < 1e-6


# -- Geweke's joint test -------------------------------------------------------------------

PAIRS, OBSERVATIONS, SHAPE, RATE = 20_000, 4, 6.0, 5.0


def normal_inverse_gamma(jacobian=True):
    """σ² ~ InvGamma(6, 5), μ | σ² ~ N(0, σ²), four y ~ N(μ, σ²)."""

    def log_prior(p):
        variance = p["variance"]
        value = -(SHAPE + 1.5) * variance.log() - (RATE + p["mean"].square() / 2) / variance
        return value if jacobian else value - variance.log()

    def log_lik(p, y):
        return -(y - p["mean"]).square() / (2 * p["variance"]) - p["variance"].log() / 2

    return LogDensity(
        log_prior=log_prior,
        log_lik=log_lik,
        params={"mean": torch.zeros(()).double(), "variance": torch.ones(()).double()},
        constraints={"variance": constraints.positive},
    )


def prior(generator):
    """Pairs of (μ, log σ²) from the prior, as positions."""
    gamma = np.random.default_rng(generator.initial_seed()).gamma(SHAPE, size=PAIRS)
    log_variance = torch.tensor(np.log(RATE / gamma))
    noise = torch.randn(PAIRS, generator=generator, dtype=torch.float64)
    return torch.stack([(log_variance / 2).exp() * noise, log_variance], -1)


def observe(positions, generator):
    noise = torch.randn(PAIRS, OBSERVATIONS, generator=generator, dtype=torch.float64)
    return positions[:, :1] + (positions[:, 1:] / 2).exp() * noise


def moments(positions, y):
    """First and second moments of parameters and data, one value per pair."""
    mean, log_variance = positions.unbind(-1)
    columns = [mean, log_variance, y.mean(-1), (y.var(-1)).log()]
    first = torch.stack(columns, -1)
    return torch.cat([first, first.square(), first[:, :2] * first[:, 2:]], -1).numpy()


def geweke_z(*, jacobian=True, temperature=1.0, rounds=12):
    """z of every moment between the marginal- and the successive-conditional simulator.

    The 20 000 successive simulators run side by side from the prior, so their last pairs are
    independent and the standard errors need no correction. A round is new data and ten steps
    on their posterior: between BAOA steps position and momentum are correlated by ε/2, which
    new data after every step would turn into an error of that order.
    """
    sampler = SGHMC(step_size=0.05, friction=3.0)
    settings = Settings(0.05, temperature, warmup=False)
    spec = normal_inverse_gamma(jacobian)
    placeholder = torch.zeros(OBSERVATIONS, dtype=torch.float64)
    target = bind(spec, placeholder, batch_size=None, dtype=None, device=None)
    evaluate = log_density_and_gradient(target, "vectorized")
    generator = torch.Generator().manual_seed(1)

    def normal():
        return torch.randn(PAIRS, 2, generator=generator, dtype=torch.float64)

    positions = prior(generator)
    marginal = moments(positions, observe(positions, generator))
    state = sampler.init(prior(torch.Generator().manual_seed(2)), normal(), settings)
    for step in range(10 * rounds):
        if step % 10 == 0:
            y = observe(state.position, generator)
        state, _ = take_step(sampler, evaluate, state, (y,), normal(), settings)
    successive = moments(state.position, observe(state.position, generator))
    variance = marginal.var(0, ddof=1) + successive.var(0, ddof=1)
    return (successive.mean(0) - marginal.mean(0)) / np.sqrt(variance / PAIRS)


def test_geweke_joint_distribution():
    """|z| < 4 of ten moments of (θ, y). Geweke (JASA 2004)."""
    assert np.abs(geweke_z()).max() < 4


@pytest.mark.parametrize("fault", [{"jacobian": False}, {"temperature": 2.0}], ids=str)
def test_geweke_catches(fault):
    """Negative controls: the log-Jacobian left out, the noise doubled."""
    assert np.abs(geweke_z(**fault)).max() > 4
