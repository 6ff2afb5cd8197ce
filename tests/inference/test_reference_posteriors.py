"""Published posteriors with gold-standard draws, and a conjugate one for every run.

Three posteriors of posteriordb, 10 000 draws of Stan each, read from `PROBNET_DATA` as
posteriordb/<folder>/{data,reference}.json. Another one is a `Case`: its folder, a function
from the published data to the target, and one from draws to the names of the reference.

    PROBNET_DATA=/data pytest -m paper -s tests/inference/test_reference_posteriors.py
"""

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch.distributions import constraints

import inference

needs_data = pytest.mark.skipif(
    "PROBNET_DATA" not in os.environ,
    reason="needs posteriordb's reference draws: set PROBNET_DATA to the folder that holds "
    "posteriordb/<name>/{data,reference}.json",
)

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A published posterior, and how it is sampled.

    Attributes:
        folder: under `$PROBNET_DATA/posteriordb`.
        build: from the published data to the arguments of `inference.sample` before options.
        report: from the draws and the published data to (chain, draw) arrays, named as in the
            reference.
        options: of `inference.sample`.
        sd_ratio: accepted range of each sd over the reference's, by the scalar's name.
    """

    folder: str
    build: Callable[[dict[str, Any]], dict[str, Any]]
    report: Callable[[Arrays, dict[str, Any]], dict[str, np.ndarray]]
    options: dict[str, Any]
    sd_ratio: dict[str, tuple[float, float]] = field(default_factory=dict)


# ------------------------------------------------------------------------------- the posteriors


def eight_schools(data):
    """Non-centred: theta = mu + tau z."""

    def model(sigma, y):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("school", len(sigma)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            theta = pyro.deterministic("theta", mu + tau * z)
            pyro.sample("y", dist.Normal(theta, sigma), obs=y)

    return {"target": model, "data": (_array(data["sigma"]), _array(data["y"]))}


def gp_regr(data):
    """Squared exponential kernel; the diagonal gets sigma itself, not its square."""

    def model(x, y):
        rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
        alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
        sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
        kernel = alpha**2 * torch.exp(-((x[:, None] - x) ** 2) / (2 * rho**2))
        covariance = kernel + sigma * torch.eye(len(x), dtype=x.dtype)
        pyro.sample("y", dist.MultivariateNormal(torch.zeros_like(x), covariance), obs=y)

    return {"target": model, "data": (_array(data["x"]), _array(data["y"]))}


def kidscore_raw(data):
    """As published: unscaled columns, correlations up to 0.99, flat coefficients."""
    x, y = _design(data), _array(data["kid_score"])
    fit = torch.linalg.lstsq(x, y[:, None]).solution[:, 0]
    target = inference.LogDensity(
        log_prior=lambda p: dist.HalfCauchy(2.5).log_prob(p["sigma"]),
        log_lik=lambda p, rows: dist.Normal(rows[0] @ p["beta"], p["sigma"]).log_prob(rows[1]),
        params={"beta": fit, "sigma": (y - x @ fit).std()},
        constraints={"sigma": constraints.positive},
        num_data=len(y),
    )
    return {"target": target, "data": (x, y), "init": "params"}


def kidscore_standardized(data):
    """Standardised columns and outcome; a flat prior stays flat."""
    x, y = _design(data), _array(data["kid_score"])
    x[:, 1:] = (x[:, 1:] - x[:, 1:].mean(0)) / x[:, 1:].std(0)
    scale = y.std()

    def model(x, y):
        flat = dist.ImproperUniform(constraints.real, (), (4,))
        beta = pyro.sample("beta", flat)
        sigma = pyro.sample("sigma", dist.HalfCauchy(2.5 / scale))
        with pyro.plate("child", len(y)):
            pyro.sample("score", dist.Normal(x @ beta, sigma), obs=y)

    return {"target": model, "data": (x, (y - y.mean()) / scale)}


def kidscore_on_raw_scale(draws, data):
    x, y = _design(data), _array(data["kid_score"])
    mean, sd = x[:, 1:].mean(0).numpy(), x[:, 1:].std(0).numpy()
    slopes = draws["beta"][..., 1:] / sd * float(y.std())
    shifted = draws["beta"][..., :1] * float(y.std()) + float(y.mean())
    intercept = shifted - (slopes * mean).sum(-1, keepdims=True)
    beta = np.concatenate([intercept, slopes], axis=-1)
    return {**indexed("beta", beta), "sigma": draws["sigma"] * float(y.std())}


def _design(data):
    hs, iq = _array(data["mom_hs"]), _array(data["mom_iq"])
    return torch.stack([torch.ones_like(hs), hs, iq, hs * iq], dim=1)


def _array(values):
    return torch.tensor(values, dtype=torch.float64)


def indexed(name, array):
    """The entries of a vector as `name[1]`, `name[2]`, ..."""
    return {f"{name}[{i + 1}]": array[..., i] for i in range(array.shape[-1])}


def _schools_report(draws, data):
    return {"mu": draws["mu"], "tau": draws["tau"], **indexed("theta", draws["theta"])}


def _gp_report(draws, data):
    return {name: draws[name] for name in ("rho", "alpha", "sigma")}


def _kidscore_report(draws, data):
    return {**indexed("beta", draws["beta"]), "sigma": draws["sigma"]}


# ------------------------------------------------------------------------------- the comparison


@dataclass(frozen=True)
class Row:
    """One scalar against its reference; errors are in units of the reference's sd."""

    name: str
    mean_error: float
    z: float
    sd_ratio: float
    q05_error: float
    q95_error: float
    rhat: float
    ess: float


def compare(draws: Arrays, reference: Mapping[str, Mapping[str, float]]) -> list[Row]:
    """Every scalar of the reference against draws (chain, draw) of the same name."""
    assert set(draws) == set(reference)
    rows = []
    for name, ref in reference.items():
        values = np.asarray(draws[name], dtype=np.float64)
        assert np.isfinite(values).all(), name
        ess = float(inference.diagnostics.ess(values))
        difference = values.mean() - ref["mean"]
        error = np.sqrt(ref["sd"] ** 2 / ess + ref["mcse_mean"] ** 2)
        low, high = np.quantile(values, [0.05, 0.95])
        rows.append(
            Row(
                name=name,
                mean_error=difference / ref["sd"],
                z=difference / error,
                sd_ratio=values.std() / ref["sd"],
                q05_error=(low - ref["q05"]) / ref["sd"],
                q95_error=(high - ref["q95"]) / ref["sd"],
                rhat=float(inference.diagnostics.rhat(values)),
                ess=ess,
            )
        )
    return rows


def print_table(title: str, rows: list[Row]) -> None:
    """One line per scalar, for the log."""
    print(f"\n{title}")
    print(
        f"{'scalar':>10} {'mean err/sd':>12} {'z':>7} {'sd ratio':>9} {'q05 err':>8} ", end=""
    )
    print(f"{'q95 err':>8} {'R-hat':>7} {'ESS':>7}")
    for r in rows:
        print(
            f"{r.name:>10} {r.mean_error:12.4f} {r.z:7.2f} {r.sd_ratio:9.4f} "
            f"{r.q05_error:8.3f} {r.q95_error:8.3f} {r.rhat:7.4f} {r.ess:7.0f}"
        )


def run_case(case: Case) -> tuple[inference.Draws, list[Row]]:
    """Sample a published posterior, print the table, return the comparison."""
    folder = Path(os.environ["PROBNET_DATA"]) / "posteriordb" / case.folder
    data = json.loads((folder / "data.json").read_text())
    reference = json.loads((folder / "reference.json").read_text())["parameters"]
    started = time.process_time()
    draws = inference.sample(**case.build(data), **case.options, seed=20, progress=False)
    seconds = time.process_time() - started
    rows = compare(case.report(draws.draws, data), reference)
    divergent = int(draws.sample_stats["diverging"].sum()) if _diverges(draws) else "-"
    print_table(
        f"{case.folder}: {case.options['method']}, {draws.num_chains} x {draws.num_samples} "
        f"draws, divergences {divergent}, {seconds:.0f} CPU-s",
        rows,
    )
    square = float(np.mean([row.mean_error**2 for row in rows]))
    print(f"mean square error of the means times CPU time: {square * seconds:.3g} sd² s")
    return draws, rows


def _diverges(draws):
    return "diverging" in draws.sample_stats


# ------------------------------------------------------------------------------------ the tests

NUTS = {
    "method": "nuts",
    "num_chains": 4,
    "num_warmup": 1000,
    "num_samples": 1000,
    "target_accept_prob": 0.9,
}
SGHMC = {
    "method": "sghmc",
    "num_chains": 16,
    "num_warmup": 4000,
    "num_samples": 4000,
    "thin": 10,
}

NUTS_CASES = [
    Case(
        "eight_schools-eight_schools_noncentered",
        eight_schools,
        _schools_report,
        NUTS,
        {"tau": (0.85, 1.15)},
    ),
    Case(
        "kidiq-kidscore_interaction",
        kidscore_raw,
        _kidscore_report,
        {**NUTS, "full_mass": True},
    ),
    Case("gp_pois_regr-gp_regr", gp_regr, _gp_report, {**NUTS, "full_mass": True}),
]
SGHMC_CASES = [
    Case(
        "eight_schools-eight_schools_noncentered",
        eight_schools,
        _schools_report,
        {**SGHMC, "step_size": 0.15, "friction": 0.5},
    ),
    Case(
        "gp_pois_regr-gp_regr",
        gp_regr,
        _gp_report,
        {**SGHMC, "step_size": 0.05, "friction": 3.0},
    ),
]


HMC_CASES = [
    replace(case, options={**case.options, "method": "hmc", "num_chains": 16})
    for case in NUTS_CASES
]


@needs_data
@pytest.mark.paper
@pytest.mark.filterwarnings("ignore:.*after warm-up diverged")  # their share is tested
@pytest.mark.parametrize(
    "case",
    [*NUTS_CASES, *HMC_CASES],
    ids=lambda case: f"{case.options['method']}-{case.folder}",
)
def test_agrees_with_the_reference_draws(case):
    draws, rows = run_case(case)
    assert draws.sample_stats["diverging"].mean() < 0.005
    for row in rows:
        low, high = case.sd_ratio.get(row.name, (0.9, 1.1))
        assert abs(row.z) < 4, row
        assert low < row.sd_ratio < high, row
        assert abs(row.q05_error) < 0.15, row
        assert abs(row.q95_error) < 0.15, row
        assert row.rhat < 1.01, row


@needs_data
@pytest.mark.paper
def test_full_batch_sghmc_agrees_with_the_reference_draws_of_kidscore():
    case = Case(
        "kidiq-kidscore_interaction",
        kidscore_standardized,
        kidscore_on_raw_scale,
        {**SGHMC, "step_size": 0.025, "friction": 3.0},
    )
    _, rows = run_case(case)
    for row in rows:
        assert abs(row.mean_error) < 0.05, row
        assert 0.97 <= row.sd_ratio <= 1.03, row


@needs_data
@pytest.mark.paper
@pytest.mark.parametrize("case", SGHMC_CASES, ids=lambda case: case.folder)
def test_full_batch_sghmc_is_near_the_reference_draws(case):
    _, rows = run_case(case)
    for row in rows:
        assert abs(row.mean_error) < 0.15, row
        assert 0.85 <= row.sd_ratio <= 1.15, row


@pytest.fixture(scope="module")
def conjugate():
    """Linear regression with a normal-inverse-gamma prior, and its exact marginals.

    sigma² ~ InverseGamma(3, 2), beta ~ N(0, sigma² I): beta's posterior is a multivariate
    Student-t with 2a degrees of freedom, sigma²'s an inverse gamma.
    """
    rng = np.random.default_rng(0)
    x = np.column_stack([np.ones(40), rng.normal(size=(40, 2))])
    x[:, 2] += 0.8 * x[:, 1]
    y = x @ [1.0, -2.0, 0.5] + 0.7 * rng.normal(size=40)
    precision = np.eye(3) + x.T @ x
    mean = np.linalg.solve(precision, x.T @ y)
    shape = 3 + 40 / 2
    rate = 2 + (y @ y - mean @ precision @ mean) / 2
    width = np.sqrt(rate / shape * np.diag(np.linalg.inv(precision)))
    laws = {f"beta[{i + 1}]": stats.t(2 * shape, loc=mean[i], scale=width[i]) for i in range(3)}
    laws["variance"] = stats.invgamma(shape, scale=rate)
    reference = {
        name: {
            "mean": law.mean(),
            "sd": law.std(),
            "mcse_mean": 0.0,
            "q05": law.ppf(0.05),
            "q95": law.ppf(0.95),
        }
        for name, law in laws.items()
    }

    data = torch.from_numpy(x), torch.from_numpy(y)
    return data, reference


def conjugate_target(variance_of, name, **options):
    """The model above, of beta and of what `variance_of` makes the variance from."""

    def log_prior(p):
        variance = variance_of(p[name])
        return -(4 + 3 / 2) * variance.log() - (2 + p["beta"].square().sum() / 2) / variance

    def log_lik(p, rows):
        variance = variance_of(p[name])
        return -variance.log() / 2 - (rows[1] - rows[0] @ p["beta"]).square() / (2 * variance)

    params = {"beta": torch.zeros(3, dtype=torch.float64), name: torch.ones(()).double()}
    return inference.LogDensity(log_prior, log_lik, params, **options)


def _conjugate_report(draws):
    return {**indexed("beta", draws["beta"]), "variance": draws["variance"]}


CONJUGATE_RUNS = {
    "hmc": {"num_chains": 8, "num_warmup": 100, "num_samples": 100},
    "nuts": {"num_chains": 2, "num_warmup": 80, "num_samples": 100, "full_mass": True},
    "sghmc": {
        "num_chains": 64,
        "num_warmup": 300,
        "num_samples": 100,
        "thin": 10,
        "step_size": 0.08,
        "friction": 3.0,
    },
}


@pytest.mark.parametrize("method", CONJUGATE_RUNS)
def test_agrees_with_a_conjugate_posterior(method, conjugate):
    """The standard error of an sd is sd·sqrt((κ − 1)/(4 ESS)); the kurtosis κ is below 4.5."""
    data, reference = conjugate
    target = conjugate_target(
        lambda v: v, "variance", constraints={"variance": constraints.positive}
    )
    options = CONJUGATE_RUNS[method]
    draws = inference.sample(target, data, method=method, **options, seed=2, progress=False)
    for row in compare(_conjugate_report(draws.draws), reference):
        spread = np.sqrt(3.5 / (4 * row.ess))
        bias = (
            0.03 if method == "sghmc" else 0.0
        )  # of the discretisation where it is not linear
        assert abs(row.mean_error) < 4 / np.sqrt(row.ess) + bias, row
        assert abs(row.sd_ratio - 1) < 4 * spread + bias, row


def test_the_comparison_sees_a_missing_jacobian(conjugate):
    """Negative control: the density of the variance, taken as that of its logarithm."""
    data, reference = conjugate
    forgetful = conjugate_target(torch.exp, "log_variance")
    options = CONJUGATE_RUNS["sghmc"]
    draws = inference.sample(forgetful, data, method="sghmc", **options, seed=2, progress=False)
    found = {"beta": draws.draws["beta"], "variance": np.exp(draws.draws["log_variance"])}
    rows = compare(_conjugate_report(found), reference)
    assert abs(next(row for row in rows if row.name == "variance").z) > 6
