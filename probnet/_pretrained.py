"""Trained models that come with the package: how they are loaded, and made from a shell."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from inference._checks import check_choice
from probnet.posterior import Posterior, load


def load_packaged(package: str, name: str, names: Sequence[str]) -> Posterior:
    """What the file `<name>.probnet` in a package holds.

    Raises:
        ValueError: if the name is none of `names`.
    """
    check_choice("name", name, names)
    with as_file(files(package) / f"{name}.probnet") as path:
        return load(path)


def train_from_shell(
    train: Callable[..., Posterior], file: Path, *, num_steps: int, batch: str
) -> None:
    """Read the command line, train, save; Ctrl-C keeps what there is.

    Args:
        train: takes a number of steps, `checkpoint` and `resume`.
        file: where the result goes if nothing else is asked for.
        num_steps: how many if nothing else is asked for.
        batch: what a step takes, in words.
    """
    parser = argparse.ArgumentParser(
        description=f"Train {file.stem}, which comes with the package, and write its file."
    )
    parser.add_argument("--num-steps", type=int, default=num_steps, help=f"of {batch}")
    parser.add_argument(
        "--checkpoint", type=Path, help="directory to save in and to go on from"
    )
    parser.add_argument("--output", type=Path, default=file)
    arguments = parser.parse_args()
    resumable: dict[str, Any] = {
        "checkpoint": arguments.checkpoint,
        "resume": arguments.checkpoint is not None,
    }
    train(arguments.num_steps, **resumable).save(arguments.output)
