"""The exact Bayes predictive of tasks from a Gaussian process: what no model can beat."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from inference._checks import (
    check_choice,
    check_finite,
    check_integer,
    check_nonnegative,
    check_positive,
)
from inference.rng import Stream, generator
from probnet._checks import Values, as_tensor, check_shape
from probnet.datasets.functions.covariances import CORRELATIONS
from probnet.linalg import jittered_cholesky
from probnet.neural_process.gaussian import (
    Components,
    Context,
    latent_moments,
    log_evidence,
    task_slices,
)
from probnet.neural_process.oracle_hyper import by_particles, on_grid
from probnet.neural_process.oracle_law import Joint, OraclePredictive, Sampler
from probnet.neural_process.oracle_noise import NoiseAtoms, by_gibbs, student_atoms

Known = float | Tensor
Interval = tuple[float, float]

_DEFAULTS: dict[str, Interval] = {
    "lengthscale": (0.1, 0.6),
    "amplitude": (0.1, 1.0),
    "period": (0.1, 0.5),
}
_ATOMS_OF_SAMPLER, _ATOMS_OF_PREDICTION = 96, 32
_CHAINS, _DRAWS_PER_CHAIN = 32, 8
_NO_JOINT = (
    "the joint density under Student-t noise has no closed form; use the pointwise log_prob "
    "(joint=False), or samples."
)


def oracle(
    kernel: Literal["rbf", "matern", "periodic", "t_noise"] = "rbf",
    *,
    lengthscale: Known | Interval | None = None,
    amplitude: Known | Interval | None = None,
    period: Known | Interval | None = None,
    noise_sd: float = 0.02,
    integrate: bool = False,
    num_grid: int = 16,
    num_particles: int = 2048,
    student_df: float = 2.1,
    student_scale: Interval = (0.0, 0.15),
    seed: int = 0,
) -> Oracle:
    r"""The exact predictive of `GPTasks`, hyper-parameters known or integrated out.

    Known: p(y* | x*, D) = N(k*ᵀ(K + σ²I)⁻¹y, k** - k*ᵀ(K + σ²I)⁻¹k* + σ²). Integrated: the
    mixture of these over the posterior of (ℓ, s), on a midpoint grid of the uniform prior with
    weights in proportion to the evidence of the context; of (p, ℓ, s) for the periodic kernel,
    whose posterior is too narrow for a grid, by tempered particles. Under `"t_noise"` the
    noise variances of the points are drawn by Gibbs sampling, with either.

    Args:
        kernel: as for `GPTasks`.
        lengthscale: ℓ, one number or one per task `(B,)`; with `integrate`, its interval, by
            default that of `GPTasks`.
        amplitude: s, a standard deviation, likewise.
        period: p, likewise; only for the periodic kernel.
        noise_sd: σ.
        integrate: whether the hyper-parameters are unknown and uniform on their intervals.
        num_grid: nodes of the grid on each axis.
        num_particles: of the periodic kernel.
        student_df: degrees of freedom of `"t_noise"`.
        student_scale: interval of its scale.
        seed: of particles and of Gibbs sampling.

    Raises:
        ValueError: on parameters that are missing or do not fit.

    Example:
        >>> exact = oracle("rbf", lengthscale=0.5, amplitude=0.8, noise_sd=0.02)
        >>> law = exact.condition([0.0, 1.0], [0.3, -0.2]).predict([0.5, 3.0])
        >>> [round(v, 4) for v in law.stddev.tolist()]
        [0.4753, 0.8002]
    """
    check_choice("kernel", kernel, CORRELATIONS)
    values = {"lengthscale": lengthscale, "amplitude": amplitude}
    if kernel == "periodic":
        values["period"] = period
    elif period is not None:
        raise ValueError(f"`period` is of the periodic kernel only; the kernel is {kernel!r}.")
    intervals: dict[str, Interval] = {}
    known: dict[str, Tensor] = {}
    for name, value in values.items():
        if integrate:
            intervals[name] = _interval(name, value)
        else:
            known[name] = _known(name, value)
    atoms = None
    if kernel == "t_noise":
        check_positive("student_df", student_df)
        options = (check_nonnegative("noise_sd", noise_sd), student_df, student_scale)
        atoms = (
            student_atoms(*options, _ATOMS_OF_SAMPLER),
            student_atoms(*options, _ATOMS_OF_PREDICTION),
        )
    return Oracle(
        kernel,
        known,
        intervals,
        check_nonnegative("noise_sd", noise_sd),
        num_grid=check_integer("num_grid", num_grid, 1),
        num_particles=check_integer("num_particles", num_particles, 2),
        atoms=atoms,
        seed=check_integer("seed", seed, 0),
    )


class Oracle:
    """What `oracle` returns: give it contexts by `condition`."""

    def __init__(
        self,
        kernel: str,
        known: dict[str, Tensor],
        intervals: dict[str, Interval],
        noise_sd: float,
        *,
        num_grid: int,
        num_particles: int,
        atoms: tuple[NoiseAtoms, NoiseAtoms] | None,
        seed: int,
    ) -> None:
        self.kernel, self.noise_sd, self.seed = kernel, noise_sd, seed
        self._known, self._intervals = known, intervals
        self._num_grid, self._num_particles = num_grid, num_particles
        self._atoms = atoms

    def condition(
        self, xc: Values, yc: Values, *, mask: Tensor | None = None
    ) -> ConditionedOracle:
        """Condition on the contexts of one task or of many.

        Args:
            xc: `(n,)`, `(n, d)` or, for B tasks, `(B, n, d)`; finite.
            yc: `(n,)`, `(n, 1)` or `(B, n, 1)`, in this order for these.
            mask: which entries are points, `(n,)` or `(B, n)`; all if omitted.

        Raises:
            ValueError: on shapes that do not fit, or values that are not finite.
        """
        x, y = check_finite("xc", as_tensor("xc", xc)), check_finite("yc", as_tensor("yc", yc))
        single = x.ndim < 3
        has_output_axis = y.ndim > 1
        x = x[:, None] if x.ndim == 1 else x
        x = x[None] if x.ndim == 2 else x
        expected = x.shape[1:2] if single else x.shape[:2]
        expected = (*expected, 1) if has_output_axis or not single else tuple(expected)
        check_shape("yc", y.shape, expected, "one output per row of `xc`")
        y = y.reshape(x.shape[:2])
        if mask is None:
            mask = torch.ones_like(y, dtype=torch.bool)
        mask = mask.reshape(y.shape)
        context = Context(x, torch.where(mask, y, 0.0), mask)
        return ConditionedOracle(
            self, context, self._components(context), single=single, outputs=has_output_axis
        )

    def law_of_noise(self, device: torch.device) -> NoiseAtoms:
        """Of a new observation: one atom, or those of Student-t noise."""
        if self._atoms is not None:
            return NoiseAtoms(*(values.to(device) for values in self._atoms[1]))
        variance = torch.tensor([self.noise_sd**2], dtype=torch.float64, device=device)
        return NoiseAtoms(variance, torch.zeros_like(variance))

    def _components(self, context: Context) -> Components:
        rng = generator(self.seed, Stream.PREDICTIVE, device=context.x.device)
        known = None if self._intervals else self._known_components(context)
        if self._atoms is not None:
            atoms = NoiseAtoms(*(values.to(context.x.device) for values in self._atoms[0]))
            return by_gibbs(
                self.kernel,
                context,
                known,
                self._intervals,
                atoms,
                num_chains=_CHAINS,
                num_kept=_DRAWS_PER_CHAIN,
                generator=rng,
            )
        if known is not None:
            return known
        noise_var = self.noise_sd**2
        if self.kernel == "periodic":
            return by_particles(
                self.kernel,
                context,
                self._intervals,
                noise_var,
                num_particles=self._num_particles,
                generator=rng,
            )[0]
        return on_grid(self.kernel, context, self._intervals, noise_var, self._num_grid)

    def _known_components(self, context: Context) -> Components:
        tasks = len(context.x)
        values: dict[str, Tensor] = {}
        for name, value in self._known.items():
            if value.ndim and value.shape != (tasks,):
                check_shape(name, value.shape, (tasks,), "one number per task")
            values[name] = value.to(context.x.device).expand(1, tasks)
        zeros = torch.zeros((1, tasks), dtype=torch.float64, device=context.x.device)
        noise = torch.full_like(zeros, self.noise_sd**2)[..., None]
        return Components(
            values["lengthscale"], values["amplitude"], values.get("period"), noise, zeros
        )


class ConditionedOracle:
    """Exact posteriors of the functions of some tasks.

    Attributes:
        components: hyper-parameters and their posterior probabilities.
    """

    def __init__(
        self,
        model: Oracle,
        context: Context,
        components: Components,
        *,
        single: bool,
        outputs: bool,
    ) -> None:
        self._model, self._context = model, context
        self.components = components
        self._single, self._outputs = single, outputs

    @property
    def log_evidence(self) -> Tensor:
        """Log p(y_c) under each component, `(G, B)`."""
        return log_evidence(self._model.kernel, self.components, self._context)

    def predict(
        self, xt: Values, *, mask: Tensor | None = None, observation: bool = True
    ) -> OraclePredictive:
        """The law at target inputs, with axes as those of `yc` had.

        Args:
            xt: `(m,)`, `(m, d)` or `(B, m, d)`, as `xc` was; finite.
            mask: which entries are points; the others add nothing to a joint density.
            observation: of a new observation, noise included; `False`: of the function.
        """
        x = check_finite("xt", as_tensor("xt", xt))
        x = x[:, None] if x.ndim == 1 else x
        x = x[None] if x.ndim == 2 else x
        tasks, _, features = self._context.x.shape
        check_shape("xt", x.shape, (tasks, x.shape[1], features), "to agree with `xc`")
        if mask is None:
            mask = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        mask = mask.reshape(x.shape[:2])
        noise = self._model.law_of_noise(x.device)
        if not observation:
            noise = NoiseAtoms(
                torch.zeros_like(noise.variances[:1]), torch.zeros_like(noise.log_weights[:1])
            )
        means, variances = self._component_moments(x)
        components, size = self.components, (len(means), len(noise.variances))
        means, variances = (v[:, None].expand(*size, *v.shape[1:]) for v in (means, variances))
        variances = variances + noise.variances[:, None, None]
        log_weights = components.log_weights[:, None] + noise.log_weights[:, None]
        shape = x.shape[:2] if not self._single else x.shape[1:2]
        return OraclePredictive(
            means.flatten(0, 1),
            variances.flatten(0, 1),
            log_weights.flatten(0, 1),
            mask,
            joint=_NO_JOINT if size[1] > 1 else self._joint(x, mask, float(noise.variances[0])),
            sampler=self._sampler(x, noise),
            shape=torch.Size((*shape, 1) if self._outputs else shape),
            single=self._single,
        )

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean `(B, m)` and covariance `(B, m, m)` of the functions at points `(B, m, d)`."""
        n, m = self._context.x.shape[1], x.shape[1]
        size = len(self.components.log_weights) * (n + m) ** 2
        parts: list[tuple[Tensor, Tensor]] = []
        for rows in task_slices(len(x), size):
            components = self.components.rows(rows)
            means, covariances = latent_moments(
                self._model.kernel, components, self._context.rows(rows), x[rows], full=True
            )
            weights = components.log_weights.exp()[..., None]
            mean = (weights * means).sum(0)
            spread = means - mean
            between = torch.einsum("gb,gbi,gbj->bij", weights[..., 0], spread, spread)
            within = (weights[..., None] * covariances).sum(0)
            parts.append((mean, within + between))
        means, covariances = zip(*parts, strict=True)
        return torch.cat(means), torch.cat(covariances)

    def _component_moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Means and variances of f under each component, `(G, B, m)`, some tasks at a time."""
        n, m = self._context.x.shape[1], x.shape[1]
        size = len(self.components.log_weights) * n * (n + m)
        parts = [
            latent_moments(
                self._model.kernel,
                self.components.rows(rows),
                self._context.rows(rows),
                x[rows],
                full=False,
            )
            for rows in task_slices(len(x), size)
        ]
        means, variances = zip(*parts, strict=True)
        return torch.cat(means, 1), torch.cat(variances, 1)

    def _joint(self, x: Tensor, mask: Tensor, noise_var: float) -> Joint:
        def density(values: Tensor) -> Tensor:
            n, m = self._context.x.shape[1], x.shape[1]
            size = len(self.components.log_weights) * (n + m) ** 2
            return torch.cat(
                [
                    self._joint_rows(rows, x[rows], mask[rows], noise_var, values[rows])
                    for rows in task_slices(len(x), size)
                ]
            )

        return density

    def _joint_rows(
        self, rows: slice, x: Tensor, mask: Tensor, noise_var: float, values: Tensor
    ) -> Tensor:
        components = self.components.rows(rows)
        mean, cov = latent_moments(
            self._model.kernel, components, self._context.rows(rows), x, full=True
        )
        cov = cov * (mask[:, :, None] & mask[:, None, :])
        cov.diagonal(dim1=-2, dim2=-1).add_(torch.where(mask, noise_var, 1.0))
        factor = jittered_cholesky(cov)
        gap = ((values - mean) * mask)[..., None]
        white = torch.linalg.solve_triangular(factor, gap, upper=False)[..., 0]
        logs = -0.5 * (white**2).sum(-1) - factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        logs = logs - 0.5 * math.log(2 * math.pi) * mask.sum(-1)
        return (logs + components.log_weights).logsumexp(0)

    def _sampler(self, x: Tensor, noise: NoiseAtoms) -> Sampler:
        def draw(count: int) -> Tensor:
            components = self.components
            if len(components.log_weights) > 1:
                weights = components.log_weights.exp().mT
                picked = torch.multinomial(weights, count, replacement=True).mT
                components = components.picked(picked)
            mean, cov = latent_moments(
                self._model.kernel, components, self._context, x, full=True
            )
            size = components.amplitude[..., None] ** 2
            cov.diagonal(dim1=-2, dim2=-1).add_(1e-10 * size)
            white = torch.randn((count, *x.shape[:2], 1), dtype=x.dtype, device=x.device)
            function = mean + (jittered_cholesky(cov) @ white)[..., 0]
            atom = torch.multinomial(
                noise.log_weights.exp(), function.numel(), replacement=True
            )
            sd = noise.variances[atom].reshape(function.shape).sqrt()
            return function + sd * torch.randn_like(function)

        return draw


def _known(name: str, value: Known | Interval | None) -> Tensor:
    if value is None or isinstance(value, Sequence):
        raise ValueError(
            f"`{name}` must be a number, or one per task; got {value!r}. Give it, or say "
            f"`integrate=True` to integrate it over its interval."
        )
    tensor = as_tensor(name, value)
    if not bool((tensor > 0).all()) or tensor.ndim > 1:
        raise ValueError(f"`{name}` must be > 0, of shape () or (B,); got {value!r}.")
    return tensor


def _interval(name: str, value: Known | Interval | None) -> Interval:
    if value is None:
        return _DEFAULTS[name]
    if not isinstance(value, Sequence) or len(value) != 2 or not 0 < value[0] < value[1]:
        raise ValueError(
            f"`{name}` must be an interval (low, high) above 0 with `integrate=True`; got "
            f"{value!r}. A number is given with `integrate=False`."
        )
    return float(value[0]), float(value[1])
