"""Inversion of a linear problem through a wrong linear network: closed forms throughout."""

import numpy as np
import pytest
import torch

import probnet
from inference import InferenceWarning, diagnostics
from probnet.neural_operator import Problem
from probnet.neural_operator.latent import Readout
from probnet.neural_operator.latent_inversion import invert_model, invert_models
from probnet.neural_operator.latent_model import LatentModel
from probnet.neural_operator.model_error import ModelError

# runs are as short as the tests allow, and R-hat of so few draws is noisy
pytestmark = pytest.mark.filterwarnings("ignore:the chains disagree:inference.InferenceWarning")

DIM, NODES, NOISE_SD, LIMIT = 3, 12, 0.3, 4.5
SENSORS = torch.tensor([[0.2], [0.4], [0.8], [1.0]], dtype=torch.float64)


def random(*shape, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


OPERATOR = random(NODES, DIM, seed=0)


class LinearProblem(Problem):
    """u = Ba at equidistant nodes of [0, 1], piecewise linear between them."""

    num_dims, lower, upper = 1, (0.0,), (1.0,)
    solution_shape, variational = (NODES,), False

    @property
    def nodes(self):
        return torch.linspace(0, 1, NODES, dtype=torch.float64)[:, None]

    def coefficients(self, inputs):
        return inputs

    def __init__(self, bias=0.0):
        self.operator = OPERATOR + bias * random(NODES, DIM, seed=2)

    def halved(self):
        return LinearProblem(bias=0.1)

    def solve(self, coefficients):
        return coefficients @ self.operator.T

    def loss(self, values, coefficients):
        return (values - self.solve(coefficients)).square().sum(-1) / 2

    def mollifier(self, points):
        return torch.ones_like(points[:, 0])

    def lifting(self, points):
        return torch.zeros_like(points[:, 0])

    def observation_operator(self, points):
        place = self.check_points("points", points)[:, 0] * (NODES - 1)
        left = place.long().clamp_max(NODES - 2)
        share = place - left
        return lambda u: (1 - share) * u[..., left] + share * u[..., left + 1]


PROBLEM = LinearProblem()


def model(bias):
    """The network û = (B + bias D) z, with z = w and a = z."""
    wrong = OPERATOR + bias * random(NODES, DIM, seed=1)

    def readout(points):
        features = PROBLEM.interpolate(wrong.T, points).T
        return Readout(features, torch.zeros(len(points), dtype=torch.float64))

    def identity(values):
        return values * 1

    return LatentModel(PROBLEM, DIM, identity, identity, readout, identity, identity)


def observed(seed=3):
    truth = random(DIM, seed=seed)
    u = PROBLEM.interpolate(PROBLEM.solve(truth), SENSORS)
    return truth, u + NOISE_SD * random(len(SENSORS), seed=seed + 10)


def closed_form(map_, y, error_mean=0.0, error_covariance=0.0):
    """Posterior of w for y = Aw + e + noise."""
    covariance = NOISE_SD**2 * torch.eye(len(y)).double() + error_covariance
    weighted = torch.linalg.solve(covariance, map_)
    posterior = torch.linalg.inv(torch.eye(DIM).double() + map_.T @ weighted)
    return posterior @ weighted.T @ (y - error_mean), posterior


EXACT_MAP = PROBLEM.interpolate(OPERATOR.T, SENSORS).T


def check(posterior, mean, covariance):
    """Weighted moments of z within Monte Carlo error."""
    z = np.asarray(posterior.draws.draws["z"], dtype=float)
    weights = posterior.weights
    share = np.full(z.shape[:2], 1 / z[..., 0].size) if weights is None else weights.numpy()
    size = 1 / (share**2).sum() / z[..., 0].size * diagnostics.ess(z)
    centre = np.tensordot(share, z, axes=2)
    sd = covariance.diagonal().sqrt().numpy()
    assert abs((centre - mean.numpy()) / (sd / size**0.5)).max() < LIMIT
    variance = np.tensordot(share, (z - mean.numpy()) ** 2, axes=2)
    assert abs(variance / sd**2 - 1).max() < LIMIT * (2 / size.min()) ** 0.5


def invert(bias, **options):
    arguments = {"noise_sd": NOISE_SD, "error": None, "num_warmup": 60, "progress": False}
    arguments |= {"num_samples": 150, "num_chains": 4, "seed": 0, "method": "hmc"}
    return invert_model(model(bias), observed()[1], SENSORS, **arguments | options)


@pytest.mark.parametrize("method", ["nuts", "hmc", "svi"])
def test_without_correction_the_law_is_the_networks(method):
    options = {"num_steps": 100} if method == "svi" else {}
    options |= {"num_chains": 2} if method == "nuts" else {}
    posterior = invert(0.5, method=method, exact_correction=None, **options)
    readout = model(0.5).readout(SENSORS)
    check(posterior, *closed_form(readout.features, observed()[1]))
    assert posterior.method == method
    assert posterior.diagnostics["law"] == "latent posterior through the network"
    assert ("rhat_z_max" in posterior.diagnostics) == (method != "svi")


def test_model_error_widens_the_posterior_as_it_must():
    inputs = random(200, DIM, seed=7)
    error = model(0.5).validate(inputs)
    posterior = invert(0.5, error=error, exact_correction=None)
    law = error.at(PROBLEM.observation_operator(SENSORS))
    features = model(0.5).readout(SENSORS).features
    mean, covariance = closed_form(features, observed()[1], law.mean, law.covariance)
    check(posterior, mean, covariance)
    _, narrow = closed_form(features, observed()[1])
    assert bool((covariance.diagonal() > 1.2 * narrow.diagonal()).all())
    torch.testing.assert_close(posterior.error_covariance, law.covariance)


def test_weights_make_a_nearly_right_network_exact():
    posterior = invert(0.05, exact_correction="psis", num_samples=400)
    assert posterior.diagnostics["reweighted"]
    assert posterior.diagnostics["pareto_k"] < 0.7
    assert posterior.diagnostics["n_exact_solves"] == 1600
    check(posterior, *closed_form(EXACT_MAP, observed()[1]))
    z = torch.from_numpy(np.array(posterior.draws.draws["z"]))
    torch.testing.assert_close(
        posterior.solutions(PROBLEM.nodes), z @ OPERATOR.T, atol=1e-5, rtol=0
    )


def test_weights_of_a_wrong_network_are_refused():
    with pytest.warns(InferenceWarning, match="k-hat .* >= 0.7"):
        posterior = invert(3.0, exact_correction="psis")
    assert posterior.weights is None
    assert posterior.diagnostics["law"] == "latent posterior through the network"


def test_delayed_acceptance_makes_a_wrong_network_exact():
    posterior = invert(
        0.5, exact_correction="delayed_acceptance", num_chains=10, num_samples=120
    )
    mean, covariance = closed_form(EXACT_MAP, observed()[1])
    check(posterior, mean, covariance)
    network, _ = closed_form(model(0.5).readout(SENSORS).features, observed()[1])
    sd = covariance.diagonal().sqrt()
    assert float(((network - mean) / sd).abs().max()) > 0.5  # the correction had work to do
    stats = posterior.draws.sample_stats
    assert stats["n_exact_solves"].flat[0] <= 10 * (1 + 150 * 7 + 120) + 3 * 32
    assert 0.1 < stats["exact_accept_rate"].flat[0] <= 1


def test_the_solution_has_the_model_errors_share_of_the_uncertainty():
    """E û + e given y, in closed form by joint Gaussian conditioning of (w, e)."""
    inputs = random(4000, DIM, seed=8)
    error = model(0.5).validate(inputs)
    posterior = invert(0.5, error=error, exact_correction=None, num_samples=400)
    y = observed()[1]
    observe = PROBLEM.observation_operator(SENSORS)
    features = model(0.5).readout(PROBLEM.nodes).features
    error_covariance = error.errors.T.cov()
    joint = features @ features.T + error_covariance
    at_sensors = observe(observe(joint).T).T  # H Cov Hᵀ
    cross = observe(joint)
    gain = cross @ torch.linalg.inv(at_sensors + NOISE_SD**2 * torch.eye(len(y)).double())
    mean = error.errors.mean(0) + gain @ (y - observe(error.errors.mean(0)))
    covariance = joint - gain @ cross.T
    u = np.asarray(posterior.draws.draws["u"], dtype=float)
    size = diagnostics.ess(u)
    sd = covariance.diagonal().sqrt().numpy()
    assert abs((u.mean((0, 1)) - mean.numpy()) / (sd / size**0.5)).max() < LIMIT + 1
    assert abs(u.std((0, 1)) / sd - 1).max() < LIMIT / (2 * size.min()) ** 0.5 + 0.03


def test_many_problems_at_once_agree_with_closed_forms():
    seeds = (3, 4, 5)
    ys = [observed(seed)[1] for seed in seeds]
    found = invert_models(
        model(0.5),
        ys,
        [SENSORS] * 3,
        noise_sd=NOISE_SD,
        error=None,
        exact_correction=None,
        num_samples=150,
        num_warmup=60,
        progress=False,
    )
    features = model(0.5).readout(SENSORS).features
    for y, posterior in zip(ys, found, strict=True):
        check(posterior, *closed_form(features, y))


def test_equal_seeds_give_equal_draws():
    first, second = (invert(0.5, exact_correction=None, num_samples=100) for _ in range(2))
    np.testing.assert_array_equal(first.draws.draws["u"], second.draws.draws["u"])


def test_groups_of_the_arviz_schema():
    error = model(0.5).validate(random(50, DIM, seed=7))
    with pytest.warns(InferenceWarning, match="k-hat"):
        posterior = invert(3.0, error=None, exact_correction="psis", num_samples=100)
    assert {"y", "y_exact"} == set(posterior.to_datatree()["log_likelihood"].data_vars)
    tree = invert(0.5, error=error, exact_correction=None, num_samples=100).to_datatree()
    assert tree["posterior"]["z"].dims == ("chain", "draw", "latent")
    assert tree["prior"]["z"].shape == (1, 200, DIM)
    assert float(tree["constant_data"]["model_error_cov"][0, 0]) > 0
    assert "diverging" in tree["sample_stats"]


def test_a_problem_of_ones_own_cannot_be_saved(tmp_path):
    posterior = invert(0.5, exact_correction=None, num_samples=100)
    with pytest.raises(TypeError, match="LinearProblem cannot be written to a file"):
        posterior.save(tmp_path / "posterior.probnet")
    assert probnet.neural_operator.InversePosterior is type(posterior)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"noise_sd": None}, "`noise_sd` is missing"),
        ({"method": "sghmc"}, "`method` must be one of"),
        ({"exact_correction": "importance"}, "`exact_correction` must be one of"),
        ({"num_chains": 0}, "`num_chains` must be at least 1"),
        ({"num_samples": 3}, "`num_samples` must be at least 4"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        invert(0.5, **options)


def test_problems_of_different_sizes_are_refused():
    with pytest.raises(ValueError, match="`ys` must have the same number of observations"):
        invert_models(
            model(0.0),
            [torch.zeros(4), torch.zeros(3)],
            [SENSORS, SENSORS[:3]],
            noise_sd=0.1,
            error=None,
        )
    with pytest.raises(ValueError, match="one entry per problem"):
        invert_models(model(0.0), [], [], noise_sd=0.1, error=None)


def test_model_errors_need_inputs():
    with pytest.raises(ValueError, match="`errors` must have shape"):
        ModelError(torch.zeros(5))
