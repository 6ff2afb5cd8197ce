"""Pyro effect handlers: list a model's sites, set its latents, scale its rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.util import scale_and_mask
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to, constraints
from torch.distributions.constraints import Constraint

from inference.targets import Named


@dataclass(frozen=True)
class Site:
    """What one run of the model tells about a sample site."""

    value: Tensor
    free_shape: torch.Size
    log_prob: Tensor
    frames: tuple[Any, ...]
    event_dim: int
    support: Constraint
    latent: bool
    deterministic: bool
    data: bool
    discrete: bool

    @property
    def data_or_factor(self) -> bool:
        """Whether it is conditioned on."""
        return not (self.latent or self.deterministic)


class Cast(Messenger):
    """Draws latent values in the target's dtype, whatever that of the model's constants."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def _pyro_sample(self, msg: Any) -> None:
        if not msg["is_observed"] and not _is_subsample(msg) and msg["value"] is None:
            value = _first_value(msg["fn"])
            msg["value"] = value.to(self._dtype) if value.is_floating_point() else value


class Scout(Cast):
    """Lists the sites of a model run from its prior."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self.sites: dict[str, Site] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        if _is_subsample(msg):
            return
        latent = not msg["is_observed"]
        support = _support(msg["fn"]) if latent else constraints.real
        discrete = bool(getattr(support, "is_discrete", False)) or bool(
            getattr(msg["fn"], "has_enumerate_support", False)
        )
        value = msg["value"]
        shape = torch.Size()
        if latent and not discrete:
            shape = biject_to(support).inverse_shape(value.shape)
        deterministic = _is_deterministic(msg)
        self.sites[msg["name"]] = Site(
            value=value,
            free_shape=shape,
            log_prob=value if deterministic else msg["fn"].log_prob(value),
            frames=tuple(msg["cond_indep_stack"]),
            event_dim=0 if deterministic else int(msg["fn"].event_dim),
            support=support,
            latent=latent,
            deterministic=deterministic,
            data=not (latent or deterministic or _is_factor(msg)),
            discrete=discrete,
        )


class GuideTrace(Messenger):
    """Values and log density of a guide's sites; auxiliary sites count in the latter only."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype
        self.values: Named = {}
        self.log_prob: Tensor = torch.zeros((), dtype=dtype)

    def _pyro_post_sample(self, msg: Any) -> None:
        if _is_subsample(msg) or msg["is_observed"]:
            return
        self.log_prob = self.log_prob + msg["fn"].log_prob(msg["value"]).sum()
        if not msg["infer"].get("is_auxiliary", False):
            self.values[msg["name"]] = msg["value"].to(self._dtype)


class Batch(Messenger):
    """Scales row sites, and hands plates their row numbers: Pyro would draw them at random."""

    def __init__(self, scales: Mapping[str, float], rows: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._scales, self._rows = scales, rows

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self._rows:
            msg["value"], msg["done"] = self._rows[name], True
        elif _is_subsample(msg) and msg["value"] is None:
            fn = msg["fn"]
            size = fn.size if fn.subsample_size is None else min(fn.size, fn.subsample_size)
            msg["value"], msg["done"] = torch.arange(size, device=fn.device), True
        factor = self._scales.get(name, 1.0)
        if factor != 1.0:
            msg["scale"] = msg["scale"] * factor


class Replay(Messenger):
    """Sets the latent sites and gathers what is asked for, without keeping a trace.

    Args:
        given: values of the latent sites.
        constrained: whether they are constrained values rather than unconstrained ones.
        mode: `"density"` adds up log densities and Jacobians, `"pointwise"` keeps those of
            observed sites apart, `"resample"` redraws observed sites, `"values"` does neither.
    """

    def __init__(
        self,
        given: Mapping[str, Tensor],
        *,
        constrained: bool = False,
        mode: str = "density",
    ) -> None:
        super().__init__()
        self._given, self._constrained, self._mode = given, constrained, mode
        self.log_probs: Named = {}
        self.log_jacobian: Any = 0.0
        self.values: Named = {}
        self.free: Named = {}
        self.deterministic: Named = {}
        self.observed: Named = {}
        self.pointwise: Named = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if _is_subsample(msg):
            return
        if msg["is_observed"]:
            if self._mode == "resample" and not (_is_factor(msg) or _is_deterministic(msg)):
                msg["value"] = msg["fn"].sample()
        else:
            msg["value"], msg["done"] = self._place(name, _support(msg["fn"])), True

    def _place(self, name: str, support: Constraint) -> Tensor:
        given = self._given[name]
        if _unconstrained(support):
            self.values[name] = self.free[name] = given
            return given
        transform = biject_to(support)
        if self._constrained:
            self.values[name], self.free[name] = given, transform.inv(given)
            return given
        value = transform(given)
        self.values[name] = value
        if self._mode == "values":
            return value
        self.log_jacobian = (
            self.log_jacobian + transform.log_abs_det_jacobian(given, value).sum()
        )
        return value

    def _pyro_post_sample(self, msg: Any) -> None:
        if _is_subsample(msg):
            return
        name, value = msg["name"], msg["value"]
        if _is_deterministic(msg):
            self.deterministic[name] = value
            return
        if msg["is_observed"] and not _is_factor(msg):
            self.observed[name] = value
        if self._mode in ("values", "resample"):
            return
        log_prob = msg["fn"].log_prob(value)
        if self._mode == "pointwise":
            if name in self.observed:
                self.pointwise[name] = log_prob
            return
        self.log_probs[name] = scale_and_mask(log_prob, msg["scale"], msg["mask"]).sum()


def _first_value(fn: Any) -> Tensor:
    """A draw, or a point of the support of a distribution that cannot be drawn from."""
    try:
        return fn.sample()
    except NotImplementedError:
        transform = biject_to(fn.support)
        return transform(torch.zeros(transform.inverse_shape(fn.shape())))


def _support(fn: Any) -> Constraint:
    return fn.support


def _unconstrained(support: Constraint) -> bool:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real


def _is_subsample(msg: Any) -> bool:
    return type(msg["fn"]).__name__ == "_Subsample"


def _is_factor(msg: Any) -> bool:
    return isinstance(msg["fn"], dist.Unit)


def _is_deterministic(msg: Any) -> bool:
    return bool(msg["infer"].get("_deterministic", False))
