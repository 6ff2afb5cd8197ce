"""The sites of a NumPyro model: what they are, and whether a function has any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch
from numpyro.distributions import Unit, biject_to
from numpyro.infer import init_to_uniform
from numpyro.primitives import Messenger

from inference.data import Data
from inference.jax_backend.arrays import Array, from_torch
from inference.jax_backend.log_density import host
from inference.jax_backend.target import Arrays


class Frame(NamedTuple):
    """A plate around a site."""

    name: str
    dim: int
    size: int
    full_size: int


class Site(NamedTuple):
    """What one run of the model tells about a site, as `inference.pyro_handlers.Site` does."""

    value: Any
    free_shape: torch.Size
    log_prob: Any
    frames: tuple[Frame, ...]
    event_dim: int
    latent: bool
    deterministic: bool
    data: bool
    discrete: bool

    @property
    def data_or_factor(self) -> bool:
        """Whether it is conditioned on."""
        return not (self.latent or self.deterministic)


class Rows(Messenger):
    """Scales row sites, and hands plates their row numbers."""

    def __init__(self, scales: Mapping[str, float], rows: Mapping[str, Array]) -> None:
        super().__init__()
        self._scales, self._rows = scales, rows

    def process_message(self, msg: Any) -> None:
        """See `Messenger`."""
        if msg["type"] == "plate" and msg["value"] is None:
            size = msg["args"][1]
            msg["value"] = self._rows.get(msg["name"], jnp.arange(size))
        elif msg["type"] == "sample" and self._scales.get(msg["name"], 1.0) != 1.0:
            scale = 1.0 if msg["scale"] is None else msg["scale"]
            msg["scale"] = scale * self._scales[msg["name"]]


class _Found(Exception):
    """A NumPyro site was reached."""


class _Spy(Messenger):
    def process_message(self, msg: Any) -> None:
        raise _Found


def uses_numpyro(model: Callable[..., Any], data: Any) -> bool:
    """Whether the model reaches a site of NumPyro when it is called on the data."""

    def run(arrays: Arrays) -> int:
        with _Spy():
            found.call(model, arrays)
        return 0

    found = Data(host(data))
    try:
        jax.eval_shape(run, tuple(map(from_torch, found.leaves)))
    except _Found:
        return True
    except Exception:  # what it is for torch to say
        return False
    return False


def describe(site: Any, sizes: Mapping[str, int]) -> Site:
    """All but the value and its log density."""
    deterministic = site["type"] == "deterministic"
    latent = not (deterministic or site["is_observed"])
    support: Any = site["fn"].support if latent else None
    discrete = latent and bool(support.is_discrete)
    shape = torch.Size()
    if latent and not discrete:
        shape = torch.Size(biject_to(support).inverse_shape(jnp.shape(site["value"])))
    return Site(
        value=None,
        free_shape=shape,
        log_prob=None,
        frames=tuple(
            Frame(f.name, f.dim, f.size, sizes[f.name]) for f in site["cond_indep_stack"]
        ),
        event_dim=0 if deterministic else site["fn"].event_dim,
        latent=latent,
        deterministic=deterministic,
        data=not (latent or deterministic or isinstance(site["fn"], Unit)),
        discrete=discrete,
    )


def log_prob(site: Any) -> Array:
    """Of a sample site, unscaled; a deterministic site's value."""
    if site["type"] == "deterministic":
        return jnp.asarray(site["value"])
    return jnp.asarray(site["fn"].log_prob(site["value"]))


def start_value(site: Any) -> Any:
    """A value of a latent site; of any support, drawn from or not."""
    if site["type"] != "sample" or site["is_observed"] or site["fn"].support.is_discrete:
        return None
    return init_to_uniform(site)
