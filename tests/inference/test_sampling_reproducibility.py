"""Same seed, same draws: whatever the progress bar, the chunks, the number of chains."""

import io
import random
import sys

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import inference
from inference import LogDensity
from inference.data import BatchStream
from inference.rng import NormalStream, Stream

ROWS, BATCH = 30, 8
_RNG = np.random.default_rng(0)
X = torch.tensor(_RNG.normal(size=(ROWS, 3)))
Y = X @ torch.tensor([1.0, -1.0, 0.5]).double() + torch.tensor(_RNG.normal(size=ROWS))


def log_prior(p):
    return -p["w"].square().sum() / 2 - p["scale"]


def log_lik(p, data):
    x, y = data
    return -((y - x @ p["w"]) / p["scale"]).square() / 2 - p["scale"].log()


def regression(likelihood=log_lik):
    return LogDensity(
        log_prior=log_prior,
        log_lik=likelihood,
        params={"w": torch.zeros(3).double(), "scale": torch.ones(()).double()},
        constraints={"scale": torch.distributions.constraints.positive},
    )


def pyro_regression(x, y):
    w = pyro.sample("w", dist.Normal(x.new_zeros(3), 1.0).to_event(1))
    scale = pyro.sample("scale", dist.Exponential(x.new_ones(())))
    with pyro.plate("rows", len(x)):
        pyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def run(target=None, **options):
    given = {"num_chains": 2, "num_warmup": 20, "num_samples": 40, "step_size": 0.02}
    given |= {"seed": 5, "progress": False, "init": {"w": np.zeros(3), "scale": 1.0}}
    return inference.sample(target or regression(), (X, Y), **(given | options))


def assert_equal(one, two):
    assert set(one.draws) == set(two.draws)
    assert set(one.sample_stats) == set(two.sample_stats)
    for mine, other in ((one.draws, two.draws), (one.sample_stats, two.sample_stats)):
        for name in mine:
            np.testing.assert_array_equal(mine[name], other[name], err_msg=name)
    for name in one.state:
        assert torch.equal(one.state[name], two.state[name])


class Terminal(io.StringIO):
    """Takes what is written to it and says that it is a screen."""

    def isatty(self):
        return True


LONG = {  # more steps than a chunk of 64 holds
    "momentum resampled": {"resample_every": 9, "num_warmup": 20, "num_samples": 60},
    "cyclical": {
        "method": "csghmc",
        "num_warmup": 0,
        "num_samples": 20,
        "thin": 2,
        "num_cycles": 4,
        "exploration": 0.5,
    },
}
SHORT = {
    "full batch": {"batch_size": None},
    "minibatches": {},
    "shared minibatches": {"share_batches": True},
    "adaptive": {"method": "sghmc_adaptive"},
    "langevin": {"method": "sgld", "step_size": 1e-3},
    "thermostat": {"method": "sgnht"},
    "thinned, with warm-up": {"keep_warmup": True, "thin": 3},
}


@pytest.mark.parametrize("options", LONG.values(), ids=LONG)
def test_chunks_do_not_change_draws(options):
    options = {"batch_size": BATCH} | options
    first = run(**options, chunk_size=1000)
    for size in (1, 7, 64):
        assert_equal(first, run(**options, chunk_size=size))


@pytest.mark.parametrize("options", SHORT.values(), ids=SHORT)
def test_neither_progress_nor_chunks_change_draws_but_the_seed_does(options, monkeypatch):
    options = {"batch_size": BATCH, "num_warmup": 6, "num_samples": 10} | options
    monkeypatch.setattr("inference.recording._RECORD_AFTER", 10**9)  # it takes a second
    silent = run(**options)
    other = run(**options, seed=6).draws["w"]
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    shown = run(**options, progress=True, chunk_size=5)
    assert "100%" in terminal.getvalue()  # it was really drawn
    assert_equal(silent, shown)
    last = silent.draws["w"][:, -1]
    assert not np.isclose(last, other[:, -1]).any()
    assert not np.isclose(last[0], last[1]).any()


def test_nothing_is_shown_where_there_is_no_terminal(capsys):
    run(progress=True, num_samples=2, num_warmup=0)
    assert capsys.readouterr() == ("", "")


# -- chains do not know of each other ------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options"),
    [
        (regression(), {"friction": 2.0, "resample_every": 30}),
        (pyro_regression, {"method": "sghmc_adaptive", "step_size": 0.01}),
    ],
    ids=["density", "pyro"],
)
def test_a_chain_is_the_same_beside_any_number_of_others(target, options):
    """100 steps in float64, between 1, 3 and 16 chains, vectorised or one by one: 1e-10."""
    options |= {"init": None, "num_warmup": 40, "num_samples": 61, "batch_size": BATCH}
    many = run(target, num_chains=16, **options).draws
    for method, chains in (("vectorized", 1), ("vectorized", 3), ("sequential", 2)):
        few = run(target, num_chains=chains, chain_method=method, **options).draws
        for name, values in few.items():
            np.testing.assert_allclose(
                values, many[name][:chains], rtol=1e-10, atol=1e-12, err_msg=name
            )


def seen_batches(num_chains, **options):
    """What the likelihood of each chain sees, step by step, when chains run one by one."""
    seen = []

    def recording(p, data):
        if len(data[0]) == BATCH:
            seen.append(data[0].clone())
        return log_lik(p, data)

    run(
        regression(recording),
        num_chains=num_chains,
        chain_method="sequential",
        batch_size=BATCH,
        num_warmup=0,
        num_samples=12,
        **options,
    )
    calls = torch.stack(seen).reshape(-1, num_chains, BATCH, 3)
    return calls[1:13]  # after the check of the starting points; what follows is a diagnosis


def test_a_chain_sees_the_same_rows_beside_any_number_of_others():
    three = seen_batches(3)
    assert three.shape == (12, 3, BATCH, 3)
    assert torch.equal(seen_batches(1)[:, 0], three[:, 0])
    assert not torch.equal(three[:, 0], three[:, 1])
    stream = BatchStream(5, range(3), ROWS, BATCH, shared=False, device=torch.device("cpu"))
    rows = torch.stack([stream.next() for _ in range(12)])
    assert torch.equal(three, X[rows])


def test_shared_batches_are_common_to_the_chains():
    found = seen_batches(3, share_batches=True)
    assert torch.equal(found[:, 0], found[:, 1])
    assert torch.equal(found[:, 0], found[:, 2])
    assert torch.equal(found[:, 0], seen_batches(1)[:, 0])


@pytest.mark.parametrize("method", ["vectorized", "sequential"])
def test_every_step_takes_its_noise_from_the_streams(method):
    """A free particle moves by noise alone: SGLD's increments are √(2ε) times the stream."""
    spec = LogDensity(
        log_density=lambda p: 0.0 * p["x"].sum(),
        scale="sum",
        params={"x": torch.zeros(2).double()},
    )
    draws = inference.sample(
        spec,
        method="sgld",
        step_size=0.5,
        num_chains=3,
        num_warmup=0,
        num_samples=100,
        seed=5,
        chain_method=method,
        init={"x": np.zeros(2)},
        progress=False,
    )
    stream = NormalStream(
        5, Stream.NOISE, range(3), 2, dtype=torch.float64, device=torch.device("cpu")
    )
    noise = torch.stack([stream.next() for _ in range(99)], dim=1)
    np.testing.assert_allclose(np.diff(draws.draws["x"], axis=1), noise, atol=1e-12)


def test_random_starting_points_belong_to_their_chains():
    options = {"init": None, "num_warmup": 0, "num_samples": 1}
    three, one = run(num_chains=3, **options), run(num_chains=1, **options)
    np.testing.assert_array_equal(three.draws["w"][0], one.draws["w"][0])
    assert not np.isclose(three.draws["w"][0], three.draws["w"][1]).any()


# -- HMC and NUTS --------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["nuts", "hmc"])
def test_full_data_methods_are_reproducible(method, monkeypatch):
    """NUTS chain by chain; what HMC learns comes from all of its chains."""
    options = {"method": method, "num_warmup": 30, "num_samples": 5, "step_size": 0.1}
    options |= {"num_steps": 3} if method == "hmc" else {"max_tree_depth": 3}
    two = run(**options)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    again = run(**options, progress=True)
    monkeypatch.undo()
    assert terminal.getvalue()
    assert_equal(two, again)
    if method == "nuts":
        one = run(**options, num_chains=1)
        for name in one.draws:
            np.testing.assert_array_equal(one.draws[name], two.draws[name][:1])
    other = run(**options, seed=6)
    assert not np.isclose(other.draws["w"][:, -1], two.draws["w"][:, -1]).any()
    assert not np.isclose(two.draws["w"][0, -1], two.draws["w"][1, -1]).any()


# -- global state --------------------------------------------------------------------------


@pytest.mark.parametrize("target", [regression(), pyro_regression], ids=["density", "pyro"])
@pytest.mark.parametrize("method", ["sghmc", "nuts"])
def test_global_generators_are_neither_used_nor_moved(target, method):
    """The suite's guard checks torch and NumPy after every test; here Python's own as well."""
    options = {"method": method, "num_warmup": 3, "num_samples": 3, "num_chains": 1}
    options |= {"max_tree_depth": 3} if method == "nuts" else {}
    options["init"] = "prior" if target is pyro_regression else None

    def states():
        numpy_state = np.random.get_state()  # noqa: NPY002 - the global state is the point
        return torch.get_rng_state().tolist(), numpy_state[1].tolist(), random.getstate()

    before = states()
    first = run(target, **options)
    assert states() == before
    with torch.random.fork_rng():
        torch.manual_seed(12345)
        second = run(target, **options)
    assert_equal(first, second)
