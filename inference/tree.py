"""Nested dicts of tensors as one flat vector, and back.

A flat name joins the keys with dots: `{"layer": {"w": ...}}` holds `layer.w`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def flatten_names(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of dotted names from a nested dict, in order of insertion."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten_names(value, f"{name}."))
        else:
            flat[name] = value
    return flat


def nest_names(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten_names`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        node = tree
        for key in path:
            node = node.setdefault(key, {})
        node[last] = value
    return tree


@dataclass(frozen=True)
class Layout:
    """Where each named tensor sits in the flat vector.

    Attributes:
        shapes: name to shape, in the order of the vector.
    """

    shapes: dict[str, torch.Size]

    @property
    def dim(self) -> int:
        """Length of the flat vector."""
        return sum(shape.numel() for shape in self.shapes.values())

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of `vector`, shape (*batch, dim), as tensors of shape (*batch, *shape)."""
        sizes = [math.prod(shape) for shape in self.shapes.values()]
        pieces = vector.split(sizes, dim=-1)
        batch = vector.shape[:-1]
        return {
            name: piece.reshape((*batch, *shape))
            for (name, shape), piece in zip(self.shapes.items(), pieces, strict=True)
        }

    def join(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The flat vector, shape (*batch, dim), of tensors of shape (*batch, *shape)."""
        pieces: list[Tensor] = []
        for name, shape in self.shapes.items():
            tensor = tensors[name]
            batch = tensor.shape[: tensor.ndim - len(shape)]
            pieces.append(tensor.reshape((*batch, shape.numel())))
        return torch.cat(pieces, dim=-1)
