"""Kernels as JSON-able descriptions; only the classes listed here are ever built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gpytorch.kernels as gk
import torch
from gpytorch.kernels import Kernel

from inference._checks import check_choice
from probnet.kernels.neural import NeuralKernel, NNGPKernel, NTKernel
from probnet.kernels.neural.architectures import architecture_from_dict

_PLAIN: dict[str, type[Kernel]] = {
    cls.__name__: cls
    for cls in (gk.CosineKernel, gk.LinearKernel, gk.PeriodicKernel, gk.RBFKernel, gk.RQKernel)
}
_NEURAL: dict[str, type[NeuralKernel]] = {"NNGPKernel": NNGPKernel, "NTKernel": NTKernel}
_SUMS: dict[str, type[Kernel]] = {
    "AdditiveKernel": gk.AdditiveKernel,
    "ProductKernel": gk.ProductKernel,
}
_OTHERS = ("MaternKernel", "ScaleKernel")


def kernel_to_dict(kernel: Kernel) -> dict[str, Any]:
    """A description, exact in float64, from which `kernel_from_dict` rebuilds the kernel.

    Raises:
        TypeError: if the kernel, or one within it, is of another class.
    """
    module: Any = kernel
    name = type(kernel).__name__
    if type(kernel) in _SUMS.values():
        return {"name": name, "kernels": [kernel_to_dict(k) for k in module.kernels]}
    own: dict[str, Any] = {"name": name, "values": _raw_values(kernel)}
    if name == "ScaleKernel":
        return own | {"base": kernel_to_dict(module.base_kernel)}
    active = module.active_dims
    own |= {
        "ard_num_dims": kernel.ard_num_dims,
        "active_dims": None if active is None else active.tolist(),
    }
    if isinstance(kernel, NeuralKernel) and name in _NEURAL:
        return own | {"architecture": kernel.architecture.to_dict()}
    if name == "MaternKernel":
        return own | {"nu": module.nu}
    if type(kernel) in _PLAIN.values():
        return own
    known = sorted({*_PLAIN, *_NEURAL, *_SUMS, *_OTHERS})
    raise TypeError(
        f"a {name} cannot be written to a file; kernels that can are {known}. Keep the data "
        f"and fit again, or write the predictions."
    )


def kernel_from_dict(described: Mapping[str, Any]) -> Kernel:
    """Rebuild the kernel that `kernel_to_dict` described.

    Raises:
        ValueError: on a class that is not listed.
    """
    known = {*_PLAIN, *_NEURAL, *_SUMS, *_OTHERS}
    name = check_choice("name", described["name"], known)
    if name in _SUMS:
        parts: Any = [kernel_from_dict(k) for k in described["kernels"]]
        return _SUMS[name](*parts).double()
    if name == "ScaleKernel":
        return _with_values(gk.ScaleKernel(kernel_from_dict(described["base"])), described)
    given = {key: described[key] for key in ("ard_num_dims", "active_dims")}
    options: dict[str, Any] = {key: v for key, v in given.items() if v is not None}
    if name in _NEURAL:
        architecture = architecture_from_dict(described["architecture"])
        return _with_values(_NEURAL[name](architecture, **options), described)
    if name == "MaternKernel":
        return _with_values(gk.MaternKernel(nu=described["nu"], **options), described)
    return _with_values(_PLAIN[name](**options), described)


def _raw_values(kernel: Kernel) -> dict[str, Any]:
    """Raw parameters of the kernel itself, -inf (a variance fixed at zero) as `None`."""
    return {
        name: [None if v == -torch.inf else float(v) for v in parameter.detach().flatten()]
        for name, parameter in kernel.named_parameters(recurse=False)
    }


def _with_values(kernel: Kernel, described: Mapping[str, Any]) -> Kernel:
    kernel = kernel.double()
    for name, values in described["values"].items():
        parameter = kernel.get_parameter(name)
        numbers = [-torch.inf if v is None else v for v in values]
        shape = parameter.shape if parameter.numel() == len(numbers) else (len(numbers),)
        parameter.data = torch.tensor(numbers, dtype=torch.float64).reshape(shape)
        parameter.requires_grad_(None not in values)
    return kernel
