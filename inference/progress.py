"""Progress bars and Ctrl-C, both at the ends of chunks of steps."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from tqdm.auto import tqdm

_DESCRIBE_EVERY = 2.0  # seconds; the estimates cost milliseconds


class Progress:
    """A tqdm bar that asks for a description now and then."""

    def __init__(self, bar: tqdm[Any]) -> None:
        self._bar, self._described = bar, time.monotonic()

    def advance(
        self, steps: int, describe: Callable[[], dict[str, str]], *, warmup: bool
    ) -> None:
        """Take note of `steps` more steps."""
        if self._bar.disable:
            return
        self._bar.set_description("warmup" if warmup else "sample", refresh=False)
        if time.monotonic() - self._described > _DESCRIBE_EVERY:
            self._bar.set_postfix(describe(), refresh=False)
            self._described = time.monotonic()
        self._bar.update(steps)


@contextmanager
def progress_bar(total: int, initial: int, shown: bool) -> Generator[Progress]:
    """A bar on stderr, silent where that is no terminal."""
    with tqdm(total=total, initial=initial, disable=None if shown else True) as bar:
        yield Progress(bar)


@contextmanager
def delayed_interrupt() -> Generator[list[int]]:
    """Collect the first Ctrl-C in the list given; a second one raises `KeyboardInterrupt`.

    Outside the main thread, and where Ctrl-C is handled by somebody else, nothing changes.
    """
    caught: list[int] = []
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        yield caught
        return

    def handler(number: int, frame: Any) -> None:
        if caught:
            signal.default_int_handler(number, frame)
        caught.append(number)

    signal.signal(signal.SIGINT, handler)
    try:
        yield caught
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
