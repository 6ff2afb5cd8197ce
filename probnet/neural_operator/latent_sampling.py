"""Draws from latent posteriors: NUTS and SVI by `inference`, HMC of many problems together."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

import inference
from inference import Draws, LogDensity, hmc
from inference.gradients import LogDensityAndGradient
from inference.log_density import LogDensityTarget
from inference.plan import Plan
from inference.recording import Recorded
from inference.schedules import Constant
from probnet.neural_operator.latent import Whitened

METHODS = ("nuts", "hmc", "svi")
_NUM_WARMUP = {"nuts": 100, "hmc": 150}  # the step size alone: whitening has done the rest
_WHITENED: dict[str, Any] = {"step_size": 0.5, "adapt_mass_matrix": False}
_ACCEPT = {"nuts": 0.6, "hmc": 0.8}  # of nuts, longer steps than usual: 7 a tree, not 15
_MANY_ACCEPT = 0.9  # one step size for all problems
_SVI_STEPS, _SVI_RATE = 1000, 1e-2
_SITE = "v"


def sample_one(
    whitened: Whitened,
    starts: Tensor,
    *,
    method: str,
    num_samples: int,
    num_warmup: int | None,
    seed: int,
    progress: bool,
    options: dict[str, Any],
) -> Draws:
    """Draws of v for one problem, as `inference` gives them.

    Args:
        whitened: of a single problem.
        starts: base vectors, one per chain.
        method: `"nuts"`, `"hmc"` or `"svi"`, a Gaussian guide of full covariance.
        num_samples: draws per chain; SVI gives as many as all chains would, in one.
        num_warmup: steps before the first draw; 100 by default, 150 of `"hmc"`.
        seed: of everything random.
        progress: show a bar on a terminal.
        options: of the method.
    """
    target = LogDensity(
        log_density=lambda params: whitened.log_density(params[_SITE][None])[0],
        scale="sum",
        params={_SITE: torch.zeros(whitened.target.dim, dtype=torch.float64)},
    )
    start = whitened.coordinates(starts)
    dims = {_SITE: ["latent"]}
    if method == "svi":
        settings: dict[str, Any] = {
            "guide": "multivariate",
            "num_steps": _SVI_STEPS,
            "learning_rate": _SVI_RATE,
            "init_scale": 1.0,
        }
        return inference.fit(
            target,
            num_samples=num_samples * len(starts),
            seed=seed,
            init={_SITE: torch.zeros_like(start[0])},
            progress=progress,
            dims=dims,
            **settings | options,
        )
    settings = {**_WHITENED, "target_accept_prob": _ACCEPT[method], **options}
    return inference.sample(
        target,
        method=method,
        num_chains=len(starts),
        num_warmup=_NUM_WARMUP[method] if num_warmup is None else num_warmup,
        num_samples=num_samples,
        seed=seed,
        init={_SITE: start},
        progress=progress,
        dims=dims,
        **settings,
    )


def sample_many(
    whitened: Whitened,
    starts: Tensor,
    *,
    num_samples: int,
    num_warmup: int | None,
    seed: int,
    progress: bool,
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """HMC of all chains of all problems as one batch.

    Step size and trajectory length are shared, which whitening allows for: every posterior has
    about the covariance I in v.

    Args:
        whitened: of all problems.
        starts: base vectors (problem * chain, dim), ordered by problem.
        num_samples: draws per chain.
        num_warmup: steps before the first draw; 150 by default.
        seed: of everything random.
        progress: show a bar on a terminal.

    Returns:
        v (problem, chain, draw, dim), and statistics (problem, chain, draw).
    """
    dim, problems = whitened.target.dim, whitened.target.num_problems
    like = LogDensity(
        log_density=lambda params: -params[_SITE].square().sum() / 2,
        scale="sum",
        params={_SITE: torch.zeros(dim, dtype=torch.float64)},
    )
    plan = Plan(
        num_chains=len(starts),
        num_warmup=_NUM_WARMUP["hmc"] if num_warmup is None else num_warmup,
        num_samples=num_samples,
        thin=1,
        seed=seed,
        temperature=1.0,
        schedule=Constant(),
        chain_method="vectorized",
        share_batches=False,
        keep_warmup=False,
        chunk_size=None,
        progress=progress,
    )
    layout = LogDensityTarget(
        like, None, batch_size=None, dtype=None, device=torch.device("cpu")
    )
    options = hmc.HMC(target_accept_prob=_MANY_ACCEPT, **_WHITENED)
    run = hmc.run(
        layout, plan, _evaluation(whitened), whitened.coordinates(starts), options=options
    )
    v = torch.from_numpy(np.array(run.draws[_SITE])).unflatten(0, (problems, -1))
    stats = {
        name: values.reshape(problems, -1, *values.shape[1:])
        for name, values in run.sample_stats.items()
    }
    return v, stats


def _evaluation(whitened: Whitened) -> LogDensityAndGradient:
    """Log densities and gradients of every chain on its own problem."""

    def evaluate(positions: Tensor, batch: Any) -> tuple[Tensor, Tensor]:
        v = positions.detach().requires_grad_()
        with torch.enable_grad():
            values = whitened.log_density(v)
            (gradient,) = torch.autograd.grad(values.sum(), v)
        return values.detach(), gradient

    return Recorded(evaluate)
