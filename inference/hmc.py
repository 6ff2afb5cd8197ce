"""HMC and NUTS: Pyro's kernels on our potential, with the statistics ArviZ expects.

Options of both: `step_size` (where its adaptation starts, 1), `target_accept_prob` (0.8; take
0.9 to 0.95 for hierarchical models), `full_mass` (False; True for strong correlations),
`adapt_step_size`, `adapt_mass_matrix` (True). NUTS also takes `max_tree_depth` (10); HMC
`num_steps` or `trajectory_length` (2π).
"""
# pyright: reportArgumentType=false, reportOperatorIssue=false
# pyright: reportIncompatibleMethodOverride=false
# Pyro's kernels start their caches as None and are otherwise untyped.

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from pyro.infer import HMC, NUTS
from torch import Tensor
from tqdm.auto import tqdm

from inference._checks import (
    check_fraction,
    check_integer,
    check_options,
    check_positive,
)
from inference.gradients import LogDensityAndGradient
from inference.plan import Run
from inference.rng import Stream, scoped_seed, stream_seed
from inference.schedules import Constant

if TYPE_CHECKING:
    from inference.plan import Plan
    from inference.request import Request
    from inference.targets import Target

METHODS = ("hmc", "nuts")

_COMMON = (
    "step_size",
    "target_accept_prob",
    "full_mass",
    "adapt_step_size",
    "adapt_mass_matrix",
)
_OPTIONS = {
    "hmc": (*_COMMON, "num_steps", "trajectory_length"),
    "nuts": (*_COMMON, "max_tree_depth"),
}
_SITE = "position"


def check_arguments(method: str, plan: Plan, request: Request, saving: bool) -> None:
    """Refuse what full-data float64 sampling cannot honour.

    Raises:
        TypeError: on an option the method does not take.
        ValueError: on minibatches, another dtype, a schedule, temperature 0, a goal or a
            checkpoint.
    """
    options = request.options
    check_options(f"method {method!r}", options, _OPTIONS[method], also=vars(plan))
    refused = {
        "batch_size": request.batch_size is not None,
        "schedule": not isinstance(plan.schedule, Constant),
        "share_batches": plan.share_batches,
        "keep_warmup": plan.keep_warmup,
        "chunk_size": plan.chunk_size is not None,
        "control_variates": plan.control_variates is not None,
        "until": plan.until is not None,
        "checkpoint": saving,
        "compile": request.compile is True,
    }
    for name, given in refused.items():
        if given:
            raise ValueError(f"`{name}` does not apply to method {method!r}; leave it out.")
    if request.dtype not in (None, torch.float64):
        raise ValueError(
            f"`dtype` must be torch.float64 for method {method!r}; got {request.dtype}."
        )
    check_positive("temperature", plan.temperature)
    for name in ("step_size", "trajectory_length"):
        if name in options:
            check_positive(name, options[name])
    for name in ("num_steps", "max_tree_depth"):
        if name in options:
            check_integer(name, options[name], 1)
    if "target_accept_prob" in options:
        check_fraction("target_accept_prob", options["target_accept_prob"], closed=False)


def run(
    method: str,
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
        method: `"hmc"` or `"nuts"`.
        target: bound in float64.
        plan: lengths, thinning, seed and temperature.
        evaluate: log density and gradient.
        positions: starting points, shape (chains, dim).
        options: see `check_arguments`.
    """
    kinds: dict[str, type[_NUTS | _HMC]] = {"nuts": _NUTS, "hmc": _HMC}
    potential = _potential(evaluate, plan.temperature)
    chains: list[dict[str, list[Any]]] = []
    interrupted = False
    steps = plan.num_warmup + plan.thin * plan.num_samples
    total = plan.num_chains * steps
    with tqdm(total=total, disable=None if plan.progress else True) as bar:
        for index, chain in enumerate(plan.chains):
            bar.set_description(f"{method} chain {index + 1}/{plan.num_chains}")
            try:
                with scoped_seed(stream_seed(plan.seed, Stream.PYRO, chain)):
                    kernel = kinds[method](potential, dict(options))
                    chains.append(_run_chain(kernel, target, plan, positions[index], bar))
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
    kernel: _NUTS | _HMC, target: Target, plan: Plan, position: Tensor, bar: tqdm[Any]
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


class _HMC(HMC):
    """Pyro's HMC, keeping the energies of both ends of the last trajectory."""

    def __init__(self, potential: Callable[..., Tensor], options: dict[str, Any]) -> None:
        super().__init__(potential_fn=self._remember(potential), **options)
        self._last_potential = self._last_kinetic = self._energy_start = 0.0
        self._steps_taken = 0
        self._divergences_before = 0

    def _remember(self, potential: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def remembered(state: dict[str, Tensor]) -> Tensor:
            value = potential(state)
            self._last_potential = float(value.detach())
            return value

        return remembered

    def _sample_r(self, name: str) -> Any:
        r, r_unscaled = super()._sample_r(name)
        self._energy_start = float(
            self._kinetic_energy(r_unscaled) + self._potential_energy_last
        )
        self._steps_taken = self.num_steps
        self._divergences_before = len(self._divergences)
        return r, r_unscaled

    def _kinetic_energy(self, r_unscaled: Any) -> Any:
        kinetic = super()._kinetic_energy(r_unscaled)
        self._last_kinetic = float(kinetic)
        return kinetic

    def statistics(self, temperature: float) -> dict[str, Any]:
        """Statistics of the last transition, by their ArviZ names."""
        end = self._last_potential + self._last_kinetic
        change = end - self._energy_start
        rejected = float(self._potential_energy_last) != self._last_potential
        energy = self._energy_start if rejected else end
        return {
            "lp": -float(self._potential_energy_last) * temperature,
            "energy": energy,
            "energy_error": energy - self._energy_start,
            "acceptance_rate": 0.0 if np.isnan(change) else min(1.0, float(np.exp(-change))),
            "step_size": float(self.step_size),
            "n_steps": self._steps_taken,
            "diverging": len(self._divergences) > self._divergences_before,
        }
