"""What the tests of samplers share: a step as a linear system, error bars from chains."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.linalg import solve_discrete_lyapunov

from inference.samplers import Settings, take_step

COMPARISONS = 400  # of means with their expectation, rounded up: 0.001 for all of them together


@dataclass(frozen=True)
class LinearStep:
    """A step on a quadratic potential: s' = drift·s + noise·ξ + gradient·e.

    Attributes:
        fields: the parts of the state that move, each of `dim` coordinates.
        drift: response to the state, (fields·dim, fields·dim).
        noise: response to the standard normal ξ, (fields·dim, dim).
        gradient: response to an error e of the gradient, (fields·dim, dim).
        refresh_drift: what a redraw of the momentum makes of the state.
        refresh_noise: its response to the standard normal.
    """

    fields: tuple[str, ...]
    drift: np.ndarray
    noise: np.ndarray
    gradient: np.ndarray
    refresh_drift: np.ndarray
    refresh_noise: np.ndarray

    @property
    def spectral_radius(self):
        """Below one exactly if the step is stable."""
        return float(np.abs(np.linalg.eigvals(self.drift)).max())

    def stationary(self, gradient_variance=0.0):
        """Stationary covariance of each field, from the discrete Lyapunov equation."""
        return self._blocks(solve_discrete_lyapunov(self.drift, self._added(gradient_variance)))

    def stationary_resampled(self, every):
        """The same, a period's mean, if the momentum is redrawn before every L-th step."""
        added = self.refresh_noise @ self.refresh_noise.T
        move = np.linalg.matrix_power(self.drift, every)
        own = np.zeros_like(self.drift)
        for _ in range(every):
            own = self.drift @ own @ self.drift.T + self._added(0.0)
        law = solve_discrete_lyapunov(move @ self.refresh_drift, move @ added @ move.T + own)
        law = self.refresh_drift @ law @ self.refresh_drift.T + added
        total = np.zeros_like(law)
        for _ in range(every):
            total += law / every
            law = self.drift @ law @ self.drift.T + self._added(0.0)
        return self._blocks(total)

    def _added(self, gradient_variance):
        variance = np.broadcast_to(gradient_variance, self.noise.shape[1:])
        return self.noise @ self.noise.T + self.gradient * variance @ self.gradient.T

    def _blocks(self, covariance):
        dim = self.noise.shape[1]
        blocks = covariance.reshape(len(self.fields), dim, len(self.fields), dim)
        return {name: blocks[i, :, i, :] for i, name in enumerate(self.fields)}


@pytest.fixture
def linear_step():
    """Function: the `LinearStep` of a sampler, found by calling its own `step` and `refresh`.

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

        def call(states=None, noise=None, error=None, refresh=False):
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
            noise = zeros if noise is None else noise

            def evaluate(position, batch):
                del batch
                gradient = -position @ hessian
                return zeros[:, 0], gradient if error is None else gradient + error

            if refresh:
                new = sampler.refresh(state, noise, settings)
            else:
                new, _ = take_step(sampler, evaluate, state, None, noise, settings)
            return torch.cat([getattr(new, name) for name in fields], dim=-1).numpy().T

        size = len(fields) * dim
        units, unit = torch.eye(size).double(), torch.eye(dim).double()
        found = LinearStep(
            fields,
            drift=call(states=units),
            noise=call(noise=unit),
            gradient=call(error=unit),
            refresh_drift=call(states=units, refresh=True),
            refresh_noise=call(noise=unit, refresh=True),
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


@pytest.fixture
def chain_mean():
    """Function: mean of values (chain, draw, ...), and how far off chance may put it.

    An estimate per chain, and the spread between them: the √(2/ESS) of a variance without a
    model of the autocorrelation.
    """

    def compute(values):
        per_chain = values.mean(1)
        error = per_chain.std(0, ddof=1) / math.sqrt(len(per_chain))
        quantile = stats.t.isf(0.001 / COMPARISONS / 2, len(per_chain) - 1)
        return per_chain.mean(0), quantile * error

    return compute


@pytest.fixture
def assert_mean(chain_mean):
    """Function: assert that the mean of values (chain, draw, ...) is as expected."""

    def check(values, expected, allowed=0.0):
        mean, error = chain_mean(values)
        assert (np.abs(mean - expected) < error + allowed).all()

    return check
