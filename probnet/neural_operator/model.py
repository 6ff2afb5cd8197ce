"""DGenNO: a generative operator learned from inputs alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from inference._checks import check_choice, check_finite, check_integer, check_options
from inference.rng import Stream, generator, stream_seed
from probnet._checks import Values, as_tensor
from probnet.datasets.fields import FieldSampler
from probnet.neural_operator.components import ComponentNetworks, SolutionDecoder
from probnet.neural_operator.darcy import Darcy2D
from probnet.neural_operator.encoders import DenseEncoder, Encoder
from probnet.neural_operator.inputs import InputLikelihood, TwoPhase, check_inputs
from probnet.neural_operator.multionet import MultiONet
from probnet.neural_operator.networks import OperatorNetworks
from probnet.neural_operator.problem import Problem
from probnet.neural_operator.trained import TrainedOperator
from probnet.neural_operator.training import (
    METHODS,
    Inputs,
    Training,
    TrainingOptions,
    open_checkpoint,
)
from probnet.neural_operator.training_result import finish_training
from probnet.neural_operator.wendland import WendlandTests

InputSource = FieldSampler | Callable[[int, torch.Generator], Tensor] | Values
"""A sampler of fresh inputs, a function of (count, generator) that makes them, or a table."""

_SMALLEST_VALIDATION = 2


class DGenNO:
    r"""A latent vector z generates both the input and the solution; PDEs need not be solved.

    z ~ N(0, I), x ~ p(x | A(·; z)) on the input grid, û = m U(·; z) + g, and the PDE is a
    virtual observation, exp(-λ ℓ(û, x)) λ^{M/2}, of learned precision λ. With the encoder
    q(z | x) = N(μ(x), diag s²(x)) training maximises the evidence lower bound

        E_q[log p(x | z) + (M/2) log λ - λ ℓ(û(z), x)] - KL(q(z | x) ‖ p(z)).

    Source: Zang & Koutsourelakis (J. Comput. Phys. 538, 2025). Theirs has a point mass for q,
    no KL term, weights set by hand and weak residuals at random points; here ℓ is by default
    the energy on a fixed mesh, whose minimum is the discrete solution.

    Args:
        pde: the problem.
        input_grid: nodes of the inputs, along each axis.
        input_likelihood: p(x | A).
        latent_dim: length of z.
        encoder: `"gaussian"`; `"deterministic"`, the paper's point mass; or an encoder whose
            form is copied, with grid and latent_dim as given here.
        physics: `"energy"`, `"dual_norm"`, or test functions of weak residuals (Darcy only);
            `None`: what `pde` offers.
        decoder: network of U whose form is copied; `None`: width 100, depth 5, sum_layers 4.
            Several components have a network each, or share a vector-valued form.
        input_decoder: the same for A; `None`: as U, SiLU-based activations as in the paper.

    Raises:
        ValueError: if the physics asked for is not that of the problem, or on bad sizes.
        TypeError: on objects of another kind.

    Example:
        >>> from probnet.datasets.fields import LevelSetGRF
        >>> pde, media = Darcy2D(mesh=(8, 8)), LevelSetGRF(num_nodes=9)
        >>> model = DGenNO(pde, input_grid=(9, 9), input_likelihood=TwoPhase(5.0, 10.0))
        >>> trained = model.fit(media, num_steps=2, batch_size=4, num_validation=4)
        >>> trained.predict(media.sample(3), pde.nodes).mean.shape
        torch.Size([3, 81])
    """

    def __init__(
        self,
        pde: Problem,
        input_grid: Sequence[int] = (29, 29),
        input_likelihood: InputLikelihood | None = None,
        latent_dim: int = 64,
        *,
        encoder: str | Encoder = "gaussian",
        physics: str | WendlandTests | None = None,
        decoder: MultiONet | None = None,
        input_decoder: MultiONet | None = None,
    ) -> None:
        if not isinstance(pde, Problem):
            raise TypeError(f"`pde` must be a Problem such as Darcy2D; got {pde!r}.")
        likelihood = TwoPhase(5.0, 10.0) if input_likelihood is None else input_likelihood
        if not isinstance(likelihood, InputLikelihood):
            raise TypeError(
                f"`input_likelihood` must be TwoPhase(low, high) or GaussianInput(...); got "
                f"{input_likelihood!r}."
            )
        self.pde, self.input_likelihood = pde, likelihood
        self.input_grid = tuple(
            check_integer(f"input_grid[{i}]", n, 2) for i, n in enumerate(input_grid)
        )
        self.latent_dim = check_integer("latent_dim", latent_dim, 1)
        self.encoder = self._encoder_form(encoder)
        self.tests = _checked_physics(pde, physics)
        self.decoder = MultiONet() if decoder is None else decoder
        self.input_decoder = (
            MultiONet(trunk_activation="silu_sin", branch_activation="silu_id")
            if input_decoder is None
            else input_decoder
        )

    def networks(self, seed: int = 0) -> OperatorNetworks:
        """Fresh networks of this model, not trained; float32."""
        seeds = [stream_seed(check_integer("seed", seed, 0), Stream.INIT, i) for i in range(3)]
        return OperatorNetworks(
            self.encoder.like(grid=self.input_grid, latent_dim=self.latent_dim, seed=seeds[0]),
            self.input_decoder.like(
                num_dims=len(self.input_grid),
                latent_dim=self.latent_dim,
                num_outputs=None,
                seed=seeds[1],
            ),
            self._solution_decoder(seeds[2]),
        )

    def fit(
        self,
        inputs: InputSource,
        *,
        num_steps: int,
        batch_size: int = 64,
        labels: Values | None = None,
        validation: Values | None = None,
        num_validation: int = 200,
        method: str = "muon",
        seed: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        progress: bool = True,
        device: str | torch.device = "cpu",
        **options: Any,
    ) -> TrainedOperator:
        """Train on inputs, and on solutions where they are given.

        The learning rates follow a half cosine to 0; the last weights are returned, none being
        chosen by a score. An interrupt (Ctrl-C) ends the training; what there is then is
        returned. A few validation inputs, which are not trained on, are solved exactly: for
        the energy's minimum in the update of λ, for the scale of û (option `calibrate`), and
        for the law of the error. The weights learn from no solution unless `labels` are given.

        Args:
            inputs: a sampler, of which fresh inputs are drawn at every step, or a table
                `(N, *grid)` or (N, m).
            num_steps: steps of the optimiser.
            batch_size: inputs per step.
            labels: solutions of a table's inputs at the mesh's nodes, (N, num_nodes),
                `(N, *solution_shape)`, or with a last axis of components.
            validation: inputs to be kept out; by default drawn from the sampler, or a tenth of
                the table.
            num_validation: how many of these, at most, if they are not given.
            method: `"muon"`, Muon for the decoders' inner matrices and Adam for the rest, or
                `"adam"`.
            seed: of the initial weights and of all random streams.
            checkpoint: a directory to save the state in as training goes.
            resume: go on with the training in `checkpoint`, if there is one; the result is
                bit-equal to that of a training without interruption.
            progress: show a progress bar on a terminal.
            device: where to compute.
            **options: of `TrainingOptions`.

        Raises:
            ValueError: on inputs of another grid or impossible values, labels that do not fit,
                and other bad arguments.
            TypeError: on an unknown option.
            FloatingPointError: if the bound is not finite.
            FileExistsError: if `checkpoint` holds a training and `resume` is false.
        """
        check_options("fit", options, TrainingOptions.__dataclass_fields__)
        settings = TrainingOptions(**options)
        check_integer("seed", seed, 0)
        source = self._source(
            inputs, labels, validation, check_integer("num_validation", num_validation, 2), seed
        )
        networks = self.networks(seed)
        networks.encoder.standardize(self._examples(source, seed).float())
        run = Training(
            networks,
            self.pde,
            self.input_likelihood,
            self.tests,
            source,
            settings,
            method=check_choice("method", method, METHODS),
            num_steps=check_integer("num_steps", num_steps, 1),
            batch_size=check_integer("batch_size", batch_size, 1),
            seed=seed,
            device=torch.device(device),
        )
        writer = open_checkpoint(run, checkpoint, resume=resume)
        interrupted = run.go(writer, progress=progress)
        examples = self._examples(source, seed)
        return finish_training(run, examples, interrupted=interrupted)

    def _encoder_form(self, encoder: str | Encoder) -> Encoder:
        if isinstance(encoder, Encoder):
            return encoder
        law = check_choice("encoder", encoder, ("gaussian", "deterministic"))
        return DenseEncoder(grid=self.input_grid, latent_dim=self.latent_dim, law=law)

    def _solution_decoder(self, seed: int) -> SolutionDecoder:
        """One network, or one for each component unless the form given is vector-valued."""
        sizes = {"num_dims": self.pde.num_dims, "latent_dim": self.latent_dim}
        components = self.pde.num_components
        if components == 1:
            return self.decoder.like(**sizes, num_outputs=None, seed=seed)
        if self.decoder.num_outputs is not None:
            return self.decoder.like(**sizes, num_outputs=components, seed=seed)
        form = self.decoder.like(**sizes, seed=seed)
        return ComponentNetworks(form, components, seed=seed)

    def _rows(self, name: str, values: Values) -> Tensor:
        """Inputs of any batch shape as checked rows (N, m)."""
        rows, _ = check_inputs(name, values, self.input_grid, self.input_likelihood)
        check: Any = getattr(self.pde, "check_coefficients", None)
        if check is not None:
            check(name, self.pde.coefficients(rows.unflatten(-1, self.input_grid)))
        return rows

    def _source(
        self,
        inputs: InputSource,
        labels: Values | None,
        validation: Values | None,
        num_validation: int,
        seed: int,
    ) -> Inputs:
        held_out = None if validation is None else self._rows("validation", validation)
        if isinstance(inputs, FieldSampler) or callable(inputs):
            if labels is not None:
                raise ValueError(
                    "`labels` need a table of inputs, which they are the solutions of; got a "
                    "sampler. Draw the table first: `inputs=sampler.sample(1000)`."
                )
            draw = inputs.draw if isinstance(inputs, FieldSampler) else inputs
            if held_out is None:
                stream = generator(seed, Stream.PREDICTIVE)
                held_out = self._rows("inputs", draw(num_validation, stream))
            return Inputs(draw, None, None, held_out)
        rows = self._rows("inputs", inputs)
        known = None if labels is None else self._checked_labels(labels, len(rows))
        if held_out is None:
            order = torch.randperm(len(rows), generator=generator(seed, Stream.PREDICTIVE))
            count = min(num_validation, len(rows) // 10)
            if count < _SMALLEST_VALIDATION:
                raise ValueError(
                    f"`inputs` holds {len(rows)} inputs, too few to keep a tenth of them out. "
                    f"Give a sampler, at least 20 inputs, or `validation`."
                )
            held_out, rows = rows[order[:count]], rows[order[count:]]
            known = None if known is None else known[order[count:]]
        return Inputs(None, rows, known, held_out)

    def _checked_labels(self, labels: Values, count: int) -> Tensor:
        values = check_finite("labels", as_tensor("labels", labels))
        if len(values) != count:
            raise ValueError(
                f"`labels` must have one solution per input, {count}; got {len(values)}."
            )
        nodes, components = len(self.pde.nodes), self.pde.num_components
        if values[0].numel() != nodes * components:
            raise ValueError(
                f"`labels` must have {nodes} nodal values of {components} component"
                f"{'s' if components > 1 else ''} per input, at `pde.nodes`; got shape "
                f"{tuple(values.shape)}."
            )
        return values.reshape(count, nodes, *([components] if components > 1 else []))

    @staticmethod
    def _examples(source: Inputs, seed: int) -> Tensor:
        """A thousand inputs, or the table, for standardisation and the prior on latents."""
        if source.rows is not None:
            return source.rows
        if source.draw is None:
            raise RuntimeError("there is neither a sampler nor a table of inputs.")
        drawn = source.draw(1000, generator(seed, Stream.PREDICTIVE, 1))
        return drawn.reshape(len(drawn), -1)


def _checked_physics(pde: Problem, physics: str | WendlandTests | None) -> WendlandTests | None:
    """The test functions, if there are any; raise if the problem has no such physics."""
    if isinstance(physics, WendlandTests):
        if not isinstance(pde, Darcy2D):
            raise ValueError(
                f"`physics` by test functions is written for Darcy2D; {type(pde).__name__} has "
                f"physics='dual_norm'."
            )
        return physics
    offered = "energy" if pde.variational else "dual_norm"
    if physics is None or check_choice("physics", physics, ("energy", "dual_norm")) == offered:
        return None
    hint = (
        " Make the problem with physics='dual_norm'."
        if pde.variational
        else " The problem is not variational: its solutions minimise no energy."
    )
    raise ValueError(
        f"`physics` is {physics!r}, but {type(pde).__name__} offers {offered!r}.{hint}"
    )
