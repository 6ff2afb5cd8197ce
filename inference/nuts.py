"""NUTS: Pyro's kernel on our potential, chain after chain, with the statistics ArviZ expects.

Options: `step_size` (where its adaptation starts, 1), `target_accept_prob` (0.8; take 0.9 to
0.95 for hierarchical models), `full_mass` (False; True for strong correlations),
`adapt_step_size`, `adapt_mass_matrix` (True), `max_tree_depth` (10).

Source: Hoffman & Gelman (JMLR 2014), with the multinomial sampling of Betancourt (2017).
"""
# pyright: reportArgumentType=false, reportOperatorIssue=false
# pyright: reportIncompatibleMethodOverride=false
# Pyro's kernel starts its caches as None and is otherwise untyped.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.infer import NUTS
from torch import Tensor
from tqdm.auto import tqdm

from inference.gradients import LogDensityAndGradient
from inference.plan import Run
from inference.rng import Stream, scoped_seed, stream_seed

if TYPE_CHECKING:
    from inference.plan import Plan
    from inference.targets import Target

_SITE = "position"


def run(
    target: Target,
    plan: Plan,
    evaluate: LogDensityAndGradient,
    positions: Tensor,
    *,
    options: Mapping[str, Any],
) -> Run:
    """Sample chain after chain.

    Ctrl-C keeps the chains that are complete.

    Args:
        target: bound in float64.
        plan: lengths, thinning, seed and temperature.
        evaluate: log density and gradient.
        positions: starting points, shape (chains, dim).
        options: of the kernel, checked.
    """
    potential = _potential(evaluate, plan.temperature)
    chains: list[dict[str, list[Any]]] = []
    interrupted = False
    steps = plan.num_warmup + plan.thin * plan.num_samples
    total = plan.num_chains * steps
    with tqdm(total=total, disable=None if plan.progress else True) as bar:
        for chain in range(plan.num_chains):
            bar.set_description(f"nuts chain {chain + 1}/{plan.num_chains}")
            try:
                with scoped_seed(stream_seed(plan.seed, Stream.PYRO, chain)):
                    kernel = _NUTS(potential, dict(options))
                    chains.append(_run_chain(kernel, target, plan, positions[chain], bar))
            except KeyboardInterrupt:
                interrupted = True
                if not chains:
                    raise
                break
    stats = {
        name: np.array([[draw[name] for draw in chain["stats"]] for chain in chains])
        for name in chains[0]["stats"][0]
    }
    draws = {
        name: np.stack([_stack(chain["draws"], name) for chain in chains])
        for name in chains[0]["draws"][0]
    }
    return Run(draws, stats, warmup={}, state={}, interrupted=interrupted, died_at={})


def _run_chain(
    kernel: _NUTS, target: Target, plan: Plan, position: Tensor, bar: tqdm[Any]
) -> dict[str, list[Any]]:
    kernel.initial_params = {_SITE: position.clone()}
    kernel.setup(plan.num_warmup)
    state: dict[str, Tensor] = kernel.initial_params
    draws: list[dict[str, Tensor]] = []
    stats: list[dict[str, Any]] = []
    for step in range(plan.num_warmup + plan.thin * plan.num_samples):
        state = kernel.sample(state)
        bar.update()
        since = step - plan.num_warmup
        if since >= 0 and since % plan.thin == plan.thin - 1:
            with torch.no_grad():
                draws.append(target.constrain(state[_SITE].detach()))
            stats.append(kernel.statistics(plan.temperature))
    return {"draws": draws, "stats": stats}


class _Energy(torch.autograd.Function):
    """−log p / T of one position, its gradient from the driver's own evaluation."""

    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        position, evaluate, temperature = inputs
        value, gradient = evaluate(position.detach()[None], None)
        ctx.save_for_backward(-gradient[0] / temperature)
        return -value[0] / temperature

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Any:
        (gradient,) = ctx.saved_tensors
        return grad_outputs[0] * gradient, None, None


def _potential(
    evaluate: LogDensityAndGradient, temperature: float
) -> Callable[[dict[str, Tensor]], Tensor]:
    def potential(state: dict[str, Tensor]) -> Tensor:
        energy: Any = _Energy.apply(state[_SITE], evaluate, temperature)
        return energy

    return potential


def _stack(draws: list[dict[str, Tensor]], name: str) -> np.ndarray:
    return torch.stack([draw[name] for draw in draws]).cpu().numpy()


class _NUTS(NUTS):
    """Pyro's NUTS, keeping the energies of the leaves of the last tree."""

    def __init__(self, potential: Callable[..., Tensor], options: dict[str, Any]) -> None:
        super().__init__(potential_fn=potential, **options)
        self._leaves: list[tuple[Any, float, float, bool]] = []
        self._energy_start = 0.0

    def _sample_r(self, name: str) -> Any:
        r, r_unscaled = super()._sample_r(name)
        self._energy_start = float(
            self._kinetic_energy(r_unscaled) + self._potential_energy_last
        )
        self._leaves = []
        return r, r_unscaled

    def _build_basetree(self, *arguments: Any) -> Any:
        leaf = super()._build_basetree(*arguments)
        energy = float(leaf.z_proposal_pe + self._kinetic_energy(leaf.r_left_unscaled))
        accept = float(leaf.sum_accept_probs)
        self._leaves.append((leaf.z_proposal, energy, accept, bool(leaf.diverging)))
        return leaf

    def statistics(self, temperature: float) -> dict[str, Any]:
        """Statistics of the last transition, by their ArviZ names."""
        accepted = [energy for z, energy, _, _ in self._leaves if z is self._z_last]
        energy = accepted[0] if accepted else self._energy_start
        count = len(self._leaves)
        return {
            "lp": -float(self._potential_energy_last) * temperature,
            "energy": energy,
            "energy_error": energy - self._energy_start,
            "acceptance_rate": sum(accept for _, _, accept, _ in self._leaves) / count,
            "step_size": float(self.step_size),
            "n_steps": count,
            "tree_depth": count.bit_length(),
            "diverging": any(diverging for _, _, _, diverging in self._leaves),
        }
