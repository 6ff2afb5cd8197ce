"""Image completion: a picture is a function of the plane, and some pixels are its context."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from inference._checks import check_finite, check_integer
from probnet._checks import Values, as_tensor
from probnet.datasets.functions.sizes import Range, TaskSizes
from probnet.datasets.functions.tasks import SPLITS, TaskBatch, TaskStream, bucket, deal

_SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}


class ImageTasks(TaskStream):
    """Pixels of images: x is their place in [-1, 1]², y their value, a half subtracted.

    Places run from -1 + 1/h to 1 - 1/h for h rows, likewise for columns. The images are divided
    into training, validation and test images at random, but the same way for the same seed.

    Source: Garnelo et al. (ICML 2018).

    Args:
        images: `(num, h, w)` or `(num, h, w, channels)`, values from 0 to `max_value`.
        max_value: brightest value, which becomes 0.5.
        num_context: smallest and largest n; `None`: as many as fit.
        num_target: smallest and largest m; `None`: up to `max_points` - 1 - n.
        max_points: bound of n + m in training; by default all pixels, at most 200.
        all_targets: whether the targets of validation and test tasks are all other pixels.
        seed: of the division, of `split` and of `generator`.

    Raises:
        ValueError: on images of another shape, fewer than ten, or values out of range.

    Example:
        >>> tasks = ImageTasks.digits(seed=0)
        >>> batch = tasks.batch(4, tasks.generator("train"))
        >>> batch.x.shape[2], batch.y.shape[2]
        (2, 1)
    """

    x_dim = 2
    x_range = (-1.0, 1.0)

    def __init__(
        self,
        images: Values,
        *,
        max_value: float = 1.0,
        num_context: Range = (3, None),
        num_target: Range = (3, None),
        max_points: int | None = None,
        all_targets: bool = True,
        seed: int = 0,
    ) -> None:
        pixels = check_finite("images", as_tensor("images", images))
        pixels = pixels[..., None] if pixels.ndim == 3 else pixels
        if pixels.ndim != 4 or len(pixels) < 10:
            raise ValueError(
                f"`images` must have shape (num, h, w) or (num, h, w, channels) with at least "
                f"10 images; got {tuple(pixels.shape)}."
            )
        if float(pixels.min()) < 0 or float(pixels.max()) > max_value:
            raise ValueError(
                f"`images` must have values from 0 to `max_value` = {max_value}; got "
                f"{float(pixels.min()):.4g} to {float(pixels.max()):.4g}. Set `max_value`."
            )
        num, height, width, self.y_dim = pixels.shape
        self.image_shape = (height, width)
        self.y = (pixels / max_value - 0.5).reshape(num, height * width, -1).float()
        self.x = _places(height, width)
        limit = min(len(self.x), 200) if max_points is None else max_points
        self.max_points = check_integer("max_points", limit, 2)
        if self.max_points > len(self.x):
            raise ValueError(
                f"`max_points` must be at most the number of pixels, {len(self.x)}; got "
                f"{max_points}."
            )
        self.sizes = TaskSizes(num_context, num_target, self.max_points)
        self.all_targets = all_targets
        self.seed = check_integer("seed", seed, 0)
        order = torch.from_numpy(np.random.default_rng(seed).permutation(num))
        cuts = np.cumsum([round(num * _SHARES[name]) for name in SPLITS[:-1]])
        parts = order.tensor_split(tuple(cuts.tolist()))
        self.rows: dict[str, Tensor] = dict(zip(SPLITS, parts, strict=True))

    @classmethod
    def digits(cls, **options: Any) -> ImageTasks:
        """The 1797 handwritten digits of scikit-learn, 8 x 8 pixels; options of the class."""
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
        return cls(bunch.images, max_value=16.0, **options)

    def batch(self, batch_size: int, generator: Generator) -> TaskBatch:
        """Tasks from training images; see `TaskStream.batch`."""
        return self._tasks("train", batch_size, generator, rest=False)

    def picture(self, batch: TaskBatch, values: Tensor | None = None) -> Tensor:
        """Images `(B, h, w, channels)` of a batch whose targets are all other pixels.

        Args:
            batch: from `split`.
            values: at its targets, `(B, m, channels)`, such as predictions; its own if omitted.
        """
        height, width = self.image_shape
        y = torch.cat([batch.yc, batch.yt if values is None else values.to(batch.yc)], 1)
        column, row = (((batch.x + 1) / 2 * n).floor().long() for n in (width, height))
        index = row[..., 0] * width + column[..., 1]
        index = torch.where(batch.mask, index, height * width)  # padding: one place too many
        canvas = y.new_zeros((len(y), height * width + 1, y.shape[2]))
        canvas.scatter_(1, index[..., None].expand_as(y), y)
        return canvas[:, :-1].reshape(-1, height, width, y.shape[2])

    def _split_batch(self, name: str, batch_size: int, rng: Generator) -> TaskBatch:
        return self._tasks(name, batch_size, rng, rest=self.all_targets and name != "train")

    def _tasks(self, name: str, batch_size: int, rng: Generator, *, rest: bool) -> TaskBatch:
        device = rng.device
        rows = self.rows[name].to(device)
        picked = rows[torch.randint(len(rows), (batch_size,), generator=rng, device=device)]
        n, m = self.sizes.draw(batch_size, rng)
        sizes = self.sizes.padded(n, m)
        if rest:
            m = len(self.x) - n
            sizes = (sizes[0], bucket(int(m.max()), len(self.x)))
        shape = (batch_size, len(self.x))
        order = torch.rand(shape, generator=rng, device=device).argsort(1)
        x = self.x.to(device)[order]
        y = self.y.to(device)[picked].gather(1, order[..., None].expand(*shape, self.y_dim))
        return deal(x, y, n, m, sizes)


def _places(height: int, width: int) -> Tensor:
    """Centres of pixels (row, column) on [-1, 1]², row by row."""
    rows, columns = ((2 * torch.arange(n) + 1) / n - 1 for n in (height, width))
    return torch.cartesian_prod(rows, columns)
