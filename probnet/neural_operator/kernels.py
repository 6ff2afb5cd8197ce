"""Transitions that are reversible with respect to N(0, I) exp(ℓ): Crank-Nicolson and HMC."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from inference._checks import check_fraction, check_integer, check_positive
from inference.hamiltonian import Metric, Point, transition
from probnet.neural_operator.delayed_acceptance import LogLikelihood, RandomNumbers, State

_MAX_STEP = 8.0  # local steps are weights below one times this, cut at one
_FORGETTING = 0.6  # exponent of the Robbins-Monro gains
_REFRESH_EVERY = 500  # steps between two new estimates of the spread of the coordinates
_SMALLEST_SCALE = 0.03


class Move(Protocol):
    """A proposal x' from x with N(x; 0, I) q(x' | x) symmetric, its size a step b per chain."""

    def propose(self, position: Tensor, step: Tensor, random: RandomNumbers) -> Tensor:
        """Propose positions (chains, dim); `step` has shape (chains,)."""
        ...

    def learn(self, position: Tensor) -> None:
        """Take note of a position, in warm-up."""
        ...


class ScaledMove:
    """x'_k = sqrt(1 - β_k²) x_k + β_k ξ_k with β_k = min(1, b s_k) in coordinates of choice.

    The scale s_k is 1, or, if it adapts, the sd of coordinate k in the chain's own warm-up
    relative to the largest: coordinates that the data determine move less than those they
    leave free. Every β keeps the prior reversible.

    Sources: Cotter, Roberts, Stuart & White (Statist. Sci. 28, 2013) for equal scales; Hu, Yao
    & Li (J. Comput. Appl. Math. 2017) for adapted ones.

    Args:
        forward: an orthonormal transform to the coordinates, of (chains, dim).
        backward: its inverse.
        adapts: learn s_k.
    """

    def __init__(
        self,
        forward: Callable[[Tensor], Tensor] = torch.clone,
        backward: Callable[[Tensor], Tensor] = torch.clone,
        *,
        adapts: bool = True,
    ) -> None:
        self._forward, self._backward, self._adapts = forward, backward, adapts
        self._scale: Tensor | None = None
        self._count, self._mean, self._squares = 0, torch.zeros(()), torch.zeros(())
        self._next_refresh = _REFRESH_EVERY

    def propose(self, position: Tensor, step: Tensor, random: RandomNumbers) -> Tensor:
        """See `Move.propose`."""
        scale = torch.ones_like(position) if self._scale is None else self._scale
        beta = (step[:, None] * scale).clamp_max(1.0)
        return self._backward(_blend(self._forward(position), beta, random.normal()))

    def learn(self, position: Tensor) -> None:
        """Running moments since the last refresh; refreshes come at doubling intervals."""
        if not self._adapts:
            return
        x = self._forward(position)
        self._count += 1
        shift = x - self._mean
        self._mean = self._mean + shift / self._count
        self._squares = self._squares + shift * (x - self._mean)
        if self._count == self._next_refresh:
            sd = (self._squares / self._count).sqrt()
            self._scale = (sd / sd.amax(-1, keepdim=True)).clamp_min(_SMALLEST_SCALE)
            self._count, self._next_refresh = 0, 2 * self._next_refresh
            self._mean, self._squares = torch.zeros(()), torch.zeros(())


class LocalMove:
    """A Crank-Nicolson move in a window of a field: β(s) = min(1, b exp(-|s - c|²/2r²)).

    The coordinates are white noise at the nodes s of a grid, and c is uniform on the square: a
    large change somewhere, none elsewhere.

    Args:
        shape: numbers of nodes of a grid over the unit square.
        radius: r.
    """

    def __init__(self, shape: tuple[int, int], radius: float) -> None:
        axes = [torch.linspace(0, 1, n, dtype=torch.float64) for n in shape]
        self._nodes = torch.cartesian_prod(*axes)
        self._radius = check_positive("radius", radius)

    def propose(self, position: Tensor, step: Tensor, random: RandomNumbers) -> Tensor:
        """See `Move.propose`."""
        centre = torch.stack([random.uniform(), random.uniform()], -1)
        distance = (self._nodes - centre[:, None]).square().sum(-1)
        weight = torch.exp(-distance / (2 * self._radius**2))
        beta = (step[:, None] * weight).clamp_max(1.0)
        return _blend(position, beta, random.normal())

    def learn(self, position: Tensor) -> None:
        """Nothing to learn."""


class CrankNicolson:
    """Metropolis test of prior-reversible moves, one of them at random at every step.

    As the proposal leaves N(0, I) reversible, it is accepted with probability
    min(1, exp(ℓ(x') - ℓ(x))). In warm-up the step of every move and chain is tuned to an
    acceptance rate by a Robbins-Monro recursion for its logarithm.

    Source: Cotter, Roberts, Stuart & White (Statist. Sci. 28, 2013).

    Args:
        num_chains: C.
        moves: to choose from; one `ScaledMove` by default.
        step: b to start from.
        target_accept_prob: mean acceptance probability aimed at, in (0, 1).
    """

    def __init__(
        self,
        num_chains: int,
        moves: Sequence[Move] | None = None,
        *,
        step: float = 0.2,
        target_accept_prob: float = 0.25,
    ) -> None:
        check_integer("num_chains", num_chains, 1)
        self._moves = tuple(moves) if moves else (ScaledMove(),)
        start = math.log(check_positive("step", step))
        self._log_step = torch.full((len(self._moves), num_chains), start, dtype=torch.float64)
        self._target = check_fraction("target_accept_prob", target_accept_prob, closed=False)
        self._count, self._adapting = [0 for _ in self._moves], True

    @property
    def steps(self) -> Tensor:
        """Step b of every move and chain, shape (moves, chains)."""
        return self._log_step.exp()

    def step(self, state: State, evaluate: LogLikelihood, random: RandomNumbers) -> State:
        """See `Kernel.step`."""
        index = random.choice(len(self._moves))
        proposal = self._moves[index].propose(
            state.position, self._log_step[index].exp(), random
        )
        value, product = evaluate(proposal)
        accept_prob = (value - state.values[0]).clamp_max(0.0).exp().nan_to_num(0.0)
        accepted = random.uniform() < accept_prob
        if self._adapting:
            self._adapt(index, accept_prob)
        values = state.values.clone()
        values[0] = value
        new = State(proposal, values, product if len(values) == 1 else state.product)
        after = new.where(accepted, state)
        if self._adapting:
            for move in self._moves:
                move.learn(after.position)
        return after

    def freeze(self) -> None:
        """See `Kernel.freeze`."""
        self._adapting = False

    def _adapt(self, index: int, accept_prob: Tensor) -> None:
        self._count[index] += 1
        gain = (1 + self._count[index] / 20) ** -_FORGETTING
        self._log_step[index] += gain * (accept_prob - self._target)
        self._log_step[index].clamp_(max=math.log(_MAX_STEP))


class Hamiltonian:
    """Hamiltonian Monte Carlo of fixed length with an identity mass matrix.

    ℓ must be differentiable. A trajectory of fixed length with a Metropolis test is
    reversible, unlike NUTS with its biased choice of the end point.

    Source: Neal (2011), "MCMC using Hamiltonian dynamics".

    Args:
        step_size: ε of the leapfrog integrator.
        num_steps: of a trajectory.
    """

    def __init__(self, *, step_size: float, num_steps: int) -> None:
        self._step_size = check_positive("step_size", step_size)
        self._num_steps = check_integer("num_steps", num_steps, 1)

    def step(self, state: State, evaluate: LogLikelihood, random: RandomNumbers) -> State:
        """See `Kernel.step`."""
        product, values = state.product, state.values.clone()
        likelihood = values[0]

        def energy(positions: Tensor, _: object) -> tuple[Tensor, Tensor]:
            nonlocal product, likelihood
            x = positions.detach().requires_grad_()
            with torch.enable_grad():
                likelihood, found = evaluate(x)
                total = likelihood - x.square().sum(-1) / 2
                (gradient,) = torch.autograd.grad(total.sum(), x)
            likelihood, product = likelihood.detach(), found.detach()
            return total.detach(), gradient

        value, gradient = energy(state.position, None)
        start = Point(state.position, random.normal(), value, gradient)
        metric = Metric(torch.ones_like(state.position[0]))
        done = transition(
            energy,
            metric,
            start,
            random.uniform(),
            step_size=self._step_size,
            num_steps=self._num_steps,
        )
        values[0] = likelihood
        new = State(done.end.position, values, product if len(values) == 1 else state.product)
        return new.where(done.accepted, state)

    def freeze(self) -> None:
        """See `Kernel.freeze`: nothing was adapted."""


def _blend(x: Tensor, beta: Tensor, noise: Tensor) -> Tensor:
    """Autoregression with the prior as its stationary law, coordinate by coordinate."""
    return (1 - beta.square()).sqrt() * x + beta * noise
