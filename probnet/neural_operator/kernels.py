"""Transitions reversible with respect to N(0, I) exp(ℓ), at one temperature or more."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from inference._checks import check_fraction, check_integer, check_positive
from probnet.neural_operator.delayed_acceptance import LogLikelihood, RandomNumbers, State

_MAX_STEP = 8.0  # with informed scales, which are below one; a product is cut at one
_FORGETTING = 0.6  # exponent of the Robbins-Monro gains


class CrankNicolson:
    """Crank-Nicolson moves in the prior, tested by the likelihood.

    In an orthonormal basis, x'_k = sqrt(1 - β_k²) x_k + β_k ξ_k with β_k = min(1, b s_k) leaves
    N(0, I) reversible, so that it is accepted with probability min(1, exp((ℓ(x') - ℓ(x))/T)).
    In warm-up the step b of every chain is tuned to an acceptance rate by a Robbins-Monro
    recursion for its logarithm. s_k is 1, or as wide as the posterior relative to the prior
    along directions that the data determine, once `inform` has told them.

    Source: Cotter, Roberts, Stuart & White (Statist. Sci. 28, 2013); Cui, Law & Marzouk
    (J. Comput. Phys. 304, 2016) for likelihood-informed scales.

    Args:
        num_chains: C.
        step: b to start from.
        target_accept_prob: mean acceptance probability aimed at, in (0, 1).
        inverse_temperatures: 1/T of every chain, shape (C,); 1 by default.
    """

    def __init__(
        self,
        num_chains: int,
        *,
        step: float = 0.2,
        target_accept_prob: float = 0.25,
        inverse_temperatures: Tensor | None = None,
    ) -> None:
        check_integer("num_chains", num_chains, 1)
        start = math.log(check_positive("step", step))
        self._log_step = torch.full((num_chains,), start, dtype=torch.float64)
        self._target = check_fraction("target_accept_prob", target_accept_prob, closed=False)
        ones = torch.ones(num_chains, dtype=torch.float64)
        self._inverse = ones if inverse_temperatures is None else inverse_temperatures
        self._basis: Tensor | None = None
        self._scale, self._largest = ones[:, None], 1.0
        self._count, self._adapting = 0, True

    @property
    def num_replicas(self) -> int:
        """None."""
        return 0

    @property
    def steps(self) -> Tensor:
        """Step b of every chain, shape (C,)."""
        return self._log_step.exp()

    def inform(self, basis: Tensor, curvature: Tensor) -> None:
        """See `Kernel.inform`."""
        self._basis = basis if basis.numel() else None
        self._scale = (1 + self._inverse[:, None] * curvature).rsqrt()
        self._largest = 1.0 if self._basis is None else _MAX_STEP
        self._count = 0  # b means something else now, and has a way to go

    def step(self, state: State, evaluate: LogLikelihood, random: RandomNumbers) -> State:
        """See `Kernel.step`."""
        proposal = self._propose(state.position, random.normal())
        value = evaluate(proposal)
        gain = (value - state.values[0]) * self._inverse
        accept_prob = gain.clamp_max(0.0).exp().nan_to_num(0.0)
        accepted = random.uniform() < accept_prob
        if self._adapting:
            self._adapt(accept_prob)
        values = state.values.clone()
        values[0] = value
        return state._replace(position=proposal, values=values).where(accepted, state)

    def freeze(self) -> None:
        """See `Kernel.freeze`."""
        self._adapting = False

    def _propose(self, position: Tensor, noise: Tensor) -> Tensor:
        step = self.steps[:, None]
        beta, kept = _weights(step)
        proposal = kept * position + beta * noise
        if self._basis is None:
            return proposal
        own_beta, own_kept = _weights(step * self._scale)
        along = (own_kept - kept) * (position @ self._basis)
        along += (own_beta - beta) * (noise @ self._basis)
        return proposal + along @ self._basis.T

    def _adapt(self, accept_prob: Tensor) -> None:
        self._count += 1
        gain = (1 + self._count / 20) ** -_FORGETTING
        self._log_step += gain * (accept_prob - self._target)
        self._log_step.clamp_(max=math.log(self._largest))


def _weights(step: Tensor) -> tuple[Tensor, Tensor]:
    """β = min(1, step) and sqrt(1 - β²)."""
    beta = step.clamp_max(1.0)
    return beta, (1 - beta.square()).sqrt()


class Tempered:
    """Crank-Nicolson moves at several temperatures, and exchanges between neighbours.

    Every chain has replicas with laws ∝ N(x; 0, I) exp(ℓ(x)/T). Before or after a move of all
    of them, by the toss of a coin, every other pair of neighbours in temperature is exchanged
    with probability min(1, exp((1/T_i - 1/T_j)(ℓ(x_j) - ℓ(x_i)))). Hot replicas cross from
    mode to mode, and what they find comes down. The coin makes the whole reversible.

    Source: Geyer (Computing Science and Statistics, 1991); Earl & Deem (Phys. Chem. Chem.
    Phys. 7, 2005).

    Args:
        num_chains: C.
        temperatures: of the replicas, above 1 and increasing; the chain's own is 1.

    Raises:
        ValueError: if there is none, or they do not increase from 1.
    """

    def __init__(self, num_chains: int, temperatures: Sequence[float]) -> None:
        ladder = torch.tensor([1.0, *temperatures], dtype=torch.float64)
        if len(ladder) < 2 or not bool((ladder.diff() > 0).all()):
            raise ValueError(
                f"`temperatures` must increase and all be above 1; got {list(temperatures)}."
            )
        self._inverse = 1 / ladder
        self._kernel = CrankNicolson(
            num_chains * len(ladder), inverse_temperatures=self._inverse.repeat(num_chains)
        )

    @property
    def num_replicas(self) -> int:
        """Temperatures above 1."""
        return len(self._inverse) - 1

    def step(self, state: State, evaluate: LogLikelihood, random: RandomNumbers) -> State:
        """See `Kernel.step`."""
        if random.choice(2):
            return self._exchange(self._move(state, evaluate, random), random)
        return self._move(self._exchange(state, random), evaluate, random)

    def inform(self, basis: Tensor, curvature: Tensor) -> None:
        """See `Kernel.inform`."""
        self._kernel.inform(basis, curvature)

    def freeze(self) -> None:
        """See `Kernel.freeze`."""
        self._kernel.freeze()

    def _move(self, state: State, evaluate: LogLikelihood, random: RandomNumbers) -> State:
        position, value = _ladder(state)
        count, dim = value.numel(), position.shape[-1]
        none = position.new_empty(count, 0, dim), position.new_empty(count, 0)
        flat = State(position.reshape(count, dim), value.reshape(1, count), *none)
        moved = self._kernel.step(flat, evaluate, random)
        return _from_ladder(
            state, moved.position.view_as(position), moved.values.view_as(value)
        )

    def _exchange(self, state: State, random: RandomNumbers) -> State:
        position, value = _ladder(state)
        lower = torch.arange(random.choice(2), len(self._inverse) - 1, 2)
        upper = lower + 1
        gain = value[:, upper] - value[:, lower]
        log_ratio = (self._inverse[lower] - self._inverse[upper]) * gain
        uniform = random.uniform().view_as(value)[:, lower]
        exchanged = (uniform.log() < log_ratio).long()
        source = torch.arange(len(self._inverse)).repeat(len(position), 1)
        source[:, lower] += exchanged
        source[:, upper] -= exchanged
        chains = torch.arange(len(position))[:, None]
        return _from_ladder(state, position[chains, source], value[chains, source])


def _ladder(state: State) -> tuple[Tensor, Tensor]:
    """Positions (chains, temperatures, dim) and ℓ_0 (chains, temperatures), coldest first."""
    position = torch.cat([state.position[:, None], state.replicas], 1)
    return position, torch.cat([state.values[0][:, None], state.replica_values], 1)


def _from_ladder(state: State, position: Tensor, value: Tensor) -> State:
    """The state with these positions and values of ℓ_0."""
    values = state.values.clone()
    values[0] = value[:, 0]
    return State(position[:, 0], values, position[:, 1:], value[:, 1:])
