r"""The bias of a stochastic-gradient run, which neither ESS nor R-hat sees.

Everything is measured along the eigenvectors u of the target's mean curvature, the regression
of its gradient on the position. There, with m the mean of the draws and T the temperature:

- paired runs at ε and ε/2 under the same Brownian path: the difference of their variances,
  extrapolated to ε = 0, is what the step and the minibatches add. Chains come in pairs of
  opposite noise on the same minibatches, so that what is linear in a gradient's error cancels.
- Stein's identity with f(θ) = uuᵀ(θ − m), E[T + uᵀ(θ − m) uᵀ∇log p] = 0: on a quadratic the
  left side is −T times the relative error of the variance. The gradient is that of all the
  data, so that the drawn law is compared with the stated target.
- the mean minibatch gradient against that of all the data, at positions far from the mean,
  where minibatches agree best: a missing N/n shows as the slope n/N.
- the kinetic temperature against its stationary value: too little noise shows here.
- the stationary covariance of the linear theory.

Source: Gorham & Mackey (NIPS 2015) for Stein discrepancies; Giles (Operations Research 2008)
for coupled steps. Their use together, and the pairs of opposite noise, are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference._checks import check_fraction, check_integer
from inference.bias_pairs import Frame, PairedRuns, extrapolation, predict
from inference.bias_verdict import Estimate, Measurements, judge
from inference.errors import warn
from inference.gradients import LogDensityAndGradient, log_density_and_gradient, map_chains
from inference.plan import Plan, Run
from inference.rng import Stream
from inference.samplers import Sampler
from inference.schedules import Constant
from inference.targets import Target

_FEWEST_DRAWS, _MOST_DRAWS = 64, 1024
_DENSE_DIM = 128
_BATCHES = 24  # in all chains together: units of draws that count as independent
_FAR, _TRIALS = 8, 16
_BITS = 36
_MOST_VALUES = 1 << 20


@dataclass(frozen=True)
class BiasCheck:
    """How to measure the bias of a run, for `sample(..., bias_check=)`.

    Attributes:
        level: relative error of a variance that is accepted, in any direction; in (0, 1). A
            run suggested by `suggest_step_size(bias=level)` passes, one of twice the bias not.
        num_chains: of the paired runs; even, at least 8.
        num_steps: of the paired runs at ε, the first quarter left out; at least 100. Each costs
            three minibatch gradients per chain.

    Raises:
        ValueError: on a value out of range.
    """

    level: float = 0.03
    num_chains: int = 64
    num_steps: int = 500

    def __post_init__(self) -> None:
        check_fraction("level", self.level, closed=False)
        check_integer("num_steps", self.num_steps, 100)
        if check_integer("num_chains", self.num_chains, 8) % 2:
            raise ValueError(f"`num_chains` must be even; got {self.num_chains}.")


def check_bias_check(given: Any, plan: Plan, target: Target, *, full_data: bool) -> None:
    """Refuse a bias check where it makes no sense.

    Raises:
        TypeError: if it is neither a bool nor a `BiasCheck`.
        ValueError: for HMC and NUTS, at temperature 0, on a schedule, on JAX.
    """
    if not isinstance(given, (bool, BiasCheck)):
        raise TypeError(f"`bias_check` must be True, False or a BiasCheck; got {given!r}.")
    if given is False:
        return
    reason = None
    if full_data:
        reason = "HMC and NUTS are exact: no step size or minibatch biases them"
    elif not isinstance(plan.schedule, Constant):
        reason = "it needs a constant step size, and the run has a schedule"
    elif plan.temperature == 0:
        reason = "at `temperature` 0 there is no law to compare with"
    elif target.backend != "torch":
        reason = "it runs torch targets only"
    if reason is not None:
        raise ValueError(f"`bias_check` does not apply: {reason}. Leave it out.")


def measure_bias(
    target: Target,
    sampler: Sampler,
    method: str,
    plan: Plan,
    found: Run,
    anchor: Tensor | None,
    check: BiasCheck,
) -> dict[str, Any]:
    """Everything the module's head lists, judged; JSON-able and a function of the seed.

    Args:
        target: what was sampled.
        sampler: by what.
        method: its name.
        plan: of the run.
        found: the run.
        anchor: of the control variates at the mode, shape (dim,).
        check: how to measure.
    """
    evaluate = log_density_and_gradient(target, plan.chain_method)
    chains, positions = _drawn(target, plan, found)
    gradients = _full_gradients(target, evaluate, positions)
    if not bool(gradients.isfinite().all()):
        reason = "the gradient of all the data is not finite at some draws"
        remedy = "check the log density at the draws"
        found_nothing = {"verdict": "undecided", "reasons": [reason], "remedy": remedy}
        return {**found_nothing, "level": check.level}
    frame = _frame(positions.flatten(0, 1), gradients.flatten(0, 1), plan.temperature)
    affordable = _MOST_VALUES // target.layout.dim // 2 * 2
    runs = PairedRuns(
        target,
        sampler,
        plan,
        evaluate,
        anchor=anchor,
        num_chains=min(check.num_chains, max(8, affordable)),
        num_steps=check.num_steps,
    )
    predicted = predict(runs, method, positions.flatten(0, 1), frame)
    factor = extrapolation(runs, predicted)
    variance, mean = runs.measure(found.state, chains, positions, frame, factor)
    along = (positions - frame.center) @ frame.basis * (gradients @ frame.basis)
    kinetic = found.sample_stats.get("kinetic_temperature")
    expected = sampler.stationary_kinetic_temperature(runs.settings)
    measured = Measurements(
        paired_variance=variance,
        paired_mean=mean,
        stein=_batch_means((-along / plan.temperature - 1).numpy(force=True)),
        gradient=_gradient_slope(runs, positions.flatten(0, 1), frame),
        kinetic=_batch_means(kinetic[chains][..., None] / (expected or 1) - 1)
        if kinetic is not None and expected
        else None,
        predicted=None if predicted is None else predicted[0].inflation,
        predicted_by_noise=None if predicted is None else predicted[0].gradient_noise,
    )
    num_full = positions.shape[:2].numel()
    num_batches = 3 * runs.num_chains * runs.num_steps
    cost = {
        "full_gradients": num_full,
        "minibatch_gradients": num_batches,
        "relative_to_run": (num_full / _batch_share(target) + num_batches)
        / (plan.num_chains * plan.num_steps),
    }
    judged = judge(measured, check.level)
    if judged["verdict"] == "biased":
        reasons = "; ".join(judged["reasons"])
        warn(f"the run is biased: {reasons}. Remedy: {judged['remedy']}.")
    return {**judged, "noise_rule": found.predicted_inflation, "cost": cost}


def _drawn(target: Target, plan: Plan, found: Run) -> tuple[list[int], Tensor]:
    """Numbers of the healthy chains, and some of their draws, (chains, draws, dim)."""
    healthy = [c for c in range(plan.num_chains) if c not in found.died_at]
    affordable = plan.num_chains * plan.num_steps * _batch_share(target)
    count = int(np.clip(affordable, _FEWEST_DRAWS, _MOST_DRAWS)) // len(healthy)
    available = next(iter(found.draws.values())).shape[1]
    some = np.unique(np.linspace(0, available - 1, max(count, 2)).round().astype(int))
    values = {
        name: torch.tensor(array[healthy][:, some], device=target.device).flatten(0, 1)
        for name, array in found.draws.items()
    }
    flat = map_chains(target.unconstrain, values, chain_method=plan.chain_method)
    return healthy, flat.reshape(len(healthy), len(some), -1).to(target.dtype)


def _batch_share(target: Target) -> float:
    """Rows of a step, relative to all."""
    return 1.0 if target.batch_size is None else target.batch_size / (target.num_data or 1)


def _full_gradients(
    target: Target, evaluate: LogDensityAndGradient, positions: Tensor
) -> Tensor:
    """The gradient of all the data, in the shape of `positions`; a group at a time."""
    flat = positions.flatten(0, -2)
    size = max(target.num_data or 1, target.layout.dim)
    group = max(1, min(64, _MOST_VALUES // size))
    return torch.cat([evaluate(some, None)[1] for some in flat.split(group)]).view_as(positions)


def _frame(positions: Tensor, gradients: Tensor, temperature: float) -> Frame:
    """The mean curvature, −E[∇² log p], by Stein's lemma the regression of −g on θ."""
    center = positions.mean(0)
    x, g = (positions - center).double(), gradients.double()
    dim = x.shape[1]
    if dim <= min(_DENSE_DIM, len(x) // 4):
        slope = torch.linalg.lstsq(x, -g).solution
        curvature, basis = torch.linalg.eigh(_rounded(slope + slope.T) / 2)
        curvature, basis = _rounded(curvature), _rounded(basis)
    else:
        basis = torch.eye(dim, dtype=x.dtype, device=x.device)
        curvature = (g.square().mean(0) / x.square().mean(0)).sqrt()
    own = temperature / (x @ basis).square().mean(0)
    curvature = torch.where(curvature > 1e-6 * own, curvature, own)
    return Frame(center, basis.to(positions), curvature.numpy(force=True))


def _rounded(values: Tensor) -> Tensor:
    """Without the last bits, which LAPACK does not repeat from call to call."""
    unit = 2.0 ** (torch.frexp(values.abs().max()).exponent - _BITS)
    return (values / unit).round() * unit


def _batch_means(values: np.ndarray) -> Estimate:
    """Means of long stretches of every chain of (chain, draw, k), taken as independent."""
    per_chain = min(max(2, -(-_BATCHES // len(values))), values.shape[1])
    stretches = np.array_split(values.astype(np.float64), per_chain, axis=1)
    return Estimate(np.concatenate([stretch.mean(1) for stretch in stretches]), of_ratio=True)


def _gradient_slope(runs: PairedRuns, positions: Tensor, frame: Frame) -> Estimate | None:
    """Minibatch gradients along that of all the data, relative to it, less one."""
    target = runs.target
    if target.batch_size is None or target.num_data is None:
        return None
    some = positions[:: max(1, len(positions) // _FAR)][:_FAR]
    stretch = 1 + (target.num_data / target.batch_size) ** 0.5
    far = frame.center + stretch * (some - frame.center)
    whole = runs.plain(far, None)[1]
    batches = runs.minibatches(Stream.BIAS_SLOPE, len(far))
    batches.anchor = runs.anchor(far)
    slopes = list[Tensor]()
    for _ in range(_TRIALS):
        rows = batches.choose(1)
        gradient = runs.evaluate(far, batches.take(None if rows is None else rows[0]))[1]
        slopes.append((gradient * whole).sum(-1) / whole.square().sum(-1) - 1)
    found = torch.cat(slopes).double().numpy(force=True)
    found = found[np.isfinite(found)]
    return Estimate(found[:, None]) if len(found) > 1 else None
