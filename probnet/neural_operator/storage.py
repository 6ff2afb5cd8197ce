"""Problems as JSON-able descriptions, for the files of what was learned about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from probnet.neural_operator.burgers import Burgers
from probnet.neural_operator.darcy import Darcy2D
from probnet.neural_operator.problem import Problem
from probnet.neural_operator.stokes import Stokes
from probnet.pde import Dirichlet


def problem_to_dict(problem: Problem) -> dict[str, Any]:
    """What `problem_from_dict` rebuilds the problem from.

    Raises:
        TypeError: if it holds functions, or is of a class of your own: no file has those.
    """
    for kind, (problem_class, describe, _) in _KINDS.items():
        if type(problem) is problem_class:
            return {"kind": kind, **describe(problem)}
    known = ", ".join(problem_class.__name__ for problem_class, _, _ in _KINDS.values())
    raise TypeError(
        f"a problem of the class {type(problem).__name__} cannot be written to a file; {known} "
        f"can. Keep the draws by `posterior.draws.save(path)` instead."
    )


def problem_from_dict(config: Mapping[str, Any]) -> Problem:
    """The problem that `problem_to_dict` described.

    Raises:
        ValueError: on another kind of problem.
    """
    options = dict(config)
    kind = options.pop("kind")
    if kind not in _KINDS:
        raise ValueError(f"no problem of the kind {kind!r} is known here.")
    return _KINDS[kind][2](options)


def _describe_darcy(problem: Darcy2D) -> dict[str, Any]:
    value = problem.boundary.value
    if not isinstance(value, int | float):
        raise TypeError(
            "`boundary` is a function, which no file can hold. Keep the draws by "
            "`posterior.draws.save(path)` instead."
        )
    return {
        "source": problem.source.tolist(),
        "mesh": list(problem.mesh),
        "boundary": float(value),
        "physics": problem.physics,
    }


def _make_darcy(options: dict[str, Any]) -> Darcy2D:
    boundary = Dirichlet(options["boundary"])
    return Darcy2D(
        options["source"], tuple(options["mesh"]), boundary, physics=options["physics"]
    )


def _describe_burgers(problem: Burgers) -> dict[str, Any]:
    return {"viscosity": problem.viscosity, "mesh": list(problem.mesh)}


def _make_burgers(options: dict[str, Any]) -> Burgers:
    return Burgers(options["viscosity"], tuple(options["mesh"]))


def _describe_stokes(problem: Stokes) -> dict[str, Any]:
    return {"viscosity": problem.viscosity, "num_cells": problem.num_cells}


_Kind = tuple[type[Problem], Callable[[Any], dict[str, Any]], Callable[[Any], Problem]]
_KINDS: dict[str, _Kind] = {
    "darcy_2d": (Darcy2D, _describe_darcy, _make_darcy),
    "burgers": (Burgers, _describe_burgers, _make_burgers),
    "stokes": (Stokes, _describe_stokes, lambda options: Stokes(**options)),
}
