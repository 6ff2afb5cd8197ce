"""The covariance and the tangent kernel of infinitely wide networks, for GPyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import torch
from gpytorch.constraints import Positive
from gpytorch.kernels import Kernel
from torch import Tensor
from torch.nn import Parameter

from inference._checks import check_integer
from probnet.kernels.neural.architectures import Architecture, Image
from probnet.kernels.neural.moments import Moments, Variances
from probnet.kernels.neural.tiles import tiled

_TILE_ENTRIES = 2**17  # of float64: a megabyte
_NAMES = ("w_var", "b_var", "last_w_var", "last_b_var")

VarianceLike = float | Sequence[float] | Tensor


class NeuralKernel(Kernel):
    r"""What NNGP and tangent kernel share: the architecture and the prior variances.

    Parameters are held as logarithms in float64, whatever the default dtype; inputs are
    converted to it. A variance of exactly zero is fixed.

    Args:
        architecture: made by `mlp`, `resnet`, `conv` or `conv_resnet`.
        w_var: prior variance of the weights (2 suits ReLU): a number; or one per layer, the
            output layer included, first layer first; or a tensor of shape `(*batch_shape,)`.
        b_var: prior variance of the biases, likewise; >= 0.
        last_w_var: of the output layer's weights; it scales the kernel.
        last_b_var: of the output layer's bias; 0, none, by default.
        ard_num_dims: d gives every input feature a scale λ_j of its own, x·x'/d becoming
            Σ_j λ_j² x_j x'_j / d; dense architectures only.
        batch_shape: as in GPyTorch, like `active_dims`.

    Raises:
        ValueError: on negative variances, or numbers of layers that do not fit.
        TypeError: if `architecture` is not one.

    Example:
        >>> from probnet.kernels import mlp
        >>> kernel = NNGPKernel(mlp(depth=2, activation="erf"), w_var=1.96, b_var=0.09)
        >>> kernel(torch.linspace(-1, 1, 5)[:, None]).to_dense().shape
        torch.Size([5, 5])
    """

    tangent: ClassVar[bool]

    def __init__(
        self,
        architecture: Architecture,
        *,
        w_var: VarianceLike = 2.0,
        b_var: VarianceLike = 0.1,
        last_w_var: VarianceLike | None = None,
        last_b_var: VarianceLike | None = None,
        ard_num_dims: int | None = None,
        batch_shape: Sequence[int] = (),
        active_dims: Sequence[int] | None = None,
    ) -> None:
        if not isinstance(architecture, Architecture):
            raise TypeError(
                f"`architecture` must be made by mlp, resnet, conv or conv_resnet; got "
                f"{architecture!r}."
            )
        if ard_num_dims is not None:
            check_integer("ard_num_dims", ard_num_dims, 1)
            if architecture.takes_images:
                raise ValueError("`ard_num_dims` is for dense architectures; drop it here.")
        super().__init__(
            ard_num_dims=ard_num_dims,
            batch_shape=torch.Size(batch_shape),
            active_dims=cast(Any, active_dims),
        )
        self.architecture = architecture
        hidden = architecture.num_hidden_layers
        size: Any = {"hidden": hidden, "batch_shape": self.batch_shape}
        w, last_w = _split_layers("w_var", w_var, last_w_var, default=1.0, **size)
        b, last_b = _split_layers("b_var", b_var, last_b_var, default=0.0, **size)
        for name, value in zip(_NAMES, (w, b, last_w, last_b), strict=True):
            self._register(name, value)
        if ard_num_dims is not None:
            ones = torch.ones(*self.batch_shape, 1, ard_num_dims, dtype=torch.float64)
            self._register("input_scale", ones)

    def _register(self, name: str, value: Tensor) -> None:
        fixed = bool((value == 0).any())
        self.register_parameter(f"raw_{name}", Parameter(value.log(), requires_grad=not fixed))
        positive = Positive(transform=cast(Any, torch.exp), inv_transform=cast(Any, torch.log))
        self.register_constraint(f"raw_{name}", positive)

    def _value(self, name: str) -> Tensor:
        raw: Tensor = getattr(self, f"raw_{name}")  # GPyTorch may put a plain tensor there
        return raw.exp()

    @property
    def w_var(self) -> Tensor:
        """Weight variances below the output layer, `(*batch, 1)` or `(*batch, layers)`."""
        return self._value("w_var")

    @w_var.setter
    def w_var(self, value: VarianceLike) -> None:
        self._set("w_var", value)

    @property
    def b_var(self) -> Tensor:
        """Bias variances below the output layer, likewise."""
        return self._value("b_var")

    @b_var.setter
    def b_var(self, value: VarianceLike) -> None:
        self._set("b_var", value)

    @property
    def last_w_var(self) -> Tensor:
        """Weight variance of the output layer, `(*batch, 1)`."""
        return self._value("last_w_var")

    @last_w_var.setter
    def last_w_var(self, value: VarianceLike) -> None:
        self._set("last_w_var", value)

    @property
    def last_b_var(self) -> Tensor:
        """Bias variance of the output layer, `(*batch, 1)`."""
        return self._value("last_b_var")

    @last_b_var.setter
    def last_b_var(self, value: VarianceLike) -> None:
        self._set("last_b_var", value)

    @property
    def input_scale(self) -> Tensor | None:
        """Scales λ of the input features, `(*batch, 1, d)`; `None` without `ard_num_dims`."""
        return self._value("input_scale") if self.ard_num_dims is not None else None

    @input_scale.setter
    def input_scale(self, value: VarianceLike) -> None:
        self._set("input_scale", value)

    def _set(self, name: str, value: VarianceLike) -> None:
        raw = getattr(self, f"raw_{name}")
        values = torch.as_tensor(value, dtype=raw.dtype, device=raw.device)
        self.initialize(**{f"raw_{name}": values.log().expand_as(raw)})

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x1: Tensor, x2: Tensor | None = None, diag: bool = False, **params: Any
    ) -> Any:
        """As any GPyTorch kernel; images may come as `(n, H, W, C)`."""
        if self.architecture.takes_images and x1.ndim >= 4:
            shape = tuple(x1.shape[-3:])
            known = cast(Image, self.architecture).image_shape or shape
            if any(x is not None and tuple(x.shape[-3:]) != known for x in (x1, x2)):
                got = [tuple(x.shape) for x in (x1, x2) if x is not None]
                raise ValueError(f"images must have shape (..., n, *{known}); got {got}.")
            params["image_shape"] = known
            x1, x2 = x1.flatten(-3), None if x2 is None else x2.flatten(-3)
        return super().__call__(x1, x2, diag=diag, **params)

    def forward(
        self,
        x1: Tensor,
        x2: Tensor,
        diag: bool = False,
        last_dim_is_batch: bool = False,
        image_shape: tuple[int, int, int] | None = None,
        **params: Any,
    ) -> Tensor:
        """Gram matrix `(*batch, n, m)`, or its diagonal `(*batch, n)`."""
        x1, x2 = (self._scaled(x) for x in (x1, x2))
        same = x1 is x2 or (x1.shape == x2.shape and torch.equal(x1, x2))
        variances = (self.w_var, self.b_var, self.last_w_var, self.last_b_var)
        if last_dim_is_batch:
            x1, x2 = (x.mT.unsqueeze(-1) for x in (x1, x2))
            variances = tuple(v.unsqueeze(-2) for v in variances)
        if diag and same:
            return self._moments(x1, None, variances, image_shape)
        if diag:  # every pair of rows as a batch of its own
            x1, x2 = x1.unsqueeze(-2), x2.unsqueeze(-2)
            variances = tuple(v.unsqueeze(-2) for v in variances)
            return self._moments(x1, x2, variances, image_shape)[..., 0, 0]

        def pairs(x1: Tensor, x2: Tensor, same: bool, *variances: Tensor) -> Tensor:
            k = self._moments(x1, x2, variances, image_shape)
            if not same:
                return k
            exact = self._moments(x1, None, variances, image_shape)
            return torch.diagonal_scatter(k, exact, dim1=-2, dim2=-1)

        pixels = x1.shape[-1] if self.architecture.takes_images else 1
        tile = max(1, math.isqrt(_TILE_ENTRIES // pixels)) if pixels < _TILE_ENTRIES else 1
        return tiled(pairs, x1, x2, *variances, same=same, tile=tile)

    def _scaled(self, x: Tensor) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, self.get_parameter("raw_w_var").dtype))
        scale = self.input_scale
        return x if scale is None else x * scale

    def _moments(
        self,
        x1: Tensor,
        x2: Tensor | None,
        variances: Sequence[Tensor],
        image_shape: tuple[int, int, int] | None,
    ) -> Tensor:
        """The kernel of all pairs of rows, or without `x2` of each row with itself."""
        options = {"tangent": self.tangent}
        if self.architecture.takes_images:
            images = cast(Image, self.architecture).images
            if x2 is None:
                inputs = Moments.of_images(images(x1, image_shape), **options)
            else:
                pair = (images(x, image_shape) for x in (x1, x2))
                inputs = Moments.of_image_pairs(*pair, **options)
        elif x2 is None:
            inputs = Moments.of_rows(x1, **options)
        else:
            inputs = Moments.of_pairs(x1, x2, **options)
        outputs = self.architecture.propagate(inputs, Variances(*variances))
        return outputs.k if outputs.theta is None else outputs.theta


class NNGPKernel(NeuralKernel):
    """Covariance of the outputs of a network whose widths all go to infinity.

    Arguments as for `NeuralKernel`.
    """

    tangent = False

    def tangent_kernel(self) -> NTKernel:
        """The tangent kernel of the same network, with copies of the parameters."""
        active: Any = self.active_dims
        kernel = NTKernel(
            self.architecture,
            ard_num_dims=self.ard_num_dims,
            batch_shape=self.batch_shape,
            active_dims=None if active is None else active.tolist(),
        )
        for name, parameter in self.named_parameters():
            copy = Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
            setattr(kernel, name, copy)
        return kernel


class NTKernel(NeuralKernel):
    """Neural tangent kernel, Θ(x, x') = E[∂f(x)/∂w · ∂f(x')/∂w] over all weights and biases.

    Arguments as for `NeuralKernel`. Source: Jacot, Gabriel & Hongler (NeurIPS 2018).
    """

    tangent = True


def _split_layers(
    name: str,
    value: VarianceLike,
    last: VarianceLike | None,
    *,
    default: float,
    hidden: int,
    batch_shape: torch.Size,
) -> tuple[Tensor, Tensor]:
    """Variances below the output layer, `(*batch, 1 or layers)`, and of it, `(*batch, 1)`."""
    values = _variances(name, value)
    if values.ndim > len(batch_shape):
        per_layer = values.shape[-1]
        if values.shape[:-1] not in {torch.Size(), batch_shape}:
            raise ValueError(
                f"`{name}` must have shape {tuple(batch_shape)}, one value per batch, or one "
                f"more axis for the layers; got {tuple(values.shape)}."
            )
        if per_layer != hidden + (last is None):
            raise ValueError(
                f"`{name}` must have {hidden + 1} values, one per layer, the output layer's "
                f"last (or {hidden}, with `last_{name}` given); got {per_layer}."
            )
        if last is None:
            values, final = values[..., :-1], values[..., -1:]
            return (v.expand(*batch_shape, v.shape[-1]).clone() for v in (values, final))  # pyright: ignore[reportReturnType]
    else:
        values = values.expand(batch_shape).unsqueeze(-1)
    final = _variances(f"last_{name}", default if last is None else last)
    return (
        values.expand(*batch_shape, values.shape[-1]).clone(),
        final.expand(batch_shape).unsqueeze(-1).clone(),
    )


def _variances(name: str, value: VarianceLike) -> Tensor:
    values = torch.as_tensor(value, dtype=torch.float64).detach()
    if not bool(((values >= 0) & torch.isfinite(values)).all()):
        raise ValueError(f"`{name}` must be finite and >= 0; got {value!r}.")
    return values
