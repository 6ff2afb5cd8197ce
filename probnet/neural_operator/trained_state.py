"""A trained operator as JSON and tensors, and back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from probnet._archive import PosteriorState
from probnet.neural_operator.inputs import input_likelihood_from_dict
from probnet.neural_operator.latent_prior import prior_from_options
from probnet.neural_operator.networks import networks_from_options
from probnet.neural_operator.solution_error import SolutionError
from probnet.neural_operator.storage import problem_from_dict, problem_to_dict

if TYPE_CHECKING:
    from probnet.neural_operator.trained import TrainedOperator


def to_state(trained: TrainedOperator) -> PosteriorState:
    """What a file holds of a trained operator, floating-point numbers in single precision."""
    config = {
        "problem": problem_to_dict(trained.problem),
        "networks": trained.networks.options(),
        "likelihood": trained.likelihood.to_dict(),
        "precision": trained.precision,
        "prior": None if trained.prior is None else trained.prior.options(),
    }
    tensors = {
        "error.modes": trained.error.modes.float(),
        "error.rest": trained.error.rest.float(),
        "validation": trained.likelihood.compress(trained.validation),
        "curve": trained.curve,
    }
    if trained.latents is not None:
        tensors["latents"] = trained.latents.float()
    for name, module in (("networks", trained.networks), ("prior", trained.prior)):
        values = {} if module is None else module.state_dict()
        # A flow's masks follow from its options.
        kept = {n: v for n, v in values.items() if v.dtype != torch.bool}
        tensors |= {f"{name}.{n}": _single(v) for n, v in kept.items()}
    return PosteriorState(trained.method, trained.diagnostics, config, tensors)


def fields_of_state(state: PosteriorState) -> dict[str, Any]:
    """The fields of the operator of `to_state`, in double precision."""
    config, tensors = state.config, state.tensors

    def part(name: str) -> dict[str, Tensor]:
        start = f"{name}."
        return {n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)}

    networks = networks_from_options(config["networks"])
    networks.load_state_dict(part("networks"))
    prior = None
    if config["prior"] is not None:
        prior = prior_from_options(config["prior"])
        prior.load_state_dict(part("prior"), strict=False)
        prior = prior.double().eval().requires_grad_(False)
    latents = tensors.get("latents")
    likelihood = input_likelihood_from_dict(config["likelihood"])
    return {
        "problem": problem_from_dict(config["problem"]),
        "networks": networks.double().eval().requires_grad_(False),
        "likelihood": likelihood,
        "precision": config["precision"],
        "error": SolutionError(tensors["error.modes"].double(), tensors["error.rest"].double()),
        "validation": likelihood.expand(tensors["validation"]),
        "latents": None if latents is None else latents.double(),
        "curve": tensors["curve"],
        "method": state.method,
        "diagnostics": state.diagnostics,
        "prior": prior,
    }


def _single(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value
