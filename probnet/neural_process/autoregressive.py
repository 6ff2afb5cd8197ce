r"""The joint law of points under a model that predicts one point at a time.

log p(y_1, ..., y_m | D) = Σ_j log p(y_π(j) | x_π(j), D ∪ earlier ones) in a random order π. A
trained network is not exchangeable, so the density is averaged over several orders.

Source: Bruinsma et al. (ICLR 2023).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from inference._checks import check_integer
from inference.rng import Stream, generator, scoped_seed, stream_seed
from probnet._checks import Values
from probnet.neural_process.heads import location
from probnet.neural_process.inputs import check_points

if TYPE_CHECKING:
    from probnet.neural_process.posterior import NeuralProcessPosterior


class Autoregressive:
    """A conditioned neural process, one point after the other.

    The encoding of the context is computed once and extended point by point; orders and
    functions are batch axes.

    Args:
        posterior: of a model with a base prediction: conditional, bootstrapping or martingale
            posterior.

    Raises:
        ValueError: if the model has none (latent neural processes).
    """

    def __init__(self, posterior: NeuralProcessPosterior) -> None:
        self.posterior, self.network = posterior, posterior.trained.network
        if not self.network.conditional:
            raise ValueError(
                f"{type(self.network).__name__} predicts by functions only and is joint as it "
                f"is: use `predict(x).log_prob(y, joint=True)`."
            )

    @torch.no_grad()
    def log_prob(
        self,
        x: Values,
        y: Tensor,
        *,
        mask: Tensor | None = None,
        num_orders: int = 8,
        seed: int = 0,
    ) -> Tensor:
        """Joint log density of all points of a task, by the mean density over random orders.

        Args:
            x: points `(m, x_dim)`, or `(B, m, x_dim)` for a context of B tasks.
            y: outputs `(m, y_dim)` or `(B, m, y_dim)`.
            mask: which entries are points, `(B, m)`; all if omitted.
            num_orders: R; the density is (1/R) Σ_π p_π.
            seed: of the orders.

        Returns:
            One number per task, `()` or `(B,)`, float64.
        """
        check_integer("num_orders", num_orders, 1)
        points = self._points(x)
        tasks, m = points.shape[:2]
        values = y.to(points).reshape(tasks, m, self.network.y_dim)
        valid = torch.ones(tasks, m, dtype=torch.bool, device=points.device)
        valid = valid if mask is None else mask.reshape(tasks, m)
        stream = generator(
            check_integer("seed", seed, 0), Stream.PREDICTIVE, device=points.device
        )
        keys = torch.rand((num_orders, tasks, m), generator=stream, device=points.device)
        # Padded points come last, where they cannot influence others.
        order = (keys + 2.0 * ~valid).argsort(-1).flatten(0, 1)
        encoding = self._encoding(num_orders)
        total = torch.zeros(num_orders * tasks, dtype=torch.float64, device=points.device)
        rows = torch.arange(len(order), device=points.device)
        for j in range(m):
            index = rows % tasks, order[:, j]
            xj, yj = points[index].unsqueeze(1).float(), values[index].unsqueeze(1).float()
            logs = self._law(encoding, xj).log_prob(yj).double().sum((1, 2))
            total = total + torch.where(valid[index], logs, 0.0)
            if j + 1 < m:
                encoding = self.network.extend(encoding, xj, yj)
        logs = total.unflatten(0, (num_orders, tasks)).logsumexp(0) - math.log(num_orders)
        return logs if self.posterior.context.batched else logs[0]

    @torch.no_grad()
    def sample_functions(
        self, x: Values, n: int, *, num_points: int | None = None, seed: int = 0
    ) -> Tensor:
        """Functions `(n, m, y_dim)`, or `(n, B, m, y_dim)` for B tasks, free of noise.

        Noisy outputs are drawn one after the other, at random points in an order of each
        function's own; the function is the centre of the prediction at all points given them.

        Args:
            x: points `(m, x_dim)`.
            n: number of functions.
            num_points: at how many of the points outputs are drawn; by default as many as the
                training tasks had room for beside the context, and at most m.
            seed: equal seeds give equal functions.
        """
        check_integer("n", n, 1)
        points = self._points(x)
        tasks, m = points.shape[:2]
        drawn = min(m, self._room() if num_points is None else num_points)
        check_integer("num_points", drawn, 1)
        stream = generator(
            check_integer("seed", seed, 0), Stream.PREDICTIVE, device=points.device
        )
        order = _orders(n * tasks, m, stream)[:, :drawn]
        encoding = self._encoding(n)
        every = points.repeat(n, 1, 1).float()
        rows = torch.arange(len(order), device=points.device)
        with scoped_seed(stream_seed(seed, Stream.PREDICTIVE, 1)):
            for j in range(drawn):
                xj = every[rows, order[:, j]].unsqueeze(1)
                yj = self._law(encoding, xj).sample()
                encoding = self.network.extend(encoding, xj, yj)
        functions = location(self._law(encoding, every)).double()
        functions = functions.unflatten(0, (n, tasks))
        return functions if self.posterior.context.batched else functions[:, 0]

    def _points(self, x: Values) -> Tensor:
        return check_points(self.network, x, self.posterior.context)

    def _room(self) -> int:
        num_context = int(self.posterior.context.mask.sum(-1).max())
        return max(self.posterior.trained.max_points - num_context, 1)

    def _encoding(self, copies: int) -> Any:
        """Of the context of every task, `copies` times in a row: tasks vary fastest."""
        context = self.posterior.context
        x, y = (t.repeat(copies, 1, 1).float() for t in (context.x, context.y))
        return self.network.encode(x, y, context.mask.repeat(copies, 1))

    def _law(self, encoding: Any, x: Tensor) -> Any:
        law = self.network.head.law(self.network.decode(encoding, x)[:, 0])
        return self.posterior.trained.calibration.base_law(law)


def _orders(count: int, size: int, stream: Generator) -> Tensor:
    return torch.rand((count, size), generator=stream, device=stream.device).argsort(-1)
