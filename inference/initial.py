"""Starting points, one per chain, each with a finite log density and gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference._checks import check_choice
from inference.data import to_tensor
from inference.errors import InitError, LinAlgError
from inference.gradients import LogDensityAndGradient
from inference.model_target import ModelTarget
from inference.rng import Stream, generator, stream_seed
from inference.targets import Target
from inference.tree import flatten_names

Init = str | Mapping[str, Any] | None

_TRIES = 100
_TRIES_TOGETHER = 10  # then one chain goes on alone, until it is clear that a start exists


def initial_positions(
    target: Target, evaluate: LogDensityAndGradient, init: Init, seed: int, num_chains: int
) -> Tensor:
    """Positions (num_chains, dim) to start from; chain c's does not depend on `num_chains`.

    Args:
        target: the log density.
        evaluate: log density and gradient of all chains.
        init: `"uniform"` (default, as in Stan): every unconstrained coordinate from U(−2, 2);
            `"prior"`: a draw from a Pyro model's prior; `"params"`: the values in a
            `LogDensity`; or a dict of constrained values, with or without a chain axis.
        seed: the run's seed.
        num_chains: how many.

    Raises:
        InitError: if no finite starting point was found in 100 tries (one for given values).
        ValueError: on an `init` that does not fit the target.
    """
    propose, tries = _proposer(target, init, seed, num_chains)
    batch = None
    if target.batch_size is not None:
        batch = tuple(leaf[None, : target.batch_size] for leaf in target.leaves)
    positions = torch.stack([propose(chain) for chain in range(num_chains)])
    pending, tried = list(range(num_chains)), [0] * num_chains
    while pending:
        hopeless = len(pending) == num_chains and tried[0] >= _TRIES_TOGETHER
        some = pending[:1] if hopeless else list(pending)
        values, gradients = evaluate(positions[some], batch)
        finite = torch.isfinite(values) & torch.isfinite(gradients).all(-1)
        for chain, found in zip(some, finite.tolist(), strict=True):
            tried[chain] += 1
            if found:
                pending.remove(chain)
            elif tried[chain] == tries:
                raise InitError(_explain(target, positions[chain], chain, tries))
            else:
                positions[chain] = propose(chain)
    return positions


def _proposer(
    target: Target, init: Init, seed: int, num_chains: int
) -> tuple[Callable[[int], Tensor], int]:
    """What proposes a start for a chain, by its number, and how often it may be asked."""
    if isinstance(init, Mapping):
        given = _given_positions(target, init, num_chains)
        return lambda chain: given[chain], 1
    kind = check_choice("init", init or "uniform", ("uniform", "prior", "params"))
    if kind == "params":
        values = target.initial_values()
        if values is None:
            raise ValueError("init='params' needs a LogDensity; a Pyro model has 'prior'.")
        start = target.unconstrain(values)
        return lambda chain: start.clone(), 1
    if kind == "prior":
        if not isinstance(target, ModelTarget):
            raise ValueError("init='prior' needs a Pyro model; a LogDensity cannot be sampled.")
        model = target
        seeds = [
            np.random.default_rng(stream_seed(seed, Stream.INIT, c)) for c in range(num_chains)
        ]
        return lambda chain: model.sample_prior(int(seeds[chain].integers(2**63))), _TRIES
    streams = [generator(seed, Stream.INIT, c, target.device) for c in range(num_chains)]
    options: dict[str, Any] = {"dtype": target.dtype, "device": target.device}
    dim = target.layout.dim
    return lambda chain: 4 * torch.rand(dim, generator=streams[chain], **options) - 2, _TRIES


def _given_positions(target: Target, init: Mapping[str, Any], num_chains: int) -> Tensor:
    values = {
        name: to_tensor(value).to(dtype=target.dtype, device=target.device)
        for name, value in flatten_names(init).items()
    }
    wanted = set(target.layout.shapes)
    if set(values) != wanted:
        raise ValueError(f"`init` must give {sorted(wanted)}; got {sorted(values)}.")
    shapes = {n: v.shape for n, v in target.constrain(_zero(target)).items()}
    chains: list[Tensor] = []
    for chain in range(num_chains):
        one: dict[str, Tensor] = {}
        for name, value in values.items():
            if value.shape == shapes[name]:
                one[name] = value
            elif value.shape == (num_chains, *shapes[name]):
                one[name] = value[chain]
            else:
                raise ValueError(
                    f"`init[{name!r}]` must have shape {tuple(shapes[name])}, or that after a "
                    f"chain axis of {num_chains}; got {tuple(value.shape)}."
                )
        chains.append(target.unconstrain(one))
    return torch.stack(chains)


def _zero(target: Target) -> Tensor:
    return torch.zeros(target.layout.dim, dtype=target.dtype, device=target.device)


def _explain(target: Target, position: Tensor, chain: int, tries: int) -> str:
    try:
        with torch.no_grad():
            terms = target.terms(position)
        bad = [n for n, v in terms.items() if not bool(torch.as_tensor(v).isfinite().all())]
    except LinAlgError as error:
        bad = [f"a singular matrix ({error})"]
    culprit = f"not finite: {', '.join(bad)}" if bad else "the gradient is not finite"
    return (
        "no starting point with a finite log density and gradient was found for chain "
        f"{chain} in {tries} tr{'ies' if tries > 1 else 'y'}; {culprit}. Check the data and "
        "the supports, or pass `init`."
    )
