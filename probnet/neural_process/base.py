"""What every neural process is: an encoder of contexts, a decoder at points, an objective."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, NoReturn

import torch
from torch import Generator, Tensor, nn

from inference._checks import check_integer
from inference.rng import Stream, generator
from probnet._checks import Values
from probnet.datasets import TaskBatch
from probnet.neural_process.blocks import Linear
from probnet.neural_process.heads import make_head

if TYPE_CHECKING:
    from probnet.neural_process.trained import TrainedProcess

_MODELS: dict[str, type[NeuralProcess]] = {}


class TrainingTasks(NamedTuple):
    """A batch in the form that objectives take: single precision, zeros at padded points.

    Attributes:
        xc: context inputs `(B, n, x_dim)`.
        yc: context outputs `(B, n, y_dim)`.
        mask_c: which context entries are points, `(B, n)`.
        x: all points, context and targets, without gaps `(B, N, x_dim)`.
        y: their outputs `(B, N, y_dim)`.
        mask: which entries are points, `(B, N)`.
    """

    xc: Tensor
    yc: Tensor
    mask_c: Tensor
    x: Tensor
    y: Tensor
    mask: Tensor

    @classmethod
    def of(cls, batch: TaskBatch, *, bucketed: bool = False) -> TrainingTasks:
        """From a batch of a task stream; what its padded entries hold has no influence."""
        packed = batch.packed(bucketed=bucketed)
        mask = packed.mask_c | packed.mask_t
        return cls(
            zero_padded(batch.xc, batch.mask_c),
            zero_padded(batch.yc, batch.mask_c),
            batch.mask_c,
            zero_padded(packed.x, mask),
            zero_padded(packed.y, mask),
            mask,
        )

    @property
    def num_points(self) -> Tensor:
        """N of every task, `(B,)`."""
        return self.mask.sum(-1)


class NeuralProcess(nn.Module, ABC):
    """A model of a stochastic process, to be trained on a stream of tasks by `fit`.

    A subclass stores its arguments under their names, lists them in `options`, and defines
    `encode`, `decode`, `terms`, and what applies of `extend`, `draw_noise` and `sample`. An
    encoding is whatever tensors `decode` needs; axes are (task, function, point, coordinate).

    Attributes:
        sampled: whether the model draws functions, so that it has a joint law of points.
        conditional: whether `decode` takes what `encode` gives: p(y | x, context) in one pass.
        equivariant: whether it is equivariant to translations of x.
        options: names of the constructor's arguments.
    """

    sampled: ClassVar[bool] = False
    conditional: ClassVar[bool] = True
    equivariant: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = (
        "x_dim",
        "y_dim",
        "width",
        "likelihood",
        "min_scale",
    )

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the class, so that saved models are found by its name."""
        super().__init_subclass__(**kwargs)
        _MODELS[cls.__name__] = cls

    def __init__(
        self, x_dim: int, y_dim: int, width: int, likelihood: str, min_scale: float
    ) -> None:
        super().__init__()
        self.x_dim = check_integer("x_dim", x_dim, 1)
        self.y_dim = check_integer("y_dim", y_dim, 1)
        self.width = check_integer("width", width, 1)
        self.likelihood, self.min_scale = likelihood, float(min_scale)
        self.head = make_head(likelihood, y_dim, min_scale)

    @abstractmethod
    def encode(self, xc: Tensor, yc: Tensor, mask: Tensor) -> Any:
        """Encode contexts.

        Args:
            xc: `(B, n, x_dim)`, finite at padded points too.
            yc: `(B, n, y_dim)`, likewise.
            mask: `(B, n)`, true where there is a point.
        """

    @abstractmethod
    def decode(self, encoding: Any, x: Tensor) -> Tensor:
        """The head's numbers `(B, S, N, num_outputs)` at points `(B, N, x_dim)`.

        S is 1 for the encoding of a context, and the number of functions after `sample`.
        """

    @abstractmethod
    def terms(self, tasks: TrainingTasks, noise: Tensor | None) -> dict[str, Tensor]:
        """Terms of the objective by name, to be maximised: nats per point, means over tasks.

        Args:
            tasks: a batch.
            noise: from `draw_noise`, for every task by itself.
        """

    def term_weights(self) -> Mapping[str, float]:
        """Weights of the terms that do not have weight 1."""
        return {}

    def draw_noise(
        self,
        num_tasks: int,
        num_functions: int,
        num_context: int,
        generator: Generator,
        num_pseudo: int | None = None,
    ) -> Tensor | None:
        """The randomness of functions `(num_tasks, num_functions, *)`, if they have any.

        Args:
            num_tasks: B.
            num_functions: K.
            num_context: n, the length of the padded context.
            generator: the only source of randomness; advanced in place.
            num_pseudo: number of pseudo contexts, for the models that have them.
        """
        del num_tasks, num_functions, num_context, generator, num_pseudo
        return None

    def sample(self, encoding: Any, noise: Tensor) -> Any:
        """The encoding of K functions given a context; `noise` may have one task for all."""
        raise NotImplementedError(f"{type(self).__name__} has no law of functions.")

    def extend(self, encoding: Any, x: Tensor, y: Tensor) -> Any:
        """The encoding of contexts with further observations `(B, n', *)` appended."""
        raise NotImplementedError(f"{type(self).__name__} does not update its encoding.")

    def loss(self, terms: Mapping[str, Tensor]) -> Tensor:
        """Minus the weighted sum of the terms."""
        weights = self.term_weights()
        return -torch.stack([weights.get(n, 1.0) * term for n, term in terms.items()]).sum()

    def log_densities(self, outputs: Tensor, tasks: TrainingTasks) -> Tensor:
        """ℓ_k(i) of all points, context and targets, `(B, S, N)`; zero at padded ones."""
        logs = self.head.law(outputs).log_prob(tasks.y.unsqueeze(1)).sum(-1)
        return torch.where(tasks.mask.unsqueeze(1), logs, 0.0)

    def initialise(self, seed: int) -> None:
        """Draw all weights anew; the global generators are untouched."""
        stream = generator(seed, Stream.INIT)
        for module in self.modules():
            if isinstance(module, Linear):
                module.draw(stream)

    def config(self) -> dict[str, Any]:
        """Name and arguments, JSON-able, for `model_from_config`."""
        return {"model": type(self).__name__, **{n: getattr(self, n) for n in self.options}}

    def fit(self, tasks: Any, *, num_steps: int, **options: Any) -> TrainedProcess:
        """Train on a stream of tasks.

        Args:
            tasks: a stream such as `GPTasks`, whose `batch(batch_size, seed=...)` gives tasks.
            num_steps: steps of the optimiser.
            **options: those of `probnet.neural_process.train`, such as `batch_size=16`,
                `num_functions=5`, `learning_rate=1e-3`, `seed=0`, `progress=True`.

        Returns:
            A new object; the model itself is not changed.
        """
        from probnet.neural_process.training import train

        return train(self, tasks, num_steps=num_steps, **options)

    def condition(self, xc: Values, yc: Values, **options: Any) -> NoReturn:
        """Not before training."""
        del xc, yc, options
        raise ValueError(
            f"this {type(self).__name__} is not trained. Condition what `fit` returns: "
            f"`trained = model.fit(tasks, num_steps=...)`, `trained.condition(xc, yc)`."
        )


def model_from_config(config: Mapping[str, Any]) -> NeuralProcess:
    """The model of `NeuralProcess.config`, its weights not yet set.

    Raises:
        ValueError: if there is no model of that name.
    """
    arguments = dict(config)
    name = arguments.pop("model")
    if name not in _MODELS:
        raise ValueError(f"there is no neural process {name!r}; known are {sorted(_MODELS)}.")
    return _MODELS[name](**arguments)


def zero_padded(values: Tensor, mask: Tensor) -> Tensor:
    """Values in single precision, zero at padded entries whatever they held."""
    return torch.where(mask.unsqueeze(-1), values, 0.0).float()
