"""Training on a stream of tasks: AdamW, warm-up and cosine, averaged weights, checkpoints."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from inference._checks import (
    check_choice,
    check_integer,
    check_options,
)
from inference.checkpoint import Checkpoint, Snapshot, begin, read_meta, read_snapshot
from inference.progress import delayed_interrupt
from inference.rng import Stream, generator, scoped_seed
from probnet.datasets import TaskBatch, TaskStream
from probnet.neural_process.base import NeuralProcess, TrainingTasks
from probnet.neural_process.options import TrainingOptions
from probnet.neural_process.trained import TrainedProcess

_CHECK_EVERY = 10
_CURVE_POINTS = 1000
_TASKS_AT_ONCE = 64


def train(
    model: NeuralProcess,
    tasks: TaskStream,
    *,
    num_steps: int,
    batch_size: int = 16,
    num_functions: int | Sequence[int] = 5,
    method: str = "adamw",
    seed: int = 0,
    progress: bool = True,
    device: str | torch.device = "cpu",
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    valid: TaskBatch | None = None,
    **options: Any,
) -> TrainedProcess:
    """Train a neural process.

    An interrupt (Ctrl-C) ends the training; what there is then is returned.

    Args:
        model: to be trained; it is not changed.
        tasks: the stream; its own seed decides which tasks are seen.
        num_steps: steps of the optimiser.
        batch_size: tasks per step.
        num_functions: K, functions per task in the objective of models that draw functions; a
            sequence such as (2, 8, 16) divides the steps into equal stages.
        method: `"adamw"`, or `"adam"` for no weight decay.
        seed: of the initial weights and of the noise.
        progress: show a progress bar on a terminal.
        device: where to compute, and where the tasks are made.
        checkpoint: a directory to save the state in as training goes.
        resume: go on with the training in `checkpoint`, if there is one; the result is
            bit-equal to that of a training without interruption.
        valid: tasks whose mean loss under the returned weights goes into the diagnostics.
        **options: of `TrainingOptions`.

    Returns:
        The trained process, with the averaged weights.

    Raises:
        TypeError: if `tasks` is not a stream, or an option is unknown.
        ValueError: if the stream's dimensions are not the model's, or on other bad arguments.
        FloatingPointError: if the loss is not finite.
        FileExistsError: if `checkpoint` holds a training and `resume` is false.
    """
    _check_stream(model, tasks)
    check_options("fit", options, TrainingOptions.__dataclass_fields__)
    if check_choice("method", method, ("adam", "adamw")) == "adam":
        options = {"weight_decay": 0.0, **options}
    stages = (num_functions,) if isinstance(num_functions, int) else tuple(num_functions)
    for index, count in enumerate(stages):
        check_integer(
            "num_functions" if len(stages) == 1 else f"num_functions[{index}]", count, 1
        )
    run = _Training(
        model,
        tasks,
        TrainingOptions(**options),
        stages,
        num_steps=check_integer("num_steps", num_steps, 1),
        batch_size=check_integer("batch_size", batch_size, 1),
        seed=check_integer("seed", seed, 0),
        device=torch.device(device),
    )
    writer = _open_checkpoint(run, checkpoint, resume=resume)
    interrupted = run.go(writer, progress=progress)
    return run.result(method, valid, interrupted=interrupted)


class _Training:
    """The state of a training: weights, their average, the optimiser, random streams."""

    def __init__(
        self,
        model: NeuralProcess,
        tasks: TaskStream,
        options: TrainingOptions,
        stages: Sequence[int],
        *,
        num_steps: int,
        batch_size: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.network = copy.deepcopy(model)
        self.network.initialise(seed)
        self.network.to(device).train()
        self.tasks, self.options, self.stages = tasks, options, tuple(stages)
        self.num_steps, self.batch_size, self.seed = num_steps, batch_size, seed
        self.device, self.step = device, 0
        self.parameters = dict(self.network.named_parameters())
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}
        self.optimizer = torch.optim.AdamW(
            self.parameters.values(),
            lr=options.learning_rate,
            weight_decay=options.weight_decay,
            fused=True,
        )
        self.noise_stream = generator(seed, Stream.NOISE, 0, device)
        self.task_stream = tasks.generator("train", device)
        self.losses = torch.zeros(num_steps, device=device)
        self._terms: Any = self.network.terms
        if options.compile:
            self._terms = torch.compile(self.network.terms, dynamic=False)

    def go(self, writer: Checkpoint | None, *, progress: bool) -> bool:
        """Take the remaining steps; whether an interrupt ended them early."""
        checked = self.step
        shown = None if progress else True
        bar = tqdm(total=self.num_steps, initial=self.step, desc="train", disable=shown)
        # The compiler draws random numbers of its own.
        guard = scoped_seed(self.seed) if self.options.compile else nullcontext()
        with guard, bar, delayed_interrupt() as caught:
            while self.step < self.num_steps and not caught:
                self._take_step()
                bar.update()
                last = self.step == self.num_steps or bool(caught)
                due = writer is not None and writer.due(self.step, last=last)
                if last or due or self.step % _CHECK_EVERY == 0:
                    self._check_losses(checked)
                    checked = self.step
                    bar.set_postfix(
                        loss=f"{float(self.losses[self.step - 1]):.3f}", refresh=False
                    )
                if writer is not None and due:
                    writer.save(self.snapshot(), {})
        return self.step < self.num_steps

    def _take_step(self) -> None:
        batch = self.tasks.batch(self.batch_size, self.task_stream)
        tasks = TrainingTasks.of(batch, bucketed=self.options.compile)
        stage = self.step * len(self.stages) // self.num_steps
        noise = self.network.draw_noise(
            len(tasks.xc), self.stages[stage], tasks.xc.shape[1], self.noise_stream
        )
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.rate(self.step, self.num_steps)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.bfloat16):
            terms = self._terms(tasks, noise)
        loss = self.network.loss(terms)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), self.options.clip_norm)
        self.optimizer.step()
        self.losses[self.step] = loss.detach()
        self._update_average()
        self.step += 1

    @torch.no_grad()
    def _update_average(self) -> None:
        # The start is forgotten faster than the decay says, or short runs would never leave it.
        decay = min(self.options.ema_decay, (1 + self.step) / (10 + self.step))
        for name, parameter in self.parameters.items():
            self.average[name].lerp_(parameter, 1 - decay)

    def _check_losses(self, start: int) -> None:
        bad = ~torch.isfinite(self.losses[start : self.step])
        if bad.any():
            step = start + int(bad.long().argmax())
            raise FloatingPointError(
                f"the loss is {float(self.losses[step])} at step {step + 1} of "
                f"{self.num_steps}. Look for NaN or enormous values in the tasks, lower "
                f"`learning_rate` ({self.options.learning_rate}) or raise the model's "
                f"`min_scale` ({self.network.min_scale})."
            )

    def snapshot(self) -> Snapshot:
        """All that the rest of the training depends on."""
        parts: dict[str, dict[str, Tensor]] = {
            "weights": {n: p.detach() for n, p in self.parameters.items()},
            "average": self.average,
            "losses": {"values": self.losses},
            "generators": {
                "noise": self.noise_stream.get_state(),
                "tasks": self.task_stream.get_state(),
            },
        }
        for name in ("step", "exp_avg", "exp_avg_sq"):
            parts[name] = {n: self.optimizer.state[p][name] for n, p in self.parameters.items()}
        return Snapshot.of(parts, step=self.step, died_at={})

    @torch.no_grad()
    def restore(self, snapshot: Snapshot) -> None:
        """Go where another training of the same settings stood."""
        tensors = snapshot.tensors
        for group, own in (("weights", self.parameters), ("average", self.average)):
            for name, value in tensors.part(group).items():
                own[name].copy_(value)
        moments = {n: tensors.part(n) for n in ("step", "exp_avg", "exp_avg_sq")}
        for name, parameter in self.parameters.items():
            self.optimizer.state[parameter] = {n: part[name] for n, part in moments.items()}
        self.losses.copy_(tensors.part("losses")["values"])
        states = tensors.part("generators")
        self.noise_stream.set_state(states["noise"])
        self.task_stream.set_state(states["tasks"])
        self.step = snapshot.step

    def settings(self) -> dict[str, Any]:
        """What must be equal for one training to go on with the state of another; JSON-able."""
        options = asdict(self.options)
        del options["checkpoint_every"]
        return {
            "model": self.network.config(),
            "tasks": type(self.tasks).__name__,
            "tasks_seed": self.tasks.seed,
            "num_functions": list(self.stages),
            "num_steps": self.num_steps,
            "batch_size": self.batch_size,
            "seed": self.seed,
            **options,
        }

    @torch.no_grad()
    def result(
        self, method: str, valid: TaskBatch | None, *, interrupted: bool
    ) -> TrainedProcess:
        """The process with the averaged weights."""
        network = self.network
        network.load_state_dict(self.average, strict=False)
        network.eval().requires_grad_(False)
        settings = self.settings()
        del settings["model"]
        diagnostics: dict[str, Any] = {
            **settings,
            "steps_taken": self.step,
            "tasks_seen": self.step * self.batch_size,
            "interrupted": interrupted,
            "loss": float(self.losses[max(0, self.step - 100) : self.step].mean()),
        }
        if valid is not None:
            diagnostics["valid_loss"] = self._valid_loss(valid)
        block = -(-self.step // _CURVE_POINTS)
        curve = [float(part.mean()) for part in self.losses[: self.step].split(max(block, 1))]
        return TrainedProcess(
            network=network,
            x_range=self.tasks.x_range,
            max_points=self.tasks.max_points,
            loss_curve=torch.tensor(curve),
            method=method,
            diagnostics=diagnostics,
        )

    def _valid_loss(self, valid: TaskBatch) -> float:
        rng = generator(self.seed, Stream.PREDICTIVE, 0, self.device)
        total = 0.0
        for chunk in valid.to(self.device).chunks(_TASKS_AT_ONCE):
            tasks = TrainingTasks.of(chunk)
            noise = self.network.draw_noise(
                len(tasks.xc), self.stages[-1], tasks.xc.shape[1], rng
            )
            total += float(self.network.loss(self.network.terms(tasks, noise))) * len(tasks.xc)
        return total / valid.num_tasks


def _check_stream(model: NeuralProcess, tasks: Any) -> None:
    if not isinstance(tasks, TaskStream):
        kind = "one fixed batch of tasks" if isinstance(tasks, TaskBatch) else "no stream"
        raise TypeError(
            f"`tasks` must be a stream of tasks, such as `GPTasks(kernel='rbf')`, that gives "
            f"new ones at every step; got {type(tasks).__name__}, {kind}. A neural process "
            f"learns from many small data sets. For one data set condition a trained process "
            f"on it, or fit a Gaussian process (`probnet.nngp`)."
        )
    for name in ("x_dim", "y_dim"):
        if getattr(tasks, name) != getattr(model, name):
            raise ValueError(
                f"`tasks` have {name}={getattr(tasks, name)} but the model has "
                f"{name}={getattr(model, name)}; make the model with the stream's dimensions."
            )


def _open_checkpoint(
    run: _Training, path: str | os.PathLike[str] | None, *, resume: bool
) -> Checkpoint | None:
    if path is None:
        if resume:
            raise ValueError("`resume=True` needs `checkpoint`, the directory to go on from.")
        return None
    folder, every = Path(path), run.options.checkpoint_every
    if not (folder / "meta.json").is_file():
        begin(folder, {"neural_process": run.settings()}, dict(run.average))
        return Checkpoint(folder, every)
    if not resume:
        raise FileExistsError(
            f"`checkpoint` {str(folder)!r} holds a training already. Go on with it by "
            f"`resume=True`, or remove the directory."
        )
    saved, wanted = read_meta(folder).get("neural_process", {}), run.settings()
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
