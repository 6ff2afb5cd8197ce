"""Architectures with the family of prior that their weights are to have."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from inference._checks import check_choice, check_integer
from probnet.networks import ACTIVATIONS, MLP, ConvResNet

if TYPE_CHECKING:
    from probnet.bnn.priors import WeightPrior

FAMILIES = ("flow", "gaussian", "hierarchical", "rff")


def _cosine_feature(h: Tensor) -> Tensor:
    return 2**0.5 * torch.cos(h)


class BayesianNetwork(ABC):
    """A network whose weights are random: an architecture and a family of priors.

    Attributes:
        family: `"gaussian"`, one standard deviation per weight matrix and bias vector;
            `"hierarchical"`, an inverse-gamma law of each variance; `"flow"`, a normalising
            flow per layer; `"rff"`, one hidden layer √2 cos, which represents a kernel exactly.
        input_dim: number of input columns.
        output_dim: number of outputs.
    """

    family: str
    input_dim: int
    output_dim: int

    @cached_property
    def net(self) -> MLP | ConvResNet:
        """The function of inputs and weights."""
        return self._build()

    @abstractmethod
    def _build(self) -> MLP | ConvResNet:
        """Make the function."""

    @property
    def shapes(self) -> Mapping[str, torch.Size]:
        """Shapes of weights `w<l>` and biases `b<l>`, by name, first layer first."""
        return self.net.parameter_shapes

    def functions(self, x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """Outputs `(*batch, n, output_dim)` at rows x under weights `(*batch, *shape)`."""
        return self.net(x, weights)

    def prior(self, **hyperparameters: Any) -> WeightPrior:
        """A prior of this family that is not matched to anything, by default the baseline.

        Args:
            **hyperparameters: `stds={"w1": 2.0, ...}` for `"gaussian"`; `concentrations=` and
                `rates=`, likewise by name, for `"hierarchical"`. What is not named is one: the
                baselines FG and FH of the paper.
        """
        from probnet.bnn.registry import default_prior

        return default_prior(self, **hyperparameters)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as its description."""
        return network_from_dict, (self.to_dict(),)

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """A JSON-able description, from which `network_from_dict` rebuilds the object."""


@dataclass(frozen=True)
class BayesianMLP(BayesianNetwork):
    r"""A multi-layer perceptron with random weights, in the NTK parametrisation.

    h_l = a_{l-1} W_l/√n_in + b_l, a_l = φ(h_l), and the priors act on W and b.

    Args:
        input_dim: number of input features.
        hidden: widths of the hidden layers; empty for a linear model.
        activation: a name of `probnet.networks.ACTIVATIONS`. The family `"rff"` has its own, √2
            cos, whatever is given here.
        family: of priors, see `BayesianNetwork`.
        output_dim: number of outputs, such as classes; independent a priori given the last
            hidden layer.

    Raises:
        ValueError: on an unknown name, sizes below 1, or `"rff"` without exactly one hidden
            layer.
        TypeError: on sizes that are not integers.

    Example:
        >>> net = BayesianMLP(input_dim=3, hidden=[50], family="gaussian")
        >>> prior = net.prior(stds={"w1": 3.0})
        >>> prior.functions(torch.zeros(7, 3), num_samples=20, seed=0).shape
        torch.Size([20, 7])
    """

    input_dim: int
    hidden: Sequence[int]
    activation: str = "tanh"
    family: str = "gaussian"
    output_dim: int = 1
    kind: ClassVar[str] = "mlp"

    def __post_init__(self) -> None:
        """Check the architecture."""
        check_integer("input_dim", self.input_dim, 1)
        check_choice("family", self.family, FAMILIES)
        check_choice("activation", self.activation, ACTIVATIONS)
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.family == "rff" and len(self.hidden) != 1:
            raise ValueError(
                f"`hidden` must have one width for family='rff', whose match is exact for one "
                f"layer of cosine features; got {list(self.hidden)}."
            )
        _ = self.net  # checks the rest

    def _build(self) -> MLP:
        features = self.family == "rff"
        return MLP(
            self.input_dim,
            self.hidden,
            self.output_dim,
            activation=_cosine_feature if features else self.activation,
            output_bias=not features,
        )

    def to_dict(self) -> dict[str, Any]:
        """See `BayesianNetwork.to_dict`."""
        return {
            "kind": self.kind,
            "input_dim": self.input_dim,
            "hidden": list(self.hidden),
            "activation": self.activation,
            "family": self.family,
            "output_dim": self.output_dim,
        }


@dataclass(frozen=True)
class BayesianConvNet(BayesianNetwork):
    """A residual convolutional network with one prior per layer, for small images.

    See `probnet.networks.ConvResNet` for the function.

    Args:
        image_shape: (channels, height, width); inputs are rows of that many numbers.
        num_channels: width.
        num_blocks: residual blocks.
        output_dim: number of outputs.
        activation: a name of `probnet.networks.ACTIVATIONS`.
        family: `"gaussian"` or `"hierarchical"`.

    Raises:
        ValueError: on an unknown name or sizes out of range.
    """

    image_shape: Sequence[int]
    num_channels: int = 8
    num_blocks: int = 1
    output_dim: int = 1
    activation: str = "relu"
    family: str = "gaussian"
    kind: ClassVar[str] = "conv"

    def __post_init__(self) -> None:
        """Check the architecture."""
        check_choice("family", self.family, ("gaussian", "hierarchical"))
        object.__setattr__(self, "image_shape", tuple(self.image_shape))
        object.__setattr__(self, "input_dim", self.net.input_dim)  # checks the rest, too

    def _build(self) -> ConvResNet:
        return ConvResNet(
            self.image_shape,
            self.num_channels,
            self.num_blocks,
            self.output_dim,
            activation=self.activation,
        )

    def to_dict(self) -> dict[str, Any]:
        """See `BayesianNetwork.to_dict`."""
        return {
            "kind": self.kind,
            "image_shape": list(self.image_shape),
            "num_channels": self.num_channels,
            "num_blocks": self.num_blocks,
            "output_dim": self.output_dim,
            "activation": self.activation,
            "family": self.family,
        }


def network_from_dict(described: Mapping[str, Any]) -> BayesianNetwork:
    """Rebuild the network that `BayesianNetwork.to_dict` described.

    Raises:
        ValueError: on a kind that is not known.
    """
    arguments = dict(described)
    kinds = {cls.kind: cls for cls in (BayesianMLP, BayesianConvNet)}
    return kinds[check_choice("kind", arguments.pop("kind"), kinds)](**arguments)
