"""Operators that come with the package, and how they were made.

`python -m probnet.neural_operator.pretrained` trains one anew and replaces its file.
"""

from __future__ import annotations

from typing import Any, cast

from probnet._pretrained import load_packaged
from probnet.datasets.fields import LevelSetGRF
from probnet.neural_operator.darcy import Darcy2D
from probnet.neural_operator.inputs import TwoPhase
from probnet.neural_operator.model import DGenNO
from probnet.neural_operator.trained import TrainedOperator

NAMES = ("darcy_two_phase",)
_SMOKE_STEPS = 200  # below this many the prior is fitted to few latents, too


def load_pretrained(name: str = "darcy_two_phase") -> TrainedOperator:
    """A trained operator by its name.

    `"darcy_two_phase"` solves -∇·(a∇u) = 10 on the unit square, u = 0 on its boundary, for a in
    {5, 10} on 29 x 29 nodes: level sets of Gaussian fields, τ = 3, α = 2. Its prior on
    latents is Gaussian: flows add 0.7 nats in 64 dimensions and make inversion slower.
    Its `diagnostics` say how it was trained and how wrong it is on validation inputs.

    Args:
        name: one of `NAMES`.
    """
    return cast(TrainedOperator, load_packaged(__name__, name, NAMES))


def train_pretrained(num_steps: int, **options: Any) -> TrainedOperator:
    """Train what `"darcy_two_phase"` is, for a number of steps of 64 media; then its prior.

    Args:
        num_steps: steps of the optimiser.
        **options: further ones of `DGenNO.fit`, such as `checkpoint` and `resume`.
    """
    media = LevelSetGRF(tau=3.0)
    model = DGenNO(
        Darcy2D(source=10.0, mesh=(56, 56)),
        media.grid,
        TwoPhase(media.low, media.high),
        latent_dim=64,
    )
    trained = model.fit(media, num_steps=num_steps, seed=0, **options)
    smoke = num_steps < _SMOKE_STEPS
    return trained.fit_prior("gaussian", inputs=media.sample(100 if smoke else 20_000, seed=1))
