"""`inference.fit`: variational inference on any target."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pyro
import torch
from torch import Tensor
from tqdm.auto import tqdm

from inference._checks import check_choice, check_integer, check_positive
from inference.backends import check_options, load
from inference.binding import bind
from inference.data import BatchStream, Leaves, take_rows
from inference.diagnostics import pareto_k
from inference.draws import Draws
from inference.errors import warn
from inference.gradients import CHAIN_METHODS, log_density_and_gradient, map_chains
from inference.guides import (
    AUTOGUIDES,
    POINT_GUIDES,
    Guide,
    Law,
    PointGuide,
    SelfFitting,
    UserGuide,
    build_guide,
    is_autoguide,
)
from inference.initial import Init, initial_positions
from inference.labels import label_axes, run_attributes
from inference.log_density import LogDensity
from inference.mode import climb
from inference.rng import Stream, scoped_seed, stream_seed
from inference.targets import Target

GUIDES = (*AUTOGUIDES, *POINT_GUIDES)

_PARETO_DRAWS = 4000
_PARETO_LIMIT = 0.7
_PARTICLES = 8
_DRAWS_AT_ONCE = 250
_CLIP_NORM = 10.0
_FINAL_RATE = 0.1


def fit(
    target: LogDensity | Callable[..., Any],
    data: Any = None,
    *,
    guide: str | Callable[..., Any] = "mean_field",
    num_steps: int = 2000,
    num_particles: int | None = None,
    learning_rate: float = 1e-2,
    batch_size: int | None = None,
    num_samples: int = 1000,
    seed: int = 0,
    init: Init = None,
    init_scale: float = 0.1,
    rank: int | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    chain_method: str = "vectorized",
    backend: str = "auto",
    progress: bool = True,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, list[str]] | None = None,
) -> Draws:
    """Fit a guide by maximising the evidence lower bound, and draw from it.

    The guide lives on the flat unconstrained vector. Adam runs from `learning_rate` down to a
    tenth of it, the gradient's norm clipped at 10. The draws are independent: one chain, no
    R-hat. PSIS k-hat of log p − log q over 4000 draws says whether the guide can be trusted.

    Source: Kucukelbir et al. (JMLR 2017) for the family; Yao et al. (ICML 2018) for k-hat.

    Args:
        target: a Pyro or NumPyro model, or a `LogDensity`.
        data: as for `sample`.
        guide: `"mean_field"`, `"multivariate"`, `"low_rank"`, `"iaf"` (Pyro's autoguides),
            `"laplace"`, `"delta"` (the maximum itself), a subclass of Pyro's `AutoContinuous`,
            or a Pyro guide of your own, called like the model and reparametrised. On the JAX
            backend NumPyro's in the place of Pyro's.
        num_steps: optimisation steps.
        num_particles: draws per step, vectorised; by default 8, 1 for points.
        learning_rate: of Adam, at the start.
        batch_size: rows per step; None: all.
        num_samples: draws returned.
        seed: of everything random.
        init: starting point, as for `sample`.
        init_scale: standard deviation of a Gaussian guide at the start.
        rank: of `"low_rank"`, by default ⌈√dim⌉.
        dtype: of parameters and data.
        device: where torch runs; JAX runs on its own default device.
        chain_method: `"sequential"` for models that cannot be vectorised over particles.
        backend: as for `sample`.
        progress: show a progress bar on a terminal.
        coords: coordinates by dimension.
        dims: names of the axes of each variable.

    Returns:
        The draws, with attributes `variational`, `elbo` and `pareto_k`, and the trace of the
        bound in `optimization`.

    Raises:
        ValueError: on an argument out of range, or a Laplace guide without a maximum.
        TypeError: on a discrete latent site or integer parameters.
        InitError: if no starting point has a finite log density.
    """
    name = _check_name(guide)
    check_choice("chain_method", chain_method, CHAIN_METHODS)
    check_integer("num_steps", num_steps, 1)
    check_integer("num_samples", num_samples, 1)
    check_integer("seed", seed, 0)
    check_positive("learning_rate", learning_rate)
    check_positive("init_scale", init_scale)
    if rank is not None:
        check_integer("rank", rank, 1)
    default = 1 if name in POINT_GUIDES else _PARTICLES
    particles = (
        default if num_particles is None else check_integer("num_particles", num_particles, 1)
    )
    bound = bind(
        target, data, batch_size=batch_size, dtype=dtype, device=device, backend=backend
    )
    check_options(bound, chain_method=chain_method)
    started = time.perf_counter()
    with (
        pyro.validation_enabled(False),
        pyro.get_param_store().scope(),
        scoped_seed(stream_seed(seed, Stream.PYRO)),
    ):
        evaluate = log_density_and_gradient(bound, chain_method)
        position = initial_positions(bound, evaluate, init, seed, 1)[0]
        axes = label_axes(bound, position, dims, coords)
        fitted = _build(bound, guide, position, init_scale=init_scale, rank=rank)
        if isinstance(fitted, SelfFitting):
            trace = fitted.optimise(
                num_steps,
                learning_rate,
                final=_FINAL_RATE,
                particles=particles,
                clip=_CLIP_NORM,
                seed=seed,
                progress=progress,
            )
        else:
            optimiser = _Optimiser(bound, fitted, particles, seed, chain_method)
            trace = optimiser.run(num_steps, learning_rate, progress=progress)
        _check_bound(trace)
        if isinstance(fitted, PointGuide):
            _surround(fitted, name, bound)
        draws, stats = _draw(bound, fitted, num_samples, chain_method)
        k = _check_guide(bound, fitted, chain_method)
    attrs = run_attributes(bound, method="svi", seed=seed, started=started)
    attrs |= {
        "guide": name,
        "variational": True,
        "draws": "independent",
        "num_steps": num_steps,
        "num_particles": particles,
        "learning_rate": learning_rate,
        "pareto_k": float(k),
        "elbo": float(trace[-max(1, num_steps // 10) :].mean()),
    }
    return Draws(
        draws=draws,
        sample_stats=stats,
        attrs=attrs,
        dims=axes,
        coords=dict(coords or {}),
        optimization={"elbo": trace},
        _target=bound,
    )


def _build(
    target: Target,
    guide: str | Callable[..., Any],
    position: Tensor,
    *,
    init_scale: float,
    rank: int | None,
) -> Guide | SelfFitting:
    """The guide around `position`, by the target's own library where that has one."""
    if target.backend == "jax" and guide not in POINT_GUIDES:
        kind = load("svi").NumPyroGuide
        return kind(target, guide, position, init_scale=init_scale, rank=rank)
    if isinstance(guide, str) or is_autoguide(guide):
        return build_guide(guide, position, init_scale=init_scale, rank=rank)
    return UserGuide(guide, target)


def _check_bound(trace: np.ndarray) -> None:
    if not np.isfinite(trace[-1]):
        first = int(np.flatnonzero(~np.isfinite(trace))[0])
        raise FloatingPointError(
            f"the evidence lower bound became non-finite at step {first}. Reduce "
            "`learning_rate`, or start elsewhere with `init`."
        )


def _check_name(guide: str | Callable[..., Any]) -> str:
    if isinstance(guide, str):
        return check_choice("guide", guide, GUIDES)
    if not callable(guide):
        raise TypeError(f"`guide` must be one of {GUIDES} or callable; got {guide!r}.")
    return str(getattr(guide, "__name__", type(guide).__name__))


class _Optimiser:
    """Stochastic ascent of the evidence lower bound."""

    def __init__(
        self, target: Target, guide: Guide, particles: int, seed: int, chain_method: str
    ) -> None:
        self._target, self._guide, self._particles = target, guide, particles
        self._chain_method = chain_method
        self._batches: BatchStream | None = None
        if target.batch_size is not None and target.num_data is not None:
            self._batches = BatchStream(
                seed,
                [0],
                target.num_data,
                target.batch_size,
                shared=True,
                device=target.device,
            )

    def run(self, num_steps: int, learning_rate: float, *, progress: bool) -> np.ndarray:
        """Take `num_steps` steps; returns the bound at each of them."""
        parameters = list(self._guide.parameters())
        optimiser = torch.optim.Adam(parameters, lr=learning_rate)
        decay = _FINAL_RATE ** (1 / num_steps)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, decay)
        trace = np.empty(num_steps)
        for step in tqdm(range(num_steps), desc="svi", disable=None if progress else True):
            optimiser.zero_grad()
            bound = self._bound()
            (-bound).backward()
            torch.nn.utils.clip_grad_norm_(parameters, _CLIP_NORM)
            optimiser.step()
            schedule.step()
            trace[step] = bound.item()
        return trace

    def _bound(self) -> Tensor:
        positions, log_q = self._guide.draw(self._particles)
        rows = None if self._batches is None else self._rows(self._batches)
        values = map_chains(
            lambda z: self._target.log_density(z, rows),
            positions,
            chain_method=self._chain_method,
        )
        return (values - log_q).mean()

    def _rows(self, batches: BatchStream) -> Leaves:
        return tuple(leaf[0] for leaf in take_rows(self._target.leaves, batches.next()))


def _surround(guide: PointGuide, name: str, target: Target) -> None:
    """Settle an optimised point at the maximum, and put the law of that name around it."""
    if target.batch_size is None:
        guide.location.data.copy_(climb(target.log_density, guide.location).position)
    if name == "laplace":
        guide.laplace(target.log_density)


def _draw(
    target: Target, guide: Law, count: int, chain_method: str
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Constrained draws (1, count, *shape), and the log densities where they are exact."""
    with torch.no_grad():
        positions, log_q = guide.draw(count)
        values = map_chains(target.constrain, positions, chain_method=chain_method)
        stats = {"log_q": log_q}
        if target.batch_size is None:
            stats["lp"] = _log_density(target, positions, chain_method)
    return (
        {name: v.detach().cpu().numpy()[None] for name, v in values.items()},
        {name: v.detach().cpu().numpy()[None] for name, v in stats.items()},
    )


def _check_guide(target: Target, guide: Law, chain_method: str) -> float:
    """PSIS k-hat of the guide; NaN for a bare point and under minibatches."""
    if target.batch_size is not None or (isinstance(guide, PointGuide) and guide.bare):
        return float("nan")
    with torch.no_grad():
        positions, log_q = guide.draw(_PARETO_DRAWS)
        log_weights = (_log_density(target, positions, chain_method) - log_q).cpu().numpy()
    k = pareto_k(log_weights)
    if not k <= _PARETO_LIMIT:
        warn(
            f"PSIS k-hat is {k:.2f} > {_PARETO_LIMIT}: the guide is far from the posterior and "
            "its draws may be badly off. Try a richer guide, more steps, or inference.sample."
        )
    return k


def _log_density(target: Target, positions: Tensor, chain_method: str) -> Tensor:
    """Log densities (count,), a few positions at a time."""
    pieces = [
        map_chains(target.log_density, some, chain_method=chain_method)
        for some in positions.split(_DRAWS_AT_ONCE)
    ]
    return torch.cat(pieces)
