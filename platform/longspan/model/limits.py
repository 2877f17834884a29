"""Limits that name a model's context window outside its RoPE, and how they move with it. Pure: text in, text out.

A tokenizer that warns or cuts at the old window, or a `generate()` that refuses a longer prompt, makes a longer window
worthless. `companions` moves them in the files beside the weights, `checkpoint` in config.json.
"""

import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

CONFIG_KEYS = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "seq_length",
    "model_max_length",
    "max_target_positions",
    "max_sequence_length",
    "max_seq_length",
    "seq_len",
)
"""config.json keys that readers take a window from; vLLM takes the smallest of them."""
GENERATION = "generation_config.json"
_Path = tuple[str, ...]
_FILES: Mapping[str, tuple[_Path, ...]] = {
    GENERATION: (("max_length",),),
    "tokenizer_config.json": (("model_max_length",), ("max_length",)),
    "tokenizer.json": (("truncation", "max_length"),),
}
_NO_LIMIT = 20
"""generation_config.max_length of transformers 4 where nobody set one: it means 20 tokens after the prompt."""


class Window(NamedTuple):
    """The context window in tokens, of the model that files come from and of the one that they go to."""

    old: int
    new: int


def moved(limit: int, window: Window) -> int:
    """The limit beside the new window: one that names the old window names the new one, one that would cut or refuse
    what the longer window is for becomes the new window, and every other stays (10^30 means none).
    """
    if limit == window.old or (window.new > window.old and limit < window.new):
        return window.new
    return limit


def move_config_limits(config: Mapping[str, Any], window: Window) -> dict[str, Any]:
    """The values of a config.json with its limits moved, but for max_position_embeddings, which RoPE decides."""
    keys = [key for key in CONFIG_KEYS[1:] if _is_limit(config.get(key))]
    return {**config, **{key: moved(config[key], window) for key in keys}}


def move_limits(name: str, text: str, window: Window) -> str:
    """The content of the companion file `name` with its limits moved; every other byte of it stays.

    generation_config.json (max_length), tokenizer_config.json (model_max_length, max_length) and tokenizer.json
    (truncation.max_length) have such limits. Content that is no JSON object is left as it is.
    """
    if name not in _FILES or window.old == window.new:
        return text
    try:
        content = json.loads(text)
    except ValueError:
        return text
    for path in _FILES[name]:
        limit = _at(content, path)
        if _is_limit(limit) and not (name == GENERATION and limit == _NO_LIMIT):
            text = _set_number(text, path, moved(limit, window))
    return text


def _is_limit(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _at(content: Any, path: _Path) -> Any:
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _set_number(text: str, path: _Path, value: int) -> str:
    """The JSON `text` with the whole number at `path` replaced in place, so that all else keeps its bytes."""
    wanted = json.loads(text)
    parent = _at(wanted, path[:-1])
    old, parent[path[-1]] = parent[path[-1]], value
    if old == value:
        return text
    # The key may stand in other objects too: the right place is the one whose change gives what is wanted.
    for match in re.finditer(rf'"{re.escape(path[-1])}"\s*:\s*({old})(?![\d.eE])', text):
        changed = text[: match.start(1)] + str(value) + text[match.end(1) :]
        if json.loads(changed) == wanted:
            return changed
    return json.dumps(wanted, indent=2) + "\n"
