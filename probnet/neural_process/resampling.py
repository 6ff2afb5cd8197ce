r"""Martingale posteriors by predictive resampling.

Imagine the future data by the rule itself, y_{i+1} ~ P_i, update the rule, and go on; the
function f_T(x) = E[y | x, D ∪ D'_T] of a path is a draw of the posterior, exactly so as T → ∞.
After T steps a fraction T/(n + κ + T) of the posterior variance is there, with κ the worth of
the prior in observations.

Source: Fong, Holmes & Walker (JRSS B 2023).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from inference._checks import check_choice, check_finite, check_integer
from inference.errors import warn
from inference.progress import Progress, progress_bar
from inference.rng import Stream, generator, scoped_seed, stream_seed
from probnet._checks import Values, as_tensor
from probnet.neural_process.designs import Bootstrap, Design, NoInputs, Sobol, Uniform
from probnet.neural_process.martingale_posterior import MartingalePosterior
from probnet.neural_process.rules import PredictiveRule
from probnet.neural_process.truncation import truncation

_DESIGNS = ("uniform", "sobol", "bootstrap")
_FIRST_STEPS, _MOST_STEPS = 64, 8192
_CHANGE_OF_SD = 0.02
_GRID_POINTS = 64


class PredictiveResampler:
    """Draws of a martingale posterior, all paths at once.

    Args:
        rule: a `PredictiveRule`, or what has one as `as_rule()`: a conditioned or trained
            neural process, a `Copula`.
        num_steps: T, imagined observations per path; `"auto"` doubles T until the sd of the
            draws changes by less than 2 %.
        num_paths: number of draws.
        x_design: where observations are imagined: `"uniform"` on the domain, anew on each
            path; `"sobol"`, one low-discrepancy sequence for all paths, for which an exact
            Gaussian process needs one factorisation only; `"bootstrap"`, at the context's
            inputs, weighted at random per path.
        x_range: lowest and highest input; by default that of the rule, or of the context.

    Raises:
        TypeError: if `rule` is no rule and has none.
        ValueError: on numbers below 1 or an unknown design.

    Example:
        >>> from probnet.neural_process import NormalMean
        >>> y = torch.arange(10.0)[:, None]
        >>> resampler = PredictiveResampler(NormalMean(3.0), num_steps=200, num_paths=100)
        >>> resampler.run(None, y, progress=False).functions.shape
        torch.Size([100, 1, 1])
    """

    def __init__(
        self,
        rule: Any,
        *,
        num_steps: int | Literal["auto"] = 1000,
        num_paths: int = 500,
        x_design: Literal["uniform", "sobol", "bootstrap"] = "uniform",
        x_range: tuple[float, float] | None = None,
    ) -> None:
        if not isinstance(rule, PredictiveRule):
            if not hasattr(rule, "as_rule"):
                raise TypeError(
                    f"`rule` must be a PredictiveRule, or have one as `as_rule()`; got "
                    f"{type(rule).__name__}. A plain function becomes a rule by "
                    f"`CallableRule(function)`."
                )
            rule = rule.as_rule()
        self.rule: PredictiveRule[Any] = rule
        self.num_steps = (
            None if num_steps == "auto" else check_integer("num_steps", num_steps, 2)
        )
        self.num_paths = check_integer("num_paths", num_paths, 2)
        self.x_design = check_choice("x_design", x_design, _DESIGNS)
        self.x_range = x_range

    def run(
        self,
        xc: Values | None,
        yc: Values,
        *,
        grid: Values | None = None,
        seed: int = 0,
        progress: bool = True,
    ) -> MartingalePosterior:
        """Resample from the data onwards.

        Args:
            xc: inputs `(n, d_x)` or `(n,)`; `None` for a rule without inputs.
            yc: outputs `(n, d_y)` or `(n,)`.
            grid: inputs `(q, d_x)` or `(q,)` to evaluate the functions at, thresholds of y for
                a `Copula`; by default 64 points of the domain.
            seed: equal seeds give equal draws; global generators are untouched.
            progress: show a bar on a terminal.

        Returns:
            Draws of the function on the grid, with diagnostics of truncation.

        Raises:
            ValueError: on shapes that do not fit or values that are not finite.
        """
        x, y = self._data(xc, yc)
        check_integer("seed", seed, 0)
        points = self.rule.grid(x, y, _GRID_POINTS) if grid is None else _column("grid", grid)
        self._warn_of_few_steps(len(y))
        rng = generator(seed, Stream.BATCH)
        design = self._design(x, rng)
        total = self.num_steps or _MOST_STEPS
        with (
            torch.no_grad(),
            scoped_seed(stream_seed(seed, Stream.PREDICTIVE)),
            progress_bar(total, 0, progress) as bar,
        ):
            state = self.rule.start(x, y, self.num_paths)
            first = self.rule.evaluate(state, points).double()[0]
            state, steps, draws, future = self._advanced(state, design, points, len(y), bar)
        num_steps = steps[-1]
        diagnostics = truncation(draws, steps, len(y)) | _defect(draws[-1], first)
        return MartingalePosterior(
            rule=self.rule,
            state=state,
            grid=points,
            functions=draws[-1],
            start=first,
            xc=x,
            yc=y,
            future=future,
            num_steps=num_steps,
            seed=seed,
            method=f"predictive resampling ({type(self.rule).__name__}, {self.x_design})",
            diagnostics=diagnostics,
        )

    def _advanced(
        self, state: Any, design: Design, grid: Tensor, n: int, bar: Progress
    ) -> tuple[Any, list[int], list[Tensor], Tensor | None]:
        """All steps: the last state, when functions were evaluated, these, and imagined y."""
        automatic = self.num_steps is None
        target = self.num_steps or max(_FIRST_STEPS, n)
        checkpoints = [target // 2, target]
        steps: list[int] = []
        draws: list[Tensor] = []
        future: list[Tensor] = []
        done = 0
        while checkpoints:
            checkpoint = checkpoints.pop(0)
            for _ in range(checkpoint - done):
                state, y = self.rule.advance(state, design.next())
                if y is not None:
                    future.append(y)
                bar.advance(1, dict, warmup=False)
            done = checkpoint
            steps.append(done)
            draws.append(self.rule.evaluate(state, grid).double())
            if automatic and not checkpoints and _changing(draws):
                if 2 * done > _MOST_STEPS:
                    warn(
                        f"the sd of the draws still changes by more than {_CHANGE_OF_SD:.0%} "
                        f"at {done} steps. Set `num_steps` by hand, or correct for truncation "
                        f"by `.corrected()`."
                    )
                else:
                    checkpoints.append(2 * done)
        return state, steps, draws, torch.cat(future, 1) if future else None

    def _design(self, x: Tensor, rng: torch.Generator) -> Design:
        if not self.rule.uses_inputs:
            return NoInputs(x)
        if self.x_design == "bootstrap":
            return Bootstrap(x, self.num_paths, rng)
        low, high = self.rule.domain(x)
        if self.x_range is not None:
            low, high = (x.new_full(x.shape[1:], bound) for bound in self.x_range)
        if self.x_design == "sobol":
            return Sobol(low, high, rng)
        return Uniform(low, high, self.num_paths, rng)

    def _data(self, xc: Values | None, yc: Values) -> tuple[Tensor, Tensor]:
        y = check_finite("yc", _column("yc", yc))
        if not len(y):
            raise ValueError("`yc` must hold at least one observation; got none.")
        if xc is None:
            if self.rule.uses_inputs:
                raise ValueError(
                    f"`xc` must be given: {type(self.rule).__name__} predicts from inputs."
                )
            return y.new_zeros((len(y), 0)), y
        x = check_finite("xc", _column("xc", xc))
        if len(x) != len(y):
            raise ValueError(
                f"`xc` and `yc` must have the same number of rows; got {len(x)} and {len(y)}."
            )
        return x, y

    def _warn_of_few_steps(self, n: int) -> None:
        if self.num_steps is not None and self.num_steps < n:
            share = self.num_steps / (n + self.num_steps)
            warn(
                f"`num_steps` = {self.num_steps} is below the number of observations, {n}: "
                f"only about {share:.0%} of the posterior variance will be there. Take "
                f"several times {n} steps."
            )


def _column(name: str, values: Values) -> Tensor:
    """A matrix; a vector becomes one column."""
    tensor = as_tensor(name, values)
    if tensor.ndim == 1:
        tensor = tensor[:, None]
    if tensor.ndim != 2:
        raise ValueError(
            f"`{name}` must have shape (n, d) or (n,); got {tuple(tensor.shape)}. Run several "
            f"tasks one by one."
        )
    return tensor


def _changing(draws: list[Tensor]) -> bool:
    old, new = (float(d.std(0).mean()) for d in draws[-2:])
    return abs(new - old) > _CHANGE_OF_SD * new


def _defect(functions: Tensor, start: Tensor) -> dict[str, float]:
    """How far the self-made future moved the mean: zero for a martingale but for the draws."""
    sd = functions.std(0).clamp_min(torch.finfo(functions.dtype).tiny)
    defect = ((functions.mean(0) - start).abs() / sd).mean()
    by_chance = (2 / torch.pi / len(functions)) ** 0.5
    return {"martingale_defect": float(defect), "martingale_defect_by_chance": by_chance}
