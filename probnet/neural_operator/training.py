"""Training of generative operators: fresh inputs, annealed bound, learned precision."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from inference._checks import check_fraction, check_integer, check_positive
from inference.checkpoint import Checkpoint, Snapshot, begin, read_meta, read_snapshot
from inference.progress import delayed_interrupt
from inference.rng import Stream, generator
from probnet.neural_operator.inputs import InputLikelihood, check_inputs
from probnet.neural_operator.muon import Muon
from probnet.neural_operator.networks import OperatorNetworks, SolutionAt
from probnet.neural_operator.objective import (
    Bound,
    MeshPhysics,
    Terms,
    WeakPhysics,
    learned_precision,
)
from probnet.neural_operator.problem import Problem
from probnet.neural_operator.wendland import WendlandTests

METHODS = ("muon", "adam")
_LONGEST, _NORM_MEMORY = 2.0, 0.95  # of gradients
_CHECK_EVERY = 10
_LABEL_MEMORY = 0.95  # of the running mean of the labels' squared residuals


@dataclass(frozen=True)
class TrainingOptions:
    """How an operator is trained.

    Attributes:
        learning_rate: of Adam at the start; a half cosine takes it to 0.
        muon_learning_rate: of Muon, for the decoders' inner matrices, likewise.
        kl_warmup: share of the steps in which β rises linearly from 0 to 1.
        annealing: share of the steps in which the temperature of the phases falls.
        final_temperature: T after that; it starts at 1.
        num_precision: validation inputs that the precision λ is learned from.
        precision_every: steps between two updates of λ.
        calibrate: scale û at the end to the exact solutions of the validation inputs, by one
            factor per component. The minimiser of an energy is too small on average, by the
            square of its relative error in the energy norm: ∫fu* - ∫fû = ‖û - u*‖²_a.
        checkpoint_every: steps between two checkpoints; None: about every ten seconds.
    """

    learning_rate: float = 1e-3
    muon_learning_rate: float = 0.03
    kl_warmup: float = 0.2
    annealing: float = 0.8
    final_temperature: float = 0.1
    num_precision: int = 32
    precision_every: int = 25
    calibrate: bool = True
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        """Check the values."""
        for name in ("learning_rate", "muon_learning_rate", "final_temperature"):
            check_positive(name, getattr(self, name))
        check_fraction("kl_warmup", self.kl_warmup)
        check_fraction("annealing", self.annealing)
        check_integer("num_precision", self.num_precision, 1)
        check_integer("precision_every", self.precision_every, 1)
        if self.checkpoint_every is not None:
            check_integer("checkpoint_every", self.checkpoint_every, 1)

    def decay(self, step: int, num_steps: int) -> float:
        """Learning rates at a step relative to those at the start."""
        return 0.5 * (1 + math.cos(math.pi * step / num_steps))

    def beta(self, step: int, num_steps: int) -> float:
        """Weight of the KL term at a step."""
        ramp = self.kl_warmup * num_steps
        return min(1.0, step / ramp) if ramp else 1.0

    def temperature(self, step: int, num_steps: int) -> float:
        """Temperature of the phases at a step."""
        span = self.annealing * num_steps
        share = min(1.0, step / span) if span else 1.0
        return self.final_temperature**share


@dataclass(frozen=True, eq=False)
class Inputs:
    """Where training inputs come from: a sampler of fresh ones, or a table of rows.

    Attributes:
        draw: `(count, generator)` to inputs `(count, *grid)`; None for a table.
        rows: the table `(N, m)`; None for a sampler.
        labels: solutions of the rows at the mesh's nodes, `(N, num_nodes)` or
            `(N, num_nodes, c)`; None without.
        validation: inputs kept out of training, `(V, m)`, float64.
    """

    draw: Callable[[int, torch.Generator], Tensor] | None
    rows: Tensor | None
    labels: Tensor | None
    validation: Tensor


class Training:
    """The state of a training: weights, optimisers, random streams, λ.

    Args:
        networks: trained in place.
        problem: the PDE.
        likelihood: of inputs.
        tests: test functions of weak residuals; None: `Problem.loss`.
        inputs: where they come from.
        options: see `TrainingOptions`.
        method: `"muon"` or `"adam"`.
        num_steps: in all.
        batch_size: inputs per step.
        seed: of the random streams.
    """

    def __init__(
        self,
        networks: OperatorNetworks,
        problem: Problem,
        likelihood: InputLikelihood,
        tests: WendlandTests | None,
        inputs: Inputs,
        options: TrainingOptions,
        *,
        method: str,
        num_steps: int,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.networks = networks.to(device).train()
        self.inputs, self.options, self.method = inputs, options, method
        self.num_steps, self.batch_size, self.seed = num_steps, batch_size, seed
        self.device, self.step = device, 0
        self.dtype = next(networks.parameters()).dtype
        self.streams = {
            "inputs": generator(seed, Stream.BATCH, 0, device),
            "noise": generator(seed, Stream.NOISE, 0, device),
            "centres": generator(seed, Stream.TRAJECTORY, 0, device),
        }
        physics = (
            MeshPhysics(problem, self.dtype, device)
            if tests is None
            else WeakPhysics(problem, tests, self.streams["centres"], self.dtype)
        )
        self._physics = physics
        self.bound = Bound(self.networks, problem, likelihood, physics, physics.num_residuals)
        self._at_nodes = SolutionAt(problem, problem.nodes.to(device, self.dtype))
        self.optimizers = _optimizers(self.networks, options, method)
        self.curve = torch.zeros(num_steps, dtype=torch.float64)
        self.precision = torch.ones((), dtype=torch.float64)
        self.label_residual = torch.zeros((), dtype=torch.float64)
        self.usual_norm = torch.zeros((), device=device)
        self._probe = inputs.validation[: options.num_precision].to(device, self.dtype)
        self._probe_coefficients = self.bound.coefficients(self._probe)
        self._least = self._least_losses(problem, tests)

    def go(self, writer: Checkpoint | None, *, progress: bool) -> bool:
        """Take the remaining steps; whether an interrupt ended them early."""
        checked = self.step
        bar = tqdm(
            total=self.num_steps,
            initial=self.step,
            desc="train",
            disable=None if progress else True,
        )
        with bar, delayed_interrupt() as caught:
            while self.step < self.num_steps and not caught:
                self._take_step()
                bar.update()
                last = self.step == self.num_steps or bool(caught)
                due = writer is not None and writer.due(self.step, last=last)
                if last or due or self.step % _CHECK_EVERY == 0:
                    self._check_curve(checked)
                    checked = self.step
                    bar.set_postfix(bound=f"{self.curve[self.step - 1]:.1f}", refresh=False)
                if writer is not None and due:
                    writer.save(self.snapshot(), {})
        return self.step < self.num_steps

    def snapshot(self) -> Snapshot:
        """All that the rest of the training depends on."""
        parts: dict[str, dict[str, Tensor]] = {
            "weights": dict(self.networks.state_dict()),
            "run": {
                "curve": self.curve,
                "precision": self.precision,
                "label_residual": self.label_residual,
                "usual_norm": self.usual_norm,
            },
            "generators": {name: g.get_state() for name, g in self.streams.items()},
        }
        for index, optimizer in enumerate(self.optimizers):
            state = optimizer.state_dict()["state"]
            parts[f"optimizer{index}"] = {
                f"{number}.{name}": torch.as_tensor(value)
                for number, values in state.items()
                for name, value in values.items()
            }
        return Snapshot.of(parts, step=self.step, died_at={})

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Go where another training of the same settings stood."""
        tensors = snapshot.tensors
        self.networks.load_state_dict(tensors.part("weights"))
        run = tensors.part("run")
        self.curve.copy_(run["curve"])
        self.precision.copy_(run["precision"])
        self.label_residual.copy_(run["label_residual"])
        self.usual_norm.copy_(run["usual_norm"])
        for name, state in tensors.part("generators").items():
            self.streams[name].set_state(state)
        for index, optimizer in enumerate(self.optimizers):
            described, state = optimizer.state_dict(), dict[int, dict[str, Tensor]]()
            for key, value in tensors.part(f"optimizer{index}").items():
                number, name = key.split(".", 1)
                state.setdefault(int(number), {})[name] = value
            optimizer.load_state_dict({**described, "state": state})
        self.step = snapshot.step

    def settings(self) -> dict[str, Any]:
        """What must be equal for one training to go on with the state of another; JSON-able."""
        options = asdict(self.options)
        del options["checkpoint_every"]
        return {
            "networks": self.networks.options(),
            "input_likelihood": self.bound.likelihood.to_dict(),
            "problem": type(self.bound.problem).__name__,
            "method": self.method,
            "num_steps": self.num_steps,
            "batch_size": self.batch_size,
            "seed": self.seed,
            **options,
        }

    def _take_step(self) -> None:
        if self.step % self.options.precision_every == 0:
            self._learn_precision()
        inputs, labels = self._draw_batch()
        noise = self._noise(len(inputs))
        progress = (self.step, self.num_steps)
        terms = self.bound.terms(inputs, noise, self.options.temperature(*progress))
        bound = self.bound.value(terms, float(self.precision), self.options.beta(*progress))
        if labels is not None:
            bound = bound + self._label_term(inputs, terms, labels)
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        # Per residual, so that gradients do not depend on the mesh.
        (-bound / self.bound.num_residuals).backward()
        self._limit_gradient()
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["start"] * self.options.decay(*progress)
            optimizer.step()
        self.curve[self.step] = bound.detach()
        self.step += 1

    @torch.no_grad()
    def _limit_gradient(self) -> None:
        """Shorten a gradient of more than twice the usual norm, a running geometric mean.

        Steps do not grow with the gradient, but an outlier decides their direction for as long
        as momentum remembers it; without a limit, long trainings have been lost to one.
        """
        gradients = [p.grad for p in self.networks.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        usual = torch.where(self.usual_norm > 0, self.usual_norm, norm)
        factor = (_LONGEST * usual / norm).clamp_max(1.0)
        for gradient in gradients:
            gradient.mul_(factor)
        self.usual_norm.copy_(usual**_NORM_MEMORY * (factor * norm) ** (1 - _NORM_MEMORY))

    def _draw_batch(self) -> tuple[Tensor, Tensor | None]:
        """Inputs `(B, m)` and labels, in the networks' dtype."""
        stream, likelihood = self.streams["inputs"], self.bound.likelihood
        if self.inputs.draw is not None:
            drawn = self.inputs.draw(self.batch_size, stream)
            rows, _ = check_inputs("inputs", drawn, self.networks.encoder.grid, likelihood)
            return rows.to(self.device, self.dtype), None
        table, labels = self.inputs.rows, self.inputs.labels
        if table is None:
            raise RuntimeError("there is neither a sampler nor a table of inputs.")
        picked = torch.randint(
            len(table), (self.batch_size,), generator=stream, device=self.device
        ).cpu()
        rows = table[picked].to(self.device, self.dtype)
        return rows, None if labels is None else labels[picked].to(self.device, self.dtype)

    def _label_term(self, inputs: Tensor, terms: Terms, labels: Tensor) -> Tensor:
        """E_q log N(u; û, 1/ρ) with ρ learned from a running mean of squared residuals."""
        values = self._at_nodes(
            self.networks.solution_decoder, terms.latents, self.bound.coefficients(inputs)
        )
        squares = (values - labels).square().flatten(1).sum(-1) / 2
        found, count = squares.detach().double().mean().cpu(), labels[0].numel()
        started = bool(self.label_residual > 0)
        memory = _LABEL_MEMORY if started else 0.0
        self.label_residual.mul_(memory).add_(found, alpha=1 - memory)
        precision = learned_precision(self.label_residual[None], count)
        return (count / 2 * math.log(precision) - precision * squares).mean()

    @torch.no_grad()
    def _learn_precision(self) -> None:
        noise = self._noise(len(self._probe))
        latents = self.networks.encode(self._probe).draw(noise)
        excess = self._physics.excess(
            self.networks, latents, self._probe_coefficients, self._least
        )
        self.precision.fill_(learned_precision(excess, self.bound.num_residuals))

    def _least_losses(self, problem: Problem, tests: WendlandTests | None) -> Tensor:
        """The loss of the exact solutions of the probe: 0 unless it is an energy."""
        if tests is not None or not problem.variational:
            return torch.zeros(len(self._probe), dtype=torch.float64, device=self.device)
        coefficients = self._probe_coefficients.double()
        exact = problem.solve(coefficients).to(self.device)
        return problem.loss(exact.reshape(len(exact), -1), coefficients)

    def _noise(self, count: int) -> Tensor:
        shape = (count, self.networks.latent_dim)
        options: dict[str, Any] = {"dtype": self.dtype, "device": self.device}
        return torch.randn(shape, generator=self.streams["noise"], **options)

    def _check_curve(self, start: int) -> None:
        bad = ~torch.isfinite(self.curve[start : self.step])
        if bad.any():
            step = start + int(bad.long().argmax())
            raise FloatingPointError(
                f"the bound is {float(self.curve[step])} at step {step + 1} of "
                f"{self.num_steps}. Lower `learning_rate` ({self.options.learning_rate}) and "
                f"`muon_learning_rate` ({self.options.muon_learning_rate}), or look for "
                f"enormous values in the inputs."
            )


def open_checkpoint(
    run: Training, path: str | os.PathLike[str] | None, *, resume: bool
) -> Checkpoint | None:
    """A writer into the directory, the training being put where the directory says.

    Raises:
        FileExistsError: if there is a training in it and `resume` is false.
        ValueError: if that has other settings, or `resume` comes without a directory.
    """
    if path is None:
        if resume:
            raise ValueError("`resume=True` needs `checkpoint`, the directory to go on from.")
        return None
    folder, every = Path(path), run.options.checkpoint_every
    if not (folder / "meta.json").is_file():
        begin(folder, {"neural_operator": run.settings()}, run.networks.state_dict())
        return Checkpoint(folder, every)
    if not resume:
        raise FileExistsError(
            f"`checkpoint` {str(folder)!r} holds a training already. Go on with it by "
            f"`resume=True`, or remove the directory."
        )
    saved, wanted = read_meta(folder).get("neural_operator", {}), run.settings()
    different = sorted(n for n in wanted if saved.get(n) != wanted[n])
    if different:
        raise ValueError(
            f"`checkpoint` {str(folder)!r} is of a training with other settings: "
            f"{ {n: saved.get(n) for n in different} } there, "
            f"{ {n: wanted[n] for n in different} } here. Use the same, or another directory."
        )
    found = read_snapshot(folder, run.device)
    if found is not None:
        run.restore(found[0])
    return Checkpoint(folder, every)


def _optimizers(
    networks: OperatorNetworks, options: TrainingOptions, method: str
) -> list[torch.optim.Optimizer]:
    """Adam for everything, or Muon for the decoders' inner matrices and Adam for the rest."""
    inner = [
        *networks.solution_decoder.inner_weights(),
        *networks.input_decoder.inner_weights(),
    ]
    taken = {id(p) for p in inner} if method == "muon" else set[int]()
    rest = [p for p in networks.parameters() if id(p) not in taken]
    adam = torch.optim.Adam(rest, lr=options.learning_rate)
    found: list[torch.optim.Optimizer] = [adam]
    if method == "muon":
        found.append(Muon(inner, lr=options.muon_learning_rate))
    for optimizer in found:
        for group in optimizer.param_groups:
            group["start"] = group["lr"]
    return found
