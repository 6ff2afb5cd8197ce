"""Feed-forward networks that take their weights as an argument."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from inference._checks import check_choice, check_integer

Activation: TypeAlias = Callable[[Tensor], Tensor]


def _identity(h: Tensor) -> Tensor:
    return h


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "cos": torch.cos,
        "erf": torch.erf,
        "gelu": F.gelu,
        "identity": _identity,
        "leaky_relu": F.leaky_relu,  # slope 0.01 on the left
        "relu": torch.relu,
        "silu": F.silu,
        "sin": torch.sin,
        "softplus": F.softplus,
        "tanh": torch.tanh,
    }
)
"""Activations by name. Each is the bare function: no gain, so `cos` is cos h, not √2 cos h."""


class MLP(nn.Module):
    r"""Multi-layer perceptron, as a module or as a function of a dict of weights.

    h_l = c_l a_{l-1} W_l + b_l, a_l = φ(h_l), a_0 = x, for l = 1..L+1; the output h_{L+1} is
    linear. Layer l has the weights `w<l>`, shape `(n_in, n_out)`, and `b<l>`, shape `(n_out,)`.
    In the `"ntk"` parametrisation c_l = 1/√n_in, so that a prior (and the initialisation) acts
    on weights of order one; in the `"standard"` one c_l = 1.

    Called as `net(x)` it uses its own parameters; as `net(x, weights)` those of a dict with
    any leading batch axes (chains, draws), all networks in one batched product. Under
    `torch.func.vmap`, `functional_call` and `torch.compile` it behaves like any module.

    Source: Jacot, Gabriel & Hongler (NeurIPS 2018) for the NTK parametrisation.

    Args:
        input_dim: number of input features.
        hidden: widths of the hidden layers; empty for a linear model.
        output_dim: number of outputs.
        activation: φ, a name of `ACTIVATIONS` or an elementwise function.
        parametrization: `"ntk"` or `"standard"`.
        output_bias: whether the output layer has a bias.
        seed: of the module's own initial weights, drawn by `init`.

    Raises:
        ValueError: on widths below 1 or an unknown name.
        TypeError: on widths that are not integers.

    Example:
        >>> net = MLP(3, [50, 50])
        >>> x = torch.ones(7, 3)
        >>> net(x).shape
        torch.Size([7, 1])
        >>> draws = net.init(torch.Generator().manual_seed(0), batch_shape=(4, 100))
        >>> net(x, draws).shape
        torch.Size([4, 100, 7, 1])
    """

    def __init__(
        self,
        input_dim: int,
        hidden: Sequence[int],
        output_dim: int = 1,
        *,
        activation: str | Activation = "tanh",
        parametrization: Literal["ntk", "standard"] = "ntk",
        output_bias: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.input_dim = check_integer("input_dim", input_dim, 1)
        self.hidden = tuple(check_integer(f"hidden[{i}]", h, 1) for i, h in enumerate(hidden))
        self.output_dim = check_integer("output_dim", output_dim, 1)
        self.parametrization = check_choice(
            "parametrization", parametrization, ("ntk", "standard")
        )
        self.activation = activation  # as given: a name can be saved
        if isinstance(activation, str):
            activation = ACTIVATIONS[check_choice("activation", activation, ACTIVATIONS)]
        self._phi = activation
        self.output_bias = output_bias
        widths = (self.input_dim, *self.hidden, self.output_dim)
        self._fan_ins = widths[:-1]
        shapes: dict[str, torch.Size] = {}
        for layer, (n_in, n_out) in enumerate(pairwise(widths), 1):
            shapes[f"w{layer}"] = torch.Size((n_in, n_out))
            if output_bias or layer <= len(self.hidden):
                shapes[f"b{layer}"] = torch.Size((n_out,))
        self.parameter_shapes: Mapping[str, torch.Size] = MappingProxyType(shapes)
        for name, value in self.init(Generator().manual_seed(seed)).items():
            self.register_parameter(name, nn.Parameter(value))

    def init(
        self,
        generator: Generator,
        batch_shape: Sequence[int] = (),
        *,
        dtype: torch.dtype = torch.float32,
    ) -> dict[str, Tensor]:
        """Draw initial weights: outputs then have the same law in both parametrisations.

        Args:
            generator: the only source of randomness; advanced in place. The weights are on its
                device.
            batch_shape: leading axes, for independent networks.
            dtype: of the weights.

        Returns:
            Weights `w<l>` with independent N(0, 1) entries (`"ntk"`) or N(0, 1/n_in) entries
            (`"standard"`), and biases `b<l>` of zero.
        """
        options: dict[str, Any] = {"dtype": dtype, "device": generator.device}
        weights: dict[str, Tensor] = {}
        for name, shape in self.parameter_shapes.items():
            full = (*batch_shape, *shape)
            if name.startswith("b"):
                weights[name] = torch.zeros(full, **options)
                continue
            sd = 1.0 if self.parametrization == "ntk" else shape[0] ** -0.5
            weights[name] = sd * torch.randn(full, generator=generator, **options)
        return weights

    def forward(self, x: Tensor, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Evaluate the network, or a batch of networks.

        Args:
            x: inputs `(n, input_dim)`, the same for all networks, or with leading axes that
                broadcast against `batch`.
            weights: one tensor per name in `parameter_shapes`, of shape `(*batch, *shape)` with
                the same `batch` for all; the module's own parameters if omitted.

        Returns:
            Outputs `(*batch, n, output_dim)`.

        Raises:
            ValueError: if names or shapes do not fit.
            TypeError: if `x` and the weights differ in type.
        """
        if weights is None:
            weights = {name: getattr(self, name) for name in self.parameter_shapes}
        self._check(x, weights)
        h = x
        for layer, n_in in enumerate(self._fan_ins, 1):
            if layer > 1:
                h = self._phi(h)
            h = h @ weights[f"w{layer}"]
            if self.parametrization == "ntk":
                h = h * n_in**-0.5
            bias = weights.get(f"b{layer}")
            if bias is not None:
                h = h + bias.unsqueeze(-2)
        return h

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
        if x.ndim < 2 or x.shape[-1] != self.input_dim:
            hint = " Did you mean `x[:, None]`?" if x.ndim == 1 and self.input_dim == 1 else ""
            raise ValueError(
                f"`x` must have shape (n, {self.input_dim}), one row per case; got "
                f"{tuple(x.shape)}.{hint}"
            )
        if x.dtype != weights["w1"].dtype:
            raise TypeError(
                f"`x` is {x.dtype} but the weights are {weights['w1'].dtype}. Convert one: "
                f"`x.to({weights['w1'].dtype})`, or `net.double()` for a module."
            )
