"""The matrix of readers, as far as it is cheap: transformers 5 on every kind, and what the matrix makes of numbers.

vLLM's and transformers 4's arithmetic is in tests/rope/test_readers.py; `python -m tests.readers.matrix` asks them.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from longspan.rope import reader_notes
from tests.readers.compare import compare, table
from tests.readers.exports import Export, Reference, export
from tests.readers.kinds import KINDS, OLD, TARGET
from tests.readers.matrix import jobs_of, prompts, row, told
from tests.readers.read_transformers import answer
from tests.tiny import FAMILIES

LENGTHS = {"short": 60, "old window": OLD, "old window + 1": OLD + 1, "full": TARGET - 1}
IN_BOTH = {"short": np.zeros(3), "long": np.zeros(5)}


def read(made: Export) -> dict:
    asked = prompts(128, LENGTHS)
    result = answer(jobs_of(made, asked)["transformers 5"])
    return row(made, asked, {"transformers 5": {made.name: result}})


@pytest.mark.parametrize("name", KINDS)
def test_transformers_computes_what_was_exported(name: str, tmp_path: Path) -> None:
    family = FAMILIES[list(KINDS).index(name) % len(FAMILIES)]
    made = export(KINDS[name], family, tmp_path)
    found = read(made)
    window = ", window 256" if made.settings.rope_type == "dynamic" else ""
    assert found["cells"]["transformers 5"]["verdict"] == f"equal{window}"
    # All but plain RoPE itself would show another one.
    assert (found["control"] < 1e-3) == (made.settings == made.plain)
    for note in reader_notes(made.settings, TARGET):
        assert told(note)["max_model_len"] <= TARGET


def test_a_wrong_rope_is_seen(tmp_path: Path) -> None:
    made = export(KINDS["yarn"], "llama", tmp_path)
    config = made.config
    for section in ("rope_parameters", "rope_scaling"):
        config[section]["attention_factor"] = 1.0
    (made.directory / "config.json").write_text(json.dumps(config))
    assert read(made)["cells"]["transformers 5"]["verdict"].startswith("differs by up to ")


def test_the_reference_is_that_of_each_length(tmp_path: Path) -> None:
    made = export(KINDS["mixed ntk"], "llama", tmp_path)
    reference, asked = Reference(made), prompts(128, LENGTHS)
    for name, prompt in asked.items():
        by = [reference.logprobs(settings, prompt) for settings in (made.settings, made.plain, made.fixed)]
        assert np.array_equal(by[0], by[1]) == (name in ("short", "old window"))
        assert np.array_equal(by[0], by[2]) == (name not in ("short", "old window"))


def test_the_documentation_has_every_kind() -> None:
    text = (Path(__file__).parents[2] / "docs" / "readers.md").read_text()
    measured = text.partition("<!-- matrix")[2].partition("<!-- end of the matrix")[0]
    assert [name for name in KINDS if f"\n| {name} | " not in measured] == []


@pytest.mark.parametrize(
    ("result", "verdict"),
    [
        ({"window": 8, "logprobs": [[1e-4] * 3, [0.0] * 5]}, "equal"),
        ({"window": 4, "logprobs": [[0.0] * 3, None]}, "equal, window 4"),
        ({"window": 8, "logprobs": [[0.0] * 3, [0.5] + [0.0] * 4]}, "differs by up to 0.5: long"),
        ({"window": 4, "logprobs": [[0.0] * 3, [float("nan")] * 5]}, "differs (not a number), window 4: long"),
        ({"window": 8, "logprobs": [[2.0] * 3, [2.0] * 5]}, "every prompt as one of 8"),
        ({"error": "ValueError: no"}, "refuses: ValueError: no"),
    ],
)
def test_verdicts(result: dict, verdict: str) -> None:
    fixed = {name: value + 2 for name, value in IN_BOTH.items()}
    assert compare(result, IN_BOTH, fixed, 8)["verdict"] == verdict


def test_the_table_tells_families_apart_where_they_differ() -> None:
    rows = [
        {"kind": kind, "family": family, "written": "yarn", "control": 2.0, "cells": {"vLLM": {"verdict": verdict}}}
        for kind, family, verdict in (
            ("a", "llama", "equal"),
            ("a", "qwen3", "equal"),
            ("b", "llama", "equal"),
            ("b", "qwen3", "refuses: x"),
        )
    ]
    lines = table(rows, ["vLLM", "peft"]).splitlines()
    assert lines[2:] == ["| a | yarn | equal | - | 2.0 |", "| b | yarn | llama: equal; qwen3: refuses: x | - | 2.0 |"]
