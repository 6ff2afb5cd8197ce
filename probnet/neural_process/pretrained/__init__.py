"""Trained processes that come with the package, and how they were made.

`python -m probnet.neural_process.pretrained` trains one anew and replaces its file.
"""

from __future__ import annotations

from typing import Any, cast

from probnet._pretrained import load_packaged
from probnet.datasets import GPTasks
from probnet.neural_process.martingale import MPANP
from probnet.neural_process.trained import TrainedProcess

NAMES = ("rbf_1d",)


def load_pretrained(name: str = "rbf_1d") -> TrainedProcess:
    """A trained process by its name.

    `"rbf_1d"` is a small MPANP for functions of one input in [-2, 2], trained on draws of RBF
    processes with lengthscales in [0.1, 0.6], amplitudes in [0.1, 1] and noise of standard
    deviation 0.02, with 3 to 46 context points. Its `diagnostics` say on how many tasks.

    Args:
        name: one of `NAMES`.
    """
    return cast(TrainedProcess, load_packaged(__name__, name, NAMES))


def train_pretrained(num_steps: int, **options: Any) -> TrainedProcess:
    """Train what `"rbf_1d"` is, for a number of steps of 16 tasks.

    Args:
        num_steps: steps of the optimiser.
        **options: further ones of `NeuralProcess.fit`, such as `checkpoint` and `resume`.
    """
    model = MPANP(width=64, num_heads=4, num_pseudo=16, pseudo_functions=1)
    return model.fit(GPTasks(kernel="rbf", seed=0), num_steps=num_steps, seed=0, **options)
