"""What may not be averaged, and whose positions are kept: each refusal is one line that names the tensor or key."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longspan.errors import CheckpointError, ConfigError, LongspanError
from longspan.merge import merge_checkpoints
from tests.tiny import tiny_model_directory

YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 64}


def merge(pair: tuple[Path, Path], **arguments: Any) -> Path:
    output = pair[0].parent / "out"
    merge_checkpoints(str(pair[0]), str(pair[1]), str(output), **arguments)
    return output


def refusal(pair: tuple[Path, Path], **arguments: Any) -> LongspanError:
    with pytest.raises(LongspanError) as caught:
        merge(pair, **arguments)
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in pair[0].parent.iterdir() if path.name.startswith((".", "out"))) == []
    return caught.value


def change_tensors(directory: Path, **changes: torch.Tensor | None) -> None:
    file = directory / "model.safetensors"
    held: dict[str, Any] = load_file(file) | {name.replace("__", "."): value for name, value in changes.items()}
    save_file({name: value for name, value in held.items() if value is not None}, file, metadata={"format": "pt"})


def test_other_rope_needs_a_choice_and_both_work(pair: tuple[Path, Path], edit_config: Any) -> None:
    edit_config(pair[1], "rope_parameters", {"rope_type": "default", "rope_theta": 4596.0})
    edit_config(pair[1], "max_position_embeddings", 512)
    error = refusal(pair)
    assert isinstance(error, ConfigError)
    for part in (
        "a has rope_theta 500.0, max_position_embeddings 64",
        "b has rope_theta 4596.0, max_position_embeddings 512",
        "--rope a or b, in a pipeline's stage rope: a or b",
    ):
        assert part in str(error)
    from transformers import AutoModelForCausalLM

    for side, theta, window in (("a", 500.0, 64), ("b", 4596.0, 512)):
        output = pair[0].parent / f"kept-{side}"
        assert merge_checkpoints(str(pair[0]), str(pair[1]), str(output), rope=side)["rope"] == side
        model = AutoModelForCausalLM.from_pretrained(output)
        assert model.config.rope_parameters["rope_theta"] == theta
        assert model.config.max_position_embeddings == window
        assert model.model.rotary_emb.inv_freq[-1].item() == pytest.approx(theta ** (-6 / 8))


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("max_position_embeddings", 128, "b has max_position_embeddings 128"),
        ("rope_parameters", YARN, "b has rope_type yarn"),
    ],
)
def test_window_alone_and_scaling_alone_need_a_choice_too(
    pair: tuple[Path, Path], edit_config: Any, key: str, value: Any, shown: str
) -> None:
    edit_config(pair[1], key, value)
    assert shown in str(refusal(pair))
    assert json.loads((merge(pair, rope="b") / "config.json").read_text())[key] == value


def test_a_sliding_window_on_one_side_needs_a_choice(tmp_path: Path) -> None:
    a = tiny_model_directory(tmp_path / "a", "mistral", sliding_window=32)
    b = tiny_model_directory(tmp_path / "b", "mistral", sliding_window=None)
    assert "a has sliding_window 32; b has sliding_window None" in str(refusal((a, b)))


def test_a_sliding_window_that_is_switched_off_is_none(tmp_path: Path, edit_config: Any) -> None:
    a, b = (tiny_model_directory(tmp_path / side, "qwen2") for side in "ab")
    edit_config(a, "sliding_window", 4096)
    edit_config(a, "use_sliding_window", False)
    merge((a, b))


def test_old_and_new_spelling_of_one_rope_agree(pair: tuple[Path, Path]) -> None:
    file = pair[1] / "config.json"
    config = json.loads(file.read_text())
    del config["rope_parameters"]
    file.write_text(json.dumps(config | {"rope_theta": 500.0, "rope_scaling": None}))
    merge(pair)


def test_a_rope_that_cannot_be_read_is_refused_with_its_side(pair: tuple[Path, Path], edit_config: Any) -> None:
    edit_config(pair[1], "rope_parameters", {"rope_type": "linear", "rope_theta": 500.0, "factor": -2.0})
    assert str(refusal(pair)).startswith("merge: b: config.json: rope_parameters.factor is")


def test_a_config_that_transformers_does_not_take_is_refused_in_its_words(
    pair: tuple[Path, Path], edit_config: Any
) -> None:
    edit_config(pair[1], "vocab_size", "64")
    assert str(refusal(pair)).endswith("cannot be read (Field 'vocab_size' expected int, got str (value: '64'))")


@pytest.mark.parametrize(
    ("key", "value"),
    [("rms_norm_eps", 1e-3), ("num_attention_heads", 8), ("hidden_act", "gelu"), ("tie_word_embeddings", True)],
)
def test_another_architecture_is_refused_by_key(
    pair: tuple[Path, Path], edit_config: Any, key: str, value: Any
) -> None:
    edit_config(pair[1], key, value)
    error = refusal(pair)
    assert isinstance(error, CheckpointError)
    assert f"{key} differs: a has " in str(error)
    assert f"b has {value}" in str(error)


def test_another_family_and_another_vocabulary_size_are_refused(tmp_path: Path) -> None:
    a, b = tiny_model_directory(tmp_path / "a", "llama"), tiny_model_directory(tmp_path / "b", "mistral")
    assert "model_type differs: a has llama, b has mistral" in str(refusal((a, b)))
    wide = tiny_model_directory(tmp_path / "c", "llama", vocab_size=128)
    assert "vocabularies differ: vocab_size is 96 in a and 128 in b" in str(refusal((a, wide)))


def test_an_unknown_family_and_quantised_weights_are_refused(pair: tuple[Path, Path], edit_config: Any) -> None:
    edit_config(pair[1], "quantization_config", {"quant_method": "fp8"})
    assert "b: quantised weights cannot be averaged" in str(refusal(pair))
    edit_config(pair[0], "model_type", "gpt2")
    assert "a: model_type gpt2 is not supported" in str(refusal(pair))
    edit_config(pair[0], "model_type", "no-such-model")
    assert "config.json cannot be read" in str(refusal(pair))


def test_tokenizers_that_number_tokens_otherwise_are_refused(pair: tuple[Path, Path]) -> None:
    def write(directory: Path, vocabulary: Any, added: list[tuple[str, int]]) -> None:
        tokens = [{"content": content, "id": index} for content, index in added]
        content = {"model": {"vocab": vocabulary}, "added_tokens": tokens}
        (directory / "tokenizer.json").write_text(json.dumps(content))

    write(pair[0], {"x": 0, "y": 1}, [("<s>", 2)])
    write(pair[1], {"x": 0, "y": 1}, [("<t>", 2)])
    assert "differ in 2 tokens, '<s>' is id 2 in a and absent in b" in str(refusal(pair))
    write(pair[1], {"x": 1, "y": 0}, [("<s>", 2)])
    assert "differ in 2 tokens, 'x' is id 0 in a and id 1 in b" in str(refusal(pair))
    (pair[1] / "tokenizer.json").write_text("{}")
    assert "tokenizer.json is not a tokenizer.json with a vocabulary" in str(refusal(pair))
    write(pair[1], [["x", -1.0], ["y", -2.0]], [("<s>", 2)])
    merge(pair)


def test_tensors_of_one_side_only_and_other_shapes_are_refused(pair: tuple[Path, Path]) -> None:
    change_tensors(pair[1], model__extra__weight=torch.ones(3))
    assert "tensor model.extra.weight is missing in a (1 are)" in str(refusal(pair))
    change_tensors(pair[1], model__extra__weight=None, lm_head__weight=None)
    assert "tensor lm_head.weight is missing in b" in str(refusal(pair))
    change_tensors(pair[1], lm_head__weight=torch.ones(64, 16))
    assert "tensor lm_head.weight has shape [64, 32] in a and [64, 16] in b" in str(refusal(pair))


def test_a_type_that_cannot_be_averaged_is_refused(pair: tuple[Path, Path]) -> None:
    change_tensors(pair[1], lm_head__weight=torch.ones(64, 32, dtype=torch.int8))
    assert "tensor lm_head.weight is I8 in b" in str(refusal(pair, dtype="float32"))
