"""Solutions as JSON-able settings and tensors, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from probnet.gp_pde.dense import Conditioned
from probnet.gp_pde.engines import GridSolution
from probnet.gp_pde.prior import AxisPrior
from probnet.gp_pde.rows import Rows
from probnet.gp_pde.system import GridSystem
from probnet.pde import MultiIndex


def pack(core: Conditioned | GridSolution) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What `unpack` needs."""
    if isinstance(core, Conditioned):
        rows = core.rows
        fields: dict[str, Any] = {"kind": "dense", "nugget": core.factor.nugget}
        tensors = {"x": rows.x, "values": rows.values, "noise_var": rows.noise_var}
        coefficients = rows.coefficients
    else:
        system = core.system
        fields = {
            "kind": "grid",
            "nugget": system.nugget,
            "orders": [[list(end) for end in axis] for axis in system.orders],
        }
        tensors = {"u": core.u, "right": system.right}
        tensors |= {f"nodes.{j}": nodes for j, nodes in enumerate(system.nodes)}
        tensors |= {f"faces.{j}": f for j, f in enumerate(system.faces) if f is not None}
        coefficients = system.coefficients
    priors = core.prior if isinstance(core, Conditioned) else core.system.prior
    fields["prior"] = [prior.to_dict() for prior in priors]
    tensors |= {f"a.{_name(order)}": a for order, a in coefficients.items()}
    return fields, tensors


def unpack(
    fields: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Conditioned | GridSolution:
    """The solution that `pack` took apart."""
    prior: list[AxisPrior] = []
    for entry in fields["prior"]:
        new = AxisPrior.from_dict(entry)
        prior.append(next((p for p in prior if p.equals(new)), new))
    coefficients = {
        _order(name[2:]): a for name, a in sorted(tensors.items()) if name.startswith("a.")
    }
    if fields["kind"] == "dense":
        rows = Rows(tensors["x"], coefficients, tensors["values"], tensors["noise_var"])
        return Conditioned(rows, prior, fields["nugget"])
    system = GridSystem(
        tuple(tensors[f"nodes.{j}"] for j in range(len(prior))),
        tuple(prior),
        fields["nugget"],
        tuple((tuple(lower), tuple(upper)) for lower, upper in fields["orders"]),
        coefficients,
        tensors["right"],
        tuple(tensors.get(f"faces.{j}") for j in range(len(prior))),
    )
    return GridSolution(system, tensors["u"])


def _name(order: MultiIndex) -> str:
    return "-".join(map(str, order))


def _order(name: str) -> MultiIndex:
    return tuple(int(part) for part in name.split("-"))
