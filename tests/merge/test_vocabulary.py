"""Models whose vocabularies differ are averaged token by token, once it is said whose the result keeps."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from longspan.errors import ConfigError
from longspan.merge import merge_checkpoints
from tests.tiny import tiny_model_directory

EMBEDDINGS = ("model.embed_tokens.weight", "lm_head.weight")


def model(directory: Path, seed: int, vocab_size: int, tokens: list[str] | None = None, **changes: Any) -> Path:
    """A tiny model; `tokens` are its tokenizer's, in the order of their ids."""
    tiny_model_directory(directory, seed=seed, vocab_size=vocab_size, **changes)
    if tokens is not None:
        content = {"model": {"vocab": {token: index for index, token in enumerate(tokens)}}}
        (directory / "tokenizer.json").write_text(json.dumps(content))
    return directory


def merged(a: Path, b: Path, **arguments: Any) -> tuple[dict[str, Any], ...]:
    """Weights of a, b and their average at weight 0.25."""
    output = a.parent / "out"
    merge_checkpoints(str(a), str(b), str(output), weight=0.25, **arguments)
    return tuple(load_file(directory / "model.safetensors") for directory in (a, b, output))


def config(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "config.json").read_text())
    return content


@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("tied", [False, True])
def test_rows_go_by_token_and_the_kept_side_s_own_stay(tmp_path: Path, side: str, tied: bool) -> None:
    a = model(tmp_path / "a", 1, 6, ["x", "y", "z", "<s>"], tie_word_embeddings=tied)
    b = model(tmp_path / "b", 2, 8, ["y", "x", "<new>", "<s>", "z"], tie_word_embeddings=tied, eos_token_id=3)
    with pytest.raises(
        ConfigError, match=r"differ in 4 tokens, '<new>' is absent in a and id 2 in b;.* --vocabulary a"
    ):
        merged(a, b)
    of_a, of_b, result = merged(a, b, vocabulary=side)
    pairs = {"a": [(0, 1), (1, 0), (2, 4), (3, 3)], "b": [(0, 1), (1, 0), (3, 3), (4, 2)]}[side]
    for name in EMBEDDINGS[: 1 if tied else 2]:
        expected = (of_a if side == "a" else of_b)[name].clone()
        for kept, other in pairs:
            row_a, row_b = (kept, other) if side == "a" else (other, kept)
            expected[kept] = of_a[name][row_a] * 0.75 + of_b[name][row_b] * 0.25
        assert torch.equal(result[name], expected)
    norm = "model.norm.weight"
    assert torch.equal(result[norm], of_a[norm] * 0.75 + of_b[norm] * 0.25)
    kept = a if side == "a" else b
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (kept / "tokenizer.json").read_bytes()
    for key in ("vocab_size", "eos_token_id"):
        assert config(tmp_path / "out")[key] == config(kept)[key]
    assert merge_checkpoints(str(a), str(b), str(tmp_path / "more"), vocabulary=side)["vocabulary"] == side


def test_rope_and_vocabulary_may_be_kept_of_different_sides(tmp_path: Path) -> None:
    """An extended model with a token of its own, merged back into the original's vocabulary."""
    from transformers import AutoModelForCausalLM

    a = model(tmp_path / "a", 1, 6, ["x", "y"])
    b = model(tmp_path / "b", 2, 7, ["x", "y", "<pad>"], max_position_embeddings=256)
    merged(a, b, rope="b", vocabulary="a")
    assert config(tmp_path / "out")["max_position_embeddings"] == 256
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").get_input_embeddings().weight.shape[0] == 6


def test_without_tokenizers_the_common_rows_are_averaged(tmp_path: Path) -> None:
    """The same vocabulary, padded to another size."""
    a, b = model(tmp_path / "a", 1, 6), model(tmp_path / "b", 2, 8)
    of_a, of_b, result = merged(a, b, vocabulary="b")
    for name in EMBEDDINGS:
        assert torch.equal(result[name], torch.cat([of_a[name] * 0.75 + of_b[name][:6] * 0.25, of_b[name][6:]]))


def test_the_same_vocabulary_needs_no_choice_and_none_changes_it(tmp_path: Path) -> None:
    a, b = model(tmp_path / "a", 1, 6, ["x", "y"]), model(tmp_path / "b", 2, 6, ["x", "y"])
    of_a, of_b, result = merged(a, b, vocabulary="b")
    for name in EMBEDDINGS:  # the rows that no token has as well
        assert torch.equal(result[name], of_a[name] * 0.75 + of_b[name] * 0.25)
