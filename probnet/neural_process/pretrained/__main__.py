"""Train a process that comes with the package, and write its file."""

from __future__ import annotations

import argparse
from pathlib import Path

from probnet.neural_process.pretrained import NAMES, train_pretrained


def main() -> None:
    """Read the command line, train, save; Ctrl-C keeps what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-steps", type=int, default=20_000, help="of 16 tasks")
    parser.add_argument("--checkpoint", type=Path, help="directory to go on from")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_name(f"{NAMES[0]}.probnet")
    )
    arguments = parser.parse_args()
    trained = train_pretrained(
        arguments.num_steps,
        checkpoint=arguments.checkpoint,
        resume=arguments.checkpoint is not None,
    )
    trained.save(arguments.output)


if __name__ == "__main__":
    main()
