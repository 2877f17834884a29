"""Real checkpoints in, real checkpoints out: what is trained is what plain transformers loads, RoPE included."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from longspan.checkpoint.export import write_model
from longspan.config.model import Model, Rope
from longspan.errors import ConfigError
from longspan.model.attention import Documents
from longspan.model.load import assert_rope, extend_config, open_model, read_config
from longspan.rope import RopeSettings, config_keys, from_hf, inv_freq
from tests.tiny import FAMILIES, tiny_model_directory

TARGET = 256
KEYS = {
    "ntk": {"rope_type", "rope_theta"},
    "theta": {"rope_type", "rope_theta"},
    "yarn": {"rope_type", "rope_theta", "factor", "original_max_position_embeddings", "beta_fast", "beta_slow"},
    "llama3": {
        "rope_type",
        "rope_theta",
        "factor",
        "original_max_position_embeddings",
        "low_freq_factor",
        "high_freq_factor",
    },
    "longrope": {
        "rope_type",
        "rope_theta",
        "factor",
        "original_max_position_embeddings",
        "short_factor",
        "long_factor",
        "attention_factor",
    },
}
"""Of `rope_parameters`; what is left out of them transformers fills with values of its own."""
# In the form whose window no reader multiplies by the factor once more.
KEYS["linear"] = KEYS["llama3"]
ROPES = {
    "ntk": Rope(type="ntk"),
    "theta": Rope(type="theta", theta=25_000.0),
    "linear": Rope(type="linear"),
    "yarn": Rope(type="yarn"),
    "llama3": Rope(type="llama3", low_freq_factor=1.0, high_freq_factor=4.0),
    "longrope": Rope(type="longrope"),
}
SLIDING = {
    "mistral": {"sliding_window": 16},
    "qwen2": {"sliding_window": 16, "use_sliding_window": True, "max_window_layers": 1},
}


@pytest.fixture(scope="module", params=FAMILIES)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_directory(tmp_path_factory.mktemp("families") / request.param, request.param)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_directory(tmp_path_factory.mktemp("families") / "llama")


def settings_for(path: Path | str, **changes: Any) -> Model:
    return Model(path=str(path), dtype="float32", gradient_checkpointing=False).model_copy(update=changes)


def trained(path: Path, rope: Rope, **changes: Any) -> tuple[Any, RopeSettings]:
    """The opened model with every weight moved, as training does."""
    network, settings = open_model(settings_for(path, **changes), rope, TARGET, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.1)
    return network, settings


def export(network: Any, settings: RopeSettings, target: Path) -> dict[str, Any]:
    weights = {name: parameter.detach().contiguous() for name, parameter in network.named_parameters()}
    write_model(network, weights, settings, str(target))
    return json.loads((target / "config.json").read_text())


def plain_load(target: Path, **settings: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(str(target), **settings).eval()


def logits(network: Any, **settings: Any) -> torch.Tensor:
    tokens = torch.randint(96, (1, 200), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return network(input_ids=tokens, **settings).logits


@pytest.mark.parametrize("name", ROPES)
def test_the_result_loads_plainly_and_gives_the_trainers_logits(directory: Path, tmp_path: Path, name: str) -> None:
    network, settings = trained(directory, ROPES[name])
    config = export(network, settings, tmp_path / "out")
    # As the trainer computes it: float32 positions and the boundaries of one document.
    positions = torch.arange(200, dtype=torch.float32)[None]
    own = logits(network, position_ids=positions, documents=Documents((0, 200)))

    loaded = plain_load(tmp_path / "out")
    assert loaded.config._attn_implementation == "sdpa"
    assert (logits(loaded) - own).abs().max() < 1e-6
    # Extended, not as it was.
    assert (logits(plain_load(directory)) - own).abs().max() > 1e-3

    for model in (network, loaded):
        found = model.model.rotary_emb.inv_freq
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), inv_freq(settings, 8), rtol=2e-6)
    assert loaded.config.max_position_embeddings == TARGET

    rope = config["rope_parameters"]
    assert rope.keys() == KEYS[name]
    assert rope == config_keys(settings, TARGET)["rope_parameters"]
    legacy = {key: value for key, value in rope.items() if key != "rope_theta"}
    assert config["rope_theta"] == rope["rope_theta"]
    assert config["rope_scaling"] == (None if name in ("ntk", "theta") else {**legacy, "type": rope["rope_type"]})
    assert from_hf(config) == settings
    assert config["max_position_embeddings"] == TARGET
    assert config["use_cache"] is True
    assert "longspan" not in json.dumps(config)


def test_what_each_rope_asked_for(llama: Path) -> None:
    """The numbers themselves, so that the comparisons above cannot agree on something else."""
    found = {name: open_model(settings_for(llama), rope, TARGET, seed=0)[1] for name, rope in ROPES.items()}
    assert found["theta"] == RopeSettings("default", 25_000.0)
    # 4 times the window at head_dim 8: 500 * 4 ** (8 / 6) (NTK-aware interpolation).
    assert found["ntk"].rope_theta == pytest.approx(500 * 4 ** (8 / 6))
    assert found["linear"] == RopeSettings("linear", 500.0, factor=4.0)
    assert (found["yarn"].factor, found["yarn"].original_max_position_embeddings) == (4.0, 64)
    assert (found["yarn"].beta_fast, found["yarn"].beta_slow) == (32.0, 1.0)
    assert (found["llama3"].factor, found["llama3"].original_max_position_embeddings) == (4.0, 64)


def test_bfloat16_weights_keep_float32_frequencies(directory: Path, tmp_path: Path) -> None:
    network, settings = trained(directory, ROPES["yarn"], dtype="bfloat16")
    assert export(network, settings, tmp_path / "out")["dtype"] == "bfloat16"
    loaded = plain_load(tmp_path / "out")
    for model in (network, loaded):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
        np.testing.assert_allclose(model.model.rotary_emb.inv_freq.numpy(), inv_freq(settings, 8), rtol=2e-6)
    own = logits(network, documents=Documents((0, 200)))
    torch.testing.assert_close(logits(loaded), own, rtol=0.02, atol=0.02)


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    base = tiny_model_directory(tmp_path / "base", "qwen2", tie_word_embeddings=True)
    network, settings = trained(base, ROPES["ntk"])
    config = export(network, settings, tmp_path / "out")
    assert config["tie_word_embeddings"] is True
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    loaded = plain_load(tmp_path / "out")
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight
    assert (logits(loaded) - logits(network)).abs().max() < 1e-6


def test_an_export_is_a_base_for_the_next_extension(llama: Path, tmp_path: Path) -> None:
    network, settings = trained(llama, ROPES["ntk"])
    export(network, settings, tmp_path / "first")
    again, kept = open_model(settings_for(tmp_path / "first"), Rope(type="keep"), TARGET, seed=0)
    assert kept == settings
    assert (logits(again) - logits(network)).abs().max() < 1e-6
    further = open_model(settings_for(tmp_path / "first"), ROPES["yarn"], 4 * TARGET, seed=0)[1]
    assert (further.factor, further.original_max_position_embeddings) == (4.0, TARGET)
    assert further.rope_theta == settings.rope_theta


def test_an_export_over_an_older_one_has_one_config(llama: Path, tmp_path: Path) -> None:
    network, settings = trained(llama, ROPES["ntk"])
    export(network, settings, tmp_path / "out")
    with torch.no_grad():
        network.lm_head.weight.zero_()
    export(network, settings, tmp_path / "out")
    assert (logits(plain_load(tmp_path / "out")) == 0).all()


def test_random_weights_depend_on_the_seed_only(tmp_path: Path, llama: Path) -> None:
    shutil.copy(llama / "config.json", tmp_path / "config.json")
    first, second, other = (
        open_model(settings_for(tmp_path, weights="random"), ROPES["ntk"], TARGET, seed=seed)[0].state_dict()
        for seed in (7, 7, 8)
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_gradient_checkpointing_is_switched_by_the_recipe(llama: Path) -> None:
    for wanted in (True, False):
        network: Any = open_model(settings_for(llama, gradient_checkpointing=wanted), ROPES["ntk"], TARGET, seed=0)[0]
        assert network.is_gradient_checkpointing is wanted
        assert network.config.use_cache is False


def test_transformers_ignores_rope_theta_without_a_word(llama: Path, recwarn: pytest.WarningsRecorder) -> None:
    """The reason for writing rope_parameters whole and for asserting inv_freq afterwards."""
    from transformers import AutoConfig, AutoModelForCausalLM

    base = plain_load(llama).model.rotary_emb.inv_freq
    config = AutoConfig.from_pretrained(str(llama))
    config.rope_theta = 5e6
    for network in (plain_load(llama, config=config), AutoModelForCausalLM.from_config(config)):
        assert torch.equal(network.model.rotary_emb.inv_freq, base)
        with pytest.raises(ConfigError, match="rope: the model's frequencies are not those"):
            assert_rope(network, RopeSettings("default", 5e6))
    assert not [warning for warning in recwarn if "rope" in str(warning.message)]
    # By the key that it does read.
    config.rope_parameters = {"rope_type": "default", "rope_theta": 5e6}
    assert_rope(plain_load(llama, config=config), RopeSettings("default", 5e6))


def rewritten(llama: Path, target: Path, **keys: Any) -> Path:
    """The model with other keys at the top level of its config.json; None takes a key out."""
    shutil.copytree(llama, target)
    config = {**json.loads((llama / "config.json").read_text()), **keys}
    (target / "config.json").write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    return target


def test_the_rope_is_that_of_the_file_not_what_transformers_makes_of_it(llama: Path, tmp_path: Path) -> None:
    longrope = {"rope_type": "longrope", "rope_theta": 500.0, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    # Phi-3: the original window outside the section, no factor.
    path = rewritten(llama, tmp_path / "phi", rope_parameters=longrope, original_max_position_embeddings=16)
    settings = from_hf(read_config(settings_for(path)).to_dict())
    assert (settings.factor, settings.original_max_position_embeddings) == (4.0, 16)
    # A window that transformers would take for the original one.
    path = rewritten(llama, tmp_path / "lost", rope_parameters={**longrope, "factor": 4.0})
    with pytest.raises(
        ConfigError,
        match=r"^model.path: config.json of .*lost.: rope_parameters\.original_max_position_embeddings is missing",
    ):
        read_config(settings_for(path))
    # Llama 2 leaves the base to its class.
    path = rewritten(llama, tmp_path / "llama2", rope_parameters=None)
    assert open_model(settings_for(path), Rope(), 64, seed=0)[1] == RopeSettings("default", 1e4)


def test_a_stale_original_window_at_the_top_level_does_not_win(llama: Path, tmp_path: Path) -> None:
    """transformers would compute YaRN's ramp from it."""
    path = rewritten(llama, tmp_path / "stale", original_max_position_embeddings=16)
    network, settings = trained(path, ROPES["yarn"])
    assert settings.original_max_position_embeddings == 64
    config = export(network, settings, tmp_path / "out")
    assert "original_max_position_embeddings" not in config
    assert (logits(plain_load(tmp_path / "out")) - logits(network)).abs().max() < 1e-6


@pytest.mark.parametrize(
    "kept",
    [
        {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 4.0},
        {
            "rope_type": "longrope",
            "rope_theta": 500.0,
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "short_factor": [1.0, 1.5, 2.0, 2.0],
            "long_factor": [1.0, 2.0, 4.0, 4.0],
        },
    ],
    ids=lambda kept: kept["rope_type"],
)
def test_frequencies_that_depend_on_the_length_are_held_still_in_training(
    llama: Path, tmp_path: Path, kept: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Ranks that see slices of a sequence would else choose differently; the export has the model's own type."""
    path = rewritten(llama, tmp_path / "model", rope_parameters=kept)
    network, settings = trained(path, Rope())
    rotary, tokens = network.model.rotary_emb, torch.zeros(1, 1)
    positions = torch.tensor([[3.0]])
    before = rotary(tokens, positions)
    rotary(tokens, torch.tensor([[255.0]]))
    assert all(torch.equal(left, right) for left, right in zip(rotary(tokens, positions), before, strict=True))
    config = read_config(settings_for(path))
    exported = extend_config(config, Rope(), TARGET)
    assert exported.rope_type == kept["rope_type"]
    np.testing.assert_array_equal(inv_freq(settings, 8), inv_freq(exported, 8, sequence_length=TARGET))
    assert "to serve" not in caplog.text
    written = export(network, exported, tmp_path / "out")
    assert from_hf(written) == exported
    # What no key of config.json says to vLLM.
    assert f"to serve {tmp_path / 'out'}: " in caplog.text
    assert f"--max-model-len {TARGET}" in caplog.text
    assert written["max_position_embeddings"] == (64 if kept["rope_type"] == "dynamic" else TARGET)
    # Plain transformers at the target length meets what was trained.
    ids = torch.randint(96, (1, TARGET), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        own = network(input_ids=ids).logits
        assert (plain_load(tmp_path / "out")(input_ids=ids).logits - own).abs().max() < 1e-5


def test_e2llm_trains_at_the_models_rope_and_exports_the_scale(llama: Path, tmp_path: Path) -> None:
    network, settings = trained(llama, Rope(type="e2llm"))
    assert settings == RopeSettings("default", 500.0)
    exported = extend_config(read_config(settings_for(llama)), Rope(type="e2llm"), TARGET)
    assert exported == RopeSettings("linear", 500.0, factor=4.0)
    config = export(network, exported, tmp_path / "out")
    assert (config["max_position_embeddings"], from_hf(config)) == (TARGET, exported)
    # Trained with positions 0, 1/4, 2/4, ...; used with 0, 1, 2, ...
    positions = torch.arange(200, dtype=torch.float32)[None] / 4
    own = logits(network, position_ids=positions, documents=Documents((0, 200)))
    assert (logits(plain_load(tmp_path / "out")) - own).abs().max() < 1e-5


def test_cos_and_sin_scaled_otherwise_are_refused(llama: Path) -> None:
    opened = open_model(settings_for(llama), Rope(type="yarn", attention_factor=1.0), TARGET, seed=0)
    network: Any = opened[0]
    assert network.model.rotary_emb.attention_scaling == 1.0
    network.model.rotary_emb.attention_scaling = 1.2
    with pytest.raises(ConfigError, match=r"scales cos and sin by 1\.2, expected 1 for"):
        assert_rope(network, opened[1])


def test_frequencies_that_were_changed_are_refused(llama: Path) -> None:
    opened = open_model(settings_for(llama), ROPES["yarn"], TARGET, seed=0)
    network: Any = opened[0]
    settings, rotary = opened[1], network.model.rotary_emb
    whole = rotary.inv_freq.clone()
    rotary.inv_freq[-1] *= 1.0001
    with pytest.raises(ConfigError, match=r"rope: the model's frequencies are not those of .*'yarn'.*expected 1, "):
        assert_rope(network, settings)
    rotary.inv_freq = whole[:-1]
    with pytest.raises(ConfigError, match="rope: the model's frequencies are not those"):
        assert_rope(network, settings)
    rotary.inv_freq = whole
    assert_rope(network, settings)


def test_frequencies_in_bfloat16_are_refused(llama: Path) -> None:
    network, settings = open_model(settings_for(llama), ROPES["ntk"], TARGET, seed=0)
    with pytest.raises(ConfigError, match=r"inv_freq of LlamaRotaryEmbedding is torch.bfloat16, must be float32"):
        assert_rope(network.bfloat16(), settings)


def test_a_model_without_rotary_embedding_is_refused(llama: Path) -> None:
    opened = open_model(settings_for(llama), ROPES["ntk"], TARGET, seed=0)
    network: Any = opened[0]
    settings = opened[1]
    del network.model.rotary_emb.inv_freq
    with pytest.raises(ConfigError, match="rope: LlamaForCausalLM has no rotary embedding with inv_freq to check"):
        assert_rope(network, settings)


def test_an_unknown_family_is_refused(tmp_path: Path) -> None:
    from transformers import GPT2Config

    GPT2Config(n_layer=1, n_head=2, n_embd=8).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"model.path: '.*' is of type gpt2; supported: llama, mistral, qwen2, qwen3"):
        read_config(settings_for(tmp_path))


@pytest.mark.parametrize("content", [None, "{}", "{"], ids=["missing", "empty", "broken"])
def test_a_path_without_a_config_is_refused(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "model"
    if content is not None:
        path.mkdir()
        (path / "config.json").write_text(content)
    with pytest.raises(
        ConfigError, match=r"model.path: cannot read a model config at .*; give a directory with"
    ) as info:
        read_config(settings_for(path))
    assert "\n" not in str(info.value)


def test_attention_dropout_is_refused(tmp_path: Path) -> None:
    path = tiny_model_directory(tmp_path, attention_dropout=0.1)
    with pytest.raises(ConfigError, match=r"^model.path: config.json of '.*': attention_dropout is 0.1; set it to 0$"):
        read_config(settings_for(path))


@pytest.mark.parametrize("family", SLIDING)
def test_a_sliding_window_is_refused_unless_dropped(tmp_path: Path, family: str) -> None:
    base = tiny_model_directory(tmp_path / "base", family, **SLIDING[family])
    with pytest.raises(ConfigError, match=r"sliding window of 16 tokens.*model.drop_sliding_window: true"):
        open_model(settings_for(base), ROPES["ntk"], TARGET, seed=0)

    network, settings = trained(base, ROPES["ntk"], drop_sliding_window=True)
    config = export(network, settings, tmp_path / "out")
    assert config["sliding_window"] is None
    assert not config.get("use_sliding_window")
    assert set(config.get("layer_types", ["full_attention"])) == {"full_attention"}
    # The exported model attends as far as the trained one.
    loaded = plain_load(tmp_path / "out")
    assert (logits(loaded) - logits(network, documents=Documents((0, 200)))).abs().max() < 1e-6
    embeddings = loaded.get_input_embeddings()(torch.arange(96)[None]).detach().requires_grad_()
    loaded(inputs_embeds=embeddings).logits[0, -1].square().sum().backward()
    assert (embeddings.grad[0, 0] != 0).any()


def test_pickled_weights_are_refused(tmp_path: Path, llama: Path) -> None:
    shutil.copy(llama / "config.json", tmp_path / "config.json")
    torch.save(load_file(llama / "model.safetensors"), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        ConfigError, match=r"model.path: .*/pytorch_model.bin is pickled, .*; where you trust .* save_pretrained"
    ) as info:
        open_model(settings_for(tmp_path), ROPES["ntk"], TARGET, seed=0)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("damage", ["tensor missing", "wrong shape", "truncated"])
def test_weights_that_are_not_whole_are_refused(tmp_path: Path, llama: Path, damage: str) -> None:
    shutil.copytree(llama, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    if damage == "truncated":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        name = "model.layers.1.mlp.up_proj.weight"
        changed = {} if damage == "tensor missing" else {name: torch.zeros(3, 32)}
        save_file({**{key: value for key, value in weights.items() if key != name}, **changed}, file, {"format": "pt"})
    with pytest.raises(ConfigError, match=r"model.path: ") as info:
        open_model(settings_for(tmp_path), ROPES["ntk"], TARGET, seed=0)
    assert "\n" not in str(info.value)
