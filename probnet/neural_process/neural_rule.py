"""A trained process as a one-step predictive rule."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent

from probnet.neural_process.heads import transformed
from probnet.neural_process.rules import PredictiveRule

if TYPE_CHECKING:
    from probnet.neural_process.trained import TrainedProcess


class NeuralRule(PredictiveRule[Any]):
    """The base prediction p_0(y | x, data) of a trained process, on many paths at once.

    The state is the encoding of the data. A pooled model adds one token to a sum, O(1) per
    step; an attentive one appends to projected keys and values, and attends over all of them.

    Args:
        trained: the trained process.

    Raises:
        ValueError: if the model has no base prediction (latent neural processes).
    """

    def __init__(self, trained: TrainedProcess) -> None:
        self.network, self.x_range = trained.network, trained.x_range
        self._calibration = trained.calibration
        if not self.network.conditional:
            raise ValueError(
                f"{type(self.network).__name__} has no one-step predictive in one pass: its "
                f"latent variable would have to be integrated at every step. Use a "
                f"conditional, bootstrapping or martingale posterior model."
            )

    @torch.no_grad()
    def start(self, xc: Tensor, yc: Tensor, num_paths: int) -> Any:
        """See `PredictiveRule.start`."""
        mask = torch.ones(1, len(xc), dtype=torch.bool, device=xc.device)
        return _spread(self.network.encode(xc[None].float(), yc[None].float(), mask), num_paths)

    @torch.no_grad()
    def predict(self, state: Any, x: Tensor) -> Distribution:
        """See `PredictiveRule.predict`."""
        num_paths = _num_paths(state)
        outputs = self.network.decode(state, x.expand(num_paths, *x.shape[1:]).float())
        law = self._calibration.base_law(self.network.head.law(outputs[:, 0]))
        law = transformed(law, Tensor.double)
        return Independent(law, 1, validate_args=False)

    @torch.no_grad()
    def update(self, state: Any, x: Tensor, y: Tensor) -> Any:
        """See `PredictiveRule.update`."""
        return self.network.extend(state, x.expand(len(y), *x.shape[1:]).float(), y.float())


def _spread(encoding: Any, num_paths: int) -> Any:
    """The encoding of one task as that of many equal ones, without copies."""
    if isinstance(encoding, Tensor):
        return encoding.expand(num_paths, *encoding.shape[1:])
    if isinstance(encoding, tuple):
        return type(encoding)(*(_spread(part, num_paths) for part in encoding))
    return encoding


def _num_paths(encoding: Any) -> int:
    while not isinstance(encoding, Tensor):
        encoding = encoding[0]
    return len(encoding)
