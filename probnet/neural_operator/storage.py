"""Problems as JSON-able descriptions, for the files of what was learned about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from probnet.neural_operator.darcy import Darcy2D
from probnet.neural_operator.problem import Problem
from probnet.pde import Dirichlet


def problem_to_dict(problem: Problem) -> dict[str, Any]:
    """What `problem_from_dict` rebuilds the problem from.

    Raises:
        TypeError: if it holds functions, or is of a class of your own: no file has those.
    """
    if type(problem) is not Darcy2D:
        raise TypeError(
            f"a problem of the class {type(problem).__name__} cannot be written to a file; "
            f"Darcy2D can. Keep the draws by `posterior.draws.save(path)` instead."
        )
    value = problem.boundary.value
    if not isinstance(value, int | float):
        raise TypeError(
            "`boundary` is a function, which no file can hold. Keep the draws by "
            "`posterior.draws.save(path)` instead."
        )
    return {
        "kind": "darcy_2d",
        "source": problem.source.tolist(),
        "mesh": list(problem.mesh),
        "boundary": float(value),
        "physics": problem.physics,
    }


def problem_from_dict(config: Mapping[str, Any]) -> Problem:
    """The problem that `problem_to_dict` described.

    Raises:
        ValueError: on another kind of problem.
    """
    if config["kind"] != "darcy_2d":
        raise ValueError(f"no problem of the kind {config['kind']!r} is known here.")
    return Darcy2D(
        config["source"],
        tuple(config["mesh"]),
        Dirichlet(config["boundary"]),
        physics=config["physics"],
    )
