"""The published objective: a dual 1-Wasserstein distance with a neural critic."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from inference._checks import check_integer, check_positive
from probnet.bnn.priors import WeightPrior

_HIDDEN = 200


@dataclass(frozen=True)
class CriticSettings:
    """How the critic and the prior are trained; defaults are the paper's for UCI tables.

    The published code never resets Adagrad's accumulated squares although it draws new critic
    weights at every outer step, so that late critics are under-trained; `reference=True`
    repeats this, and its 200 inner steps. By default the state is reset with the weights, and
    half as many inner steps do.

    Args:
        num_outer: steps of the prior.
        num_inner: steps of the critic per outer step; by default 100, 200 for the reference.
        num_functions: functions per batch.
        critic_rate: learning rate of Adagrad.
        rate: learning rate of RMSprop.
        penalty: weight of the gradient penalty.
        threshold: gradient norm below which the inner loop stops.
        reference: repeat the published code.

    Raises:
        ValueError: on values out of range.
    """

    num_outer: int = 200
    num_inner: int | None = None
    num_functions: int = 128
    critic_rate: float = 0.02
    rate: float = 0.05
    penalty: float = 10.0
    threshold: float = 0.1
    reference: bool = False

    def __post_init__(self) -> None:
        """Check."""
        check_integer("num_outer", self.num_outer, 1)
        check_integer("num_functions", self.num_functions, 2)
        if self.num_inner is None:
            object.__setattr__(self, "num_inner", 200 if self.reference else 100)
        check_integer("num_inner", self.num_inner, 1)
        for name in ("critic_rate", "rate", "penalty", "threshold"):
            check_positive(name, getattr(self, name))


def minimise_w1(
    prior: WeightPrior,
    draw: Callable[[int, WeightPrior], tuple[Tensor, Tensor]],
    size: int,
    settings: CriticSettings,
    *,
    seed: int,
    progress: bool,
) -> tuple[WeightPrior, list[float]]:
    """Train the prior's hyper-parameters against a critic that is trained anew at every step.

    The critic is a map of the M function values, M → 200 → 200 → 1 with softplus, kept close to
    Lipschitz by the penalty λ E(‖∇φ‖ - 1)² on random interpolates (Gulrajani et al., 2017).

    Source: Tran et al. (JMLR 2022), algorithm 1.

    Args:
        prior: where to start.
        draw: `(number, prior) -> (functions of the prior, of the target)`; both `(S, M)`, the
            former with gradients. Numbers 2k and 2k+1 share a measurement set.
        size: M.
        settings: of the optimisation.
        seed: of the critic.
        progress: show a progress bar on a terminal.

    Returns:
        The prior, and the critic's estimate at every outer step, which measures no convergence.
    """
    free = {n: v.requires_grad_() for n, v in prior.free().items()}
    optimiser = torch.optim.RMSprop(list(free.values()), lr=settings.rate)
    critic = _Critic(size, torch.Generator().manual_seed(seed))
    trainer = torch.optim.Adagrad(critic.parameters(), lr=settings.critic_rate)
    trace: list[float] = []
    for step in tqdm(range(settings.num_outer), "match", disable=None if progress else True):
        current = prior.with_free(free)
        ours, theirs = draw(2 * step, current)
        with torch.no_grad():
            batch = draw(2 * step + 1, current)
        critic.reset()
        if not settings.reference:
            trainer = torch.optim.Adagrad(critic.parameters(), lr=settings.critic_rate)
        _train(critic, trainer, batch[0].float(), batch[1].float(), settings)
        estimate = critic(ours.float()).mean() - critic(theirs.float()).mean()
        optimiser.zero_grad()
        estimate.backward()
        optimiser.step()
        trace.append(float(estimate.detach()))
    return prior.with_free({n: v.detach() for n, v in free.items()}), trace


class _Critic(nn.Module):
    def __init__(self, size: int, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator
        widths = (size, _HIDDEN, _HIDDEN, 1)
        self.layers = nn.ModuleList(
            nn.utils.skip_init(nn.Linear, n, m) for n, m in pairwise(widths)
        )

    def reset(self) -> None:
        """Xavier-normal weights and standard normal biases."""
        for layer in self.layers:
            linear: Any = layer
            nn.init.xavier_normal_(linear.weight, generator=self.generator)
            nn.init.normal_(linear.bias, generator=self.generator)

    def forward(self, f: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            f = nn.functional.softplus(layer(f))
        return self.layers[-1](f)


def _train(
    critic: _Critic, trainer: Any, ours: Tensor, theirs: Tensor, settings: CriticSettings
) -> None:
    parameters = list(critic.parameters())
    for _ in range(settings.num_inner or 0):
        share = torch.rand(len(ours), 1, generator=critic.generator)
        between = (share * ours + (1 - share) * theirs).requires_grad_()
        (slope,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
        excess = (slope.norm(dim=-1) - 1).square().mean()
        loss = critic(theirs).mean() - critic(ours).mean() + settings.penalty * excess
        gradients = torch.autograd.grad(loss, parameters)
        norm = torch.sqrt(sum((g.square().sum() for g in gradients), torch.zeros(())))
        if float(norm) < settings.threshold:
            return
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        trainer.step()
