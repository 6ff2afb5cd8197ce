"""What a run was asked to do, as it is kept in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from inspect import signature
from typing import Any

import numpy as np
import torch
from torch import Tensor

from inference import full_data, schedules
from inference._checks import check_choice, check_options
from inference.backends import BACKENDS
from inference.compiled import COMPILE
from inference.plan import Plan
from inference.samplers import SGHMC, SGLD, SGNHT, AdaptiveSGHMC, Sampler
from inference.schedules import Constant, Cyclical, Schedule
from inference.stopping import make_until

SAMPLERS: dict[str, type[Any]] = {
    "sgld": SGLD,
    "sghmc": SGHMC,
    "sghmc_adaptive": AdaptiveSGHMC,
    "sgnht": SGNHT,
}
CYCLICAL = {"csgld": "sgld", "csghmc": "sghmc"}
METHODS = (*SAMPLERS, *CYCLICAL, *full_data.METHODS)

_DEFAULT_WARMUP = 1000
_ADAPTIVE_WARMUP = 3000
_DEFAULT_SAMPLES = 1000
_MOST_SAMPLES = 1_000_000  # with a goal
_MAY_CHANGE = {"num_samples", "until", "chunk_size"}


@dataclass(frozen=True)
class Request:
    """The arguments of `inference.sample` that decide which draws come out.

    Raises:
        ValueError: on an argument out of range.
        TypeError: on an argument of the wrong type, or an unknown option.
    """

    method: str
    num_chains: int
    num_warmup: int | None
    num_samples: int | None
    thin: int
    batch_size: int | None
    seed: int
    temperature: float
    schedule: Schedule | None
    dtype: torch.dtype | None
    device: str
    chain_method: str
    share_batches: bool
    keep_warmup: bool
    chunk_size: int | None
    compile: bool | str
    control_variates: str | None
    until: Any
    backend: str = "auto"
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("backend", self.backend, BACKENDS)
        if self.compile not in COMPILE:
            raise ValueError(f"`compile` must be 'auto', True or False; got {self.compile!r}.")
        if self.schedule is not None and self.method in CYCLICAL:
            raise ValueError(
                f"method {self.method!r} brings its own schedule; leave `schedule` out."
            )

    @property
    def sampler_name(self) -> str:
        """The method without its schedule."""
        return CYCLICAL.get(self.method, self.method)

    def plan(self, *, progress: bool) -> Plan:
        """How long to run and what to keep."""
        schedule = _check_schedule(self.schedule)
        if self.method in CYCLICAL:
            own = {
                f.name: self.options[f.name] for f in fields(Cyclical) if f.name in self.options
            }
            schedule = Cyclical(**own)
        warmup = self.num_warmup
        if warmup is None:
            adaptive = self.sampler_name == "sghmc_adaptive"
            default = _ADAPTIVE_WARMUP if adaptive else _DEFAULT_WARMUP
            warmup = 0 if isinstance(schedule, Cyclical) else default
        until = make_until(self.until)
        most = _DEFAULT_SAMPLES if until is None else _MOST_SAMPLES
        return Plan(
            num_chains=self.num_chains,
            num_warmup=warmup,
            num_samples=most if self.num_samples is None else self.num_samples,
            thin=self.thin,
            seed=self.seed,
            temperature=self.temperature,
            schedule=schedule,
            chain_method=self.chain_method,
            share_batches=self.share_batches,
            keep_warmup=self.keep_warmup,
            chunk_size=self.chunk_size,
            progress=progress,
            until=until,
            control_variates=self.control_variates,
        )

    def sampler(self, also: Any) -> Sampler:
        """The sampler with its options; `also` is a function whose arguments may be meant."""
        kind = SAMPLERS[self.sampler_name]
        cyclical = [f.name for f in fields(Cyclical)] if self.method in CYCLICAL else []
        own = {name: v for name, v in self.options.items() if name not in cyclical}
        known = [f.name for f in fields(kind)]
        check_options(
            f"method {self.sampler_name!r}", own, known, also=signature(also).parameters
        )
        return kind(**own)

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        found = {f.name: getattr(self, f.name) for f in fields(self)}
        found["dtype"] = None if self.dtype is None else str(self.dtype).removeprefix("torch.")
        if self.schedule is not None:
            name = type(self.schedule).__name__
            found["schedule"] = {"name": name, **describe_options(self.schedule)}
        until = make_until(self.until)
        found["until"] = None if until is None else asdict(until)
        found["options"] = {n: _plain(v) for n, v in self.options.items()}
        return found

    @staticmethod
    def from_json(found: Mapping[str, Any]) -> Request:
        """The request that `to_json` was called on.

        Raises:
            ValueError: if it had a schedule of the user's own class.
        """
        values = dict(found)
        if values["dtype"] is not None:
            values["dtype"] = getattr(torch, values["dtype"])
        if values["schedule"] is not None:
            given = dict(values["schedule"])
            kind = getattr(schedules, given.pop("name"), None)
            if kind is None:
                raise ValueError(
                    "the run used a schedule of your own class, which no checkpoint can hold. "
                    "Pass it again: resume(..., schedule=...)."
                )
            values["schedule"] = kind(**given)
        if values["until"] is not None:
            values["until"] = {n: v for n, v in values["until"].items() if v is not None}
        values["options"] = {
            n: torch.tensor(v, dtype=torch.float64) if isinstance(v, list) else v
            for n, v in values["options"].items()
        }
        return Request(**values)


def check_unchanged(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise `ValueError` naming every key that differs, but for those that may."""
    keys = sorted({*saved, *now} - _MAY_CHANGE)
    differing = [
        f"{key} (was {saved.get(key)!r}, now {now.get(key)!r})"
        for key in keys
        if saved.get(key) != now.get(key)
    ]
    if differing:
        raise ValueError(
            f"the run cannot go on: it was made with other values of {'; '.join(differing)}. "
            "Pass what it was made with, or start a new run."
        )


def describe_options(options: Any) -> dict[str, Any]:
    """Options as JSON-able values; a schedule of the user's own may have none."""
    if not hasattr(options, "__dataclass_fields__"):
        return {}
    return {name: _plain(value) for name, value in asdict(options).items()}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (Tensor, np.ndarray)) else value


def _check_schedule(schedule: Any) -> Schedule:
    if schedule is None:
        return Constant()
    if isinstance(schedule, type) or not hasattr(schedule, "phase"):
        raise TypeError(
            "`schedule` must be an instance of a class in inference.schedules, such as "
            f"Polynomial(); got {schedule!r}."
        )
    return schedule
