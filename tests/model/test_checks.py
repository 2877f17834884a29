"""Models that cannot be trained: refused by config.json and the headers of their weights, in the words of the opening.

Before, transformers opened most of them, drew what was missing at random, or ended in a traceback.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from longspan.config.model import Model, Rope
from longspan.errors import ConfigError
from longspan.model import checks, load
from longspan.model.checks import check_model
from longspan.model.load import open_model, read_config
from longspan.model.weight_files import INDEX, SINGLE
from tests.tiny import FAMILIES, tiny_model_directory

Change = Callable[[Path], object]
CPU = torch.device("cpu")


def keys(**values: Any) -> Change:
    """Other values at the top level of config.json."""

    def change(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def tensors(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    return lambda folder: save_file(change(load_file(folder / SINGLE)), folder / SINGLE, {"format": "pt"})


def without(name: str) -> Change:
    return tensors(lambda weights: {key: value for key, value in weights.items() if key != name})


def in_shards(weight_map: dict[str, str]) -> Change:
    def change(folder: Path) -> None:
        (folder / SINGLE).rename(folder / "model-1.safetensors")
        (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))

    return change


def renamed(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / SINGLE).rename(folder / name)

    return change


def truncated(folder: Path) -> None:
    (folder / SINGLE).write_bytes((folder / SINGLE).read_bytes()[:-100])


def both(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


HEAD, UP = "lm_head.weight", "model.layers.1.mlp.up_proj.weight"
SHORT = {"CONFIG": "config.json of 'DIR':", "WEIGHTS": "the weights in 'DIR'"}
REFUSED: dict[str, tuple[Change, str]] = {
    "gptq": (
        keys(quantization_config={"quant_method": "gptq", "bits": 4}),
        "CONFIG quantization_config: the weights are quantised (gptq); give the model before",
    ),
    "bitsandbytes": (
        keys(quantization_config={"load_in_4bit": True}),
        "CONFIG quantization_config: the weights are quantised (unknown)",
    ),
    "compressed": (
        keys(compression_config={"quant_method": "compressed-tensors"}),
        "CONFIG compression_config: the weights are quantised (compressed-tensors)",
    ),
    "fp8 without a config": (
        tensors(lambda weights: {**weights, UP: weights[UP].to(torch.float8_e4m3fn)}),
        f"tensor {UP} of 'DIR' is F8_E4M3, as in quantised weights; give",
    ),
    "packed": (
        tensors(lambda weights: {**weights, UP: torch.zeros(4, 4, dtype=torch.int32)}),
        f"tensor {UP} of 'DIR' is I32, as in quantised weights",
    ),
    "pickled": (
        renamed("pytorch_model.bin"),
        "DIR/pytorch_model.bin is pickled, which can run code when opened; where",
    ),
    "pickled shards": (renamed("pytorch_model-00001-of-00002.bin"), "DIR/pytorch_model-00001-of-00002.bin is pickled"),
    "gguf": (renamed("model.gguf"), "DIR holds neither model.safetensors nor model.safetensors.index.json (it holds"),
    "no weights": (lambda folder: (folder / SINGLE).unlink(), "DIR holds neither model.safetensors nor model.safetens"),
    "truncated": (truncated, "DIR/model.safetensors is damaged ("),
    "empty": (tensors(lambda weights: {}), "DIR holds no tensor; the checkpoint is empty"),
    "a shard missing": (
        in_shards({UP: "model-1.safetensors", HEAD: "model-2.safetensors"}),
        "DIR/model-2.safetensors is missing; the checkpoint is incomplete, fetch the model again",
    ),
    "an index of another model": (
        in_shards({"ghost": "model-1.safetensors"}),
        "DIR/model-1.safetensors does not hold ghost, which model.safetensors.index.json says it does",
    ),
    "a tensor missing": (without(UP), "WEIGHTS are not those of its config.json: 1 tensors are missing or"),
    "another shape": (
        tensors(lambda weights: {**weights, UP: torch.zeros(3, 32)}),
        "WEIGHTS are not those of its config.json: 1 tensors are missing or of another shape, the",
    ),
    "more layers than the files": (keys(num_hidden_layers=3), "WEIGHTS are not those of its config.json: 9"),
    "fewer layers than the files": (
        keys(num_hidden_layers=1),
        "WEIGHTS hold 9 tensors that a model of its config.json has no place for, the",
    ),
    "a vocabulary of another size": (keys(vocab_size=128), "WEIGHTS are not those of its config.json: 2"),
    "biases that the config does not have": (
        tensors(lambda weights: {**weights, "model.layers.0.self_attn.q_proj.bias": torch.ones(32)}),
        "WEIGHTS hold 1 tensors that a model of its config.json has no place for, the",
    ),
    "a classifier": (
        tensors(lambda w: {**{k: v for k, v in w.items() if k != HEAD}, "score.weight": torch.ones(2, 32)}),
        "CONFIG tie_word_embeddings is false, but the weights hold no lm_head.weight; set it to true",
    ),
    "untied without a head": (without(HEAD), "CONFIG tie_word_embeddings is false, but the weights hold no"),
    "tied with another head": (
        keys(tie_word_embeddings=True),
        "CONFIG tie_word_embeddings is true, but lm_head.weight in the files is no copy of model.embed",
    ),
    "an adapter beside it": (
        lambda folder: (folder / "adapter_config.json").write_text("{}"),
        "'DIR' holds an adapter (adapter_config.json), and transformers would",
    ),
    "an adapter alone": (
        both(
            renamed("adapter_model.safetensors"),
            lambda folder: (folder / "config.json").rename(folder / "adapter_config.json") and None,
        ),
        "'DIR' is an adapter; give the model that it is folded into",
    ),
    "mixture of experts": (
        keys(model_type="mixtral"),
        "'DIR' is of type mixtral; supported: llama, mistral, qwen2, qwen3",
    ),
    "vision": (keys(model_type="llava"), "'DIR' is of type llava; supported: llama"),
    "unknown": (
        keys(model_type="my_llama", auto_map={"AutoConfig": "my.Config"}),
        "'DIR' is of type my_llama; supported",
    ),
    "encoder and decoder": (keys(model_type="t5"), "'DIR' is of type t5; supported: llama"),
    "a decoder that says it has an encoder": (keys(is_encoder_decoder=True), "CONFIG is_encoder_decoder is"),
    "a part of each head": (
        keys(partial_rotary_factor=0.5),
        "CONFIG partial_rotary_factor is 0.5, but transformers' llama rotates whole heads; take the key",
    ),
    "another kind of attention": (
        keys(layer_types=["full_attention", "linear_attention"]),
        "CONFIG layer_types has 'linear_attention'; only models of full attention can be extended",
    ),
    "a sliding window by its layers alone": (
        keys(layer_types=["full_attention", "sliding_attention"]),
        "'DIR' attends in a sliding window of None tokens, so it cannot see further; set model.drop_sliding_window",
    ),
    "dropout": (keys(attention_dropout=0.1), "CONFIG attention_dropout is 0.1; set it to 0"),
    "an activation that is none": (keys(hidden_act="sillu"), "CONFIG hidden_act is 'sillu', which transf"),
    "padding beyond the vocabulary": (keys(pad_token_id=96), "CONFIG pad_token_id is 96, beyond vocab_size"),
    "groups that do not divide": (keys(num_key_value_heads=3), "CONFIG num_attention_heads 4 is no multiple"),
    "heads that do not divide": (keys(hidden_size=33), "CONFIG The hidden size (33) is not a multiple of"),
    "no heads": (keys(num_attention_heads=0), "CONFIG num_attention_heads is 0; it must be 1 or more"),
    "no layers": (keys(num_hidden_layers=0), "CONFIG num_hidden_layers is 0; it must be 1 or more"),
    "a size in words": (keys(vocab_size="96"), "CONFIG Field 'vocab_size' expected int, got str (value: '9"),
    "no window": (keys(max_position_embeddings=None), "CONFIG Field 'max_position_embeddings' expected int"),
    "a type that is none": (keys(dtype="foo"), "CONFIG module 'torch' has no attribute 'foo'; mend it"),
    "rope in words": (keys(rope_parameters="yarn"), "CONFIG Field 'rope_parameters' with value 'yarn'"),
    "an odd head": (keys(head_dim=7), "CONFIG RoPE requires an even rotary dimension, but got"),
    "a RoPE that is none": (
        keys(rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 0.5}),
        "CONFIG rope_parameters.factor is 0.5; it must be 1 or more",
    ),
    "no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot read a model config at 'DIR' ("),
    "a JSON list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "cannot read a model config at 'DIR' (config.json",
    ),
    "no model": (lambda folder: (folder / "config.json").unlink(), "cannot read a model config at 'DIR' ("),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_directory(tmp_path_factory.mktemp("checks") / "llama")


@pytest.fixture
def model(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "model")
    return tmp_path / "model"


def settings_for(path: Path, **values: Any) -> Model:
    return Model.model_validate({"path": str(path), "dtype": "float32", "gradient_checkpointing": False, **values})


def planned(settings: Model) -> None:
    check_model(settings, read_config(settings), device=CPU)


def opened(settings: Model) -> None:
    open_model(settings, Rope(), 64, seed=0)


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED)
def test_plan_refuses_what_training_could_not_open_in_the_same_words(model: Path, change: Change, message: str) -> None:
    change(model)
    words = []
    for ask in (planned, opened):
        with pytest.raises(ConfigError) as caught:
            ask(settings_for(model))
        words.append(str(caught.value))
    assert words[0] == words[1]
    for short, long in SHORT.items():
        message = message.replace(short, long)
    assert words[0].startswith("model.path: " + message.replace("DIR", str(model)))
    assert "\n" not in words[0]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("rope_type", ["default", "yarn"])
def test_whole_models_are_let_through(tmp_path: Path, family: str, tied: bool, rope_type: str) -> None:
    rope: dict[str, Any] = {"rope_type": rope_type, "rope_theta": 500.0}
    if rope_type == "yarn":
        rope |= {"factor": 2.0, "original_max_position_embeddings": 32}
    folder = tiny_model_directory(tmp_path / family, family, tie_word_embeddings=tied, rope_parameters=rope)
    for ask in (planned, opened):
        ask(settings_for(folder))
    if tied:  # some writers keep a copy
        tensors(lambda weights: {**weights, HEAD: weights["model.embed_tokens.weight"].clone()})(folder)
        for ask in (planned, opened):
            ask(settings_for(folder))


def backbone_alone(folder: Path) -> None:
    keys(tie_word_embeddings=True)(folder)
    tensors(lambda weights: {k.removeprefix("model."): v for k, v in weights.items() if k != HEAD})(folder)


HARMLESS: dict[str, Change] = {
    "buffers of old": tensors(lambda w: {**w, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}),
    "half precision": tensors(lambda weights: {name: value.half() for name, value in weights.items()}),
    "a padding token from the end": keys(pad_token_id=-1),
    "pickled ones beside": lambda folder: (folder / "pytorch_model.bin").write_bytes(b""),
    "the backbone alone": backbone_alone,
}


@pytest.mark.parametrize("change", HARMLESS.values(), ids=HARMLESS)
def test_what_is_harmless_is_let_through(model: Path, change: Change) -> None:
    before = load_file(model / SINGLE)["model.layers.1.mlp.up_proj.weight"]
    change(model)
    planned(settings_for(model))
    network: Any = open_model(settings_for(model), Rope(), 64, seed=0)[0]
    torch.testing.assert_close(network.get_parameter(UP), before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("rope_type", ["default", "linear"])
def test_no_family_rotates_a_part_of_its_heads(tmp_path: Path, family: str, rope_type: str) -> None:
    """If a later transformers does, `partial_rotary_factor` may be let through for it."""
    from transformers import AutoModelForCausalLM

    from tests.tiny import tiny_config

    rope = {"rope_type": rope_type, "rope_theta": 500.0, "partial_rotary_factor": 0.5, "factor": 1.0}
    network = AutoModelForCausalLM.from_config(tiny_config(family, rope_parameters=rope))
    frequencies: Any = network.model.rotary_emb.inv_freq
    if len(frequencies) == 2:
        with pytest.raises(RuntimeError, match="size of tensor"):
            network(torch.arange(5)[None])
    else:
        assert len(frequencies) == 4


def test_tensors_that_transformers_would_draw_at_random_are_found_after_the_headers_too(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without(UP)(model)
    monkeypatch.setattr(checks, "check_weights", lambda *_: None)
    with pytest.raises(
        ConfigError, match=r"^model.path: the weights in .* are not those of its config.json: 1 tensors"
    ):
        opened(settings_for(model))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"targets": ["qkv_proj"]}, r"^model.lora.targets: LlamaForCausalLM has no linear layer 'qkv_proj'; it has"),
        ({"also_train": ["wte"]}, r"^model.lora.also_train: LlamaForCausalLM has no module 'wte'"),
        ({"also_train": ["self_attn"]}, r"^model.lora.also_train: model.layers.0.self_attn holds "),
        (
            {"quantize": "nf4"},
            r"^model.lora.quantize: model.layers.0.mlp.down_proj has 48 inputs, and bitsandbytes on the CPU",
        ),
    ],
)
def test_adapters_that_do_not_fit_are_refused_in_the_same_words(
    model: Path, lora: dict[str, Any], message: str
) -> None:
    words = []
    for ask in (planned, opened):
        with pytest.raises(ConfigError, match=message) as caught:
            ask(settings_for(model, lora=lora))
        words.append(str(caught.value))
    assert words[0] == words[1]


def test_no_tensor_is_loaded(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were opened")

    monkeypatch.setattr(load, "load_pretrained", fail)
    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", fail)
    planned(settings_for(model, lora={}))


def test_a_kernel_that_training_here_would_not_find_is_refused(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"^model\.attention: flash_attn needs a GPU"):
        planned(settings_for(model, attention="flash_attn"))
    # Workers elsewhere may have one.
    settings = settings_for(model, attention="flash_attn")
    check_model(settings, read_config(settings))
