"""`inference.sample`: Markov chains of any method on any target."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from inference import running
from inference._checks import check_integer
from inference.bias import BiasCheck
from inference.chains import Saving
from inference.draws import Draws
from inference.initial import Init
from inference.log_density import LogDensity
from inference.request import Request
from inference.schedules import Schedule
from inference.stopping import Until


def sample(
    target: LogDensity | Callable[..., Any],
    data: Any = None,
    *,
    method: str = "sghmc",
    num_chains: int = 4,
    num_warmup: int | None = None,
    num_samples: int | None = None,
    thin: int = 1,
    batch_size: int | None = None,
    seed: int = 0,
    init: Init = None,
    temperature: float = 1.0,
    schedule: Schedule | None = None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    chain_method: str = "vectorized",
    share_batches: bool = False,
    keep_warmup: bool = False,
    chunk_size: int | None = None,
    control_variates: str | None = None,
    until: Until | Mapping[str, float] | None = None,
    compile: bool | str = "auto",
    backend: str = "auto",
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    executor: Any = None,
    bias_check: bool | BiasCheck = False,
    progress: bool = True,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, list[str]] | None = None,
    **method_options: Any,
) -> Draws:
    """Draw from the posterior of a Pyro or NumPyro model or a `LogDensity`.

    Args:
        target: a Pyro or NumPyro model, called as `model(*data)`, or a `LogDensity`.
        data: what the target takes: an array, a tuple of them, or a dict of them. Floating
            arrays are converted to the target's dtype.
        method: `"sghmc"`, `"sghmc_adaptive"`, `"sgld"`, `"sgnht"`; `"csghmc"` and `"csgld"`
            run them on a `Cyclical` schedule; `"hmc"` and `"nuts"` (Pyro's, or NumPyro's) run
            in float64.
        num_chains: chains, all advanced at once, except by Pyro's `"nuts"`.
        num_warmup: steps before the first draw can be kept; by default 1000, 3000 for
            `"sghmc_adaptive"`, 0 for cyclical methods.
        num_samples: draws kept per chain, 1000 by default; in all `num_warmup + thin *
            num_samples` steps. With `until`, the most there may be.
        thin: steps per kept draw.
        batch_size: rows per gradient, drawn without replacement within an epoch, separately
            for every chain; None: all rows.
        seed: of everything random; chain c does not depend on how many chains there are.
        init: starting points, see `inference.initial.initial_positions`.
        temperature: T; the target is the posterior to the power 1/T.
        schedule: of the step size, from `inference.schedules`; constant by default.
        dtype: of parameters and data; by default that of `params`, or of the data.
        device: where torch runs; JAX runs on its own default device.
        chain_method: `"vectorized"`, or `"sequential"` for models that branch on values.
        share_batches: every chain sees the same minibatches: cheaper, but their noise is then
            common, and R-hat optimistic.
        keep_warmup: also return every `thin`-th warm-up position.
        chunk_size: steps between health checks and copies to the host, rounded up to a multiple
            of 8 where steps may be compiled; does not change draws.
        control_variates: quieten minibatch gradients by their difference to those at an
            anchor: `"mode"`, the posterior mode, for unimodal posteriors; `"epoch"`, where each
            chain was at the start of the epoch. One more minibatch gradient a step.
        until: run until a goal is reached, see `inference.Until`.
        compile: turn several steps into one compiled call: `"auto"` where that is predicted to
            save time, True, or False. Draws agree up to rounding. Where it cannot be done the
            reason is logged and steps run as usual. JAX's steps are always compiled.
        backend: `"torch"` or `"jax"`; "auto" takes JAX for a `LogDensity` of JAX arrays and for
            NumPyro models.
        checkpoint: directory to save the run in as it goes; see `inference.resume`.
        checkpoint_every: steps between two checkpoints; by default about ten seconds.
        executor: a `concurrent.futures.Executor`, such as Dask's `client.get_executor()`;
            groups of chains run as its tasks.
        bias_check: measure the bias of a stochastic-gradient run when it is done, for
            `Draws.diagnostics`; True, or an `inference.BiasCheck`. The draws are the same.
        progress: show a progress bar on a terminal.
        coords: coordinates by dimension.
        dims: names of the axes of each variable, by default Pyro's plates.
        method_options: the sampler's own, such as `step_size` and `friction`; see
            `inference.samplers`, `inference.hmc` and, for cyclical methods, `Cyclical`.

    Returns:
        The draws.

    Raises:
        ValueError: on an argument out of range, non-finite data, rows that do not match.
        TypeError: on a discrete latent site, integer parameters or an unknown option.
        InitError: if no starting point has a finite log density.
        ImportError: if JAX is needed and missing.
        AllChainsDivergedError: if every chain meets a non-finite value.
    """
    request = Request(
        method=method,
        num_chains=num_chains,
        num_warmup=num_warmup,
        num_samples=num_samples,
        thin=thin,
        batch_size=batch_size,
        seed=seed,
        temperature=temperature,
        schedule=schedule,
        dtype=dtype,
        device=str(device or "cpu"),
        chain_method=chain_method,
        share_batches=share_batches,
        keep_warmup=keep_warmup,
        chunk_size=chunk_size,
        compile=compile,
        backend=backend,
        control_variates=control_variates,
        until=until,
        options=method_options,
    )
    saving = None
    if checkpoint is not None:
        if checkpoint_every is not None:
            check_integer("checkpoint_every", checkpoint_every, 1)
        saving = Saving(
            Path(checkpoint), checkpoint_every, go_on=False, grouped=executor is not None
        )
    elif checkpoint_every is not None:
        raise ValueError("`checkpoint_every` was given without a `checkpoint` to write to.")
    return running.run(
        target,
        data,
        request,
        init=init,
        labels=running.Labels(dims, coords),
        progress=progress,
        saving=saving,
        executor=executor,
        bias_check=bias_check,
        entry=sample,
    )
