"""A trained neural process, which is conditioned on contexts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor

from inference._checks import check_integer
from inference.errors import warn
from inference.export import build_datatree
from probnet._archive import PosteriorState
from probnet._checks import Values
from probnet.datasets import TaskBatch, TaskStream
from probnet.neural_process.base import NeuralProcess, model_from_config
from probnet.neural_process.calibration import Calibration, calibrate
from probnet.neural_process.evaluation import Evaluation, evaluate
from probnet.neural_process.inputs import check_context
from probnet.neural_process.neural_rule import NeuralRule
from probnet.neural_process.posterior import NeuralProcessPosterior
from probnet.posterior import Posterior

if TYPE_CHECKING:
    import xarray


@dataclass(frozen=True, eq=False, repr=False)
class TrainedProcess(Posterior, family="neural_process.trained"):
    """A neural process with its weights. Condition it on a context to predict.

    Attributes:
        network: the model, its weights set.
        x_range: interval of the training inputs; `None` if unknown.
        max_points: largest number of points of a training task.
        loss_curve: training loss, means of at most 1000 blocks of steps.
        method: optimiser.
        diagnostics: settings, steps taken, tasks seen, final loss.
        calibration: factors of the uncertainty, from `calibrate`.
    """

    network: NeuralProcess
    x_range: tuple[float, float] | None
    max_points: int
    loss_curve: Tensor
    method: str
    diagnostics: Mapping[str, Any]
    calibration: Calibration = field(default_factory=Calibration)

    def condition(
        self,
        xc: Values,
        yc: Values,
        *,
        mask: Any = None,
        num_pseudo: int | None = None,
        allow_empty: bool = False,
    ) -> NeuralProcessPosterior:
        """The posterior given a context; the context is encoded once, here.

        Numbers of any floating type are taken; the network computes in float32, and
        predictions come back in float64.

        Args:
            xc: inputs `(n, x_dim)`, or `(B, n, x_dim)` for several tasks at once.
            yc: outputs `(n, y_dim)` or `(B, n, y_dim)`.
            mask: which entries are points, boolean `(n,)` or `(B, n)`; all if omitted. What the
                others hold has no influence.
            num_pseudo: number of pseudo contexts, if it is not to be that of training.
            allow_empty: let a task have no point: the answer is then the network's prior, as
                good as its training on empty contexts.

        Raises:
            ValueError: on shapes or dimensions that do not fit, no point, NaN or infinity.
            TypeError: if `xc` and `yc` are of different floating types.
        """
        context = check_context(
            self.network, xc, yc, mask, allow_empty=allow_empty, device=self._device
        )
        self._warn_unlike_training(context.x[context.mask], int(context.mask.sum(-1).max()))
        if num_pseudo is not None:
            self._check_num_pseudo(num_pseudo)
        return NeuralProcessPosterior(
            trained=self,
            context=context,
            num_pseudo=num_pseudo,
            method=self.method,
            diagnostics={},
        )

    def as_rule(self) -> NeuralRule:
        """The one-step predictive rule p_0(y | x, data), for `PredictiveResampler`."""
        return NeuralRule(self)

    def evaluate(
        self,
        tasks: TaskBatch | TaskStream,
        *,
        num_tasks: int = 1024,
        oracle: Any = None,
        num_functions: int = 50,
        batch_size: int = 64,
        seed: int = 0,
    ) -> Evaluation:
        """Score predictions on tasks.

        Args:
            tasks: the tasks, or a stream, whose test split is then used.
            num_tasks: how many of the test split.
            oracle: the exact predictive to compare with, such as
                `oracle("rbf", integrate=True)`.
            num_functions: K of the predictions.
            batch_size: tasks at once.
            seed: of the functions.

        Raises:
            TypeError: if `tasks` is neither.
        """
        batch = _tasks(tasks, "test", num_tasks)
        check_integer("num_functions", num_functions, 1)

        def condition(chunk: TaskBatch) -> NeuralProcessPosterior:
            return self.condition(chunk.xc, chunk.yc, mask=chunk.mask_c)

        return evaluate(
            condition,
            batch,
            oracle=oracle,
            num_functions=num_functions,
            batch_size=batch_size,
            seed=seed,
        )

    def calibrate(
        self,
        tasks: TaskBatch | TaskStream,
        *,
        num_tasks: int = 256,
        num_functions: int = 50,
        batch_size: int = 64,
        seed: int = 0,
    ) -> TrainedProcess:
        """This process with its uncertainty scaled to that of validation tasks.

        The noise of p_0, the noise of p_k, and how far functions are from the base prediction
        each get one factor, those with the highest log-likelihood of the targets.

        Args:
            tasks: the tasks, or a stream, whose validation split is then used. Not those that
                the process is evaluated on.
            num_tasks: how many of the validation split.
            num_functions: K.
            batch_size: tasks at once.
            seed: of the functions.

        Raises:
            TypeError: if `tasks` is neither.
        """
        batch = _tasks(tasks, "valid", num_tasks)
        check_integer("num_functions", num_functions, 1)
        plain = replace(self, calibration=Calibration())
        found = calibrate(
            plain, batch, num_functions=num_functions, batch_size=batch_size, seed=seed
        )
        return replace(self, calibration=found)

    def predict(self, x: Any, *, observation: bool = True, joint: bool = False) -> NoReturn:
        """Not without a context: condition first."""
        del x, observation, joint
        raise ValueError(
            "a trained process predicts from a context: use "
            "`trained.condition(xc, yc).predict(x)`."
        )

    def to_datatree(self) -> xarray.DataTree:
        """The training loss, and the diagnostics as attributes."""
        return build_datatree(
            {"optimization": {"loss": self.loss_curve.numpy()}},
            coords={},
            dims={},
            attrs={"family": self.family, "method": self.method, **self.diagnostics},
        )

    def state(self) -> PosteriorState:
        """See `Posterior.state`."""
        config = {
            "network": self.network.config(),
            "x_range": None if self.x_range is None else list(self.x_range),
            "max_points": self.max_points,
            "calibration": list(self.calibration),
        }
        weights = {f"weights.{n}": t for n, t in self.network.state_dict().items()}
        return PosteriorState(
            self.method,
            self.diagnostics,
            config,
            {"loss_curve": self.loss_curve, **weights},
        )

    @classmethod
    def from_state(cls, state: PosteriorState) -> TrainedProcess:
        """See `Posterior.from_state`."""
        network = model_from_config(state.config["network"])
        start = "weights."
        network.load_state_dict(
            {n.removeprefix(start): t for n, t in state.tensors.items() if n.startswith(start)}
        )
        network.eval().requires_grad_(False)
        bounds = state.config["x_range"]
        return cls(
            network=network,
            x_range=None if bounds is None else (bounds[0], bounds[1]),
            max_points=state.config["max_points"],
            loss_curve=state.tensors["loss_curve"],
            method=state.method,
            diagnostics=state.diagnostics,
            calibration=Calibration(*state.config.get("calibration", ())),
        )

    @property
    def _device(self) -> torch.device:
        return next(self.network.parameters()).device

    def _warn_unlike_training(self, x: Tensor, num_context: int) -> None:
        if num_context > self.max_points:
            warn(
                f"the context has {num_context} points, the training tasks had at most "
                f"{self.max_points}: the network extrapolates. Train with larger `max_points`."
            )
        if self.x_range is None or self.network.equivariant or not len(x):
            return
        low, high = self.x_range
        margin = 1e-6 * (high - low)
        if float(x.min()) < low - margin or float(x.max()) > high + margin:
            warn(
                f"context inputs from {float(x.min()):.4g} to {float(x.max()):.4g} leave the "
                f"training range [{low:g}, {high:g}]: the network extrapolates. Rescale x, or "
                f"train a translation-equivariant model."
            )

    def _check_num_pseudo(self, num_pseudo: int) -> None:
        check_integer("num_pseudo", num_pseudo, 1)
        trained_with: Any = getattr(self.network, "num_pseudo", None)
        if trained_with is None:
            raise ValueError(
                f"`num_pseudo` is for models with pseudo contexts; this is "
                f"{type(self.network).__name__}."
            )
        pseudo: Any = self.network.pseudo
        if num_pseudo != trained_with and not pseudo.projective:
            warn(
                f"`num_pseudo={num_pseudo}` but the ISAB generator was trained with "
                f"{trained_with}, and its law depends on their number: validate anew, or train "
                f"with generator='definetti'."
            )


def _tasks(tasks: Any, split: str, num_tasks: int) -> TaskBatch:
    if isinstance(tasks, TaskStream):
        tasks = tasks.split(split, check_integer("num_tasks", num_tasks, 1))
    if not isinstance(tasks, TaskBatch):
        raise TypeError(f"`tasks` must be a batch or a stream; got {type(tasks).__name__}.")
    return tasks
