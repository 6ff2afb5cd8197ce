"""Burgers' equation on an interval: linear elements, implicit midpoint rule, Cole–Hopf."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import solve_banded
from torch import Tensor

from inference import InferenceWarning
from inference._checks import check_finite, check_integer, check_positive
from probnet._checks import Values, as_tensor, check_shape
from probnet.neural_operator.cole_hopf import (
    cole_hopf,
    sine_amplitudes,
    sines,
    wavenumbers,
)
from probnet.neural_operator.problem import Problem

_TOLERANCE = 1e-12  # of Newton's last step, relative to the largest value
_MAX_ITERATIONS = 12


class Burgers(Problem):
    r"""u_t + u u_x = ν u_xx on [-1, 1] x [0, 1], u(±1, t) = 0; the input is u(x, 0).

    u is linear in x in each cell and in t in each step (time is the second coordinate). With
    the values uⁿ at the inner nodes after n steps, ū = (uⁿ + uⁿ⁺¹)/2 and Δt the step, the
    implicit midpoint rule asks that

        rⁿ = M (uⁿ⁺¹ - uⁿ)/Δt + N(ū) + νK ū = 0,

    M, K and N(u)_i = ∫ u u_x φ_i integrated exactly: of second order in both meshes, and
    energy decays as it does in the equation. `loss` is ½ Σ_n Δt rⁿᵀ(νK)⁻¹rⁿ, the squared norm
    of the residual in L²(0, 1; H⁻¹). Without N, and if e = u - u_h has the value 0 at t = 0,

        Σ_n Δt rⁿᵀ(νK)⁻¹rⁿ = Σ_n Δt (‖ē‖²_νK + ‖MΔeⁿ/Δt‖²_(νK)⁻¹) + eᵀMe(t = 1),

    so that it is a squared norm of the error, whatever the mesh.

    An input on a grid of nodes is continued between them by the sine series that interpolates
    it. Its solution of the heat equation u_t = νu_xx is what `ansatz` adds to the network:
    initial values are exact at the mesh's nodes, and the network learns what convection does.

    Args:
        viscosity: ν > 0.
        mesh: (nx, nt), cells of [-1, 1] and steps of [0, 1], nx >= 2 and nt >= 1.

    Raises:
        ValueError: on an argument out of range.

    Example:
        >>> pde = Burgers(mesh=(64, 32))
        >>> x = torch.linspace(-1, 1, 128, dtype=torch.float64)
        >>> pde.solve(pde.coefficients(-torch.sin(torch.pi * x))).shape
        torch.Size([65, 33])
    """

    num_dims = 2
    lower, upper = (-1.0, 0.0), (1.0, 1.0)
    variational = False

    def __init__(
        self, viscosity: float = 0.1 / math.pi, mesh: tuple[int, int] = (128, 64)
    ) -> None:
        self.viscosity = check_positive("viscosity", viscosity)
        self.mesh = (check_integer("mesh[0]", mesh[0], 2), check_integer("mesh[1]", mesh[1], 1))
        self.solution_shape = (self.mesh[0] + 1, self.mesh[1] + 1)
        self.num_given_values = self.mesh[0] + 1

    @property
    def nodes(self) -> Tensor:
        """Nodes (x, t) of the space-time mesh, ((nx + 1)(nt + 1), 2), t running fastest."""
        return torch.cartesian_prod(
            torch.linspace(-1, 1, self.mesh[0] + 1, dtype=torch.float64),
            torch.linspace(0, 1, self.mesh[1] + 1, dtype=torch.float64),
        )

    def halved(self) -> Burgers:
        """The same problem with cells and steps twice as long.

        Raises:
            ValueError: if the number of cells or of steps is odd.
        """
        if self.mesh[0] % 2 or self.mesh[1] % 2:
            raise ValueError(f"`mesh` must have even numbers; got {self.mesh}.")
        return Burgers(self.viscosity, (self.mesh[0] // 2, self.mesh[1] // 2))

    def coefficients(self, inputs: Tensor) -> Tensor:
        """Initial values at the mesh's nodes, `(*batch, nx + 1)`, in the dtype of `inputs`.

        Args:
            inputs: u(x, 0) at equidistant nodes of [-1, 1], both ends included, shape
                `(*batch, g)`, zero at the ends.

        Raises:
            ValueError: if an input is not zero at the ends, to 1e-4 of its largest value.
        """
        return self.given_values(self._checked_inputs(inputs))

    def given_values(self, inputs: Tensor) -> Tensor:
        """`coefficients` without a check; see `Problem.given_values`."""
        x = torch.linspace(-1, 1, self.mesh[0] + 1, dtype=torch.float64)
        resampling = sine_amplitudes(inputs.shape[-1] - 1) @ sines(x, inputs.shape[-1] - 2)
        return inputs[..., 1:-1] @ resampling.to(inputs)

    def solve(self, coefficients: Values) -> Tensor:
        """Nodal values `(*batch, nx + 1, nt + 1)` by Newton's method, without gradient.

        Each iteration is one banded solve for all inputs.

        Args:
            coefficients: initial values, shape `(*batch, nx + 1)`.
        """
        start = self._checked("coefficients", coefficients).detach().cpu()
        flat = start.reshape(-1, self.mesh[0] + 1).numpy()
        u = np.zeros((self.mesh[1] + 1, *flat.shape))
        u[0] = flat
        settled = [self._advance(u[n], u[n + 1]) for n in range(self.mesh[1])]
        if not all(settled):
            warnings.warn(
                f"Newton's method did not settle in {settled.count(False)} of {self.mesh[1]} "
                f"steps of Burgers' equation; use more steps (`mesh`).",
                InferenceWarning,
                stacklevel=2,
            )
        values = torch.from_numpy(np.ascontiguousarray(u.transpose(1, 2, 0)))
        return values.reshape(*start.shape[:-1], *self.solution_shape)

    def loss(self, values: Tensor, coefficients: Tensor) -> Tensor:
        """½ Σ_n Δt rⁿᵀ(νK)⁻¹rⁿ, shape (B,); see `Problem.loss`.

        The initial values are those of `values`, which `ansatz` took from `coefficients`.
        """
        del coefficients
        u = values.reshape(-1, *self.solution_shape)
        return self.dual_norm_squared(self.residual(u)) / 2

    def residual(self, values: Tensor) -> Tensor:
        """Rⁿ at the inner nodes, `(*batch, nx - 1, nt)`, of `(*batch, nx + 1, nt + 1)`."""
        h = 2 / self.mesh[0]
        rate = values.diff(dim=-1) * self.mesh[1]
        middle = (values[..., :-1] + values[..., 1:]) / 2
        left, right = middle[..., :-1, :], middle[..., 1:, :]
        flux = self._flux(left, right)  # its mean over each cell
        mass = h / 6 * (rate[..., :-2, :] + 4 * rate[..., 1:-1, :] + rate[..., 2:, :])
        return mass + flux.diff(dim=-2)

    def dual_norm_squared(self, residual: Tensor) -> Tensor:
        """Σ_n Δt rⁿᵀ(νK)⁻¹rⁿ of residuals `(*batch, nx - 1, nt)`, shape `(*batch,)`.

        K = DᵀD/h with D the differences of neighbours, so that (νK)⁻¹ takes running sums:
        what is left of them after their mean is subtracted is the flux that r asks for.
        """
        sums = torch.nn.functional.pad(residual.cumsum(-2), (0, 0, 1, 0))
        spread = (sums - sums.mean(-2, keepdim=True)).square().sum((-2, -1))
        return spread * (2 / (self.mesh[0] * self.mesh[1] * self.viscosity))

    def mollifier(self, points: Tensor) -> Tensor:
        """(1 - x²) t."""
        return points[..., 1] * (1 - points[..., 0].square())

    def lifting(self, points: Tensor) -> Tensor:
        """Zero; the initial values enter in `ansatz`."""
        return torch.zeros_like(points[..., 0])

    def ansatz(self, points: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        """The map from U to (1 - x²)t U + g with g_t = νg_xx, g(x, 0) = u(x, 0)."""
        m = self.mollifier(points)
        x, t = points.double().unbind(-1)
        count = self.mesh[0] - 1
        decay = torch.exp(-self.viscosity * wavenumbers(count).to(x).square()[:, None] * t)
        modes = decay * sines(x, count)
        flow = sine_amplitudes(self.mesh[0]).to(x) @ modes

        def candidate(network: Tensor, coefficients: Tensor) -> Tensor:
            start = coefficients[..., 1:-1].to(network)
            return m.to(network) * network + start @ flow.to(network)

        return candidate

    def observation_operator(self, points: Tensor) -> Callable[[Tensor], Tensor]:
        """Bilinear interpolation at points (n, 2); see `Problem.observation_operator`."""
        matrix = self.check_points("points", points)
        cells = torch.tensor(self.mesh)
        scaled = (
            (matrix - matrix.new_tensor(self.lower)) * cells / matrix.new_tensor([2.0, 1.0])
        )
        cell = torch.minimum(scaled.long(), cells - 1)
        (i, j), (p, q) = cell.T, (scaled - cell).T

        def observe(values: Tensor) -> Tensor:
            check_shape("values", values.shape[-2:], self.solution_shape, "one per node")
            s, t = p.to(values), q.to(values)
            low = (1 - t) * values[..., i, j] + t * values[..., i, j + 1]
            high = (1 - t) * values[..., i + 1, j] + t * values[..., i + 1, j + 1]
            return (1 - s) * low + s * high

        return observe

    def reference(self, inputs: Values, points: Tensor | None = None) -> Tensor:
        r"""The exact solution by the Cole–Hopf transform, independent of any mesh.

        u = -2ν θ_x/θ with θ_t = ν θ_xx, θ(x, 0) = exp(-∫u(s, 0)ds/(2ν)), which has zero slope
        at both ends; θ is summed as a cosine series whose coefficients are exact to rounding.

        Args:
            inputs: u(x, 0) as `coefficients` takes it, shape `(*batch, g)`.
            points: (x, t), shape (n, 2); `None`: the mesh's nodes.

        Returns:
            Shape `(*batch, n)`, or `(*batch, nx + 1, nt + 1)` at the nodes; float64.

        Raises:
            ValueError: if θ spans more than ten decades: u(x, 0) is too large for ν.
        """
        start = self._checked_inputs(as_tensor("inputs", inputs)).detach().cpu()
        where = self.nodes if points is None else self.check_points("points", points)
        values = cole_hopf(start, where, self.viscosity)
        return values.unflatten(-1, self.solution_shape) if points is None else values

    def _flux(self, left: Any, right: Any) -> Any:
        """Means over cells of u²/2 - νu_x, from values at the cells' ends."""
        slope = (right - left) * (self.mesh[0] / 2)
        return (left * left + left * right + right * right) / 6 - self.viscosity * slope

    def _advance(self, before: NDArray[np.float64], after: NDArray[np.float64]) -> bool:
        """Fill `after` with the values one step after `before`, both (B, nx + 1)."""
        h, per_step = 2 / self.mesh[0], self.mesh[1]
        nu = self.viscosity
        scale = max(1e-300, float(np.abs(before).max()))
        after[:] = before
        for _ in range(_MAX_ITERATIONS):
            rate = (after - before) * per_step
            middle = (after + before) / 2
            left, right = middle[:, :-1], middle[:, 1:]
            mass = h / 6 * (rate[:, :-2] + 4 * rate[:, 1:-1] + rate[:, 2:])
            residual = mass + np.diff(self._flux(left, right), axis=-1)
            # Half the derivatives of the fluxes by the values at their cell's two ends.
            by_left = (2 * left + right) / 12 + nu / (2 * h)
            by_right = (left + 2 * right) / 12 - nu / (2 * h)
            bands = np.zeros((3, *residual.shape))
            bands[0, :, 1:] = h / 6 * per_step + by_right[:, 1:-1]
            bands[1] = 4 * h / 6 * per_step + by_left[:, 1:] - by_right[:, :-1]
            bands[2, :, :-1] = h / 6 * per_step - by_left[:, 1:-1]
            step = solve_banded((1, 1), bands.reshape(3, -1), residual.reshape(-1))
            after[:, 1:-1] -= step.reshape(residual.shape)
            if np.abs(step).max() <= _TOLERANCE * scale:
                return True
        return False

    @staticmethod
    def _checked_inputs(inputs: Tensor) -> Tensor:
        if inputs.ndim < 1 or inputs.shape[-1] < 3:
            raise ValueError(
                f"`inputs` must have shape (*batch, g), values at g >= 3 nodes of [-1, 1]; got "
                f"{tuple(inputs.shape)}."
            )
        _check_ends("inputs", inputs)
        return check_finite("inputs", inputs)

    def _checked(self, name: str, values: Values) -> Tensor:
        start = check_finite(name, as_tensor(name, values))
        if start.ndim < 1 or start.shape[-1] != self.mesh[0] + 1:
            raise ValueError(
                f"`{name}` must have shape (*batch, {self.mesh[0] + 1}), initial values at the "
                f"mesh's nodes; got {tuple(start.shape)}. `coefficients` makes them of inputs."
            )
        _check_ends(name, start)
        return start


def _check_ends(name: str, values: Tensor) -> None:
    """Raise unless values on [-1, 1] are zero at both ends, to 1e-4 of the largest."""
    ends = values[..., [0, -1]].abs().amax(-1)
    if bool((ends > 1e-4 * values.abs().amax(-1)).any()):
        raise ValueError(
            f"`{name}` must be zero at x = -1 and x = 1, as the solution is; the largest value "
            f"there is {float(ends.max()):.4g}."
        )
