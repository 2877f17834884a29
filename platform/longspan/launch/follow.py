"""The driver's progress bar of a run on Ray: reads the metrics that rank 0 writes to a local run directory."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.observe.progress import training_progress

_INTERVAL_S = 0.5


@contextmanager
def follow_metrics(recipe: Recipe, enabled: bool) -> Iterator[None]:
    """Show the run's progress while the block runs; on an object store nothing is shown here, rank 0 prints."""
    if not enabled or storage.is_remote(recipe.run_uri):
        yield
        return
    path = Path(recipe.run_uri, "metrics.jsonl")
    stop = threading.Event()
    thread = threading.Thread(target=_follow, args=(path, recipe, stop), name="longspan-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(timeout=5)


def _follow(path: Path, recipe: Recipe, stop: threading.Event) -> None:
    shown = _last_line(path)
    with training_progress(recipe.train.steps, shown.get("step", 0), recipe.name) as update:
        while True:
            ended = stop.wait(_INTERVAL_S)
            line = _last_line(path)
            if line and line.get("step") != shown.get("step"):
                update(line["step"], line)
                shown = line
            if ended:
                return


def _last_line(path: Path) -> dict[str, Any]:
    """Newest whole line; empty before there is one."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, 2) - 4096))
            lines = handle.read().split(b"\n")
    except OSError:
        return {}
    for line in reversed(lines[:-1]):
        try:
            return dict(json.loads(line))
        except ValueError:
            continue
    return {}
