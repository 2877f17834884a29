"""RUN/metrics.jsonl: one strict JSON object per finished optimizer step, exact across restarts.

The training loop on rank 0 appends; the report and the plots read. Opening at a resume step drops what a lost attempt
wrote after it, so the file always reads like one uninterrupted run.
"""

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

from longspan import storage
from longspan.errors import DataError

FILE_NAME = "metrics.jsonl"
_SEEN_LATELY_S = 15.0


class MetricsLog:
    """An open metrics.jsonl. A class because it holds an open file between steps; make one with `MetricsLog.open`.

    On a local run every line reaches the operating system at once. An object store cannot append, so a remote run
    collects lines in a local temporary file and `flush()` publishes the whole text: call it before each checkpoint
    commit, so that no committed step lacks its line.
    """

    def __init__(self, uri: str, lines: IO[str], last_step: int, remote: bool) -> None:
        self.uri = uri
        self._lines = lines
        self._last_step = last_step
        self._remote = remote
        self._unpublished = False

    @classmethod
    def open(cls, run_uri: str, resume_step: int = 0) -> Self:
        """Open the log of a run directory (local path or s3:// URI) that goes on after `resume_step` finished steps.

        Lines of later steps and a torn last line are dropped; 0 starts the file anew.

        Raises:
            DataError: an earlier line of the existing file is damaged.
            StorageError: the run directory cannot be read or written.
        """
        if resume_step < 0:
            raise ValueError(f"resume_step counts finished optimizer steps and is never negative, not {resume_step}")
        uri = storage.join(run_uri, FILE_NAME)
        kept = [record for record in read_metrics(run_uri) if record["step"] <= resume_step]
        last_step = max((record["step"] for record in kept), default=0)
        text = "".join(_encode(record) for record in kept)
        storage.write_text(uri, text)
        lines: IO[str]
        if storage.is_remote(run_uri):
            lines = tempfile.TemporaryFile("w+", encoding="utf-8", newline="")  # noqa: SIM115 - close() closes it
            lines.write(text)
        else:
            lines = Path(uri).open("a", encoding="utf-8", newline="")  # noqa: SIM115 - close() closes it
        return cls(uri, lines, last_step, storage.is_remote(run_uri))

    def append(self, record: Mapping[str, object]) -> None:
        """Write the line of one finished optimizer step. `record["step"]` is 1-based and grows from line to line.

        Floats that are NaN or infinite are written as null; numpy scalars as plain numbers.

        Raises:
            ValueError: `step` is missing, not a whole number, or not after the last line's.
            LeaseLostError: another driver has taken the run over.
        """
        step = record.get("step")
        if not isinstance(step, Integral) or isinstance(step, bool) or step <= self._last_step:
            raise ValueError(f"{self.uri}: step must be a whole number above {self._last_step}, not {step!r}")
        # A line of a remote run is not seen before the flush, which asks again.
        storage.check_lease(self.uri, _SEEN_LATELY_S if self._remote else 0.0)
        self._lines.write(_encode(record))
        self._last_step = int(step)
        self._unpublished = True
        if not self._remote:
            self._lines.flush()

    def flush(self) -> None:
        """Make every appended line visible at the run's URI; a local run's lines already are.

        Raises:
            StorageError: the object store refused the text after retries; the lines are kept for the next flush.
        """
        self._lines.flush()
        if self._remote and self._unpublished:
            self._lines.seek(0)
            storage.write_text(self.uri, self._lines.read())
        self._unpublished = False

    def close(self) -> None:
        """Flush and let go of the file; closing twice is harmless."""
        if self._lines.closed:
            return
        try:
            self.flush()
        finally:
            self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_metrics(run_uri: str) -> list[dict[str, Any]]:
    """All whole lines of RUN/metrics.jsonl in file order; [] without the file. A torn last line is left out.

    Raises:
        DataError: a line that is not the last one is not a JSON object with a whole-number `step`.
    """
    uri = storage.join(run_uri, FILE_NAME)
    if not storage.exists(uri):
        return []
    # A crash can leave half a UTF-8 sequence or NUL bytes at the end, so the text is not decoded strictly.
    text = storage.read_bytes(uri).decode("utf-8", "replace")
    return _parse(text.split("\n"), uri)


def _parse(lines: Sequence[str], uri: str) -> list[dict[str, Any]]:
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    records = []
    for number, line in numbered:
        record = _decode(line)
        if record is not None:
            records.append(record)
        elif number != numbered[-1][0]:
            raise DataError(
                f"{uri}, line {number}: not a JSON object with a whole-number step; only a torn last line is normal. "
                "Was the file edited, or did two processes write it? Remove the line, or move the file away"
            )
    return records


def _encode(record: Mapping[str, object]) -> str:
    return json.dumps(_finite(record), allow_nan=False, separators=(",", ":")) + "\n"


def _decode(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line, parse_constant=_refuse_constant)
    except ValueError:
        return None
    whole = isinstance(record, dict) and isinstance(record.get("step"), int) and not isinstance(record["step"], bool)
    return record if whole else None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _finite(value: object) -> object:
    """The value as strict JSON has it: NaN and infinities become None, numpy scalars plain numbers."""
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else None
    return value
