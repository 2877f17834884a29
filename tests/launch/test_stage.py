"""Staging: the recipe is checked against model, corpus and run directory; the plan is written once."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from longspan import storage
from longspan.checkpoint.commit import Commit, write_commit
from longspan.config.corpus import Corpus
from longspan.config.load import load_recipe, parse
from longspan.config.resume import run_mark
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import PlanReader
from longspan.corpus.prepare import prepare
from longspan.errors import CheckpointError, ConfigError, DataError, TopologyError
from longspan.launch import stage
from longspan.launch.stage import check_recipe, read_staged, stage_run
from longspan.sampling.plan import plan_parts
from tests.launch.conftest import MakeRecipe
from tests.tiny import tiny_model_directory


def contents(run: str) -> dict[str, bytes]:
    return {name: storage.read_bytes(storage.join(run, name)) for name in storage.list_files(run)}


STAGED = [
    "model.json",
    "plan.json",
    "plan/manifest.json",
    "plan/part-00000000.parquet",
    "plan/plan.json",
    "recipe.yaml",
]


def test_a_staged_run_has_recipe_and_plan(make: MakeRecipe) -> None:
    recipe = make()
    stage_run(recipe)
    assert sorted(contents(recipe.run_uri)) == STAGED
    assert read_staged(recipe.run_uri) == recipe
    assert load_recipe(Path(recipe.run_uri, "recipe.yaml")) == recipe
    manifest = load_manifest(recipe.data.manifest)
    assert load_manifest(storage.join(recipe.run_uri, "plan")) == manifest
    plan = PlanReader(storage.join(recipe.run_uri, "plan"))
    assert plan.info.metadata == {"recipe": run_mark(recipe), "manifest": manifest.fingerprint, "ends": "[6]"}
    assert (plan.info.num_samples, plan.info.sample_length) == (12, 32)
    assert {row.source for row in plan.rows(0, 12)} == {"text"}
    assert all(row.lengths.sum() == 32 for row in plan.rows(0, 12))


def test_a_staged_run_says_what_its_plan_holds(make: MakeRecipe) -> None:
    """Padding included: the plan's rows and its description are of one pass."""
    recipe = make(data={"mix": [{"weights": {"text": 1, "held": 1}}], "packing": "best_fit", "sample_length": 50})
    stage_run(recipe)
    rows = PlanReader(storage.join(recipe.run_uri, "plan")).rows(0, 12)
    description = storage.read_json(storage.join(recipe.run_uri, "plan.json"))
    assert description["recipe"] == run_mark(recipe)
    assert description["manifest"] == load_manifest(recipe.data.manifest).fingerprint
    assert description["run"]["tokens"] == sum(int(row.lengths.sum()) for row in rows)
    for name in ("text", "held"):
        assert description["sources"][name]["samples"] == sum(row.source == name for row in rows)
    assert description["positions"]["samples_measured"] == 12


def test_staging_again_changes_nothing(make: MakeRecipe) -> None:
    stage_run(make())
    before = contents(make().run_uri)
    stage_run(make())
    assert contents(make().run_uri) == before


@pytest.mark.parametrize("lost", [["plan/plan.json"], ["plan/manifest.json"], STAGED[2:5], STAGED[:5]])
def test_a_lost_plan_is_made_again_the_same(make: MakeRecipe, lost: list[str]) -> None:
    recipe = make()
    stage_run(recipe)
    before = contents(recipe.run_uri)
    for name in lost:
        storage.delete(storage.join(recipe.run_uri, name))
    stage_run(recipe)
    assert contents(recipe.run_uri) == before


@pytest.mark.parametrize("after", range(7))
def test_staging_cut_short_starts_over(
    make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Another, longer recipe was cut short after each of its files: nothing of it is left."""
    stage_run(make(output=tmp_path / "whole"))
    before = contents(str(tmp_path / "whole"))
    written = 0

    def cut(write: Callable[..., None]) -> Callable[..., None]:
        def wrapped(*given: Any) -> None:
            nonlocal written
            if written >= after:
                raise KeyboardInterrupt
            written += 1
            write(*given)

        return wrapped

    longer = make(train={"steps": 12}, seed=1)
    with monkeypatch.context() as patch:
        patch.setattr(stage, "plan_parts", partial(plan_parts, part_samples=12))
        patch.setattr(storage, "write_bytes", cut(storage.write_bytes))
        patch.setattr(storage, "write_text", cut(storage.write_text))
        patch.setattr(storage, "write_json", cut(storage.write_json))
        with pytest.raises(KeyboardInterrupt):
            stage_run(longer)
    left = contents(make().run_uri)
    assert len(left) == after
    assert "recipe.yaml" not in left
    stage_run(make())
    assert {name: data for name, data in contents(make().run_uri).items() if name != "recipe.yaml"} == {
        name: data for name, data in before.items() if name != "recipe.yaml"
    }


def test_where_and_how_fast_may_change(make: MakeRecipe) -> None:
    stage_run(make())
    plan = contents(make().run_uri)
    other = make(train={"micro_batch_size": 2, "save_every": 3}, parallel={"launch": "ray", "num_workers": 1})
    stage_run(other)
    assert read_staged(other.run_uri) == other
    del plan["recipe.yaml"]
    assert contents(other.run_uri).items() >= plan.items()


@pytest.mark.parametrize(
    "sections",
    [{"seed": 1}, {"rope": {"type": "linear"}}, {"train": {"weight_decay": 1.0}}, {"positions": {"type": "pose"}}],
    ids=["seed", "rope", "decay", "positions"],
)
def test_another_recipe_in_the_same_directory_is_refused(make: MakeRecipe, sections: dict[str, Any]) -> None:
    stage_run(make())
    before = contents(make().run_uri)
    with pytest.raises(
        ConfigError,
        match=r"^output: .*run holds a run of another recipe \(.* was .*, is .*Give this one another output",
    ):
        stage_run(make(**sections))
    assert contents(make().run_uri) == before


def test_checkpoints_without_a_recipe_are_refused(make: MakeRecipe) -> None:
    recipe = make()
    storage.write_text(storage.join(recipe.run_uri, "checkpoints", "step-00000001", "COMMIT.json"), "{}")
    with pytest.raises(ConfigError, match=r"^output: .*run holds checkpoints but no recipe.yaml; give another output$"):
        stage_run(recipe)


def test_checkpoints_of_another_recipe_are_refused(make: MakeRecipe) -> None:
    recipe = make()
    stage_run(recipe)
    write_commit(recipe.run_uri, Commit(1, 2, "0" * 32, {}, {}, ()))
    with pytest.raises(CheckpointError, match="of another recipe"):
        stage_run(recipe)


def test_a_corpus_that_has_changed_is_refused_by_the_name_of_the_shard(
    make: MakeRecipe, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "text", tmp_path / "text")
    values = {
        "output": str(tmp_path / "data"),
        "tokenizer": {"path": str(folder / "data" / "tokenizer")},
        "sources": [{"name": "text", "paths": [str(tmp_path / "text")]}],
    }
    prepare(parse(Corpus, values, "corpus"))
    recipe = make(data={"manifest": str(tmp_path / "data")})
    stage_run(recipe)
    before = contents(recipe.run_uri)
    shutil.rmtree(tmp_path / "data")
    with (tmp_path / "text" / "0.txt").open("a") as file:
        file.write("One goose more.\n")
    prepare(parse(Corpus, values, "corpus"))
    with pytest.raises(DataError, match=r"data: the corpus has changed since .*run/plan was made \(") as caught:
        stage_run(recipe)
    assert re.search(r"\(shards/\S+ .*\); restore the corpus, or give the run another output$", str(caught.value))
    assert "\n" not in str(caught.value)
    assert contents(recipe.run_uri) == before


def test_a_corpus_that_has_lost_a_shard_is_refused_by_its_name(make: MakeRecipe, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "data", tmp_path / "data")
    recipe = make(data={"manifest": str(tmp_path / "data")})
    shard = load_manifest(recipe.data.manifest).shards[-1].file
    (tmp_path / "data" / shard).unlink()
    with pytest.raises(DataError, match=re.escape(shard)):
        stage_run(recipe)
    assert not storage.exists(recipe.run_uri)


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    (
        {"data": {"manifest": "nowhere/data"}},
        ConfigError,
        "data.manifest: no finished corpus at 'nowhere/data'; give the directory that",
    ),
    (
        {"data": {"mix": [{"weights": {"text": 1}}, {"from_step": 2, "weights": {"txet": 1}}]}},
        ConfigError,
        "data.mix.1.weights.txet: not a source of the manifest; it has held, text",
    ),
    (
        {"evaluate": {"lengths": [64], "text_source": "hold"}},
        ConfigError,
        "evaluate.text_source: 'hold' is no source of the corpus; it has text, held",
    ),
    (
        {"data": {"repetition": {"by_source": {"txet": 2}}}},
        ConfigError,
        "data.repetition.by_source.txet: not a source of the manifest; it has held, text",
    ),
    (
        {"data": {"repetition": {"max_epochs": 0.001}}},
        ConfigError,
        "data.mix: the run draws",
    ),
    ({"evaluate": {"lengths": [64]}}, ConfigError, "evaluate.text_source: required when evaluate.lengths is given"),
    ({"model": {"path": "/nowhere/model"}}, ConfigError, "model.path: cannot read a model config at '/nowhere/model'"),
    (
        {"parallel": {"launch": "ray", "num_workers": 3, "sequence_parallel": 3}, "data": {"sample_length": 30}},
        TopologyError,
        "parallel.sequence_parallel 3 does not divide the model's num_attention_heads 4; use 2 or 4",
    ),
]


@pytest.mark.parametrize(("sections", "kind", "message"), REFUSED, ids=[message[:30] for _, _, message in REFUSED])
def test_what_does_not_fit_is_refused_before_anything_is_written(
    make: MakeRecipe, sections: dict[str, Any], kind: type[Exception], message: str
) -> None:
    recipe = make(**sections)
    with pytest.raises(kind, match=re.escape(message)) as caught:
        stage_run(recipe)
    assert "\n" not in str(caught.value)
    assert not storage.exists(recipe.run_uri)


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(make: MakeRecipe, tmp_path: Path) -> None:
    small = tiny_model_directory(tmp_path / "small", vocab_size=96)
    with pytest.raises(
        ConfigError, match=r"^data.manifest: its tokenizer has 300 ids, but the model's embedding 96 rows"
    ):
        stage_run(make(model={"path": str(small)}))


def with_tokenizer(model: Path, source: Path, change: Callable[[str], str] = str) -> Path:
    """`model` with the tokenizer of a corpus; `change` edits tokenizer.json."""
    for path in source.iterdir():
        text = path.read_text(encoding="utf-8")
        (model / path.name).write_text(change(text) if path.name == "tokenizer.json" else text, encoding="utf-8")
    return model


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder / "model", tmp_path / "model")
    return tmp_path / "model"


def test_the_corpus_has_to_be_of_the_models_tokenizer(make: MakeRecipe, folder: Path, model: Path) -> None:
    tokenizer = folder / "data" / "tokenizer"
    with_tokenizer(model, tokenizer)
    stage_run(make(model={"path": str(model)}))
    # Written another way, and longer by a token: still the same ids.
    values = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    added = {**values["added_tokens"][0], "id": 300, "content": "<|extra|>"}
    longer = json.dumps({**values, "added_tokens": [*values["added_tokens"], added]})
    with_tokenizer(model, tokenizer, lambda _: longer)
    check_recipe(make(model={"path": str(model)}))


def test_a_corpus_of_another_tokenizer_is_refused(make: MakeRecipe, folder: Path, model: Path) -> None:
    tokenizer = folder / "data" / "tokenizer"
    values = json.loads((tokenizer / "tokenizer.json").read_text(encoding="utf-8"))
    swapped = {number: token for token, number in values["model"]["vocab"].items()}
    swapped[5], swapped[9] = swapped[9], swapped[5]
    values["model"]["vocab"] = {token: number for number, token in swapped.items()}
    with_tokenizer(model, tokenizer, lambda _: json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        stage_run(make(model={"path": str(model)}))
    assert str(caught.value) == (
        f"data.manifest: prepared with another tokenizer than the model's (id 5: {swapped[9]!r} there, {swapped[5]!r}"
        f" in the model); prepare the corpus with tokenizer.path: {model}"
    )
    assert not storage.exists(make().run_uri)


def test_a_tokenizer_that_cannot_be_loaded_is_said(make: MakeRecipe, folder: Path, model: Path) -> None:
    with_tokenizer(model, folder / "data" / "tokenizer", lambda _: "{}")
    with pytest.raises(
        ConfigError,
        match=r"^model.path: .*model: no tokenizer that can be loaded: .*; give one with a sound tokenizer.json$",
    ):
        stage_run(make(model={"path": str(model)}))


def test_a_tokenizer_with_more_ids_than_the_model_has_embeddings_is_refused(
    make: MakeRecipe, folder: Path, tmp_path: Path
) -> None:
    """A padding token that was added without a row for it; more rows than ids are padding."""
    tokenizer = folder / "data" / "tokenizer"
    added = [{"id": 300, "content": "<|extra|>", "special": True, "normalized": False}]
    added[0] |= {"single_word": False, "lstrip": False, "rstrip": False}

    def longer(text: str) -> str:
        values = json.loads(text)
        return json.dumps({**values, "added_tokens": [*values["added_tokens"], *added]})

    for rows in (300, 301, 320):
        model = with_tokenizer(tiny_model_directory(tmp_path / str(rows), vocab_size=rows), tokenizer, longer)
        if rows > 300:
            check_recipe(make(model={"path": str(model)}))
            continue
        with pytest.raises(ConfigError) as caught:
            check_recipe(make(model={"path": str(model)}))
        assert str(caught.value).startswith(
            f"model.path: the tokenizer of '{model}' has 301 ids, but the model's embedding 300 rows (vocab_size); take"
        )


def test_a_corpus_whose_tokenizer_cuts_text_otherwise_is_refused(make: MakeRecipe, folder: Path, model: Path) -> None:
    """The same tokens under the same ids, as transformers gives them when it builds a class anew."""

    def split_digits(text: str) -> str:
        values = json.loads(text)
        digits = {"type": "Digits", "individual_digits": True}
        steps = {"type": "Sequence", "pretokenizers": [digits, values["pre_tokenizer"]]}
        return json.dumps({**values, "normalizer": {"type": "Lowercase"}, "pre_tokenizer": steps})

    with_tokenizer(model, folder / "data" / "tokenizer", split_digits)
    with pytest.raises(
        ConfigError, match=r"^data.manifest: .* the model's tokens, but cuts text into others; prepare the"
    ):
        check_recipe(make(model={"path": str(model)}))


def test_a_model_that_training_could_not_open_is_refused_before_anything_is_written(
    make: MakeRecipe, folder: Path, model: Path
) -> None:
    recipe = make(model={"path": str(model)})
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(ConfigError, match=r"^model.path: config.json of '.*': quantization_config: .*\(gptq\)"):
        stage_run(recipe)
    (model / "config.json").write_text(json.dumps(config))
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"^model.path: .*pytorch_model.bin is pickled"):
        stage_run(recipe)
    assert not storage.exists(recipe.run_uri)
    # Weights that are drawn need no files.
    check_recipe(make(model={"path": str(model), "weights": "random"}))


def test_what_wastes_compute_is_said_once(make: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    recipe = make(data={"packing": "best_fit", "sample_length": 250}, train={"steps": 60})
    stage_run(recipe)
    texts = [record.getMessage() for record in caplog.records]
    assert any(text.startswith("repetition: text is read") for text in texts)
    assert any(text.startswith("padding: ") for text in texts)
    caplog.clear()
    stage_run(recipe)
    assert all(record.getMessage().startswith("rope.rope_theta ") for record in caplog.records)


def test_a_base_too_low_for_the_window_is_said(make: MakeRecipe, caplog: pytest.LogCaptureFixture) -> None:
    stage_run(make(rope={"type": "keep"}, data={"target_length": 16384}))
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "rope.rope_theta 500: a token 16 tokens back scores below" in record.getMessage()
    assert "target window of 16,384" in record.getMessage()


def test_the_scale_of_e2llm_is_counted_from_one_window(make: MakeRecipe) -> None:
    positions = {"type": "e2llm", "window": 32}
    with pytest.raises(ConfigError, match=r"positions\.window: 32, but .* the model's window of 64; give that one, or"):
        check_recipe(make(rope={"type": "e2llm"}, positions=positions))
    config, _ = check_recipe(make(rope={"type": "e2llm", "original_max_position_embeddings": 32}, positions=positions))
    assert config.rope_parameters == {"rope_type": "linear", "rope_theta": 500.0, "factor": 8.0}


def test_a_scale_that_the_evaluation_could_not_choose_is_refused_before_anything_is_spent(
    make: MakeRecipe, folder: Path, tmp_path: Path
) -> None:
    asked = {"lengths": [128], "text_source": "held"}
    with pytest.raises(ConfigError, match=r"evaluate\.scale_window: the checkpoint's RoPE will be 'yarn'"):
        check_recipe(make(rope={"type": "yarn"}, evaluate={**asked, "scale_window": 64}))
    linear = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
    model = {"path": str(tiny_model_directory(tmp_path / "linear", vocab_size=320, rope_parameters=linear))}
    e2llm: dict[str, Any] = {"rope": {"type": "e2llm"}, "positions": {"type": "e2llm", "window": 64}, "model": model}
    with pytest.raises(
        ConfigError, match=r"already 'linear' by 2, .*, not from positions\.window 64; give the window of"
    ):
        check_recipe(make(**e2llm, evaluate=asked))
    for window in (32, 0):
        check_recipe(make(**e2llm, evaluate={**asked, "scale_window": window}))
    check_recipe(make(**e2llm))


def test_mixed_windows_that_no_config_could_say_are_refused_before_anything_is_spent(make: MakeRecipe) -> None:
    sections = {"rope": {"type": "yarn", "mixed_window": True}, "positions": {"type": "contiguous"}}
    with pytest.raises(ConfigError, match=r"set rope\.attention_factor: 1\.0, else turn"):
        check_recipe(make(**sections))


def test_what_is_no_run_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no recipe.yaml; give a run directory that `longspan train` made"):
        read_staged(str(tmp_path))


def test_staging_in_a_store(make: MakeRecipe, s3_bucket: str) -> None:
    recipe = make(output=f"{s3_bucket}/run")
    stage_run(recipe)
    stage_run(recipe)
    assert sorted(contents(recipe.run_uri)) == STAGED
    assert read_staged(recipe.run_uri) == recipe
