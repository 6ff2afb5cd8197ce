"""Partial differential equations on boxes: operators, sources, boundary and interior data.

An equation is Σ_α a_α(x) ∂^α u + N(u) = f, of order at most two, on a box of one to three
dimensions; a time axis is an axis like any other. Functions of the user are called with one
array per axis, all of one shape, as torch tensors or, where that fails, as NumPy arrays. The
solvers never see the solution.
"""

from probnet.pde.conditions import (
    Condition,
    Dirichlet,
    Inflow,
    Initial,
    Neumann,
    Observations,
    Periodic,
)
from probnet.pde.manufactured import apply_operator, manufactured
from probnet.pde.problem import PDE, Coefficient, MultiIndex
from probnet.pde.unknown import Unknown

__all__ = [
    "PDE",
    "Coefficient",
    "Condition",
    "Dirichlet",
    "Inflow",
    "Initial",
    "MultiIndex",
    "Neumann",
    "Observations",
    "Periodic",
    "Unknown",
    "apply_operator",
    "manufactured",
]
