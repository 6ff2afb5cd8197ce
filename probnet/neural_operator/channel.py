"""Triangles of a channel with a round cylinder across it."""

from __future__ import annotations

from typing import Any

import numpy as np
import skfem
from numpy.typing import NDArray

Array = NDArray[np.float64]

LENGTH, HEIGHT = 2.0, 1.0
CENTRE, RADIUS = (0.5, 0.6), 0.1
_HALF_SIDE = 0.2  # of the square around the cylinder that holds the rings of cells


class CurvedTriangles(skfem.MeshTri2):
    """Triangles whose edges on the cylinder are curved into the domain."""

    def element_finder(self, mapping: Any = None) -> Any:
        """The triangle of each point: a curved one lies in that of its corners."""
        corners = self.doflocs[:, : int(self.t.max()) + 1].copy()
        return skfem.MeshTri(corners, self.t).element_finder()


def channel_mesh(num_cells: int) -> CurvedTriangles:
    """Triangles of [0, 2] x [0, 1] without the cylinder.

    A grid of rectangles, the square around the cylinder cut out and filled with rings; every
    quadrilateral is halved. Edges on the cylinder are parabolas through three of its points.

    Args:
        num_cells: along a side of the square, 0.4 long; even.
    """
    points, quads = _quadrilaterals(num_cells)
    straight: Any = skfem.MeshQuad(points.T.copy(), quads.T.copy()).to_meshtri()
    mesh = CurvedTriangles.from_mesh(straight)
    places: Array = mesh.doflocs
    ends: Array = straight.p[:, straight.facets[:, straight.boundary_facets()]]
    middles = ends[:, :, _on_cylinder(ends)].mean(1)
    # The middle nodes are found by their places, not by the library's numbering.
    nearest = np.argmin(((places[:, :, None] - middles[:, None]) ** 2).sum(0), axis=0)
    away = middles - np.array(CENTRE)[:, None]
    places[:, nearest] = np.array(CENTRE)[:, None] + RADIUS * away / np.hypot(*away)
    return mesh


def _on_cylinder(ends: Array) -> NDArray[np.bool_]:
    """Whether both ends of edges (2, 2, n) are on the cylinder."""
    radii = np.hypot(ends[0] - CENTRE[0], ends[1] - CENTRE[1])
    return np.all(np.abs(radii - RADIUS) < 1e-9, axis=0)


def _quadrilaterals(n: int) -> tuple[Array, NDArray[np.int64]]:
    """Corners (num_points, 2) and quadrilaterals (num, 4), counter-clockwise."""
    low = np.array(CENTRE) - _HALF_SIDE
    high = np.array(CENTRE) + _HALF_SIDE
    x = _joined((0, low[0], high[0], LENGTH), (max(1, round(0.75 * n)), n, round(1.75 * n)))
    y = _joined((0, low[1], high[1], HEIGHT), (n, n, n // 2))
    left, bottom = max(1, round(0.75 * n)), n  # indices of the square's lower left corner
    index = np.arange(len(x) * len(y)).reshape(len(x), len(y))
    corners = (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
    rectangles = np.stack(corners, axis=-1)
    outside = np.ones(rectangles.shape[:2], dtype=bool)
    outside[left : left + n, bottom : bottom + n] = False
    square = index[left : left + n + 1, bottom : bottom + n + 1]
    rim = np.concatenate([square[:-1, 0], square[-1, :-1], square[:0:-1, -1], square[0, :0:-1]])
    points = np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1).reshape(-1, 2)
    layers = max(2, n // 2)
    away = points[rim] - CENTRE
    inner = RADIUS / np.hypot(*away.T)[:, None]
    shares = (np.arange(layers) / layers)[:, None, None]
    rings = CENTRE + (inner + shares * (1 - inner)) * away  # from the cylinder outwards
    numbers = np.arange(layers * 4 * n).reshape(layers, 4 * n) + len(points)
    numbers = np.concatenate([numbers, rim[None]])
    ahead = np.roll(numbers, -1, axis=1)
    ring_quads = np.stack([numbers[:-1], numbers[1:], ahead[1:], ahead[:-1]], axis=-1)
    quads = np.concatenate([rectangles[outside], ring_quads.reshape(-1, 4)])
    used, flat = np.unique(quads, return_inverse=True)
    return np.concatenate([points, rings.reshape(-1, 2)])[used], flat.reshape(-1, 4)


def _joined(ends: tuple[float, ...], counts: tuple[int, ...]) -> Array:
    """Equidistant nodes between successive ends, each end once."""
    parts = [
        np.linspace(a, b, count + 1)[:-1]
        for a, b, count in zip(ends[:-1], ends[1:], counts, strict=True)
    ]
    return np.append(np.concatenate(parts), ends[-1])
