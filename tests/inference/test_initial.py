"""Starting points: finite, one per chain, the same whatever the number of chains."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints

from inference import InitError, LogDensity
from inference.binding import bind
from inference.gradients import log_density_and_gradient
from inference.initial import initial_positions

FLOAT = torch.float64


def start(spec, data=None, *, init=None, seed=0, num_chains=3, batch_size=None, **options):
    target = bind(spec, data, batch_size=batch_size, dtype=None, device=None)
    with pyro.validation_enabled(False):
        evaluate = log_density_and_gradient(target, options.pop("chain_method", "vectorized"))
        return target, initial_positions(target, evaluate, init, seed, num_chains)


def scale_model(y):
    scale = pyro.sample("scale", dist.LogNormal(3.0, 0.1))
    with pyro.plate("group", 2):
        level = pyro.sample("level", dist.Normal(10.0, scale))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Normal(level.sum(), scale), obs=y)


def quadratic(**options):
    return LogDensity(
        log_prior=lambda p: -(p["w"] ** 2).sum() - p["s"],
        params={
            "w": torch.tensor([3.0, 4.0], dtype=FLOAT),
            "s": torch.tensor(2.0, dtype=FLOAT),
        },
        constraints={"s": constraints.positive},
        **options,
    )


@pytest.mark.parametrize("init", [None, "uniform"])
def test_by_default_every_coordinate_is_uniform_on_minus_two_to_two(init):
    _, z = start(quadratic(), init=init, num_chains=2000)
    assert z.shape == (2000, 3)
    assert z.dtype == FLOAT
    assert float(z.abs().max()) < 2
    standard_error = (4 / 12**0.5) / 2000**0.5
    assert float(z.mean(0).abs().max()) < 5 * standard_error
    assert float(z.min()) < -1.99
    assert float(z.max()) > 1.99


@pytest.mark.parametrize("init", ["uniform", "prior"])
def test_a_chain_starts_alike_whatever_the_number_of_chains(init):
    y = np.zeros(3)
    _, few = start(scale_model, y, init=init, num_chains=2, seed=5)
    _, many = start(scale_model, y, init=init, num_chains=7, seed=5)
    _, other = start(scale_model, y, init=init, num_chains=2, seed=6)
    assert torch.equal(few, many[:2])
    assert not torch.equal(few, other)
    assert len(many.unique(dim=0)) == 7


def test_prior_starts_are_draws_from_the_prior():
    target, z = start(scale_model, np.zeros(3), init="prior", num_chains=40)
    scales = torch.stack([target.constrain(one)["scale"] for one in z]).log()
    assert abs(float(scales.mean()) - 3) < 5 * 0.1 / 40**0.5
    assert 0.05 < float(scales.std()) < 0.2
    levels = torch.stack([target.constrain(one)["level"] for one in z])
    assert abs(float(levels.mean()) - 10) < 5 * 20 / 80**0.5


def test_params_start_every_chain_at_the_given_values():
    target, z = start(quadratic(), init="params")
    assert torch.equal(z[0], z[1])
    values = target.constrain(z[0])
    assert values["w"].tolist() == [3, 4]
    assert float(values["s"]) == pytest.approx(2)


def test_given_values_may_have_a_chain_axis_or_not():
    w, s = np.arange(6.0).reshape(3, 2), 0.5
    target, z = start(quadratic(), init={"w": w, "s": s})
    for chain in range(3):
        values = target.constrain(z[chain])
        assert values["w"].tolist() == w[chain].tolist()
        assert float(values["s"]) == pytest.approx(0.5)


def test_earlier_draws_may_be_given_as_they_are():
    """Those of `Draws` are read-only, of which torch would warn."""
    w = np.arange(6.0).reshape(3, 2)
    w.flags.writeable = False
    _, z = start(quadratic(), init={"w": w, "s": 0.5})
    assert z[:, :2].tolist() == w.tolist()
    spec = LogDensity(lambda p: -(p["w"] ** 2).sum(), params={"w": w[1]})
    assert start(spec, init="params")[1].tolist() == [[2.0, 3.0]] * 3


def test_given_values_may_be_nested_as_the_parameters_are():
    spec = LogDensity(
        lambda p: -(p["a"]["w"] ** 2).sum(), params={"a": {"w": torch.zeros(2, dtype=FLOAT)}}
    )
    for init in ({"a": {"w": [1.0, 2.0]}}, {"a.w": [1.0, 2.0]}):
        _, z = start(spec, init=init)
        assert z.tolist() == [[1.0, 2.0]] * 3


def test_chains_as_many_as_entries_are_told_apart_by_the_shape():
    """Shape (3,) is one value of a vector of three, though there are three chains too."""
    spec = LogDensity(lambda p: -(p["w"] ** 2).sum(), params={"w": torch.zeros(3, dtype=FLOAT)})
    _, z = start(spec, init={"w": [1.0, 2.0, 3.0]})
    assert z.tolist() == [[1.0, 2.0, 3.0]] * 3


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ({"w": [1.0, 2.0]}, r"`init` must give \['s', 'w'\]; got \['w'\]"),
        ({"w": [1.0, 2.0], "s": 1.0, "x": 0.0}, r"`init` must give .*; got \['s', 'w', 'x'\]"),
        ({"w": [1.0, 2.0, 3.0], "s": 1.0}, r"`init\['w'\]` must have shape \(2,\).*got \(3,\)"),
        ({"w": np.zeros((4, 2)), "s": 1.0}, r"chain axis of 3; got \(4, 2\)"),
        ("posterior", "`init` must be one of"),
        ("prior", "init='prior' needs a Pyro model"),
    ],
)
def test_values_that_do_not_fit_are_refused(init, message):
    with pytest.raises(ValueError, match=message):
        start(quadratic(), init=init)


def test_only_a_log_density_has_params_to_start_from():
    with pytest.raises(ValueError, match="init='params' needs a LogDensity"):
        start(scale_model, np.zeros(3), init="params")


def test_a_given_value_outside_its_support_is_not_finite():
    with pytest.raises(InitError, match=r"chain 0 in 1 try; not finite: log_prior"):
        start(quadratic(), init={"w": [0.0, 0.0], "s": -1.0})


def test_deterministic_sites_are_not_asked_for():
    def model():
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * w)

    _, z = start(model, init={"w": 0.5})
    assert z.tolist() == [[0.5]] * 3


def counting(finite_from):
    """A density that is finite in a part of the box, and how often each chain was asked."""
    calls = []

    def log_prior(p):
        return torch.where(p["w"] > finite_from, -p["w"], torch.nan)

    def evaluate(positions, batch):
        calls.append(positions.clone())
        values = log_prior({"w": positions[:, 0]})
        return values, torch.ones_like(positions)

    spec = LogDensity(log_prior, params={"w": torch.zeros((), dtype=FLOAT)})
    return bind(spec, None, batch_size=None, dtype=None, device=None), evaluate, calls


def test_chains_without_a_finite_start_try_again_and_the_others_stay():
    target, evaluate, calls = counting(finite_from=1.0)  # a quarter of the box
    z = initial_positions(target, evaluate, None, 0, 8)
    assert bool((z > 1).all())
    assert 2 < len(calls) <= 100
    good = calls[0][:, 0] > 1
    assert torch.equal(z[good], calls[0][good])
    assert initial_positions(target, evaluate, None, 0, 2).tolist() == z[:2].tolist()


def test_after_a_hundred_tries_the_culprits_are_named():
    target, evaluate, calls = counting(finite_from=3.0)
    with pytest.raises(InitError, match=r"chain 0 in 100 tries; not finite: log_prior"):
        initial_positions(target, evaluate, None, 0, 2)
    assert len(calls) == 100


def test_every_non_finite_site_of_a_model_is_listed_and_no_other():
    def model(y):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.factor("good", -w)
        pyro.factor("bad", w * torch.nan)
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(w * torch.inf, 1.0), obs=y)

    with pytest.raises(InitError, match="not finite: bad, y\\. Check"):
        start(model, np.zeros(3))


def test_a_flat_prior_given_as_a_number_can_be_explained():
    spec = LogDensity(
        lambda p: 0.0,
        lambda p, y: torch.log(-p["s"]) + 0 * y,
        {"s": torch.ones((), dtype=FLOAT)},
        {"s": constraints.positive},
    )
    with pytest.raises(InitError, match="not finite: log_lik"):
        start(spec, np.zeros(3))


def test_a_density_with_a_non_finite_gradient_is_no_start():
    spec = LogDensity(lambda p: (p["w"] * 0).sqrt().sum(), params={"w": torch.ones(1)})
    with pytest.raises(InitError, match="the gradient is not finite"):
        start(spec)


@pytest.mark.parametrize("chain_method", ["vectorized", "sequential"])
def test_a_singular_matrix_is_one_failed_try(chain_method):
    """Of eight chains some start where the matrix is no covariance; they start elsewhere."""

    def log_prior(p):
        matrix = torch.eye(2, dtype=FLOAT) + p["r"] * torch.tensor(
            [[0.0, 1], [1, 0]], dtype=FLOAT
        )
        return torch.linalg.cholesky(matrix).sum() - p["r"] ** 2

    spec = LogDensity(log_prior, params={"r": torch.zeros((), dtype=FLOAT)})
    _, z = start(spec, num_chains=8, chain_method=chain_method)
    assert bool((z.abs() < 1).all())
    never = LogDensity(
        lambda p: torch.linalg.cholesky(torch.diag(torch.stack([-p["r"].exp(), p["r"]]))).sum(),
        params={"r": torch.zeros((), dtype=FLOAT)},
    )
    with pytest.raises(InitError, match="a singular matrix"):
        start(never, chain_method=chain_method)


def test_the_start_under_minibatches_is_judged_on_a_minibatch():
    _, z = start(quadratic_rows(), np.zeros(10), batch_size=4)
    assert z.shape == (3, 1)


def quadratic_rows():
    return LogDensity(
        lambda p: -(p["m"] ** 2),
        lambda p, y: -((y - p["m"]) ** 2),
        {"m": torch.zeros((), dtype=FLOAT)},
    )


def test_a_model_whose_arguments_are_valid_only_somewhere_starts_there():
    """Half the draws from this prior make a negative scale; so do half the starting points."""

    def model(y):
        w = pyro.sample("w", dist.Normal(-1.0, 1.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(0.0, w), obs=y)

    for init in ("uniform", "prior"):
        _, z = start(model, np.ones(3), init=init, num_chains=6)
        assert bool((z > 0).all())


def test_an_argument_that_is_never_valid_is_reported_by_torch():
    def model():
        pyro.sample("share", dist.Beta(torch.tensor(-0.5), torch.tensor(1.0)))

    with pytest.raises(ValueError, match="Expected parameter concentration"):
        start(model)
