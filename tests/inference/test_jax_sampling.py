"""Runs on the JAX backend: the chains of torch, and everything that runs can do."""

import numpy as np
import pytest
import torch
from scipy import stats

import inference
from inference.backends import load
from inference.rng import scoped_seed

with scoped_seed(0):  # importing NumPyro moves NumPy's global generator
    jax = pytest.importorskip("jax", reason="needs the extra 'jax'")
    numpyro = pytest.importorskip("numpyro", reason="needs the extra 'jax'")
import jax.numpy as jnp
import numpyro.distributions as dist

_RNG = np.random.default_rng(0)
X = _RNG.normal(size=(40, 2))
Y = X @ np.array([1.0, -1.0]) + _RNG.normal(size=40)
POSTERIOR_COVARIANCE = np.linalg.inv(X.T @ X + np.eye(2))
POSTERIOR_MEAN = POSTERIOR_COVARIANCE @ X.T @ Y

# Most runs are too short to be good; whether they are the same is what matters.
short = pytest.mark.filterwarnings("ignore::inference.InferenceWarning")


def in_jax():
    """Linear regression of unit noise, prior N(0, I)."""
    return inference.LogDensity(
        log_prior=lambda p: -0.5 * (p["w"] ** 2).sum(),
        log_lik=lambda p, rows: -0.5 * (rows[1] - rows[0] @ p["w"]) ** 2,
        params={"w": jnp.zeros(2)},
    )


def in_torch():
    return inference.LogDensity(
        log_prior=lambda p: -0.5 * (p["w"] ** 2).sum(),
        log_lik=lambda p, rows: -0.5 * (rows[1] - rows[0] @ p["w"]) ** 2,
        params={"w": torch.zeros(2)},
    )


def model(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    numpyro.deterministic("norm", (w**2).sum())
    with numpyro.plate("rows", 40, subsample_size=len(y)):
        numpyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)


def run(target, **options):
    given = {"num_chains": 3, "num_warmup": 40, "num_samples": 60, "progress": False}
    given |= {"step_size": 0.05, "seed": 4, "dtype": torch.float64}
    return inference.sample(target, (X, Y), **(given | options))


CASES = {
    "baoa": {"batch_size": 7, "resample_every": 9, "temperature": 0.7},
    "symplectic": {"integrator": "symplectic", "keep_warmup": True, "thin": 3}
    | {"control_variates": "mode", "batch_size": 7},
    "estimated noise": {"noise_correction": 0.5, "batch_size": 20, "step_size": 0.01},
    "epoch": {"control_variates": "epoch", "batch_size": 7, "share_batches": True},
    "adaptive": {"method": "sghmc_adaptive", "dtype": torch.float32},
    "langevin": {"method": "sgld", "schedule": inference.schedules.Polynomial(50.0)}
    | {"step_size": 1e-3},
    "thermostat": {"method": "sgnht"},
    "cyclical": {"method": "csghmc", "num_cycles": 3, "num_warmup": 0},
}


@short
@pytest.mark.parametrize("case", CASES)
def test_chains_are_those_of_torch(case):
    ours, theirs = run(in_jax(), **CASES[case]), run(in_torch(), compile=False, **CASES[case])
    tolerance = 1e-4 if CASES[case].get("dtype") == torch.float32 else 1e-10
    groups = (
        (ours.draws, theirs.draws),
        (ours.sample_stats, theirs.sample_stats),
        (ours.warmup, theirs.warmup),
    )
    for mine, other in groups:
        assert set(mine) == set(other)
        for name in mine:
            assert mine[name].dtype == other[name].dtype
            np.testing.assert_allclose(
                mine[name], other[name], rtol=tolerance, atol=tolerance, err_msg=name
            )
    mine, other = (d.attrs.get("predicted_variance_inflation", {}) for d in (ours, theirs))
    assert mine == pytest.approx(other, rel=1e-4)
    assert ours.attrs["backend"] == "jax"
    assert theirs.attrs["backend"] == "torch"
    assert ours.attrs["compiled"]


@short
def test_where_a_run_is_cut_does_not_matter(monkeypatch):
    whole = run(model, batch_size=7, chunk_size=1000)
    pieces = run(model, batch_size=7, chunk_size=7)
    more = run(model, batch_size=7, num_chains=4)
    for name in whole.draws:
        np.testing.assert_array_equal(whole.draws[name], pieces.draws[name])
        np.testing.assert_allclose(whole.draws[name], more.draws[name][:3], rtol=1e-10)
    assert not jax.config.jax_enable_x64


@short
@pytest.mark.parametrize("options", [{}, {"control_variates": "mode"}], ids=["plain", "mode"])
def test_a_run_goes_on_bit_for_bit(options, tmp_path, monkeypatch):
    options = {**options, "batch_size": 7, "chunk_size": 16, "resample_every": 11}
    whole = run(in_jax(), **options)
    saved = {"checkpoint": tmp_path / "run", "checkpoint_every": 16}
    taken = 0
    stepper = load("stepper").ScanStepper
    advance = stepper.advance

    def dying(self, state, block):
        nonlocal taken
        taken += block.num_steps
        if taken > 70:
            raise MemoryError
        return advance(self, state, block)

    with monkeypatch.context() as patch:
        patch.setattr(stepper, "advance", dying)
        with pytest.raises(MemoryError):
            run(in_jax(), **options, **saved)
    again = inference.resume(tmp_path / "run", in_jax(), (X, Y), backend="jax", progress=False)
    for name in whole.draws:
        np.testing.assert_array_equal(whole.draws[name], again.draws[name])
    with pytest.raises(ValueError, match="backend"):
        inference.resume(tmp_path / "run", in_torch(), (X, Y), progress=False)


def test_a_goal_is_reached():
    draws = run(in_jax(), until={"ess": 300}, num_samples=20_000, step_size=0.15, friction=5.0)
    assert draws.attrs["until_reached"]
    assert inference.diagnostics.ess(draws.draws["w"]).min() >= 300
    assert draws.num_samples < 20_000


def assert_posterior(draws):
    """Means and variances within three standard errors, Bonferroni for the four."""
    w = draws.draws["w"].astype(np.float64)
    size = inference.diagnostics.ess(w)
    limit = stats.norm.isf(0.001 / 4 / 2)
    sd = np.sqrt(np.diag(POSTERIOR_COVARIANCE))
    z = (w.mean((0, 1)) - POSTERIOR_MEAN) / sd * np.sqrt(size)
    size = inference.diagnostics.ess((w - POSTERIOR_MEAN) ** 2)
    variance = (w - POSTERIOR_MEAN).var((0, 1)) / sd**2
    assert np.abs(z).max() < limit
    assert np.abs((variance - 1) / np.sqrt(2 / size)).max() < limit


def test_nuts_samples_the_posterior():
    options = {"num_samples": 400, "num_warmup": 200, "step_size": 1.0, "thin": 2}
    draws = run(model, method="nuts", **options)
    assert_posterior(draws)
    assert draws.draws["w"].dtype == np.float64
    found = draws.sample_stats
    assert set(found) == {
        "lp", "energy", "acceptance_rate", "step_size", "n_steps", "tree_depth", "diverging"
    }  # fmt: skip
    assert (np.log2(found["n_steps"]).astype(int) + 1 == found["tree_depth"]).all()
    assert 0.6 < found["acceptance_rate"].mean() < 0.95
    assert (np.ptp(found["step_size"], axis=1) == 0).all()
    w = draws.draws["w"][1, 7]
    lp = stats.norm(X @ w).logpdf(Y).sum() + stats.norm().logpdf(w).sum()
    assert found["lp"][1, 7] == pytest.approx(lp, rel=1e-10)
    np.testing.assert_allclose(draws.draws["norm"], (draws.draws["w"] ** 2).sum(-1))


def test_hmc_samples_the_posterior():
    options = {"method": "hmc", "num_chains": 8, "step_size": 1.0}
    assert_posterior(run(in_jax(), num_warmup=150, num_samples=200, **options))
    few = {"num_warmup": 5, "num_samples": 5}
    ours, theirs = (run(target, **few, **options) for target in (in_jax(), in_torch()))
    np.testing.assert_allclose(ours.draws["w"], theirs.draws["w"], rtol=1e-8)


def test_a_suggested_step_samples_the_posterior():
    options = {"dtype": torch.float64, "batch_size": 8, "control_variates": "mode"}
    mine, other = (
        inference.suggest_step_size(target, (X, Y), **options)
        for target in (in_jax(), in_torch())
    )
    assert mine.step_size == pytest.approx(other.step_size, rel=1e-6)
    assert mine.friction == pytest.approx(other.friction, rel=1e-6)
    draws = run(in_jax(), num_chains=16, num_samples=1500, **mine.options)
    w = draws.draws["w"]
    sd = np.sqrt(np.diag(POSTERIOR_COVARIANCE))
    np.testing.assert_allclose(w.mean((0, 1)), POSTERIOR_MEAN, atol=0.06 * sd.min())
    np.testing.assert_allclose(w.std((0, 1)), sd, rtol=0.05)


def test_a_chain_that_dies_is_frozen():
    def log_density(p):
        return jnp.where(p["x"][0] > 3, jnp.nan, -1e-4 * (p["x"] ** 2).sum())

    spec = inference.LogDensity(
        log_density=log_density, scale="sum", params={"x": jnp.zeros(2)}
    )
    starts = np.full((3, 2), -50.0)  # too far from 3 to reach it
    starts[1] = 2.9
    with pytest.warns(inference.InferenceWarning, match="chains were frozen"):
        draws = inference.sample(
            spec, init={"x": starts}, num_chains=3, num_warmup=0, num_samples=60, step_size=0.6,
            temperature=0.5, seed=0, progress=False,
        )  # fmt: skip
    (dead,) = (int(chain) for chain in draws.attrs["frozen_chains"])
    assert np.isnan(draws.draws["x"][dead, -1]).all()
    assert np.isfinite(np.delete(draws.draws["x"], dead, 0)).all()


def test_draws_know_their_model(tmp_path):
    draws = run(model, num_samples=8)
    assert draws.dims == {"w": ["w_dim_0"], "norm": []}
    likelihood = draws.log_likelihood()["y"]
    expected = stats.norm(draws.draws["w"] @ X.T).logpdf(Y)
    np.testing.assert_allclose(likelihood, expected, rtol=1e-10)
    predicted = draws.posterior_predictive(seed=3)["y"]
    assert predicted.shape == (3, 8, 40)
    np.testing.assert_array_equal(predicted, draws.posterior_predictive(seed=3)["y"])

    def curve(p):
        return {"mean": jnp.asarray(X[:5]) @ p["w"], "exp": jnp.exp(p["norm"])}

    found = draws.predict(curve)
    np.testing.assert_allclose(found["mean"], draws.draws["w"] @ X[:5].T, rtol=1e-10)
    np.testing.assert_allclose(found["exp"], np.exp(draws.draws["norm"]), rtol=1e-10)
    path = draws.save(tmp_path / "draws.nc", log_likelihood=True, posterior_predictive=True)
    loaded = inference.load(path)
    again = loaded.predict(lambda p: jnp.exp(p["norm"]))
    np.testing.assert_allclose(again, found["exp"], rtol=1e-10)
    assert loaded.attrs["versions"]["numpyro"] == numpyro.__version__
    tree = draws.to_datatree(log_likelihood=True, posterior_predictive=True)
    assert tree["observed_data"]["y"].dims == ("rows",)
