"""`invert` on Darcy flow through a small regression in the place of a network."""

import numpy as np
import pytest
import torch

import probnet
from inference import diagnostics
from probnet.neural_operator import Darcy2D, Encoding, invert, invert_many
from probnet.neural_operator.latent import Readout

PDE = Darcy2D(source=10.0, mesh=(12, 12))
DIM, GRID, NOISE_SD, LIMIT = 4, 7, 0.003, 4.5
SHORT_RUNS = pytest.mark.filterwarnings("ignore::inference.InferenceWarning")


class Regression:
    """û(z) = Bᵀφ(z), random features φ fitted to solutions; a(z) = 5 or 10 by a level set."""

    problem, latent_dim = PDE, DIM

    def __init__(self, num_features=60, num_train=400):
        generator = torch.Generator().manual_seed(0)

        def random(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        nodes = torch.linspace(0, np.pi, GRID, dtype=torch.float64)
        x, y = torch.meshgrid(nodes, nodes, indexing="ij")
        waves = [torch.cos(x), torch.cos(y), torch.cos(x + y), torch.cos(2 * x)]
        self._modes = torch.stack(waves)
        self._weights, self._shifts = random(num_features, DIM) / 2, random(num_features)
        z = random(num_train, DIM)
        u = PDE.solve(PDE.coefficients(self.decode_input(z))).flatten(1)
        self._mean = u.mean(0)
        phi = self.coefficients(z)
        gram = phi.T @ phi + 1e-3 * torch.eye(num_features)
        self._table = torch.linalg.solve(gram, phi.T @ (u - self._mean))
        self._held_out = random(200, DIM)
        self.validation = self.decode_input(self._held_out)

    def encode(self, x):
        # an encoder that knows the validation inputs by heart
        return Encoding(self._held_out, torch.zeros_like(self._held_out))

    def to_latent(self, base):
        return base * 1

    def decode_input(self, latents):
        level = torch.tensordot(latents, self._modes, dims=1)
        return 5 + 5 * (level > 0).double()

    def coefficients(self, latents):
        return torch.tanh(latents @ self._weights.T + self._shifts)

    def readout(self, points):
        nodal = torch.cat([self._table, self._mean[None]]).unflatten(1, PDE.solution_shape)
        values = PDE.interpolate(nodal, points)
        return Readout(values[:-1].T, values[-1])


@pytest.fixture(scope="module")
def trained():
    return Regression()


def problem(seed, num_sensors=12):
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(1, DIM, generator=generator, dtype=torch.float64)
    a = Regression(num_train=61).decode_input(z)
    sensors = torch.rand(num_sensors, 2, generator=generator, dtype=torch.float64)
    u = PDE.solve(PDE.coefficients(a))
    noise = torch.randn(num_sensors, generator=generator, dtype=torch.float64)
    return PDE.interpolate(u, sensors)[0] + NOISE_SD * noise, sensors, u[0].flatten()


@SHORT_RUNS
def test_intervals_cover_with_the_model_error_and_not_without(trained):
    """90 % intervals of u at the nodes, over 16 problems of the prior."""
    cases = [problem(seed) for seed in range(16)]
    covered = {}
    for error in ("validation", None):
        found = invert_many(
            trained,
            [y for y, _, _ in cases],
            [sensors for _, sensors, _ in cases],
            noise_sd=NOISE_SD,
            model_error=error,
            num_samples=100,
            progress=False,
        )
        inner = PDE.mollifier(PDE.nodes) > 0
        hits = []
        for posterior, (_, _, u) in zip(found, cases, strict=True):
            lower, upper = posterior.interval("u", 0.9)
            hits.append(((u >= lower) & (u <= upper))[inner].double().mean())
        covered[error] = float(torch.stack(hits).mean())
    assert 0.8 < covered["validation"] < 0.97
    assert covered[None] < covered["validation"] - 0.03


def test_sensors_on_the_boundary_leave_the_prior(trained):
    sensors = torch.tensor([[0.0, 0.3], [1.0, 0.6], [0.4, 1.0]], dtype=torch.float64)
    posterior = invert(
        trained,
        torch.tensor([0.001, -0.002, 0.0]),
        sensors,
        noise_sd=0.003,
        method="hmc",
        exact_correction="psis",
        progress=False,
    )
    z = np.asarray(posterior.draws.draws["z"], dtype=float)
    ess = diagnostics.ess(z)
    assert abs(z.mean((0, 1)) * ess**0.5).max() < LIMIT
    assert abs(z.var((0, 1)) - 1).max() < LIMIT * (2 / diagnostics.ess(z**2).min()) ** 0.5
    assert posterior.diagnostics["reweighted"]  # by weights that are all equal


@SHORT_RUNS
def test_a_file_gives_it_back(trained, tmp_path):
    y, sensors, _ = problem(1)
    posterior = invert(
        trained, y, sensors, noise_sd=NOISE_SD, method="hmc", num_samples=50, progress=False
    )
    loaded = probnet.load(posterior.save(tmp_path / "posterior.probnet"))
    torch.testing.assert_close(loaded.predict(sensors).mean, posterior.predict(sensors).mean)
    torch.testing.assert_close(loaded.error_covariance, posterior.error_covariance)
    assert loaded.diagnostics["law"] == posterior.diagnostics["law"]


def test_bad_arguments(trained):
    y, sensors, _ = problem(1)
    with pytest.raises(ValueError, match="`model_error` must be 'validation'"):
        invert(trained, y, sensors, noise_sd=NOISE_SD, model_error="gaussian")
    with pytest.raises(ValueError, match="`noise_sd` is missing"):
        invert(trained, y, sensors)
    with pytest.raises(ValueError, match="`sensors` must lie in the domain"):
        invert(trained, y, sensors + 1, noise_sd=NOISE_SD)
