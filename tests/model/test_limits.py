"""Limits that name a window move with it, and nothing else in their files changes by a byte."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.model.limits import Window, move_config_limits, move_limits, moved

WINDOW = Window(8192, 131072)
NO_LIMIT = int(1e30)
LIMITS = {
    "generation_config.json": ("max_length",),
    "tokenizer_config.json": ("model_max_length",),
    "tokenizer.json": ("truncation", "max_length"),
}


@pytest.mark.parametrize(
    ("limit", "window", "expected"),
    [
        (8192, WINDOW, 131072),
        (4096, WINDOW, 131072),  # Llama-3-8B's generation_config, half of its window
        (32768, WINDOW, 131072),
        (131072, WINDOW, 131072),
        (200000, WINDOW, 200000),
        (NO_LIMIT, WINDOW, NO_LIMIT),
        (32768, Window(32768, 8192), 8192),
        (4096, Window(32768, 8192), 4096),
        (4096, Window(8192, 8192), 4096),
    ],
)
def test_a_limit_moves_where_it_names_the_old_window_or_would_cut_the_new_one(
    limit: int, window: Window, expected: int
) -> None:
    assert moved(limit, window) == expected


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    return {path[0]: nested(path[1:], value) if path[1:] else value}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_only_the_number_changes_in_the_text(name: str, indent: Any) -> None:
    decoy = {"max_length": 8192, "model_max_length": 8192, "text": '"max_length": 8192'}
    content = {"first": decoy, "é\u2028": 1e-05, **nested(LIMITS[name], 8192), "max_new_tokens": 8192, "last": [decoy]}
    text = json.dumps(content, indent=indent, ensure_ascii=False)
    expected = json.dumps({**content, **nested(LIMITS[name], 131072)}, indent=indent, ensure_ascii=False)
    assert move_limits(name, text, WINDOW) == expected


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokenizer_config.json", '{"model_max_length": 1000000000000000019884624838656, "x": 4096 }\n'),
        ("tokenizer_config.json", '{ "model_max_length" : null}'),
        ("tokenizer_config.json", '{"model_max_length": 1e30, "max_length": true}'),
        ("generation_config.json", '{"max_length": 20,\r\n "max_new_tokens": 4096}'),
        ("generation_config.json", '{"max_length": 131072}'),
        ("generation_config.json", '{"max_length": "4096"}'),
        ("generation_config.json", "[4096]"),
        ("generation_config.json", "no JSON, max_length: 4096"),
        ("tokenizer.json", '{"truncation": null, "max_length": 8192}'),
        ("vocab.json", '{"max_length": 4096}'),
        ("special_tokens_map.json", '{"model_max_length": 4096}'),
    ],
)
def test_a_file_without_such_a_limit_keeps_every_byte(name: str, text: str) -> None:
    assert move_limits(name, text, WINDOW) == text


def test_a_key_that_cannot_be_found_as_text_still_moves() -> None:
    text = '{"a": [1, 2], "max\\u005flength": 4096, "z": 0}'
    result = move_limits("generation_config.json", text, WINDOW)
    assert list(json.loads(result).items()) == [("a", [1, 2]), ("max_length", 131072), ("z", 0)]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["max_length", "a", "truncation"]), inner)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=6), VALUES, max_size=5), st.integers(1, 2**20), st.booleans())
def test_whatever_else_is_there_stays(content: dict[str, Any], limit: int, is_ascii: bool) -> None:
    text = json.dumps({**content, "max_length": limit}, ensure_ascii=is_ascii)
    result = json.loads(move_limits("generation_config.json", text, WINDOW))
    expected = limit if limit == 20 else moved(limit, WINDOW)
    assert list(result.items()) == list({**content, "max_length": expected}.items())


def test_limits_of_config_json_that_other_readers_take_move() -> None:
    config = {"max_position_embeddings": 8192, "seq_length": 8192, "model_max_length": 8192, "n_positions": None}
    config |= {"sliding_window": 8192, "max_window_layers": 28, "hidden_size": 4096}
    found = move_config_limits(config, WINDOW)
    assert found == {**config, "seq_length": 131072, "model_max_length": 131072}
    assert list(found) == list(config)
