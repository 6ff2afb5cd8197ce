"""Generators of pseudo contexts: M future observations at once, exchangeable given the context.

Functions are the axis K: each has its own noise, the context is shared.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Generator, Tensor, nn

from probnet.neural_process.blocks import MAB, Linear, Temperature, masked_mean


class PseudoGenerator(nn.Module, ABC):
    """Maps a context and noise to pseudo contexts.

    Attributes:
        projective: whether the law of the first M pseudo contexts does not change when more
            are drawn, so that M may be chosen anew at test time.
    """

    projective: ClassVar[bool]
    noise_dim: int

    @abstractmethod
    def noise_rows(self, num_pseudo: int) -> int:
        """Number of noise vectors that one function needs."""

    @abstractmethod
    def forward(self, context: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """Pseudo contexts `(B, K, M, output_dim)`.

        Args:
            context: representations of the context `(B, n, context_dim)`.
            mask: `(B, n)`.
            noise: standard normal, `(B, K, noise_rows(M), noise_dim)`.
        """

    def draw_noise(
        self, num_tasks: int, num_functions: int, num_pseudo: int, generator: Generator
    ) -> Tensor:
        """Noise `(num_tasks, num_functions, noise_rows, noise_dim)`; functions come first.

        The noise of the first functions of one task does not change when more are drawn.
        """
        shape = (num_functions, num_tasks, self.noise_rows(num_pseudo), self.noise_dim)
        noise = torch.randn(shape, generator=generator, device=generator.device)
        return noise.transpose(0, 1)


class ISAB(PseudoGenerator):
    r"""Induced set attention on the noise set E, the context being the inducing points.

    H = MAB(R_c, E, E) and R' = MAB(E, H, H), then a linear map. The pseudo contexts are
    exchangeable for one M; their law depends on M.

    Source: Lee et al. (ICML 2019) for the block, Lee et al. (ICLR 2023) for its use here.

    Args:
        context_dim: of the context's representations.
        output_dim: of a pseudo context.
        width: of the attention and of the noise.
        num_heads: of the attention.
        temperature: of the attention.
    """

    projective = False

    def __init__(
        self,
        context_dim: int,
        output_dim: int,
        width: int,
        num_heads: int = 8,
        temperature: Temperature = "head",
    ) -> None:
        super().__init__()
        self.noise_dim = width
        self.induce = MAB(context_dim, width, width, width, num_heads, temperature)
        self.spread = MAB(width, width, width, width, num_heads, temperature)
        self.project = Linear(width, output_dim)

    def noise_rows(self, num_pseudo: int) -> int:
        """One vector per pseudo context."""
        return num_pseudo

    def forward(self, context: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """See `PseudoGenerator`."""
        query = self.induce.query(context).unsqueeze(1)  # once for all functions
        induced = self.induce.attend(query, self.induce.key(noise), self.induce.value(noise))
        return self.project(self.spread(noise, induced, induced, mask.unsqueeze(1)))


class DeFinetti(PseudoGenerator):
    r"""Pseudo contexts that are independent given a latent of the function.

    With u ~ N(0, I) once per function and e_j independent,
    r'_j = mean(R_c) + L MAB([e_j; u], R_c, R_c). Given u and the context the r'_j are i.i.d.,
    hence infinitely exchangeable, and their number is free. L starts small: the pseudo contexts
    then agree with the context, and what is learned is how they deviate from it. Keys and
    values of the context are projected once for all functions.

    Args:
        context_dim: of the context's representations.
        output_dim: of a pseudo context; the same.
        width: of the attention, of e and of u.
        num_heads: of the attention.
        temperature: of the attention.
    """

    projective = True

    def __init__(
        self,
        context_dim: int,
        output_dim: int,
        width: int,
        num_heads: int = 8,
        temperature: Temperature = "head",
    ) -> None:
        super().__init__()
        self.noise_dim = width
        self.attention = MAB(2 * width, context_dim, context_dim, width, num_heads, temperature)
        self.project = Linear(width, output_dim, gain=0.1)

    def noise_rows(self, num_pseudo: int) -> int:
        """One vector per pseudo context, after that of the function."""
        return num_pseudo + 1

    def forward(self, context: Tensor, mask: Tensor, noise: Tensor) -> Tensor:
        """See `PseudoGenerator`; the first row of the noise is u."""
        layer = self.attention
        of_point, of_function = layer.query.weight.chunk(2, dim=1)
        query = nn.functional.linear(noise[..., 1:, :], of_point, layer.query.bias)
        query = query + nn.functional.linear(noise[..., :1, :], of_function)
        batch, count, points, width = query.shape
        # All functions attend to one context: their queries are one long row of queries.
        out = layer.attend(
            query.reshape(batch, count * points, width),
            layer.key(context),
            layer.value(context),
            mask,
        )
        deviation = self.project(out).reshape(batch, count, points, -1)
        return masked_mean(context, mask)[:, None, None] + deviation


GENERATORS: dict[str, type[ISAB] | type[DeFinetti]] = {"definetti": DeFinetti, "isab": ISAB}
