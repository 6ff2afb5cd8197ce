"""Architectures of infinitely wide networks, as recursions over their layers' moments.

All in the NTK parametrisation: h = √w_var W φ/√n + √b_var b with standard normal W, b. The
input enters as x·x'/d.

Source: Lee et al. (ICLR 2018); Jacot et al. (NeurIPS 2018); Novak et al. (ICLR 2019).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from torch import Tensor

from inference._checks import check_choice, check_integer
from probnet.kernels.neural.activations import NAMES, dual_activation
from probnet.kernels.neural.duals import Dual
from probnet.kernels.neural.moments import Moments, Variances
from probnet.networks import Activation


@dataclass(frozen=True)
class Architecture(ABC):
    """What lies between input and output; called on the moments of the inputs.

    Attributes:
        activation: φ; see `dual_activation`.
    """

    takes_images: ClassVar[bool] = False

    activation: str | Activation | Dual

    def __post_init__(self) -> None:
        """Check the activation."""
        dual_activation(self.activation)

    @property
    @abstractmethod
    def num_hidden_layers(self) -> int:
        """Number of layers with weights below the output layer."""

    @abstractmethod
    def propagate(self, inputs: Moments, variances: Variances) -> Moments:
        """Moments of the outputs from those of the inputs."""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, from which `architecture_from_dict` rebuilds it.

        Raises:
            TypeError: if the activation has no name.
        """
        if not isinstance(self.activation, str):
            raise TypeError(
                f"an activation given as a function cannot be written to a file; got "
                f"{self.activation!r}. Named are {sorted(NAMES)}."
            )
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        return {"name": type(self).__name__, **values}


@dataclass(frozen=True)
class Dense(Architecture):
    """`depth` hidden layers."""

    depth: int

    def __post_init__(self) -> None:
        """Check the depth."""
        super().__post_init__()
        check_integer("depth", self.depth, 1)

    @property
    def num_hidden_layers(self) -> int:
        """See `Architecture.num_hidden_layers`."""
        return self.depth

    def propagate(self, inputs: Moments, variances: Variances) -> Moments:
        """See `Architecture.propagate`."""
        dual = dual_activation(self.activation)
        h = inputs.affine(variances.layer(0))
        for layer in range(1, self.depth):
            h = h.activate(dual).affine(variances.layer(layer))
        return h.activate(dual).affine(variances.last())


@dataclass(frozen=True)
class DenseResidual(Architecture):
    """A dense layer, `blocks` times h ← h + Dense(φ(h)), then φ and the output layer."""

    blocks: int

    def __post_init__(self) -> None:
        """Check the number of blocks."""
        super().__post_init__()
        check_integer("blocks", self.blocks, 1)

    @property
    def num_hidden_layers(self) -> int:
        """See `Architecture.num_hidden_layers`."""
        return self.blocks + 1

    def propagate(self, inputs: Moments, variances: Variances) -> Moments:
        """See `Architecture.propagate`."""
        dual = dual_activation(self.activation)
        h = inputs.affine(variances.layer(0))
        for block in range(1, self.blocks + 1):
            h = h + h.activate(dual).affine(variances.layer(block))
        return h.activate(dual).affine(variances.last())


@dataclass(frozen=True)
class Image(Architecture):
    """Architectures on images, rows of H·W·C numbers in that order."""

    takes_images: ClassVar[bool] = True

    image_shape: tuple[int, int, int] | None

    def __post_init__(self) -> None:
        """Check the shape."""
        super().__post_init__()
        if self.image_shape is None:
            return
        shape = tuple(self.image_shape)
        if len(shape) != 3:
            raise ValueError(
                f"`image_shape` must be (height, width, channels); got {self.image_shape!r}."
            )
        sizes = tuple(check_integer(f"image_shape[{i}]", n, 1) for i, n in enumerate(shape))
        object.__setattr__(self, "image_shape", sizes)

    def images(self, x: Tensor, shape: tuple[int, int, int] | None = None) -> Tensor:
        """Rows `(*batch, n, H·W·C)` as images `(*batch, n, H, W, C)`.

        Args:
            x: the rows.
            shape: that the images came in, if they did; else `image_shape`.

        Raises:
            ValueError: if the length of a row does not fit.
        """
        shape, length = shape or self.image_shape, x.shape[-1]
        if shape is None:
            side = math.isqrt(length)
            shape = (side, side, 1)
        if math.prod(shape) != length:
            asked = "a square of one channel" if self.image_shape is None else str(shape)
            raise ValueError(
                f"`x` must have rows that are images, {asked}; got rows of {length} numbers. "
                f"Pass `image_shape=(height, width, channels)` to the architecture."
            )
        return x.reshape(*x.shape[:-1], *shape)


@dataclass(frozen=True)
class Convolutional(Image):
    """`depth` convolutions 3x3 with stride 1, then flatten and the output layer; no pooling."""

    depth: int

    def __post_init__(self) -> None:
        """Check the depth."""
        super().__post_init__()
        check_integer("depth", self.depth, 1)

    @property
    def num_hidden_layers(self) -> int:
        """See `Architecture.num_hidden_layers`."""
        return self.depth

    def propagate(self, inputs: Moments, variances: Variances) -> Moments:
        """See `Architecture.propagate`."""
        dual = dual_activation(self.activation)
        h = inputs.pool().affine(variances.layer(0))
        for layer in range(1, self.depth):
            h = h.activate(dual).pool().affine(variances.layer(layer))
        return h.activate(dual).flatten().affine(variances.last())


@dataclass(frozen=True)
class ConvolutionalResidual(Image):
    """A convolution, four groups of `blocks` blocks with strides 1, 2, 2, 2, flatten, output.

    A block is h ← shortcut(h) + conv(φ(conv(φ(h)))); its shortcut is the identity but in the
    first block of a group, where it is a convolution of the group's stride. A strided
    convolution is that of stride 1 at every second pixel, from the first.
    """

    blocks: int

    def __post_init__(self) -> None:
        """Check the number of blocks."""
        super().__post_init__()
        check_integer("blocks", self.blocks, 1)

    @property
    def num_hidden_layers(self) -> int:
        """See `Architecture.num_hidden_layers`."""
        return 1 + 4 * (2 * self.blocks + 1)

    def propagate(self, inputs: Moments, variances: Variances) -> Moments:
        """See `Architecture.propagate`."""
        dual = dual_activation(self.activation)
        layers = iter(range(self.num_hidden_layers))

        def convolve(h: Moments, stride: int = 1) -> Moments:
            return h.pool(stride).affine(variances.layer(next(layers)))

        h = convolve(inputs)
        for stride in (1, 2, 2, 2):
            for block in range(self.blocks):
                first = stride if block == 0 else 1
                main = convolve(convolve(h.activate(dual), first).activate(dual))
                h = main + (convolve(h, first) if block == 0 else h)
        return h.flatten().affine(variances.last())


_ARCHITECTURES: dict[str, type[Architecture]] = {
    cls.__name__: cls for cls in (Dense, DenseResidual, Convolutional, ConvolutionalResidual)
}


def architecture_from_dict(described: Mapping[str, Any]) -> Architecture:
    """Rebuild the architecture that `Architecture.to_dict` described.

    Raises:
        ValueError: on a name that is not an architecture of this package.
    """
    arguments = dict(described)
    name = check_choice("name", arguments.pop("name"), _ARCHITECTURES)
    return _ARCHITECTURES[name](**arguments)


def mlp(depth: int, activation: str | Activation | Dual = "relu") -> Architecture:
    """A dense network with `depth` hidden layers; see `dual_activation` for the activation."""
    return Dense(activation, depth)


def resnet(blocks: int, activation: str | Activation | Dual = "relu") -> Architecture:
    """A dense residual network: Dense; `blocks` times h ← h + Dense(φ(h)); φ; output."""
    return DenseResidual(activation, blocks)


def conv(
    depth: int,
    activation: str | Activation | Dual = "relu",
    *,
    image_shape: tuple[int, int, int] | None = None,
) -> Architecture:
    """A network of `depth` 3x3 convolutions, same padding, no pooling, then a dense output.

    Args:
        depth: number of convolutions, each followed by the activation.
        activation: see `dual_activation`.
        image_shape: (height, width, channels) of the images, which are rows of that many
            numbers or arrays of that shape; by default squares of one channel.
    """
    return Convolutional(activation, image_shape, depth)


def conv_resnet(
    blocks: int,
    activation: str | Activation | Dual = "relu",
    *,
    image_shape: tuple[int, int, int] | None = None,
) -> Architecture:
    """A wide residual convolutional network: four groups of `blocks`, strides 1, 2, 2, 2.

    Args:
        blocks: blocks in a group.
        activation: see `dual_activation`.
        image_shape: as for `conv`.
    """
    return ConvolutionalResidual(activation, image_shape, blocks)
