"""Scale mixtures of Gaussian processes, for any GPyTorch kernel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from gpytorch.kernels import Kernel
from torch import Tensor

from inference._checks import (
    check_choice,
    check_integer,
    check_nonnegative,
    check_options,
    check_positive,
)
from probnet._checks import Values
from probnet.nngp.data import GPData
from probnet.nngp.hyperparameters import HyperParameters, amplitude_of
from probnet.nngp.independent import IndependentNoisePosterior
from probnet.nngp.marginal import HyperDraws, laplace_draws, nuts_draws
from probnet.nngp.objective import Objective, maximize
from probnet.nngp.posterior import ScaleMixturePosterior
from probnet.nngp.priors import InverseGamma, LogNormal, ScalePrior
from probnet.nngp.robust import robust_precisions
from probnet.nngp.solutions import check_memory
from probnet.nngp.sparse import choose_inducing

_METHODS = ("evidence", "laplace", "nuts")
_OPTIONS = {
    "evidence": ("max_evaluations",),
    "laplace": ("max_evaluations", "num_draws"),
    "nuts": ("max_evaluations", "num_chains", "num_samples", "num_warmup", "thin"),
}
_ROBUST_ROUNDS = 3
_DEFAULT_PRIOR = InverseGamma(2.0, 2.0)
_DEFAULT_NOISE_PRIOR = LogNormal(-4.6, 2.0)


@dataclass(frozen=True, eq=False)
class _Fitted:
    hyper: HyperParameters
    diagnostics: dict[str, Any]


class ScaleMixtureGP:
    r"""f | σ² ~ GP(0, σ²k), σ² ~ H, observed with noise: y = f + e.

    With an inverse-gamma H this is a Student-t process, in closed form; with a point mass a
    Gaussian process; any other H is integrated exactly. Outputs share σ² and the kernel.

    Source: Lee, Yun, Yang & Lee (ICLR 2022).

    Args:
        kernel: any GPyTorch kernel; copied, never changed. See `probnet.kernels` for those of
            infinitely wide networks.
        scale_prior: H; see `probnet.nngp.priors`.
        noise_ratio: ε > 0: the noise variance is σ²ε (`noise="joint"`).
        noise: `"independent"` gives the noise a variance τ² of its own, not scaled by σ², with
            prior `noise_prior`; both are integrated out on a grid.
        noise_prior: of τ²; LogNormal(-4.6, 2) if omitted.
        noise_df: degrees of freedom of Student-t noise, robust against outliers in y; normal
            noise if omitted.
        num_inducing: M, for the sparse bound in O(nM²); exact if omitted.
        standardize: work on standardised inputs and targets; predictions stay in the user's
            units. By default the process is that of the kernel on the data as given.
        memory_limit: in bytes; exact inference that needs more is refused.

    Raises:
        TypeError: if the kernel or the prior is not one.
        ValueError: on numbers out of range, or options that exclude each other.

    Example:
        >>> from probnet.kernels import NNGPKernel, mlp
        >>> x = torch.linspace(-2, 2, 30, dtype=torch.float64)[:, None]
        >>> model = ScaleMixtureGP(NNGPKernel(mlp(depth=2)), noise_ratio=0.01)
        >>> posterior = model.fit(x, torch.sin(3 * x[:, 0]), optimize=False)
        >>> posterior.predict(x[:3]).mean.shape
        torch.Size([3])
    """

    def __init__(
        self,
        kernel: Kernel,
        *,
        scale_prior: ScalePrior = _DEFAULT_PRIOR,
        noise_ratio: float = 0.01,
        noise: Literal["joint", "independent"] = "joint",
        noise_prior: ScalePrior | None = None,
        noise_df: float | None = None,
        num_inducing: int | None = None,
        standardize: bool = False,
        memory_limit: float = 8 * 2**30,
    ) -> None:
        if not isinstance(kernel, Kernel):
            raise TypeError(f"`kernel` must be a gpytorch.kernels.Kernel; got {kernel!r}.")
        if len(kernel.batch_shape):
            raise ValueError(
                f"`kernel` must not be batched; got batch shape {tuple(kernel.batch_shape)}."
            )
        if not isinstance(scale_prior, ScalePrior):
            raise TypeError(
                f"`scale_prior` must be one of probnet.nngp's, such as InverseGamma(2.0, 2.0); "
                f"got {scale_prior!r}."
            )
        self.kernel, self.scale_prior = kernel, scale_prior
        self.noise_ratio = check_positive("noise_ratio", noise_ratio)
        self.noise = check_choice("noise", noise, ("joint", "independent"))
        self.noise_prior = noise_prior or _DEFAULT_NOISE_PRIOR
        self.noise_df = None if noise_df is None else check_positive("noise_df", noise_df)
        self.num_inducing = (
            None if num_inducing is None else check_integer("num_inducing", num_inducing, 1)
        )
        self.standardize = standardize
        self.memory_limit = check_nonnegative("memory_limit", memory_limit)
        if noise_prior is not None and self.noise == "joint":
            raise ValueError("`noise_prior` belongs to noise='independent'.")
        exclusive = {
            "noise_df": noise_df is not None,
            "num_inducing": num_inducing is not None,
            "noise='independent'": self.noise == "independent",
        }
        if sum(exclusive.values()) > 1:
            given = [name for name, is_given in exclusive.items() if is_given]
            raise ValueError(f"{' and '.join(given)} exclude each other; give one.")

    def fit(
        self,
        x: Values,
        y: Values,
        *,
        method: Literal["evidence", "laplace", "nuts"] = "evidence",
        optimize: bool = True,
        seed: int = 0,
        progress: bool = True,
        **options: Any,
    ) -> ScaleMixturePosterior | IndependentNoisePosterior:
        """Condition on data.

        Args:
            x: inputs `(n, d)`, or images `(n, H, W, C)` for convolutional kernels.
            y: targets `(n,)` or `(n, outputs)`.
            method: `"evidence"` maximises the evidence, with σ² profiled out, over the kernel's
                parameters and the noise ratio by L-BFGS; `"laplace"` integrates them by
                importance sampling around the mode, with Pareto-smoothed weights; `"nuts"` by
                Markov chains.
            optimize: `False` takes the hyper-parameters as they are.
            seed: of everything random.
            progress: show a progress bar on a terminal.
            options: `max_evaluations` (200); `num_draws` (400) for `"laplace"`; `num_chains`
                (2), `num_warmup` (200), `num_samples` (200) and `thin` (1) for `"nuts"`.

        Returns:
            A new posterior. This object is not changed.

        Raises:
            ValueError: on bad data, named with the remedy.
            MemoryError: if exact inference needs more than `memory_limit`.
            LinAlgError: if the covariance is singular even with jitter.
        """
        check_choice("method", method, _METHODS)
        check_options(f"method {method!r}", options, _OPTIONS[method])
        check_integer("seed", seed, 0)
        options["max_evaluations"] = check_integer(
            "max_evaluations", options.get("max_evaluations", 200), 1
        )
        data = GPData.checked(self.kernel, x, y, standardize=self.standardize)
        if self.num_inducing is None:
            check_memory(len(data.y), self.memory_limit)
        self._check_combination(data, method, optimize=optimize)
        if optimize and not bool(data.y.any()):
            raise ValueError(
                "`y` is constant (zero, in the process's units): its evidence has no maximum. "
                "Pass optimize=False to keep the hyper-parameters as they are."
            )
        fitted = self._fit(data, options, optimize=optimize, progress=progress)
        if self.noise == "independent":
            return IndependentNoisePosterior(
                fitted.hyper.kernel, self.scale_prior, self.noise_prior, data,
                method=method if optimize else "fixed", diagnostics=fitted.diagnostics,
            )  # fmt: skip
        if optimize and method != "evidence":
            return self._integrate(data, fitted, method, options, seed=seed, progress=progress)
        return self._posterior(data, fitted, method="evidence" if optimize else "fixed")

    def _check_combination(self, data: GPData, method: str, *, optimize: bool) -> None:
        if self.noise_df is not None and data.y.shape[1] > 1:
            raise ValueError(
                "`noise_df`: Student-t noise takes one output; fit each by itself."
            )
        integrates = optimize and method != "evidence"
        if integrates and (self.noise_df is not None or self.noise == "independent"):
            raise ValueError(
                f"method={method!r} needs joint normal noise; use method='evidence' with "
                f"`noise_df` or noise='independent'."
            )

    def _fit(
        self, data: GPData, options: Mapping[str, Any], *, optimize: bool, progress: bool
    ) -> _Fitted:
        """Hyper-parameters at their mode, or as given."""
        profile = amplitude_of(self.kernel) is not None
        hyper = HyperParameters(self.kernel, self.noise_ratio, amplitude=not profile)
        found, precisions = {}, None
        rounds = _ROBUST_ROUNDS if self.noise_df is not None else 1
        for _ in range(rounds if optimize else 0):
            objective = self._objective(hyper, data, precisions)
            mode = maximize(
                objective, hyper.vector().numpy(), profile=profile, progress=progress,
                max_evaluations=options["max_evaluations"],
            )  # fmt: skip
            hyper.assign(torch.from_numpy(mode.vector))
            if profile:
                hyper.multiply(objective.best_amplitude())
            found = mode.diagnostics
            if self.noise_df is not None:
                precisions, _ = self._robust(hyper, data)
        return _Fitted(hyper, found)

    def _objective(
        self, hyper: HyperParameters, data: GPData, precisions: Tensor | None = None
    ) -> Objective:
        return Objective(
            hyper, data.x, data.y, self.scale_prior, self._inducing(hyper, data), precisions
        )

    def _inducing(self, hyper: HyperParameters, data: GPData) -> Tensor | None:
        if self.num_inducing is None:
            return None
        return choose_inducing(hyper.kernel, data.x, self.num_inducing)

    def _robust(self, hyper: HyperParameters, data: GPData) -> tuple[Tensor, float]:
        assert self.noise_df is not None
        return robust_precisions(
            hyper.kernel, data.x, data.y, hyper.noise_ratio.detach(),
            prior=self.scale_prior, df=self.noise_df,
        )  # fmt: skip

    def _posterior(
        self,
        data: GPData,
        fitted: _Fitted,
        *,
        method: str,
        inducing: Tensor | None = None,
        **more: Any,
    ) -> ScaleMixturePosterior:
        hyper, diagnostics = fitted.hyper, dict(fitted.diagnostics)
        precisions = None
        if self.noise_df is not None:
            precisions, bound = self._robust(hyper, data)
            diagnostics["robust_lower_bound"] = bound
        posterior = ScaleMixturePosterior(
            kernel=hyper.kernel,
            scale_prior=self.scale_prior,
            noise_ratio=float(hyper.noise_ratio.detach()),
            data=data,
            method=method,
            diagnostics=diagnostics,
            inducing=self._inducing(hyper, data) if inducing is None else inducing,
            precisions=precisions,
            noise_df=self.noise_df,
            **more,
        )
        if posterior.vectors is None:
            _ = posterior.log_evidence  # what is wrong with the data shows here
        return posterior

    def _integrate(
        self, data: GPData, fitted: _Fitted, method: str, options: Mapping[str, Any], *,
        seed: int, progress: bool,
    ) -> ScaleMixturePosterior:  # fmt: skip
        """Draws of the hyper-parameters around the mode of their posterior."""
        noise_ratio = float(fitted.hyper.noise_ratio.detach())
        hyper = HyperParameters(fitted.hyper.kernel, noise_ratio)
        objective = self._objective(hyper, data)
        mode = maximize(
            objective, hyper.vector().numpy(), profile=False, progress=progress,
            max_evaluations=options["max_evaluations"],
        )  # fmt: skip
        own = {k: v for k, v in options.items() if k != "max_evaluations"}
        if method == "laplace":
            num_draws = check_integer("num_draws", own.get("num_draws", 400), 20)
            found: HyperDraws = laplace_draws(
                objective, mode, num_draws=num_draws, seed=seed, progress=progress
            )
        else:
            found = nuts_draws(objective, mode, seed=seed, progress=progress, **own)
        hyper.assign(torch.from_numpy(mode.vector))
        diagnostics = {**fitted.diagnostics, **found.diagnostics}
        return self._posterior(
            data, _Fitted(hyper, diagnostics), method=method, inducing=objective.inducing,
            vectors=found.vectors, weights=found.weights, draws=found.draws,
            marginal_log_evidence=found.log_evidence,
        )  # fmt: skip
