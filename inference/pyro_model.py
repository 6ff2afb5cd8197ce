"""A Pyro model as a target: sites found, minibatch scaling settled, everything vmap-safe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import biject_to
from torch.distributions.constraints import Constraint
from torch.distributions.transforms import Transform

from inference.data import Data, Leaves
from inference.errors import LinAlgError
from inference.model_target import ModelTarget, own_subsample, plate_dims
from inference.pyro_handlers import Batch, Replay, Scout, Site
from inference.pyro_rows import RowSites, rows_passed, rows_taken
from inference.rng import scoped_seed
from inference.targets import Named, check_batch_size
from inference.tree import Layout

_Handler = TypeVar("_Handler", bound=Messenger)

_SCOUT_SEED = 0
_SCOUT_TRIES = 10
_INVALID = "Expected parameter"  # how torch begins when an argument is out of its range


class PyroTarget(ModelTarget):
    """A Pyro model with its data, in flat unconstrained coordinates.

    Minibatches come in two ways. With `batch_size`, the model is called on n rows of the data
    and its row sites are scaled by N/n, unless its own plate of size N already does that. A
    model that subsamples by itself, `pyro.plate("data", N, subsample_size=n)`, is called on
    all the data and given the row numbers.

    Raises:
        TypeError: on a discrete latent site; it is named.
        ValueError: if the model fails on the data, or cannot be scaled to minibatches.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        data: Any,
        *,
        batch_size: int | None,
        dtype: torch.dtype | None,
        device: torch.device,
    ) -> None:
        probe = Data(data)
        self.dtype = dtype or probe.floating_dtype or torch.get_default_dtype()
        self.device = device
        self._model = model
        self._parameters = pyro.get_param_store().get_state()  # held as they are now
        self.data = Data(data, dtype=self.dtype, device=device)
        self._subsample: str | None = None
        self._rows = RowSites({}, set())
        sites = self._scout(None)
        self._refuse_discrete(sites)
        self.plates = plate_dims(sites)
        self._subsample = own_subsample(sites)
        if self._subsample is not None:
            self._bind_own_subsample(sites, batch_size)
        else:
            self.num_data = self.data.check_rows(None) if batch_size is not None else None
            self.batch_size = check_batch_size(batch_size, self.num_data)
            self.leaves = self.data.leaves
        latent = {n: s for n, s in sites.items() if s.latent}
        if not latent:
            raise ValueError(
                "the model has no latent sample site, so there is nothing to infer."
            )
        self.layout = Layout({name: site.free_shape for name, site in latent.items()})
        self._rows = self._find_rows()
        self._static = self._static_transforms(sites)

    def log_density(self, position: Tensor, leaves: Leaves | None = None) -> Tensor:
        """See `Target.log_density`."""
        replay = self._run(Replay(self.layout.split(position)), leaves)
        return sum(replay.log_probs.values(), replay.log_jacobian)

    def constrain(self, position: Tensor) -> Named:
        """See `Target.constrain`."""
        if self._static is not None:
            free = self.layout.split(position)
            return {
                name: cast(Tensor, transform(free[name]))
                for name, transform in self._static.items()
            }
        rows = (
            None
            if self.batch_size is None
            else tuple(x[: self.batch_size] for x in self.leaves)
        )
        replay = self._run(Replay(self.layout.split(position), mode="values"), leaves=rows)
        kept = {
            n: v for n, v in replay.deterministic.items() if n not in self._rows.deterministic
        }
        return {**replay.values, **kept}

    def unconstrain(self, values: Mapping[str, Tensor]) -> Tensor:
        """See `Target.unconstrain`."""
        return self.layout.join(self._run(Replay(values, constrained=True, mode="values")).free)

    def log_jacobian(self, position: Tensor) -> Tensor:
        """See `Target.log_jacobian`."""
        replay = self._run(Replay(self.layout.split(position)))
        return torch.as_tensor(replay.log_jacobian, dtype=self.dtype)

    def sample_prior(self, seed: int) -> Tensor:
        """See `ModelTarget`."""
        sites = self._scout(None, seed=seed)
        with torch.no_grad():
            return self.unconstrain({name: s.value for name, s in sites.items() if s.latent})

    def prior(self) -> Named:
        """See `ModelTarget`."""
        sites = self._run(Scout(self.dtype)).sites
        return {name: site.value for name, site in sites.items() if site.latent}

    def terms(self, position: Tensor) -> Named:
        """See `Target.terms`."""
        return self._run(Replay(self.layout.split(position))).log_probs

    def log_likelihood(self, values: Mapping[str, Tensor], data: Any = None) -> Named:
        """See `Target.log_likelihood`."""
        passes = [
            self._run(Replay(values, constrained=True, mode="pointwise"), rows, data).pointwise
            for rows in self._passes()
        ]
        return self._join_passes(passes)

    def posterior_predictive(self, values: Mapping[str, Tensor], data: Any = None) -> Named:
        """See `ModelTarget`."""
        passes = [
            self._run(Replay(values, constrained=True, mode="resample"), rows, data).observed
            for rows in self._passes()
        ]
        return self._join_passes(passes)

    def observed_data(self) -> Named:
        """See `ModelTarget`."""
        start = torch.zeros(self.layout.dim, dtype=self.dtype, device=self.device)
        passes = [
            self._run(Replay(self.layout.split(start), mode="values"), rows).observed
            for rows in self._passes()
        ]
        return self._join_passes(passes)

    def observed_leaves(self) -> dict[str, list[int]]:
        """See `ModelTarget`."""
        return {
            name: [i for i, leaf in enumerate(self.leaves) if leaf is value]
            for name, value in self.observed_data().items()
        }

    def _run(
        self, handler: _Handler, leaves: Leaves | None = None, data: Any = None
    ) -> _Handler:
        rows = self.data if data is None else Data(data, dtype=self.dtype, device=self.device)
        store = pyro.get_param_store().scope(self._parameters)
        with store, handler, self._batch_handlers(leaves):
            rows.call(self._model, self._model_leaves(leaves))
        return handler

    def _model_leaves(self, leaves: Leaves | None) -> Leaves | None:
        return None if self._subsample is not None else leaves

    def _batch_handlers(self, leaves: Leaves | None) -> Batch:
        if self._subsample is not None:
            rows = self.leaves[0][: self.batch_size] if leaves is None else leaves[0]
            return Batch({}, {self._subsample: rows})
        return Batch({} if leaves is None else self._rows.scales, {})

    def _find_rows(self) -> RowSites:
        total, n = self.num_data, self.batch_size
        if total is None or n is None:
            return RowSites({}, set())
        if self._subsample is not None:
            return rows_taken(self._scout, self._subsample, self.leaves[0], n)
        return rows_passed(self._scout, self.leaves, total, n)

    def _scout(self, leaves: Leaves | None, seed: int = _SCOUT_SEED) -> dict[str, Site]:
        """Every site of one run from the prior, validated by Pyro.

        A draw that makes an invalid distribution is followed by another. Where none is valid,
        sites with a density that is not finite come back as they are: the search for a
        starting point will name them.
        """
        invalid: Exception | None = None
        try:
            for attempt in range(_SCOUT_TRIES):
                try:
                    return self._run_scout(leaves, seed + attempt, validate=True)
                except (ValueError, LinAlgError) as error:
                    if isinstance(error, ValueError) and _INVALID not in str(error):
                        raise
                    invalid = invalid or error
            sites = self._run_scout(leaves, seed, validate=False)
            if invalid and all(bool(s.log_prob.isfinite().all()) for s in sites.values()):
                raise invalid
        except (ValueError, RuntimeError, TypeError, IndexError) as error:
            shapes = (
                self.data.describe() if leaves is None else [tuple(x.shape) for x in leaves]
            )
            raise ValueError(
                f"the model could not be run on data with shapes {shapes}: {error}"
            ) from error
        return sites

    def _run_scout(
        self, leaves: Leaves | None, seed: int, *, validate: bool
    ) -> dict[str, Site]:
        scout = Scout(self.dtype)
        with (
            torch.no_grad(),
            scoped_seed(seed),
            pyro.validation_enabled(validate),
            pyro.get_param_store().scope(self._parameters),
            self._batch_handlers(leaves),
            scout,
        ):
            self.data.call(self._model, self._model_leaves(leaves))
        return scout.sites

    def _refuse_discrete(self, sites: dict[str, Site]) -> None:
        for name, site in sites.items():
            if site.latent and site.discrete:
                raise TypeError(
                    f"site {name!r} is a discrete latent variable, which gradient methods "
                    "cannot sample. Sum it out in the model, or enumerate it with "
                    "pyro.infer.config_enumerate and TraceEnum_ELBO."
                )

    def _static_transforms(self, sites: dict[str, Site]) -> dict[str, Transform] | None:
        """Transforms by site if they never change and nothing is deterministic, else None.

        Then constrained values need no run of the model.
        """
        again = self._scout(None, seed=_SCOUT_SEED + 1)
        if any(s.deterministic for s in sites.values()):
            return None
        latent = [name for name, site in sites.items() if site.latent]
        if not all(_same_constraint(sites[n].support, again[n].support) for n in latent):
            return None
        return {name: biject_to(sites[name].support) for name in latent}


def _same_constraint(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and torch.equal(a, b)
    if isinstance(a, Constraint):
        mine, other = vars(a), vars(b)
        return type(a) is type(b) and all(_same_constraint(mine[k], other[k]) for k in mine)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(_same_constraint, a, b))
    return bool(a == b)
