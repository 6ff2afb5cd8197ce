"""How the optimiser works."""

from __future__ import annotations

import math
from dataclasses import dataclass

from inference._checks import (
    check_fraction,
    check_integer,
    check_nonnegative,
    check_positive,
)


@dataclass(frozen=True)
class TrainingOptions:
    """How the optimiser works.

    Attributes:
        learning_rate: at its maximum, reached after the warm-up; it then falls to 0 as a
            cosine.
        weight_decay: of AdamW.
        warmup_fraction: share of the steps in which the rate rises linearly.
        clip_norm: largest norm of the gradient.
        ema_decay: of the exponential average of the weights, which is what is returned; 0
            returns the last weights.
        bfloat16: multiply matrices in bfloat16.
        compile: compile the step, once per size that tasks are padded to.
        checkpoint_every: steps between two checkpoints; `None`: about every ten seconds.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    warmup_fraction: float = 0.02
    clip_norm: float = 1.0
    ema_decay: float = 0.999
    bfloat16: bool = False
    compile: bool = False
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        check_positive("learning_rate", self.learning_rate)
        check_nonnegative("weight_decay", self.weight_decay)
        check_fraction("warmup_fraction", self.warmup_fraction)
        check_positive("clip_norm", self.clip_norm)
        check_fraction("ema_decay", self.ema_decay)
        if self.checkpoint_every is not None:
            check_integer("checkpoint_every", self.checkpoint_every, 1)

    def rate(self, step: int, num_steps: int) -> float:
        """Learning rate of a step, counted from 0."""
        rise = min(1.0, (step + 1) / max(1.0, self.warmup_fraction * num_steps))
        return self.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / num_steps))
