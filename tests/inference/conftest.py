"""What the tests of samplers share: the linear system that a step is on a quadratic target."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov

from inference.samplers import Settings


@dataclass(frozen=True)
class LinearStep:
    """A step on a quadratic potential: s' = drift·s + noise·ξ + gradient·e.

    Attributes:
        fields: the parts of the state that move, each of `dim` coordinates.
        drift: response to the state, (fields·dim, fields·dim).
        noise: response to the standard normal ξ, (fields·dim, dim).
        gradient: response to an error e of the gradient, (fields·dim, dim).
    """

    fields: tuple[str, ...]
    drift: np.ndarray
    noise: np.ndarray
    gradient: np.ndarray

    @property
    def spectral_radius(self):
        """Below one exactly if the step is stable."""
        return float(np.abs(np.linalg.eigvals(self.drift)).max())

    def stationary(self, gradient_variance=0.0):
        """Stationary covariance of each field, from the discrete Lyapunov equation."""
        dim = self.noise.shape[1]
        variance = np.broadcast_to(gradient_variance, (dim,))
        injected = self.noise @ self.noise.T + self.gradient * variance @ self.gradient.T
        covariance = solve_discrete_lyapunov(self.drift, injected)
        blocks = covariance.reshape(len(self.fields), dim, len(self.fields), dim)
        return {name: blocks[i, :, i, :] for i, name in enumerate(self.fields)}


@pytest.fixture
def linear_step():
    """Function: the `LinearStep` of a sampler, found by calling its own `step`.

    Chains are what a step handles at once, so one call with a unit vector per chain gives a
    whole matrix: unit states with zero noise, then unit noise and unit gradient errors at
    the zero state.
    """

    def build(
        sampler, hessian, *, temperature=1.0, fields=("position", "momentum"), frozen=None
    ):
        hessian = torch.as_tensor(np.atleast_2d(hessian), dtype=torch.float64)
        dim = len(hessian)
        settings = Settings(sampler.step_size, temperature, warmup=False)

        def call(states=None, noise=None, error=None):
            given = next(x for x in (states, noise, error) if x is not None)
            zeros = torch.zeros(len(given), dim, dtype=torch.float64)
            state = sampler.init(zeros, zeros, settings)
            if frozen is not None:
                state = state._replace(
                    **{name: (zeros + value).double() for name, value in frozen.items()}
                )
            if states is not None:
                parts = states.split(dim, dim=-1)
                state = state._replace(**dict(zip(fields, parts, strict=True)))

            def evaluate(position, batch):
                del batch
                gradient = -position @ hessian
                return zeros[:, 0], gradient if error is None else gradient + error

            new, _ = sampler.step(
                evaluate, state, None, zeros if noise is None else noise, settings
            )
            return torch.cat([getattr(new, name) for name in fields], dim=-1).numpy().T

        size = len(fields) * dim
        found = LinearStep(
            fields,
            drift=call(states=torch.eye(size, dtype=torch.float64)),
            noise=call(noise=torch.eye(dim, dtype=torch.float64)),
            gradient=call(error=torch.eye(dim, dtype=torch.float64)),
        )
        some = torch.linspace(-1, 1, size + 2 * dim, dtype=torch.float64)[None]
        state, noise, error = some.split([size, dim, dim], dim=-1)
        predicted = found.drift @ state.T.numpy() + found.noise @ noise.T.numpy()
        np.testing.assert_allclose(  # it is linear indeed
            call(state, noise, error),
            predicted + found.gradient @ error.T.numpy(),
            rtol=1e-10,
            atol=1e-12,
        )
        return found

    return build


@pytest.fixture
def kinetic_temperature():
    """Function: the sampler's own statistic at momenta of a given variance, in expectation."""

    def compute(sampler, variance, *, temperature=1.0, frozen=None):
        settings = Settings(sampler.step_size, temperature, warmup=False)
        zeros = torch.zeros(1, len(variance), dtype=torch.float64)
        state = sampler.init(zeros, zeros, settings)._replace(
            momentum=torch.as_tensor(np.sqrt(np.diag(variance)))[None]
        )
        if frozen is not None:
            state = state._replace(**{n: (zeros + v).double() for n, v in frozen.items()})
        return float(sampler.statistics(state, settings)["kinetic_temperature"])

    return compute
