"""A correlated Gaussian: effective draws per CPU-second beside Pyro's and NumPyro's NUTS.

100 dimensions, covariance 0.9^|i−j| (condition number 361), dense precision, float64, one
thread. The smallest ESS is over coordinates and eigen-directions; warm-up is charged to all,
compilation to none. Ours are 16 chains at once, the peers' NUTS runs of one chain. Pyro's run
is short, 150 + 150 iterations, and its ratio accordingly rough: NumPyro's is the one to go by.
"""

import time
import warnings
from statistics import median

import numpy as np
import pytest
import torch

import inference
from inference.rng import scoped_seed

DIM = 100
COVARIANCE = 0.9 ** np.abs(np.subtract.outer(np.arange(DIM), np.arange(DIM)))
DIRECTIONS = np.linalg.eigh(COVARIANCE)[1]
PRECISION = np.linalg.inv(COVARIANCE)


def run_ours(method, **options):
    """Draws (chain, draw, dim), CPU-seconds, and gradients after warm-up."""
    precision = torch.tensor(PRECISION)
    target = inference.LogDensity(
        log_density=lambda p: -p["x"] @ (precision @ p["x"]) / 2,
        scale="sum",
        params={"x": torch.zeros(DIM).double()},
    )
    clock = time.process_time()
    found = inference.sample(target, method=method, progress=False, **options)
    seconds = time.process_time() - clock
    return found.draws["x"], seconds, found.sample_stats["n_steps"].sum()


def run_numpyro(num_warmup, num_samples, seed):
    """The same by NumPyro, compiled beforehand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax
        import jax.numpy as jnp
        from numpyro.infer import MCMC, NUTS

    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision = jnp.asarray(PRECISION)
        kernel = NUTS(potential_fn=lambda x: x @ precision @ x / 2)
        chain = MCMC(kernel, num_warmup=num_warmup, num_samples=num_samples, progress_bar=False)
        start = jnp.asarray(np.random.default_rng(seed).uniform(-2, 2, DIM))

        def go():
            chain.run(jax.random.PRNGKey(seed), init_params=start, extra_fields=("num_steps",))
            return np.asarray(chain.get_samples())

        go()
        clock = time.process_time()
        draws = go()
        seconds = time.process_time() - clock
        return draws[None], seconds, int(chain.get_extra_fields()["num_steps"].sum())


def report(name, draws, seconds, gradients):
    """Print a row; smallest ESS per CPU-second."""
    both = np.concatenate([draws, draws @ DIRECTIONS], -1)
    size = inference.diagnostics.ess(both).min()
    print(
        f"{name:28} {seconds:7.2f} CPU-s   min-ESS {size:7.0f}   {size / seconds:8.2f} per "
        f"CPU-s   {1e3 * size / gradients:6.2f} per 1000 gradients"
    )
    return float(size / seconds)


@pytest.mark.benchmark
def test_hmc_against_nuts():
    with scoped_seed(0):  # importing it moves NumPy's global generator
        pytest.importorskip("numpyro")
    print()
    to_pyro, to_numpyro = [], []
    for seed in range(3):
        options = {"num_chains": 16, "num_warmup": 500, "num_samples": 500, "seed": seed}
        ours = report("inference hmc, 16 chains", *run_ours("hmc", **options))
        options = {"num_chains": 1, "num_warmup": 150, "num_samples": 150, "seed": seed}
        pyro = report("Pyro nuts, 1 chain", *run_ours("nuts", **options))
        numpyro = report("NumPyro nuts, 1 chain", *run_numpyro(500, 1000, seed))
        to_pyro.append(ours / pyro)
        to_numpyro.append(ours / numpyro)
    print(f"ratio to Pyro's NUTS {median(to_pyro):.1f}  {[round(r, 1) for r in to_pyro]}")
    print(
        f"ratio to NumPyro's NUTS {median(to_numpyro):.2f}  {[round(r, 2) for r in to_numpyro]}"
    )
    assert median(to_pyro) > 1
