"""Predators and prey: simulated populations to train on, the lynx and the hare to test on."""

from __future__ import annotations

from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from inference._checks import check_integer
from inference.rng import Stream, generator
from probnet.datasets.functions.sizes import Range, TaskSizes
from probnet.datasets.functions.tasks import SPLITS, TaskBatch, TaskStream, deal

_SHARES = {"train": 0.8, "valid": 0.1, "test": 0.1}
_AT_ONCE = 512  # simulated populations
_BLOCK = 500  # events whose random numbers are drawn together
_TINY = 1e-5  # added to standard deviations

_LYNX = (4.0, 6.1, 9.8, 35.2, 59.4, 41.7, 19.0, 13.0, 8.3, 9.1, 7.4, 8.0, 12.3, 19.5, 45.7,
         51.1, 29.7, 15.8, 9.7, 10.1, 8.6)  # fmt: skip
_HARE = (30.0, 47.2, 70.2, 77.4, 36.3, 20.6, 18.1, 21.4, 22.0, 25.4, 27.1, 40.3, 57.0, 76.6,
         52.3, 19.5, 11.2, 7.6, 14.6, 16.2, 24.7)  # fmt: skip


class Trajectories(NamedTuple):
    """Simulated populations, at times of events.

    Attributes:
        time: `(num, num_events)`, ascending.
        populations: predators and prey after each event, `(num, num_events, 2)`.
        length: events before the end or the extinction of a kind, `(num,)`.
    """

    time: Tensor
    populations: Tensor
    length: Tensor


def simulate_predator_prey(
    num: int,
    generator: Generator,
    *,
    num_events: int = 20_000,
    birth: float = 0.01,
    death: float = 0.5,
    prey_birth: float = 1.0,
    predation: float = 0.01,
) -> Trajectories:
    """Exact stochastic simulation of Lotka-Volterra dynamics, all populations at once.

    X predators and Y prey start at 50 + N(0, 1) and 100 + N(0, 1), whole parts. Rates are
    `birth` XY of X + 1, `death` X of X - 1, `prey_birth` Y of Y + 1, `predation` XY of Y - 1;
    the time to the next event is exponential with the sum of them. A simulation ends when a
    kind is extinct.

    Source: Gillespie (Journal of Physical Chemistry 1977).

    Args:
        num: number of simulations.
        generator: the only source of randomness; advanced in place.
        num_events: largest number of events of each.
        birth: of predators, per pair.
        death: of predators, each.
        prey_birth: of prey, each.
        predation: of prey, per pair.
    """
    options: dict[str, Any] = {"generator": generator, "device": generator.device}
    start = torch.tensor([50.0, 100.0], device=generator.device)
    state = (start + torch.randn((num, 2), **options)).floor().clamp_min(1)
    changes = torch.tensor(
        [[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], device=generator.device
    )
    rates = torch.tensor([birth, death, prey_birth, predation], device=generator.device)
    time = torch.zeros(num, dtype=torch.float64, device=generator.device)
    times = torch.empty((num_events, num), dtype=torch.float64, device=generator.device)
    states = torch.empty((num_events, num, 2), device=generator.device)
    length = torch.zeros(num, dtype=torch.long, device=generator.device)
    uniform = waits = torch.empty(0)
    for event in range(num_events):
        if event % _BLOCK == 0:
            uniform = torch.rand((_BLOCK, 2, num), **options)
            waits = -torch.log1p(-uniform[:, 0])
        x, y = state.unbind(1)
        pairs = x * y
        edges = (torch.stack([pairs, x, y, pairs], 1) * rates).cumsum(1)
        total = edges[:, 3]
        alive = (x > 0) & (y > 0)
        time = time + torch.where(alive, waits[event % _BLOCK] / total.clamp_min(_TINY), 0.0)
        place = uniform[event % _BLOCK, 1] * total
        kind = (place[:, None] >= edges).sum(1).clamp_max(3)
        state = state + changes[kind] * alive[:, None]
        length += alive
        times[event], states[event] = time, state
        if event % _BLOCK == _BLOCK - 1 and not bool(alive.any()):
            times[event:], states[event:] = time, state
            break
    return Trajectories(times.T, states.transpose(0, 1), length)


class PredatorPreyTasks(TaskStream):
    """Populations of predators and prey at random times of events; y is (predators, prey).

    Inputs and outputs of a task are standardised by the mean and the standard deviation of its
    context. The populations are simulated once, when first needed.

    Source: Gordon et al. (ICLR 2020) for the tasks.

    Args:
        num_simulations: populations, divided into training, validation and test ones.
        num_context: smallest and largest n.
        num_target: smallest and largest m; `None`: up to `max_points` - 1 - n.
        max_points: bound of n + m.
        num_events: largest number of events of a simulation.
        num_kept: times kept of each simulation, drawn at random from its events.
        seed: of the simulations, of `split` and of `generator`.

    Raises:
        ValueError: if the sizes do not fit.
    """

    x_dim = 1
    y_dim = 2
    x_range = None

    def __init__(
        self,
        *,
        num_simulations: int = 1000,
        num_context: Range = (15, 84),
        num_target: Range = (15, None),
        max_points: int = 100,
        num_events: int = 20_000,
        num_kept: int = 500,
        seed: int = 0,
    ) -> None:
        self.num_simulations = check_integer("num_simulations", num_simulations, 10)
        self.num_events = check_integer("num_events", num_events, 2 * max_points)
        self.num_kept = check_integer("num_kept", num_kept, max_points)
        self.max_points = max_points
        self.sizes = TaskSizes(num_context, num_target, max_points)
        self.seed = check_integer("seed", seed, 0)

    def batch(self, batch_size: int, generator: Generator) -> TaskBatch:
        """Tasks from training populations; see `TaskStream.batch`."""
        return self._split_batch("train", batch_size, generator)

    @cached_property
    def populations(self) -> tuple[Tensor, Tensor]:
        """Times `(num, num_kept, 1)` and populations `(num, num_kept, 2)`, in random order.

        Simulations that end before `num_kept` events are left out.
        """
        rng = generator(self.seed, Stream.INIT)
        times: list[Tensor] = []
        values: list[Tensor] = []
        for start in range(0, self.num_simulations, _AT_ONCE):
            num = min(_AT_ONCE, self.num_simulations - start)
            path = simulate_predator_prey(num, rng, num_events=self.num_events)
            long = path.length >= self.num_kept
            keys = torch.rand((int(long.sum()), self.num_events), generator=rng)
            keys[torch.arange(self.num_events) >= path.length[long, None]] = torch.inf
            order = keys.argsort(1)[:, : self.num_kept]
            times.append(path.time[long].gather(1, order)[..., None].float())
            wide = order[..., None].expand(*order.shape, 2)
            values.append(path.populations[long].gather(1, wide))
        return torch.cat(times), torch.cat(values)

    def _split_batch(self, name: str, batch_size: int, rng: Generator) -> TaskBatch:
        times, values = (part.to(rng.device) for part in self.populations)
        cut = [round(len(times) * share) for share in _SHARES.values()][:-1]
        cuts = (cut[0], cut[0] + cut[1])
        parts = torch.arange(len(times), device=rng.device).tensor_split(cuts)
        rows = parts[SPLITS.index(name)]
        picked = rows[torch.randint(len(rows), (batch_size,), generator=rng, device=rng.device)]
        n, m = self.sizes.draw(batch_size, rng)
        shape = (batch_size, times.shape[1])
        order = torch.rand(shape, generator=rng, device=rng.device).argsort(1)[
            :, : self.max_points
        ]
        x = times[picked[:, None], order]
        y = values[picked[:, None], order]
        return standardised(deal(x, y, n, m, self.sizes.padded(n, m)))


def standardised(batch: TaskBatch) -> TaskBatch:
    """Inputs and outputs in units of each task's context: mean 0, standard deviation 1."""
    mask = batch.mask_c[..., None]
    count = mask.sum(1, keepdim=True)

    def scaled(context: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        mean = (context * mask).sum(1, keepdim=True) / count
        sd = (((context - mean) ** 2 * mask).sum(1, keepdim=True) / count).sqrt() + _TINY
        return (context - mean) / sd * mask, (target - mean) / sd * batch.mask_t[..., None]

    (xc, xt), (yc, yt) = scaled(batch.xc, batch.xt), scaled(batch.yc, batch.yt)
    return TaskBatch(xc, yc, xt, yt, batch.mask_c, batch.mask_t)


def load_hare_lynx() -> tuple[Tensor, Tensor]:
    """Pelts of lynx and hare bought by the Hudson's Bay Company, 1900 to 1920.

    Source: Howard (2009) after Odum (1953) and MacLulich (1937).

    Returns:
        Years `(21, 1)` and thousands of (lynx, hare) `(21, 2)`, float64: predators first, as in
        `PredatorPreyTasks`.
    """
    years = torch.arange(1900, 1921, dtype=torch.float64)[:, None]
    return years, torch.tensor([_LYNX, _HARE], dtype=torch.float64).T.contiguous()


class HareLynxTasks(TaskStream):
    """Random divisions of one real series into context and targets; nothing to train on.

    Outputs and inputs are standardised as in `PredatorPreyTasks`.

    Args:
        series: times `(n, 1)` and populations `(n, 2)`, predators first, such as a longer
            series; by default `load_hare_lynx()`.
        num_context: smallest and largest n; all other years are targets.
        seed: of `split` and `generator`.

    Raises:
        ValueError: if there are fewer years than context points and one target.
    """

    x_dim = 1
    y_dim = 2
    x_range = None

    def __init__(
        self,
        series: tuple[Tensor, Tensor] | None = None,
        *,
        num_context: tuple[int, int] = (7, 17),
        seed: int = 0,
    ) -> None:
        self.time, self.populations = load_hare_lynx() if series is None else series
        self.max_points = len(self.time)
        self.sizes = TaskSizes(num_context, (1, None), self.max_points + 1)
        if num_context[1] >= self.max_points:
            raise ValueError(
                f"`num_context` must leave one of {self.max_points} years to predict; got "
                f"{num_context}."
            )
        self.seed = check_integer("seed", seed, 0)

    def batch(self, batch_size: int, generator: Generator) -> TaskBatch:
        """Random divisions; see `TaskStream.batch`."""
        n, _ = self.sizes.draw(batch_size, generator)
        device = generator.device
        shape = (batch_size, self.max_points)
        order = torch.rand(shape, generator=generator, device=device).argsort(1)
        x, y = self.time.to(device)[order], self.populations.to(device)[order]
        m = self.max_points - n
        batch = deal(x, y, n, m, self.sizes.padded(n, m))
        return standardised(batch).to(torch.float32)
