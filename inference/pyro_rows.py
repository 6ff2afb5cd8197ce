"""How the sites of a Pyro model depend on the rows of a minibatch, found by running it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from inference.data import Leaves
from inference.pyro_handlers import Site

Scouting = Callable[[Leaves], dict[str, Site]]
"""Every site of one run on these rows; the same random numbers each time."""


class RowSites(NamedTuple):
    """What a minibatch does to the sites.

    Attributes:
        scales: by which an observed site's log density is to be multiplied.
        deterministic: deterministic sites that change with the rows.
    """

    scales: dict[str, float]
    deterministic: set[str]


def rows_passed(scout: Scouting, leaves: Leaves, total: int, n: int) -> RowSites:
    """For a model called on n of `total` rows.

    Row plates are those whose size follows the number of rows passed; a site that has no row
    plate but changes with the rows cannot be scaled safely and is refused.

    Raises:
        ValueError: on a latent variable per row, a prior that depends on the rows, or a
            likelihood that is not one value per row.
    """
    other = n - 1 if n > 1 else n + 1
    first, last, resized = (
        scout(tuple(x[rows] for x in leaves))
        for rows in (slice(n), slice(-n, None), slice(other))
    )
    found = RowSites({}, set())
    for name, site in first.items():
        peer = resized.get(name)
        if peer is None:
            raise ValueError(f"site {name!r} appears only for some batch sizes.")
        sizes = {frame.name: frame.size for frame in peer.frames}
        rows = [f for f in site.frames if f.size == n and sizes.get(f.name) == other]
        by_row = site.log_prob.ndim and site.log_prob.shape[-1] == n != peer.log_prob.shape[-1]
        if site.latent and (rows or site.free_shape != peer.free_shape):
            raise ValueError(_local(name))
        if site.data_or_factor and (rows or by_row):
            scaled = any(frame.full_size == total for frame in rows)
            found.scales[name] = 1.0 if scaled else total / n
        elif not _same(site.log_prob, last[name].log_prob, peer.log_prob):
            _outside(name, site, found)
    return found


def rows_taken(scout: Scouting, plate: str, rows: Tensor, n: int) -> RowSites:
    """For a model that takes n of `rows` in a plate of its own, which scales what is inside.

    Raises:
        ValueError: on a latent variable per row, or on a site outside that depends on the rows.
    """
    first, last = scout((rows[:n],)), scout((rows[-n:],))
    found = RowSites({}, set())
    for name, site in first.items():
        if plate in [frame.name for frame in site.frames]:
            if site.latent:
                raise ValueError(_local(name))
            if site.deterministic:
                found.deterministic.add(name)
        elif not _same(site.log_prob, last[name].log_prob):
            _outside(name, site, found)
    return found


def _outside(name: str, site: Site, found: RowSites) -> None:
    """Note a site that changes with the rows though it is not one value per row."""
    if site.deterministic:
        found.deterministic.add(name)
    elif site.latent:
        raise ValueError(
            f"the prior of site {name!r} depends on the rows, so every minibatch would bring "
            "another. Compute its constants from all the data, outside the model."
        )
    else:
        raise ValueError(
            f"observed site {name!r} depends on the rows but not row by row, so a minibatch "
            "cannot be scaled. Put it in pyro.plate('data', num_data, "
            "subsample_size=len(rows)), one value per row."
        )


def _local(name: str) -> str:
    return (
        f"site {name!r} is a latent variable per row, which minibatches cannot sample. Use all "
        "the data at every step."
    )


def _same(first: Tensor, *others: Tensor) -> bool:
    return all(
        first.shape == b.shape and bool(torch.allclose(first, b, equal_nan=True))
        for b in others
    )
