"""A small residual convolutional network that takes its weights as an argument."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from inference._checks import check_choice, check_integer
from probnet.networks.mlp import ACTIVATIONS


class ConvResNet:
    r"""Residual 3x3 convolutions without normalisation, then a dense output layer.

    h₀ = conv(x) + b; `num_blocks` times h ← (h + conv(φ(conv(φ(h)))))/√2; f = φ(h) W + b. Every
    weight is divided by √fan-in in the forward pass (the NTK parametrisation), so that priors
    act on weights of order one. There is no batch normalisation: a likelihood that depends on
    which other rows are in the batch has no posterior.

    Weights are `w1`, ..., `w<L>`: convolutions of shape `(out, in, 3, 3)`, the last one
    `(in, out)`; biases `b1` and `b<L>`.

    Source: He, Zhang, Ren & Sun (ECCV 2016) for the pre-activation block.

    Args:
        image_shape: (channels, height, width); inputs are rows of that many numbers.
        num_channels: width of every hidden layer.
        num_blocks: residual blocks, at least 0.
        output_dim: number of outputs.
        activation: a name of `ACTIVATIONS`.

    Raises:
        ValueError: on sizes below their minimum or an unknown name.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        num_channels: int = 8,
        num_blocks: int = 1,
        output_dim: int = 1,
        *,
        activation: str = "relu",
    ) -> None:
        if len(image_shape) != 3:
            raise ValueError(
                f"`image_shape` must be (channels, height, width); got {tuple(image_shape)}."
            )
        self.image_shape = tuple(
            check_integer(f"image_shape[{i}]", n, 1) for i, n in enumerate(image_shape)
        )
        self.num_channels = check_integer("num_channels", num_channels, 1)
        self.num_blocks = check_integer("num_blocks", num_blocks, 0)
        self.output_dim = check_integer("output_dim", output_dim, 1)
        self.activation = check_choice("activation", activation, ACTIVATIONS)
        self.input_dim = math.prod(self.image_shape)
        channels, height, width = self.image_shape
        last = 2 * num_blocks + 2
        shapes: dict[str, tuple[int, ...]] = {
            "w1": (num_channels, channels, 3, 3),
            "b1": (num_channels,),
        }
        for layer in range(2, last):
            shapes[f"w{layer}"] = (num_channels, num_channels, 3, 3)
        shapes[f"w{last}"] = (num_channels * height * width, output_dim)
        shapes[f"b{last}"] = (output_dim,)
        self.parameter_shapes: Mapping[str, torch.Size] = MappingProxyType(
            {name: torch.Size(shape) for name, shape in shapes.items()}
        )
        self._last = last

    def __call__(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Outputs `(*batch, n, output_dim)` for rows `(n, input_dim)`.

        Args:
            x: images as rows, the same for all networks.
            weights: one tensor per name in `parameter_shapes`, `(*batch, *shape)`.

        Raises:
            ValueError: if names or shapes do not fit.
        """
        self._check(x, weights)
        batch = weights["w1"].shape[:-4]
        if not batch:
            return self._forward(x, weights)
        flat = {
            name: value.reshape(-1, *self.parameter_shapes[name])
            for name, value in weights.items()
        }
        out = torch.func.vmap(lambda one: self._forward(x, one))(flat)
        return out.reshape(*batch, *out.shape[1:])

    def _forward(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        phi = ACTIVATIONS[self.activation]

        def convolve(h: Tensor, layer: int, bias: Tensor | None = None) -> Tensor:
            kernel = weights[f"w{layer}"]
            return F.conv2d(h, kernel * kernel[0].numel() ** -0.5, bias, padding=1)

        h = convolve(x.reshape(-1, *self.image_shape), 1, weights["b1"])
        for block in range(self.num_blocks):
            inner = convolve(phi(h), 2 * block + 2)
            h = (h + convolve(phi(inner), 2 * block + 3)) * 0.5**0.5
        out = weights[f"w{self._last}"]
        return phi(h).flatten(1) @ out * out.shape[0] ** -0.5 + weights[f"b{self._last}"]

    def _check(self, x: Tensor, weights: Mapping[str, Tensor]) -> None:
        if weights.keys() != self.parameter_shapes.keys():
            raise ValueError(
                f"`weights` must have the names {sorted(self.parameter_shapes)}; got "
                f"{sorted(weights)}."
            )
        for name, shape in self.parameter_shapes.items():
            got = weights[name].shape
            if got[max(len(got) - len(shape), 0) :] != shape:
                raise ValueError(
                    f"`weights[{name!r}]` must have shape (*batch, "
                    f"{', '.join(map(str, shape))}); got {tuple(got)}."
                )
        if x.ndim != 2 or x.shape[-1] != self.input_dim:
            raise ValueError(
                f"`x` must have shape (n, {self.input_dim}), one flattened image "
                f"{self.image_shape} per row; got {tuple(x.shape)}."
            )
