"""Task B, a logistic regression on minibatches: what control variates and compiling bring."""

import time
import warnings
from statistics import median

import numpy as np
import pytest
import torch
from benchmarks.inference.tasks import (
    BATCH,
    BUDGET,
    CHAINS,
    FEATURES,
    HEADER,
    Score,
    laplace,
    logistic,
    logistic_data,
    logistic_error,
    smallest_ess,
    suggest,
    timed,
)

import inference
from inference.rng import scoped_seed

PLAIN = {"step_size": 0.0005, "friction": 50.0}
VARIED = {"step_size": 0.012, "friction": 30.0, "control_variates": "mode"}
TEXT = """\
N = 10 000 rows, 50 features of correlation 0.5^|i−j|, N(0, 1) prior, minibatches of 256 for
every chain, float32; NUTS takes all the data. The smallest ESS is over coordinates and
eigen-directions. Burn-in is charged but not counted; compilation is not charged,
`suggest_step_size`, with a budget of 8 % of a parameter's variance, and the search for the mode
are. The error is against the Laplace law.
Medians of three runs."""


def run_ours(num_steps, data, **options):
    warmup = num_steps // 5
    return inference.sample(
        logistic(),
        data,
        num_chains=CHAINS,
        batch_size=BATCH,
        num_warmup=warmup,
        num_samples=(num_steps - warmup) // 4,
        thin=4,
        seed=0,
        progress=False,
        **options,
    ).draws["w"]


def ours(name, num_steps, data, law, charged=0.0, **options):
    mode = {"w": np.broadcast_to(law[0], (CHAINS, FEATURES)).astype(np.float32)}
    draws, seconds = timed(
        lambda steps: run_ours(steps, data, init=mode, **options), num_steps, num_steps // 5
    )
    return score(f"inference {name}", draws, seconds + charged, num_steps, law)


def score(name, draws, seconds, num_steps, law, chains=CHAINS):
    step = 1e6 * seconds / (num_steps * chains)
    size = smallest_ess(draws, law[2])
    return Score(name, step, size, seconds, logistic_error(draws, law)[0])


def peer_step(data, num_steps=400):
    """CPU-µs per chain-step of `posteriors` SGHMC under vmap, a batch per chain."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import posteriors

    x, y = (torch.tensor(part) for part in data)

    def log_density(w, batch):
        logits = batch[0] @ w
        likelihood = batch[1] * logits - torch.nn.functional.softplus(logits)
        return len(x) / BATCH * likelihood.sum() - w.square().sum() / 2, torch.empty(0)

    transform = posteriors.sgmcmc.sghmc.build(
        log_density, lr=PLAIN["step_size"], alpha=PLAIN["friction"]
    )
    update = torch.vmap(transform.update, in_dims=(0, 0), randomness="different")
    with torch.random.fork_rng(), warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.manual_seed(0)
        state = torch.vmap(transform.init, randomness="different")(
            torch.zeros(CHAINS, FEATURES)
        )
        clock = time.process_time()
        for _ in range(num_steps):
            rows = torch.randint(len(x), (CHAINS, BATCH))
            state, _ = update(state, (x[rows], y[rows]))
    return 1e6 * (time.process_time() - clock) / (num_steps * CHAINS)


def nuts(data, law, num_warmup=300, num_samples=500):
    """NumPyro's NUTS on all the data, compiled beforehand."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import jax
        import jax.numpy as jnp
        from numpyro.infer import MCMC, NUTS

    with jax.enable_x64(True), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x, y = (jnp.asarray(part, dtype=jnp.float64) for part in data)

        def potential(w):
            logits = x @ w
            return w @ w / 2 - (y * logits - jax.nn.softplus(logits)).sum()

        chain = MCMC(
            NUTS(potential_fn=potential),
            num_warmup=num_warmup, num_samples=num_samples, progress_bar=False,
        )  # fmt: skip

        def go(seed):
            chain.run(
                jax.random.PRNGKey(seed), init_params=jnp.asarray(law[0]),
                extra_fields=("num_steps",),
            )  # fmt: skip
            return np.asarray(chain.get_samples())

        go(0)
        clock = time.process_time()
        draws = go(1)
        seconds = time.process_time() - clock
    steps = int(np.asarray(chain.get_extra_fields()["num_steps"]).sum())
    return score("NumPyro nuts, all the data", draws[None], seconds, steps, law, chains=1)


def middle(scores):
    return sorted(scores, key=lambda found: found.rate)[len(scores) // 2]


@pytest.mark.benchmark
def test_logistic(write_table):
    """Floors: control variates 20 times plain, 10 times NUTS; a step 4 times cheaper."""
    with scoped_seed(0):  # importing them moves NumPy's global generator
        pytest.importorskip("numpyro")
        pytest.importorskip("posteriors")
    data = logistic_data()
    law = laplace(*data)
    runs = {"sghmc, compiled": (20_000, {"compile": True, **PLAIN}, 0.0)}
    runs["control variates, compiled"] = (10_000, {"compile": True, **VARIED}, 0.0)
    for kind, name in ((None, "sghmc"), ("mode", "control variates")):
        found, charged = suggest(
            logistic(), data, batch_size=BATCH, control_variates=kind, **BUDGET
        )
        options = {n: v for n, v in found.options.items() if n not in ("method", "batch_size")}
        runs[f"{name}, compiled, suggested step"] = (
            20_000, {"compile": True, **options}, charged
        )  # fmt: skip
        print(f"\n{name}: {found}\n{charged:.2f} CPU-s")
    scores, peers = {}, []
    for _ in range(3):
        for name, (steps, options, charged) in runs.items():
            one = ours(name, steps, data, law, charged, **options)
            scores.setdefault(name, []).append(one)
        peers.append((nuts(data, law), peer_step(data)))
    best = {name: middle(some) for name, some in scores.items()}
    reference = middle([run for run, _ in peers])
    step = median(step for _, step in peers)
    rows = [found.row for found in best.values()]
    rows += [reference.row, ["posteriors sghmc, vmap", f"{step:.1f}", "", "", ""]]
    write_table(
        "logistic", "A logistic regression", TEXT, HEADER, rows,
        packages=("torch", "numpyro", "jax", "posteriors"),
    )  # fmt: skip
    plain = best["sghmc, compiled"]
    for name, found in best.items():
        print(
            f"{name}: {found.rate / plain.rate:.1f} times plain, "
            f"{found.rate / reference.rate:.1f} times NumPyro nuts"
        )
    print(f"posteriors' step to our plain compiled one: {step / plain.step:.1f}")
    varied = best["control variates, compiled, suggested step"]
    assert varied.rate / plain.rate >= 20
    assert varied.rate / reference.rate >= 10
    assert step / plain.step >= 4
