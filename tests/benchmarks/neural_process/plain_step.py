"""The objective of MPNP and MPANP written out without sharing, to time and to check ours.

The context is repeated for every function, every point is joined with its features before the
first layer of the decoder, and the three kinds of prediction are decoded one after another.
"""

import torch
from torch import Tensor

from probnet.neural_process.base import TrainingTasks
from probnet.neural_process.martingale import MartingaleProcess
from probnet.neural_process.objectives import marginal_term, pointwise_term


def plain_terms(
    model: MartingaleProcess, tasks: TrainingTasks, noise: Tensor
) -> dict[str, Tensor]:
    """`model.terms(tasks, noise)`, the slow way."""
    num_tasks, num_functions = noise.shape[:2]

    def repeated(t: Tensor) -> Tensor:
        return t.repeat_interleave(num_functions, dim=0)

    xc, yc, mask_c, x = (repeated(t) for t in (tasks.xc, tasks.yc, tasks.mask_c, tasks.x))
    tokens = model.backbone.tokens(xc, yc)
    values = model.pseudo(tokens, mask_c, noise.flatten(0, 1).unsqueeze(1))[:, 0]
    pseudo = model.backbone.as_tokens(values)
    mask_p = pseudo.new_ones(pseudo.shape[:-1], dtype=torch.bool)

    def log_densities(tokens: Tensor, mask: Tensor, x: Tensor) -> Tensor:
        memory = model.backbone.memory(tokens.unsqueeze(1), mask.unsqueeze(1))
        features = model.backbone.features(model.backbone.queries(x), memory)[:, 0]
        joined = torch.cat([x, features.expand(*x.shape[:-1], -1)], dim=-1)
        outputs = model.decoder.rest(torch.relu(model.decoder.first(joined)))
        outputs = outputs.unflatten(0, (num_tasks, -1))
        return model.log_densities(outputs, tasks)

    both = torch.cat([tokens, pseudo], dim=1), torch.cat([mask_c, mask_p], dim=1)
    once = model.backbone.tokens(tasks.xc, tasks.yc)
    return {
        "marginal": marginal_term(log_densities(*both, x), tasks.num_points),
        "amortised": pointwise_term(
            log_densities(once, tasks.mask_c, tasks.x), tasks.num_points
        ),
        "pseudo": pointwise_term(log_densities(pseudo, mask_p, x), tasks.num_points),
    }
