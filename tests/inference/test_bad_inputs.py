"""Every kind of bad input: its named error, the parameter in the message, and no waiting.

The runs asked for would take minutes: whatever is not refused before any work fails on time.
"""

import time

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

import inference
from inference import AllChainsDivergedError, InitError, LogDensity, schedules

FLOAT = torch.float64
X = np.linspace(-1, 1, 24).reshape(12, 2)
Y = np.sin(3 * X[:, 0])
DATA = (X, Y)
LONG = {"num_warmup": 50_000, "num_samples": 50_000, "progress": False}


def with_value(array, index, value):
    array = np.array(array, dtype=float)
    array[index] = value
    return array


# --------------------------------------------------------------------------------- the targets


def model(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    s = pyro.sample("s", dist.HalfNormal(1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(x @ w, s), obs=y)


def density(**changes):
    return LogDensity(
        **{
            "log_prior": lambda p: -p["w"].square().sum(),
            "log_lik": lambda p, d: dist.Normal(d[0] @ p["w"], 1.0).log_prob(d[1]),
            "params": {"w": torch.zeros(2, dtype=FLOAT)},
            **changes,
        }
    )


def mixture(x, y):
    with pyro.plate("row", len(y)):
        label = pyro.sample("label", dist.Categorical(torch.ones(3)))
        pyro.sample("y", dist.Normal(label.double(), 1.0), obs=y)


def enumerated(x, y):
    pyro.infer.config_enumerate(mixture)(x, y)


def nothing_to_infer(x, y):
    pyro.sample("y", dist.Normal(0.0, 1.0).expand([len(y)]).to_event(1), obs=y)


def never_finite(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.factor("offset", w * torch.nan)
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(w * torch.inf, 1.0), obs=y)


def impossible(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.factor("barrier", torch.where(w.abs() < 9, -torch.inf, 0.0))


def branching(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    scale = 1.0 if w > 0 else 2.0
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(w, scale), obs=y)


def local(x, y):
    with pyro.plate("row", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def joint(x, y):
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(w, 1.0).expand([len(y)]).to_event(1), obs=y)


def explodes(p):
    return torch.where(p["w"].abs() < 3, -p["w"].square(), torch.nan).sum()


BAD_STARTS = {
    "non-finite sites": (never_finite, {}, "100 tries; not finite: offset, y"),
    "one chain at a time": (
        never_finite,
        {"chain_method": "sequential", "num_chains": 2},
        "100 tries; not finite: offset, y",
    ),
    "zero density": (impossible, {}, "100 tries; not finite: barrier"),
    "from the prior": (impossible, {"init": "prior"}, "100 tries; not finite: barrier"),
    "for nuts": (never_finite, {"method": "nuts"}, "100 tries; not finite: offset, y"),
    "non-finite prior": (
        density(log_prior=lambda p: p["w"].sum() * torch.nan),
        {},
        "100 tries; not finite: log_prior",
    ),
    "non-finite likelihood": (
        density(log_lik=lambda p, d: d[1] * p["w"][0] * torch.inf),
        {},
        "100 tries; not finite: log_lik",
    ),
    "given values": (
        density(constraints={"w": constraints.positive}),
        {"init": {"w": [-1.0, 1.0]}},
        "1 try; not finite: log_prior",
    ),
}

BAD_DATA = {
    "NaN": (model, (with_value(X, (3, 1), np.nan), Y), r"`data\[0\]` holds 1 non-finite value"),
    "where it is": (model, (with_value(X, (3, 1), np.nan), Y), r"first: nan at index \(3, 1\)"),
    "infinity": (model, (X, with_value(Y, [2, 5], np.inf)), r"`data\[1\]` holds 2 non-finite"),
    "NaN by name": (model, {"x": X, "y": with_value(Y, 0, np.nan)}, r"`data\['y'\]` holds 1"),
    "NaN in a tensor": (density(), (torch.tensor(X) * torch.nan, Y), r"`data\[0\]` holds 24"),
    "wrong shapes": (model, (X, Y[:5]), r"shapes data\[0\] \(12, 2\), data\[1\] \(5,\)"),
    "too many arrays": (model, (X, Y, Y), "could not be run on data with shapes"),
    "wrong likelihood": (
        density(log_lik=lambda p, d: p["w"]),
        DATA,
        r"shape \(12,\); got \(2,\)",
    ),
    "rows that differ": (density(), (X, Y[:5]), r"data\[0\].*12.*data\[1\].*5"),
    "empty": (model, (X[:0], Y[:0]), r"`data\[0\]` is empty: its shape is \(0, 2\)"),
    "empty for a density": (density(), (X[:0], Y[:0]), r"`data\[0\]` is empty"),
    "no data": (density(), None, "`data` is needed"),
    "number of data": (density(num_data=13), DATA, "`data` has 12 rows but `num_data` is 13"),
}

# options of `sample`, the error, what its message says
BAD_OPTIONS = {
    "batch_size above N": (
        {"batch_size": 13},
        ValueError,
        "`batch_size` must be at most.* 12; got",
    ),
    "batch_size 0": ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1; got 0"),
    "batch_size below 0": ({"batch_size": -1}, ValueError, "`batch_size` must be at least 1"),
    "batch_size a float": ({"batch_size": 4.0}, TypeError, "`batch_size` must be an integer"),
    "batch_size a bool": ({"batch_size": True}, TypeError, "`batch_size` must be an integer"),
    "num_chains 0": ({"num_chains": 0}, ValueError, "`num_chains` must be at least 1; got 0"),
    "num_chains below 0": ({"num_chains": -2}, ValueError, "`num_chains` must be at least 1"),
    "num_chains a float": ({"num_chains": 2.0}, TypeError, "`num_chains` must be an integer"),
    "num_chains a bool": ({"num_chains": True}, TypeError, "`num_chains` must be an integer"),
    "thin 0": ({"thin": 0}, ValueError, "`thin` must be at least 1"),
    "thin a float": ({"thin": 1.5}, TypeError, "`thin` must be an integer"),
    "num_samples 0": ({"num_samples": 0}, ValueError, "`num_samples` must be at least 1"),
    "num_samples a float": (
        {"num_samples": 1e3},
        TypeError,
        "`num_samples` must be an integer",
    ),
    "num_warmup below 0": ({"num_warmup": -1}, ValueError, "`num_warmup` must be at least 0"),
    "num_warmup a bool": ({"num_warmup": False}, TypeError, "`num_warmup` must be an integer"),
    "chunk_size 0": ({"chunk_size": 0}, ValueError, "`chunk_size` must be at least 1"),
    "seed below 0": ({"seed": -1}, ValueError, "`seed` must be at least 0"),
    "seed a float": ({"seed": 1.0}, TypeError, "`seed` must be an integer"),
    "seed missing": ({"seed": None}, TypeError, "`seed` must be an integer"),
    "temperature below 0": ({"temperature": -0.1}, ValueError, "`temperature` must be .* >= 0"),
    "temperature NaN": ({"temperature": float("nan")}, ValueError, "`temperature` must be"),
    "temperature infinite": (
        {"temperature": float("inf")},
        ValueError,
        "`temperature` must be",
    ),
    "temperature a bool": ({"temperature": True}, TypeError, "`temperature` must be a number"),
    "temperature text": ({"temperature": "hot"}, TypeError, "`temperature` must be a number"),
    "step_size 0": ({"step_size": 0}, ValueError, "`step_size` must be a finite number > 0"),
    "step_size below 0": ({"step_size": -0.1}, ValueError, "`step_size` must be a finite"),
    "step_size NaN": ({"step_size": float("nan")}, ValueError, "`step_size` must be a finite"),
    "step_size a bool": ({"step_size": True}, TypeError, "`step_size` must be a number"),
    "step_size text": ({"step_size": "0.1"}, TypeError, "`step_size` must be a number"),
    "friction 0": ({"friction": 0.0}, ValueError, "`friction` must be a finite number > 0"),
    "friction below 0": ({"friction": -1}, ValueError, "`friction` must be a finite number"),
    "friction infinite": (
        {"friction": float("inf")},
        ValueError,
        "`friction` must be a finite",
    ),
    "friction too large": (
        {"friction": 20, "step_size": 0.1, "integrator": "symplectic"},
        ValueError,
        "`friction` times `step_size` must be at most 1",
    ),
    "integrator": ({"integrator": "boab"}, ValueError, "`integrator` must be.*mean 'baoa'"),
    "resample_every 0": (
        {"resample_every": 0},
        ValueError,
        "`resample_every` must be at least",
    ),
    "momentum_decay 1.5": (
        {"method": "sghmc_adaptive", "momentum_decay": 1.5},
        ValueError,
        "`momentum_decay` must lie in",
    ),
    "sgld step_size 0": ({"method": "sgld", "step_size": 0}, ValueError, "`step_size` must be"),
    "sgnht friction 0": ({"method": "sgnht", "friction": 0}, ValueError, "`friction` must be"),
    "exploration 1": (
        {"method": "csghmc", "exploration": 1},
        ValueError,
        "`exploration` must be below 1",
    ),
    "num_cycles": (
        {"method": "csghmc", "num_cycles": 3},
        ValueError,
        "`num_samples` must be a multiple of the 3 cycles",
    ),
    "schedule of a cyclical method": (
        {"method": "csgld", "schedule": schedules.Constant()},
        ValueError,
        "leave `schedule` out",
    ),
    "schedule text": ({"schedule": "cosine"}, TypeError, "`schedule` must be an instance"),
    "schedule a class": (
        {"schedule": schedules.Polynomial},
        TypeError,
        "`schedule` must be an",
    ),
    "method misspelt": ({"method": "sghcm"}, ValueError, "`method` must be.*mean 'sghmc'"),
    "method unknown": ({"method": "gibbs"}, ValueError, r"`method` must be one of \["),
    "method None": ({"method": None}, ValueError, "`method` must be one of"),
    "option misspelt": ({"stepsize": 0.1}, TypeError, "`stepsize`.* Did you mean `step_size`"),
    "option of another": ({"max_tree_depth": 5}, TypeError, "takes no option `max_tree_depth`"),
    "argument misspelt": ({"num_sample": 3}, TypeError, "Did you mean `num_samples`"),
    "nuts option": ({"method": "nuts", "friction": 1}, TypeError, "takes no option `friction`"),
    "nuts argument": ({"method": "nuts", "warmup": 1}, TypeError, "Did you mean `num_warmup`"),
    "nuts batch_size": (
        {"method": "nuts", "batch_size": 4},
        ValueError,
        "`batch_size` does not apply to method 'nuts'",
    ),
    "hmc batch_size": (
        {"method": "hmc", "batch_size": 4},
        ValueError,
        "`batch_size` does not apply to method 'hmc'",
    ),
    "nuts float32": (
        {"method": "nuts", "dtype": torch.float32},
        ValueError,
        "`dtype` must be torch.float64",
    ),
    "nuts schedule": (
        {"method": "nuts", "schedule": schedules.Polynomial()},
        ValueError,
        "`schedule` does not apply",
    ),
    "nuts temperature 0": ({"method": "nuts", "temperature": 0}, ValueError, "`temperature`"),
    "nuts target_accept_prob": (
        {"method": "nuts", "target_accept_prob": 1.0},
        ValueError,
        "`target_accept_prob` must lie in",
    ),
    "nuts max_tree_depth": (
        {"method": "nuts", "max_tree_depth": 0},
        ValueError,
        "`max_tree_depth` must be at least 1",
    ),
    "dtype an integer": (
        {"dtype": torch.int64},
        ValueError,
        "`dtype` must be a floating-point",
    ),
    "chain_method": ({"chain_method": "parallel"}, ValueError, "`chain_method` must be one of"),
    "chain_method misspelt": (
        {"chain_method": "vectorised"},
        ValueError,
        "Did you mean 'vectorized'",
    ),
    "init misspelt": ({"init": "unifrom"}, ValueError, "`init` must be.*mean 'uniform'"),
    "init of a density": ({"init": "params"}, ValueError, "init='params' needs a LogDensity"),
    "init names": ({"init": {"v": 0.0}}, ValueError, r"`init` must give \['s', 'w'\]; got"),
    "init missing": (
        {"init": {"w": [0.0, 0.0]}},
        ValueError,
        r"`init` must give .*; got \['w'\]",
    ),
    "init shape": (
        {"init": {"w": [0.0, 0.0, 0.0], "s": 1.0}},
        ValueError,
        r"`init\['w'\]` must have shape \(2,\)",
    ),
    "init chains": (
        {"init": {"w": np.zeros((3, 2)), "s": 1.0}},
        ValueError,
        r"`init\['w'\]` must have .* chain axis of 4; got \(3, 2\)",
    ),
    "dims of no variable": ({"dims": {"v": ["a"]}}, ValueError, "`dims` names 'v'"),
    "dims too many": (
        {"dims": {"w": ["a", "b"]}},
        ValueError,
        r"`dims\['w'\]` must name 1 axes",
    ),
    "dims text": ({"dims": {"w": "feature"}}, TypeError, r"`dims\['w'\]` must be a list"),
    "dims like a variable": ({"dims": {"w": ["s"]}}, ValueError, "'s' of 'w' is named like"),
    "dims reserved": ({"dims": {"w": ["chain"]}}, ValueError, "none 'chain' or 'draw'"),
    "coords too few": (
        {"dims": {"w": ["k"]}, "coords": {"k": ["a"]}},
        ValueError,
        r"`coords\['k'\]` has 1 entries, but axis 'k' of 'w' has 2",
    ),
}

BAD_TARGETS = {
    "a number": (3.0, DATA, {}, TypeError, "`target` must be a Pyro model .* got float"),
    "text": ("model", DATA, {}, TypeError, "`target` must be a Pyro model .* got str"),
    "nothing": (None, DATA, {}, TypeError, "`target` must be a Pyro model"),
    "discrete latent": (mixture, DATA, {}, TypeError, "site 'label' is a discrete.*enumerat"),
    "enumerated latent": (enumerated, DATA, {}, TypeError, "site 'label' is a discrete"),
    "discrete latent for nuts": (mixture, DATA, {"method": "nuts"}, TypeError, "'label'"),
    "no latent": (nothing_to_infer, DATA, {}, ValueError, "no latent sample site"),
    "branching": (branching, DATA, {}, RuntimeError, "branches.*chain_method='sequential'"),
    "local latents": (local, DATA, {"batch_size": 4}, ValueError, "site 'z' is a latent"),
    "joint likelihood": (joint, DATA, {"batch_size": 4}, ValueError, "site 'y' depends on"),
    "all chains diverge": (
        LogDensity(explodes, params={"w": torch.zeros(2, dtype=FLOAT)}),
        None,
        {"step_size": 5.0},
        AllChainsDivergedError,
        "`step_size`",
    ),
}

CASES = {
    **{
        f"start: {name}": (target, DATA, options, InitError, message)
        for name, (target, options, message) in BAD_STARTS.items()
    },
    **{
        f"data: {name}": (target, data, {}, ValueError, message)
        for name, (target, data, message) in BAD_DATA.items()
    },
    **{
        f"option: {name}": (model, DATA, options, error, message)
        for name, (options, error, message) in BAD_OPTIONS.items()
    },
    **{f"target: {name}": case for name, case in BAD_TARGETS.items()},
}


@pytest.fixture(scope="module", autouse=True)
def _warm():
    """What is imported and set up on first use is not part of the time."""
    for method in ("sghmc", "nuts"):
        for target in (model, density()):
            inference.sample(
                target, DATA, method=method, num_warmup=2, num_samples=2, progress=False
            )


@pytest.mark.parametrize("name", CASES)
def test_bad_input_is_refused_at_once_and_by_name(name):
    target, data, options, error, message = CASES[name]
    started = time.process_time()
    with pytest.raises(error, match=f"(?s){message}"):
        inference.sample(target, data, **{**LONG, **options})
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"w": torch.arange(3)}, "parameter `w` has dtype torch.int64"),
        ({"net": {"w": torch.tensor([True])}}, "parameter `net.w` has dtype torch.bool"),
        ({"w": 3}, "parameter `w` has dtype torch.int64"),
    ],
)
def test_integer_parameters_are_refused_when_the_target_is_made(params, message):
    with pytest.raises(TypeError, match=message):
        density(params=params)


def test_arrays_of_text_are_refused():
    with pytest.raises(TypeError, match=r"`data\[1\]` must hold numbers or booleans"):
        inference.sample(model, (X, np.array(["a"] * 12)), **LONG)


@pytest.mark.parametrize("method", ["sghmc", "nuts"])
def test_a_model_that_branches_runs_chain_by_chain(method):
    draws = inference.sample(
        branching,
        DATA,
        method=method,
        chain_method="sequential",
        num_chains=2,
        num_warmup=3,
        num_samples=4,
        progress=False,
    )
    assert draws.draws["w"].shape == (2, 4)
    assert np.isfinite(draws.draws["w"]).all()


def test_options_given_as_numpy_numbers_are_no_bad_input(tmp_path):
    draws = inference.sample(
        density(),
        DATA,
        num_chains=np.int64(1),
        num_warmup=np.int32(1),
        num_samples=np.int64(2),
        step_size=np.float32(0.01),
        seed=np.uint32(7),
        progress=False,
    )
    loaded = inference.load(draws.save(tmp_path / "x.nc"))
    assert loaded.attrs["seed"] == 7
    assert loaded.attrs["options"]["step_size"] == pytest.approx(0.01)


def test_a_schedule_of_ones_own_is_no_bad_input(tmp_path):
    class Halving(schedules.Polynomial):
        """Not a dataclass of its own; its parent is."""

    class Bare:
        """Only the two methods that the protocol asks for."""

        def num_steps(self, num_samples, thin):
            return num_samples * thin

        def phase(self, step, num_samples, thin):
            return schedules.Constant().phase(step, num_samples, thin)

    for schedule in (Halving(), Bare()):
        draws = inference.sample(
            density(), DATA, num_warmup=1, num_samples=2, schedule=schedule, progress=False
        )
        draws.save(tmp_path / "x.nc")
        assert draws.attrs["schedule"]["name"] == type(schedule).__name__
