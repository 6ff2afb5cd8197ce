"""Draws of a martingale posterior: functions, functionals, predictions, exports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution

from inference.export import build_datatree, to_arviz
from inference.rng import Stream, scoped_seed, stream_seed
from probnet._checks import Values, as_tensor
from probnet.neural_process.rules import PredictiveRule
from probnet.predictive import DrawsMixture

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False, repr=False)
class MartingalePosterior:
    """What `PredictiveResampler.run` returns: P independent draws of a function.

    Attributes:
        rule: what the future was imagined by.
        state: of the rule after the last step, all paths.
        grid: where the functions are evaluated, `(q, d_x)`.
        functions: draws f_T, `(P, q, d_y)`.
        start: f_n, the prediction before any future, `(q, d_y)`.
        xc: inputs of the data.
        yc: outputs of the data.
        future: imagined outputs `(P, T, d_y)`, if the rule draws any.
        num_steps: T.
        seed: of the run.
        method: rule and design, in words.
        diagnostics: `remaining_variance` (share not yet there), `correction` (factor of the
            sd), `prior_weight` (κ, in observations), `num_steps` and `sd` at each checkpoint,
            `martingale_defect` (mean shift of the mean, in posterior sds) and what it is by
            chance for a true martingale.
    """

    rule: PredictiveRule[Any]
    state: Any
    grid: Tensor
    functions: Tensor
    start: Tensor
    xc: Tensor
    yc: Tensor
    future: Tensor | None
    num_steps: int
    seed: int
    method: str
    diagnostics: Mapping[str, Any]

    def __repr__(self) -> str:
        """Method and sizes."""
        paths, points = self.functions.shape[:2]
        return (
            f"MartingalePosterior({self.method!r}, {paths} functions at {points} points after "
            f"{self.num_steps} steps)"
        )

    @property
    def mean(self) -> Tensor:
        """Mean of the draws, `(q, d_y)`."""
        return self.functions.mean(0)

    @property
    def sd(self) -> Tensor:
        """Standard deviation of the draws, `(q, d_y)`."""
        return self.functions.std(0)

    @property
    def functionals(self) -> dict[str, Tensor]:
        """Draws of functionals over the grid, `(P, d_y)` each; `arg...` hold numbers of points.

        `median`, `minimum`, `maximum`, `argmin`, `argmax`.
        """
        f = self.functions
        return {
            "median": f.median(1).values,
            "minimum": f.amin(1),
            "maximum": f.amax(1),
            "argmin": f.argmin(1),
            "argmax": f.argmax(1),
        }

    def corrected(self) -> Self:
        """Functions spread about their mean by the factor `correction`, once and for all."""
        factor = float(self.diagnostics["correction"])
        functions = self.mean + factor * (self.functions - self.mean)
        diagnostics = {**self.diagnostics, "correction": 1.0, "corrected_by": factor}
        return replace(self, functions=functions, diagnostics=diagnostics)

    def predict(self, x: Values) -> Distribution:
        """The law of a new y at inputs `(m, d_x)`: the mixture over all paths.

        Batch shape `(m,)`, event shape `(d_y,)`.
        """
        points = as_tensor("x", x)
        points = points[:, None] if points.ndim == 1 else points
        with torch.no_grad():
            return DrawsMixture(self.rule.predict(self.state, points[None]))

    def sample_functions(self, x: Values) -> Tensor:
        """The same P functions at other inputs `(m, d_x)`: `(P, m, d_y)`."""
        points = as_tensor("x", x)
        points = points[:, None] if points.ndim == 1 else points
        with torch.no_grad():
            return self.rule.evaluate(self.state, points).double()

    def to_datatree(self) -> xarray.DataTree:
        """Draws in the ArviZ schema: one chain of independent draws.

        `posterior` (f and the functionals), `posterior_predictive` (y on the grid, for rules
        with inputs), `log_likelihood` (y_ctx, pointwise, after the whole future),
        `sample_stats` (path, num_steps, remaining_variance, martingale_defect),
        `observed_data` (y_ctx), `constant_data` (x_ctx, x_grid, seed).
        """
        paths = len(self.functions)
        with torch.no_grad(), scoped_seed(stream_seed(self.seed, Stream.PREDICTIVE, 1)):
            logs = self.rule.predict(self.state, self.xc[None]).log_prob(self.yc)
            predictive = {}
            if self.rule.uses_inputs:
                y = self.rule.predict(self.state, self.grid[None]).sample()
                predictive = {"posterior_predictive": {"y": _one_chain(y)}}
        inputs = {"x_ctx": self.xc, "x_grid": self.grid}  # empty for rules without inputs
        functionals = {k: _one_chain(v) for k, v in self.functionals.items()}
        groups = {
            "posterior": {"f": _one_chain(self.functions), **functionals},
            **predictive,
            "log_likelihood": {"y_ctx": _one_chain(logs.expand(paths, -1))},
            "sample_stats": {
                "path": np.arange(paths)[None],
                "num_steps": np.full((1, paths), self.num_steps),
                **{
                    name: np.full((1, paths), float(self.diagnostics[name]))
                    for name in ("remaining_variance", "martingale_defect")
                },
            },
            "observed_data": {"y_ctx": self.yc.numpy(force=True)},
            "constant_data": {
                **{name: x.numpy(force=True) for name, x in inputs.items() if x.numel()},
                "seed": np.asarray(self.seed),
            },
        }
        dims = {
            "f": ["x_id", "y_dim"],
            "y": ["x_id", "y_dim"],
            "y_ctx": ["point", "y_dim"],
            "x_ctx": ["point", "x_dim"],
            "x_grid": ["x_id", "x_dim"],
            **{name: ["y_dim"] for name in functionals},
        }
        attrs = {
            "draws": "independent",
            "method": self.method,
            "diagnostics": dict(self.diagnostics),
        }
        return build_datatree(groups, coords={}, dims=dims, attrs=attrs)

    def to_arviz(self) -> Any:
        """What the installed ArviZ works on: `InferenceData` before 1.0, a DataTree after."""
        return to_arviz(self.to_datatree())


def _one_chain(values: Tensor) -> np.ndarray[Any, Any]:
    return values.numpy(force=True)[None]
