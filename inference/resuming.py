"""`inference.resume`: go on with a run that was saved."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from inference import running
from inference._checks import check_options
from inference.chains import Saving
from inference.checkpoint import read_meta
from inference.draws import Draws
from inference.request import Request, check_unchanged


def resume(
    path: str | os.PathLike[str],
    target: Any,
    data: Any = None,
    *,
    num_samples: int | None = None,
    executor: Any = None,
    progress: bool = True,
    coords: Mapping[str, Any] | None = None,
    dims: Mapping[str, list[str]] | None = None,
    **expected: Any,
) -> Draws:
    """Go on with a run that `sample(..., checkpoint=path)` saved, however it ended.

    The draws are, bit for bit, those of the run without the interruption. A finished run can be
    made longer by a larger `num_samples`.

    Args:
        path: the directory given as `checkpoint`.
        target: the model or `LogDensity` that was sampled: code is not saved.
        data: the data it was given.
        num_samples: draws a chain in all; None: as many as were asked for.
        executor: as for `sample`. A run of groups of chains goes on as such without one, too.
        progress: show a progress bar on a terminal.
        coords: coordinates by dimension.
        dims: names of the axes of each variable.
        expected: any other argument of `sample`, to be compared with the saved one.

    Returns:
        All the draws, those made before included.

    Raises:
        FileNotFoundError: if there is no run at `path`.
        ValueError: if a file is damaged, or the target, the data or an argument differ from
            what the run was made with; the message names what differs.
    """
    meta = read_meta(path)
    saved = meta["request"]
    known = [f.name for f in fields(Request) if f.name != "options"]
    request = _request(saved, expected, known)
    if num_samples is not None:
        request = replace(request, num_samples=num_samples)
        _check_length(request, saved)
    if executor is not None and not meta["grouped"]:
        raise ValueError(
            "`executor` was given to go on with a run that was made without one; leave it out."
        )
    saving = Saving(Path(path), meta["every"], go_on=True, grouped=meta["grouped"])
    return running.run(
        target,
        data,
        request,
        init=None,
        labels=running.Labels(dims, coords),
        progress=progress,
        saving=saving,
        executor=executor,
        entry=resume,
    )


def _request(saved: dict[str, Any], expected: dict[str, Any], known: list[str]) -> Request:
    """The saved request, once everything that was given agrees with it."""
    options = {n: v for n, v in expected.items() if n not in known}
    check_options("resume", options, saved["options"], also=known)
    given = {n: v for n, v in expected.items() if n in known}
    if given.get("backend") == "auto":
        del given["backend"]
    if "schedule" in given and saved["schedule"] is not None:
        saved = {**saved, "schedule": None}
        request = replace(Request.from_json(saved), schedule=given["schedule"])
    else:
        request = Request.from_json(saved)
    now = replace(request, **given, options={**request.options, **options})
    check_unchanged(request.to_json(), now.to_json())
    return now


def _check_length(request: Request, saved: dict[str, Any]) -> None:
    before, now = saved["num_samples"], request.num_samples
    if before is not None and now is not None and now < before:
        raise ValueError(
            f"`num_samples` must be at least the {before} the run was made for; got {now}."
        )
    if request.plan(progress=False).schedule != Request.from_json(saved).plan(
        progress=False
    ).schedule or (
        before != now and "Cyclical" in type(request.plan(progress=False).schedule).__name__
    ):
        raise ValueError("`num_samples` of a cyclical run cannot change: its cycles would.")
