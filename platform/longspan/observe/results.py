"""The models of an evaluation summary as rows: one reading of summary["models"] for the console table and the report.

Pure: from the plain dictionary of RUN/summary.json to frozen rows.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from longspan.errors import DataError
from longspan.observe.formatting import as_float, is_number


@dataclass(frozen=True)
class ModelRow:
    """One model: accuracy in [0, 1] by context length in tokens, cost, and whatever else the summary says of it."""

    name: str
    accuracy: dict[int, float | None]
    num_tokens: object
    seconds: object
    note: str
    others: dict[str, object]


def model_rows(models: Mapping[str, Mapping[str, Any]]) -> list[ModelRow]:
    """The rows of summary["models"], in its order.

    Raises:
        DataError: a model or its needle_accuracy is not an object, or a length is not a whole number.
    """
    known = {"needle_accuracy", "tokens", "seconds", "note"}
    rows = []
    for name, model in models.items():
        if not isinstance(model, Mapping) or not isinstance(model.get("needle_accuracy", {}), Mapping):
            raise DataError(f"summary models.{name}: expected an object with needle_accuracy: {{length: accuracy}}")
        rows.append(
            ModelRow(
                name=str(name),
                accuracy=_accuracy(name, model.get("needle_accuracy", {})),
                num_tokens=model.get("tokens"),
                seconds=model.get("seconds"),
                note=str(model.get("note") or ""),
                others={key: value for key, value in model.items() if key not in known},
            )
        )
    return rows


def all_lengths(rows: list[ModelRow]) -> list[int]:
    """Every context length that some model was measured at, rising."""
    return sorted({length for row in rows for length in row.accuracy})


def _accuracy(name: str, given: Mapping[Any, Any]) -> dict[int, float | None]:
    accuracy: dict[int, float | None] = {}
    for key, value in given.items():
        if not str(key).isdecimal():
            raise DataError(f"summary models.{name}.needle_accuracy: {key!r} is not a length in tokens; give 1024, say")
        accuracy[int(key)] = as_float(value) if is_number(value) else None
    return accuracy
