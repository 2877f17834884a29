"""The average itself: exact, streamed, whole or not there, and a model like any other."""

import json
import os
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from longspan import storage
from longspan.errors import CheckpointError, ConfigError, HeldError, LeaseLostError, StorageError
from longspan.merge import merge as module
from longspan.merge import merge_checkpoints
from longspan.merge.merge import average, plan_shards
from longspan.merge.weights import Weights, open_weights
from longspan.storage.lease import acquire, look, release
from longspan.uri import parse
from tests.leases import someone
from tests.merge.conftest import Edit
from tests.tiny import FAMILIES, tiny_model_directory


def tensors(directory: Path | str) -> dict[str, torch.Tensor]:
    return {name: t for file in sorted(Path(directory).glob("*.safetensors")) for name, t in load_file(file).items()}


def resave(directory: Path, **changes: Any) -> None:
    """The same checkpoint again, in other files or another type."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=changes.pop("dtype", torch.float32))
    for file in directory.glob("model*"):
        file.unlink()
    model.save_pretrained(directory, **changes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weight", [0.5, 0.3])
def test_is_the_weighted_sum_and_loads_like_any_model(tmp_path: Path, family: str, weight: float) -> None:
    from transformers import AutoModelForCausalLM

    a = tiny_model_directory(tmp_path / "a", family, seed=1, vocab_size=64)
    b = tiny_model_directory(tmp_path / "b", family, seed=2, vocab_size=64)
    result = merge_checkpoints(str(a), str(b), str(tmp_path / "out"), weight=weight)
    of_a, of_b, merged = tensors(a), tensors(b), tensors(tmp_path / "out")
    assert merged.keys() == of_a.keys()
    for name, tensor in merged.items():
        assert torch.equal(tensor, of_a[name] * (1 - weight) + of_b[name] * weight), name
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(model.get_input_embeddings().weight, merged["model.embed_tokens.weight"])
    assert result == json.loads(json.dumps(result))
    assert (result["weight"], result["rope"], result["dtype"], result["files"]) == (weight, "a", "float32", 1)
    assert result["tensors"] == len(merged)
    assert result["parameters"] == sum(t.numel() for t in merged.values()) == result["bytes"] // 4


def test_weight_is_the_share_of_b(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for weight, side in ((0, pair[0]), (1, pair[1])):
        output = tmp_path / f"out{weight}"
        merge_checkpoints(str(pair[0]), str(pair[1]), str(output), weight=weight)
        expected = tensors(side)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(output).items())


def test_files_of_the_inputs_do_not_matter(pair: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = map(str, pair)
    merge_checkpoints(a, b, str(tmp_path / "single"))
    resave(pair[1], max_shard_size="9KB")
    assert len(list(pair[1].glob("*.safetensors"))) > 2
    result = merge_checkpoints(a, b, str(tmp_path / "mixed"), shard_bytes=9000)
    single, mixed = tensors(tmp_path / "single"), tensors(tmp_path / "mixed")
    assert single.keys() == mixed.keys()
    assert all(torch.equal(single[name], mixed[name]) for name in single)

    index = json.loads((tmp_path / "mixed" / "model.safetensors.index.json").read_text())
    files = sorted(file.name for file in (tmp_path / "mixed").glob("*.safetensors"))
    assert result["files"] == len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"] == {"total_size": result["bytes"], "total_parameters": result["parameters"]}
    for file in files:
        held = load_file(tmp_path / "mixed" / file)
        assert held.keys() == {name for name, place in index["weight_map"].items() if place == file}
        assert sum(t.nbytes for t in held.values()) <= 9000
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "mixed")
    assert torch.equal(model.get_output_embeddings().weight, single["lm_head.weight"])


def test_bfloat16_is_averaged_in_float32_and_rounded_once(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for directory in pair:
        resave(directory, dtype=torch.bfloat16)
    result = merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"), weight=0.3)
    of_a, of_b = tensors(pair[0]), tensors(pair[1])
    for name, tensor in tensors(tmp_path / "out").items():
        exact = of_a[name].float() * (1 - 0.3) + of_b[name].float() * 0.3
        assert tensor.dtype == torch.bfloat16
        assert torch.equal(tensor, exact.bfloat16())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert result["dtype"] == config["dtype"] == config["torch_dtype"] == "bfloat16"


def test_unequal_types_need_a_choice(pair: tuple[Path, Path], tmp_path: Path) -> None:
    resave(pair[1], dtype=torch.bfloat16)
    arguments = (str(pair[0]), str(pair[1]), str(tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"tensor \S+ is F32 in a and BF16 in b; say the result's type"):
        merge_checkpoints(*arguments)
    assert merge_checkpoints(*arguments, dtype="float16")["dtype"] == "float16"
    assert {tensor.dtype for tensor in tensors(tmp_path / "out").values()} == {torch.float16}


def test_chunks_and_odd_shapes_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_ELEMENTS", 7)
    generator = torch.Generator().manual_seed(0)
    for shape in ((), (0,), (3, 5), (4, 1, 9)):
        a, b = torch.randn(2, *shape, generator=generator)
        assert torch.equal(average(a, b, 0.25, "F32"), a * 0.75 + b * 0.25)
    wide = average(a.double(), b.double(), 0.25, "F64")
    assert torch.equal(wide, a.double() * 0.75 + b.double() * 0.25)


def test_one_tensor_a_side_and_one_result_is_held_at_a_time(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many lie in one file: what a merge holds does not grow with the model."""
    alive: dict[str, list[weakref.ref[torch.Tensor]]] = {"read": [], "made": []}
    most = {"read": 0, "made": 0}

    def watch(kind: str, tensor: torch.Tensor) -> torch.Tensor:
        alive[kind] = [ref for ref in alive[kind] if ref() is not None] + [weakref.ref(tensor)]
        most[kind] = max(most[kind], len(alive[kind]))
        return tensor

    read = Weights.read
    monkeypatch.setattr(Weights, "read", lambda weights, name: watch("read", read(weights, name)))
    monkeypatch.setattr(module, "average", lambda *arguments: watch("made", average(*arguments)))
    done = merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"))
    assert (done["files"], done["tensors"]) == (1, 21)
    assert most == {"read": 2, "made": 1}


def test_a_file_is_mapped_only_while_it_is_read(pair: tuple[Path, Path]) -> None:
    """Mapped pages count as a process's memory, and in the end both models would be in them."""
    weights = open_weights("a", pair[0])
    kept = weights.read("lm_head.weight").clone()
    assert str(pair[0]) not in Path("/proc/self/maps").read_text()
    assert torch.equal(kept, tensors(pair[0])["lm_head.weight"])


@pytest.mark.parametrize("where", ["a", "b"])
def test_a_model_that_is_not_finite_is_no_result(pair: tuple[Path, Path], tmp_path: Path, where: str) -> None:
    directory = pair["ab".index(where)]
    held = tensors(directory)
    held["model.norm.weight"][3] = float("nan")
    save_file(held, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensor model\.norm\.weight of the result is not finite"):
        merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_values_beyond_float16_are_no_result(pair: tuple[Path, Path], tmp_path: Path) -> None:
    held = tensors(pair[0])
    held["model.norm.weight"][0] = 1e30
    save_file(held, pair[0] / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="too large for float16; try bfloat16"):
        merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"), dtype="float16")
    merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"), dtype="bfloat16")


@given(
    sizes=st.lists(st.integers(0, 50), max_size=30),
    limit=st.integers(1, 60),
)
def test_shards_keep_the_order_and_the_limit(sizes: list[int], limit: int) -> None:
    named = {f"t{i}": size for i, size in enumerate(sizes)}
    shards = plan_shards(named, limit)
    assert [name for shard in shards for name in shard] == list(named)
    for shard, following in zip(shards, [*shards[1:], []], strict=bool(shards)):
        assert sum(named[name] for name in shard) <= limit or len(shard) == 1
        if following:
            assert sum(named[name] for name in shard) + named[following[0]] > limit


def test_companions_come_along_byte_for_byte_with_a_card_and_nothing_else(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    files = ("tokenizer_config.json", "tokenizer.model", "LICENSE", "additional_chat_templates/tools.jinja")
    for directory in pair:
        (directory / "additional_chat_templates").mkdir()
        for name in files:
            (directory / name).write_bytes(os.urandom(50))
        (directory / "optimizer.pt").write_bytes(b"state")
        (directory / "README.md").write_text(f"---\nlicense: mit\n---\n# {directory.name}")
    merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"), rope="b", weight=0.25)
    names = storage.list_files(str(tmp_path / "out"))
    assert set(names) == {"config.json", "generation_config.json", "model.safetensors", "README.md", *files}
    assert all((tmp_path / "out" / name).read_bytes() == (pair[1] / name).read_bytes() for name in files)
    card = (tmp_path / "out" / "README.md").read_text()
    for text in ("license: mit", "base_model:\n- a\n- b\n", "base_model_relation: merge", "| weight of b | 0.25 |"):
        assert text in card
    assert str(tmp_path) not in card


def test_the_limits_of_the_side_that_speaks_move_to_the_window_that_is_kept(
    pair: tuple[Path, Path], tmp_path: Path, edit_config: Edit
) -> None:
    """The original's tokens with the extended model's window: a limit of the original would refuse long prompts."""
    edit_config(pair[1], "max_position_embeddings", 512)
    edit_config(pair[1], "vocab_size", 64)
    edit_config(pair[1], "auto_map", {"AutoModelForCausalLM": "modeling_x.X"})
    (pair[1] / "modeling_x.py").touch()
    for directory, tokens in zip(pair, ("ab", "ac"), strict=True):
        vocabulary = {"model": {"vocab": {token: number for number, token in enumerate(tokens)}}}
        (directory / "tokenizer.json").write_text(json.dumps(vocabulary))
        (directory / "generation_config.json").write_text('{"max_length":64}')
    merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"), rope="b", vocabulary="a")
    assert (tmp_path / "out" / "generation_config.json").read_text() == '{"max_length":512}'
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (pair[0] / "tokenizer.json").read_bytes()
    assert "auto_map" not in json.loads((tmp_path / "out" / "config.json").read_text())
    assert not (tmp_path / "out" / "modeling_x.py").exists()


@pytest.mark.parametrize("tied", [False, True])
def test_tied_embeddings_with_and_without_a_copy_of_the_head(tmp_path: Path, tied: bool) -> None:
    from transformers import AutoModelForCausalLM

    a, b = (
        tiny_model_directory(tmp_path / side, seed=seed, vocab_size=64, tie_word_embeddings=True)
        for seed, side in enumerate("ab")
    )
    assert "lm_head.weight" not in tensors(a)
    held = tensors(b)
    head = held["model.embed_tokens.weight"].clone() if tied else torch.zeros(64, 32)
    save_file(held | {"lm_head.weight": head}, b / "model.safetensors", metadata={"format": "pt"})
    if not tied:
        with pytest.raises(CheckpointError, match=r"b: config.json ties the embeddings, but lm_head.weight is no copy"):
            merge_checkpoints(str(a), str(b), str(tmp_path / "out"))
        return
    merge_checkpoints(str(a), str(b), str(tmp_path / "out"))
    assert "lm_head.weight" not in tensors(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_old_frequency_buffers_are_left_out(pair: tuple[Path, Path], tmp_path: Path) -> None:
    held = tensors(pair[0])
    buffer = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    save_file(held | buffer, pair[0] / "model.safetensors", metadata={"format": "pt"})
    merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"))
    assert tensors(tmp_path / "out").keys() == held.keys()


def test_an_empty_output_folder_is_filled_and_a_full_one_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    merge_checkpoints(str(pair[0]), str(pair[1]), str(output))
    before = (output / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="out exists and is not empty"):
        merge_checkpoints(str(pair[1]), str(pair[0]), str(output))
    assert (output / "model.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match="a exists and is not empty"):
        merge_checkpoints(str(pair[0]), str(pair[1]), str(pair[0]))


def test_nothing_is_left_of_a_merge_that_fails_midway(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def fail(*arguments: Any) -> torch.Tensor:
        calls.append(arguments)
        if len(calls) == 5:
            raise OSError(28, "No space left on device")
        return average(*arguments)

    monkeypatch.setattr(module, "average", fail)
    with pytest.raises(StorageError, match=r"out/model-.*No space left on device"):
        merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"), shard_bytes=9000)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a", "b"]


def test_what_a_killed_merge_left_is_removed_by_the_next(pair: tuple[Path, Path], tmp_path: Path) -> None:
    for name in (".out.dead.partial", ".other.dead.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model-00001-of-00004.safetensors").write_text("half a model")
    merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"))
    left = sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("."))
    assert left == [".other.dead.partial"]


@pytest.mark.parametrize("place", ["local", "s3"])
def test_two_merges_do_not_mix(pair: tuple[Path, Path], tmp_path: Path, s3_bucket: str, place: str) -> None:
    output = str(tmp_path / "out") if place == "local" else f"{s3_bucket}/out"
    lease = acquire(parse(output), someone())
    with pytest.raises(HeldError, match="out is in use by"):
        merge_checkpoints(str(pair[0]), str(pair[1]), output)
    release(lease)
    merge_checkpoints(str(pair[0]), str(pair[1]), output)
    assert "config.json" in storage.list_files(output)


def test_a_merge_that_was_taken_over_puts_nothing_there(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = str(tmp_path / "out")

    def intrude(*arguments: Any) -> torch.Tensor:
        if look(parse(output)).generation == 1:  # type: ignore[union-attr]
            acquire(parse(output), someone(), take_over=True, wait=lambda _: None)
        return average(*arguments)

    monkeypatch.setattr(module, "average", intrude)
    with pytest.raises(LeaseLostError):
        merge_checkpoints(str(pair[0]), str(pair[1]), output)
    assert storage.list_files(output) == []


def test_an_output_that_cannot_be_made_is_named(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write \S+file/out"):
        merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "file" / "out"))


def test_an_output_filled_meanwhile_is_not_replaced(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def intrude(*arguments: Any) -> torch.Tensor:
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "theirs").write_text("keep")
        return average(*arguments)

    monkeypatch.setattr(module, "average", intrude)
    with pytest.raises(StorageError, match="cannot put the result at"):
        merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"weight": 1.1}, r"--weight 1.1: must be in \[0, 1\], the share of b"),
        ({"weight": float("nan")}, "--weight nan"),
        ({"dtype": "int8"}, "--dtype int8: must be one of float32, bfloat16, float16"),
        ({"rope": "c"}, "--rope c: must be a or b"),
        ({"vocabulary": "c"}, "--vocabulary c: must be a or b"),
        ({"shard_bytes": 0}, "shard_bytes 0: must be at least 1"),
    ],
)
def test_refuses_arguments_out_of_range(
    pair: tuple[Path, Path], tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "out"), **wrong)
    assert not (tmp_path / "out").exists()


def test_between_s3_directories_with_config_json_last(
    pair: tuple[Path, Path], tmp_path: Path, s3_bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    for directory in pair:
        storage.upload_tree(directory, f"{s3_bucket}/{directory.name}")
    uploaded: list[str] = []
    upload = storage.upload_file
    monkeypatch.setattr(
        storage, "upload_file", lambda path, uri: (uploaded.append(uri.rsplit("/", 1)[1]), upload(path, uri))
    )
    merge_checkpoints(f"{s3_bucket}/a", f"{s3_bucket}/b", f"{s3_bucket}/out", shard_bytes=9000)
    assert uploaded[-1] == "config.json"
    assert uploaded[0].startswith("model-00001-of-")
    storage.download_tree(f"{s3_bucket}/out", tmp_path / "back")
    merge_checkpoints(str(pair[0]), str(pair[1]), str(tmp_path / "local"))
    remote, local = tensors(tmp_path / "back"), tensors(tmp_path / "local")
    assert remote.keys() == local.keys()
    assert all(torch.equal(remote[name], local[name]) for name in local)
    with pytest.raises(ConfigError, match="exists and is not empty"):
        merge_checkpoints(str(pair[0]), str(pair[1]), f"{s3_bucket}/out")
    with pytest.raises(CheckpointError, match=r"b: s3://.*/nothing has no config.json"):
        merge_checkpoints(str(pair[0]), f"{s3_bucket}/nothing", f"{s3_bucket}/other")
