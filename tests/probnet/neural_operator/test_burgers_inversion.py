"""Initial values of Burgers' equation from sensors: an ansatz that depends on the input."""

import pytest
import torch

import probnet
from probnet.datasets.fields import SineSeries
from probnet.neural_operator import (
    Burgers,
    GaussianInput,
    Stokes,
    invert,
)
from probnet.neural_operator.storage import problem_from_dict, problem_to_dict

PDE, STARTS, NOISE_SD = Burgers(mesh=(24, 12)), SineSeries(num_modes=3, num_nodes=33), 0.01
SHORT_RUNS = pytest.mark.filterwarnings("ignore::inference.InferenceWarning")


@pytest.fixture(scope="module")
def trained(small_model):
    likelihood = GaussianInput(noise_sd=0.01, zero_at_ends=True)
    model = small_model(PDE, input_grid=STARTS.grid, input_likelihood=likelihood)
    return model.fit(STARTS, num_steps=800, batch_size=32, num_validation=40, progress=False)


@pytest.fixture(scope="module")
def problem():
    generator = torch.Generator().manual_seed(1)
    start = STARTS.sample(1, seed=5)
    u = PDE.solve(PDE.coefficients(start))[0]
    sensors = torch.rand(40, 2, generator=generator, dtype=torch.float64)
    sensors[:, 0] = 2 * sensors[:, 0] - 1
    noise = torch.randn(40, generator=generator, dtype=torch.float64)
    return start[0], u.flatten(), sensors, PDE.interpolate(u, sensors) + NOISE_SD * noise


def test_a_readout_has_the_initial_values_in_it(trained):
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = trained.decode_solution(z).detach()
    found = trained.readout()(trained.coefficients(z))
    torch.testing.assert_close(found, expected)
    at_start = found.unflatten(1, PDE.solution_shape)[:, :, 0]
    torch.testing.assert_close(at_start, PDE.coefficients(trained.decode_input(z)))


@SHORT_RUNS
def test_the_posterior_holds_the_truth(trained, problem):
    start, u, sensors, y = problem
    found = invert(
        trained,
        y,
        sensors,
        noise_sd=NOISE_SD,
        num_chains=2,
        num_samples=100,
        method="hmc",
        progress=False,
    )
    mean = found.input_mean
    assert float((mean - start).norm() / start.norm()) < 0.25
    prior = torch.tensor(found.draws.groups["prior"]["a"]).flatten(0, 1)
    assert float((prior.mean(0) - start).norm() / start.norm()) > 0.5
    lower, upper = found.interval("u", 0.95)
    inside = ((lower - 1e-6 <= u) & (u <= upper + 1e-6)).double().mean()
    assert float(inside) > 0.7


@SHORT_RUNS
def test_files_hold_operator_and_posterior(trained, problem, tmp_path):
    _, _, sensors, y = problem
    trained.save(tmp_path / "operator.probnet")
    loaded = probnet.load(tmp_path / "operator.probnet")
    starts = STARTS.sample(3, seed=9)
    torch.testing.assert_close(loaded.predict(starts).mean, trained.predict(starts).mean)
    options = {"num_chains": 2, "num_samples": 20, "progress": False}
    found = invert(loaded, y, sensors, noise_sd=NOISE_SD, method="hmc", **options)
    found.save(tmp_path / "posterior.probnet")
    again = probnet.load(tmp_path / "posterior.probnet")
    torch.testing.assert_close(again.solutions(sensors), found.solutions(sensors))


@pytest.mark.parametrize("pde", [Burgers(0.05, (8, 4)), Stokes(0.02, 4)])
def test_problems_come_back_from_their_description(pde):
    again = problem_from_dict(problem_to_dict(pde))
    assert type(again) is type(pde)
    assert again.viscosity == pde.viscosity
    torch.testing.assert_close(again.nodes, pde.nodes)
