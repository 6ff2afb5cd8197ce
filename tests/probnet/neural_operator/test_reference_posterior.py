"""The gold standard against importance sampling from the prior, on a mesh of 8 x 8 cells."""

import numpy as np
import pytest
import torch

import probnet
from inference import diagnostics
from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator import Darcy2D, exact
from probnet.neural_operator.inverse_posterior import InversePosterior
from probnet.neural_operator.observations import check_observations
from probnet.neural_operator.reference_chains import NotConvergedError, _sensitivity

PDE = Darcy2D(source=10.0, mesh=(8, 8))
PRIOR = LevelSetGRF(tau=3.0, num_nodes=5)
NOISE_SD = 0.012
LIMIT = 4.5


def data(seed=0, num_sensors=6):
    generator = torch.Generator().manual_seed(seed)
    a = PRIOR.draw(1, generator)
    sensors = torch.rand(num_sensors, 2, generator=generator, dtype=torch.float64)
    u = PDE.interpolate(PDE.solve(PDE.coefficients(a)), sensors)[0]
    return u + NOISE_SD * torch.randn(num_sensors, generator=generator).double(), sensors


@pytest.fixture(scope="module")
def gold():
    """With a screen of 4 x 4 cells, which is too coarse to pay but not to be right."""
    y, sensors = data()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_FEWEST_NODES", 5)
        found = reference(y, sensors)
    assert found.diagnostics["n_coarse_solves"] > found.diagnostics["n_exact_solves"]
    return found


def reference(y, sensors):
    return PDE.reference_posterior(
        y,
        sensors,
        noise_sd=NOISE_SD,
        prior=PRIOR,
        num_samples=200,
        seed=0,
        first_length=6000,
        progress=False,
    )


def importance_sampling(num=20_000):
    """Posterior mean of a at every node, with its standard error, by weighting the prior."""
    y, sensors = data()
    a = PRIOR.sample(num, seed=5)
    u = PDE.interpolate(PDE.solve(PDE.coefficients(a)), sensors)
    weights = (-(y - u).square().sum(-1) / (2 * NOISE_SD**2)).softmax(0)
    mean = torch.tensordot(weights, a, dims=1)
    error = torch.tensordot(weights.square(), (a - mean).square(), dims=1).sqrt()
    return mean, error


def test_posterior_mean_is_that_of_importance_sampling(gold):
    mean, error = importance_sampling()
    a = np.asarray(gold.draws.draws["a"], dtype=float)
    ess = np.maximum(diagnostics.ess(a), 50)  # a node that never changes has none
    own = np.maximum(a.std((0, 1)), 0.2) / ess**0.5
    z = (gold.input_mean - mean) / (error.square() + torch.from_numpy(own**2)).sqrt()
    assert float(z.abs().max()) < LIMIT
    assert float((mean - 7.5).abs().max()) > 0.8  # the data matter
    assert gold.diagnostics["rhat_misfit"] <= 1.01
    assert gold.diagnostics["between_chains"] <= 0.05


def test_solutions_belong_to_the_inputs(gold):
    a = torch.from_numpy(np.array(gold.draws.draws["a"]))[:, ::50].flatten(0, 1)
    u = torch.from_numpy(np.array(gold.draws.draws["u"]))[:, ::50].flatten(0, 1)
    solved = PDE.solve(PDE.coefficients(a)).flatten(1)
    torch.testing.assert_close(u.double(), solved, rtol=1e-6, atol=1e-7)


def test_verbs_of_a_posterior_agree(gold):
    points = torch.tensor([[0.5, 0.5], [0.2, 0.7]], dtype=torch.float64)
    u = gold.solutions(points)
    law = gold.predict(points)
    torch.testing.assert_close(law.mean, u.mean((0, 1)))
    spread = u.var((0, 1), correction=0) + NOISE_SD**2
    torch.testing.assert_close(law.variance, spread)
    latent = gold.predict(points, observation=False)
    torch.testing.assert_close(latent.stddev, u.std((0, 1), correction=0), rtol=1e-4, atol=0)
    assert gold.predict(points, joint=True).log_prob(law.mean).ndim == 0
    assert gold.sample(7, points, seed=1).shape == (7, 2)
    lower, upper = gold.interval("u", 0.9)
    inside = (lower <= upper) & (upper <= 1)
    assert bool(inside.all())
    assert lower.shape == (81,)
    probability = gold.probability_above(7.5)
    torch.testing.assert_close(5 + 5 * probability, gold.input_mean)


def test_a_file_gives_it_back(gold, tmp_path):
    loaded = probnet.load(gold.save(tmp_path / "gold.probnet"))
    assert isinstance(loaded, InversePosterior)
    points = torch.tensor([[0.3, 0.4]], dtype=torch.float64)
    torch.testing.assert_close(loaded.predict(points).mean, gold.predict(points).mean)
    assert loaded.diagnostics == gold.diagnostics


def test_groups_of_the_arviz_schema(gold):
    tree = gold.to_datatree()
    assert {
        "posterior",
        "prior",
        "posterior_predictive",
        "prior_predictive",
        "log_likelihood",
        "sample_stats",
        "observed_data",
        "constant_data",
    } <= set(tree.children)
    assert tree["posterior"]["a"].shape == (4, 200, 5, 5)
    assert tree["posterior"]["u"].dims == ("chain", "draw", "node")
    assert tree["posterior_predictive"]["y"].shape == (4, 200, 6)
    lp = tree["log_likelihood"]["y"].sum("sensor") - tree["sample_stats"]["lp"]
    np.testing.assert_allclose(lp, float(lp[0, 0]), atol=1e-4)  # u is kept in float32
    assert gold.to_arviz().posterior["a"].shape == (4, 200, 5, 5)


def test_sensors_on_the_boundary_leave_the_prior():
    """U is 0 there whatever a is: P(a = high) = 1/2 by symmetry."""
    sensors = torch.tensor([[0.0, 0.3], [1.0, 0.6], [0.4, 0.0]], dtype=torch.float64)
    gold = PDE.reference_posterior(
        torch.zeros(3),
        sensors,
        noise_sd=0.003,
        prior=PRIOR,
        num_samples=200,
        seed=1,
        first_length=2000,
        progress=False,
    )
    share = np.asarray(gold.draws.draws["a"] > 7.5, dtype=float).mean((2, 3))
    error = share.std() / diagnostics.ess(share) ** 0.5
    assert abs(share.mean() - 0.5) < LIMIT * error
    prior_share = (PRIOR.sample(2000, seed=2) > 7.5).double().mean((1, 2))
    ratio = share.std() / float(prior_share.std())
    assert abs(ratio - 1) < LIMIT * (1 / (2 * diagnostics.ess(share))) ** 0.5 + 0.05


def test_sensitivities_are_those_of_a_smooth_interface():
    """Central differences of what sensors see of the coarsest mesh, over the noise's sd."""
    pde, prior = Darcy2D(mesh=(24, 24)), LevelSetGRF(num_nodes=7)
    sensors = torch.tensor([[0.3, 0.4], [0.8, 0.6]], dtype=torch.float64)
    observations = check_observations(pde, torch.zeros(2), sensors, 0.02)
    x = torch.randn(49, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = _sensitivity(pde, observations, prior)(x)
    assert found.shape == (2, 49)
    half = pde.halved()

    def predict(modes):
        # the scale of the interface is that of the field at x
        width = 0.2 * float(prior.field_of_modes(x).std() / prior.field_of_modes(modes).std())
        u = half.solve(half.coefficients(prior.decode_modes(modes[None], width=width)))
        return half.interpolate(u, sensors)[0] / 0.02

    for k in (1, 8, 30):
        step = torch.zeros(49, dtype=torch.float64).index_fill_(0, torch.tensor(k), 1e-5)
        slope = (predict(x + step) - predict(x - step)) / 2e-5
        torch.testing.assert_close(found[:, k], slope, rtol=1e-4, atol=1e-6)


def test_chains_that_disagree_are_refused():
    y, sensors = data(num_sensors=40)
    with pytest.raises(
        NotConvergedError, match="the chains disagree after 100 steps each: R-hat"
    ):
        PDE.reference_posterior(
            y + 0.05,
            sensors,
            noise_sd=1e-4,
            prior=PRIOR,
            num_samples=4,
            first_length=100,
            max_length=100,
            progress=False,
        )


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"noise_sd": None}, ValueError, "`noise_sd` is missing"),
        ({"noise_sd": 0.0}, ValueError, "`noise_sd` must be a finite number > 0"),
        ({"y": torch.zeros(0)}, ValueError, "`y` must hold at least one observation"),
        ({"y": torch.zeros(2)}, ValueError, "`y` must have shape"),
        ({"y": torch.tensor([torch.nan])}, ValueError, "`y` holds 1 non-finite"),
        (
            {"sensors": torch.tensor([[1.2, 0.5]])},
            ValueError,
            "`sensors` must lie in the domain",
        ),
        ({"sensors": torch.zeros(1, 3)}, ValueError, "`sensors` must have 2 columns"),
        ({"prior": "grf"}, TypeError, "`prior` must be a LevelSetGRF"),
        ({"num_chains": 1}, ValueError, "`num_chains` must be at least 2"),
    ],
)
def test_bad_arguments(changes, error, message):
    arguments = {
        "y": torch.zeros(1),
        "sensors": torch.full((1, 2), 0.5),
        "noise_sd": 0.1,
        "prior": PRIOR,
    }
    with pytest.raises(error, match=message):
        PDE.reference_posterior(**arguments | changes)
