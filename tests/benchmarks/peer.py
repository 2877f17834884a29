"""MosaicML Streaming as a process beside ours: it cannot be installed with longspan (it wants transformers below 5).

Make it an environment of its own (`pip install mosaicml-streaming` and a torch for CPUs) and give the benchmarks its
Python with --peer-python. Without it they measure all the rest and say that it is missing.
"""

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MISSING = "MosaicML Streaming is missing: no --peer-python was given; the other contenders are measured without it."


class Peer:
    """A running `mosaic_peer`; `ask` waits for its answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.version = self._answer()["version"]

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **request}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the peer ended with {self._process.wait()}; its last words are above")
        found: dict[str, Any] = json.loads(line)
        return found


@contextmanager
def open_peer(python: str | None, environment: Mapping[str, str]) -> Iterator[Peer | None]:
    """The peer under the interpreter `python`, None where there is none."""
    if python is None:
        yield None
        return
    script = str(Path(__file__).with_name("mosaic_peer.py"))
    process = subprocess.Popen(
        [python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(environment)
    )
    try:
        yield Peer(process)
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(30)
