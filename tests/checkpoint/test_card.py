"""The model card: what it says, that it names no place on this machine, and that an evaluation comes into it once."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from longspan import storage
from longspan.checkpoint.card import (
    Origin,
    adapter_card,
    add_evaluation,
    as_file,
    merge_card,
    origin_of,
    train_card,
    with_evaluation,
)
from longspan.model.limits import Window
from longspan.rope import RopeSettings
from tests.tiny import tiny_recipe

LINEAR = RopeSettings("linear", 500.0, factor=4.0)
WINDOW = Window(64, 256)
ORIGIN = Origin("org/base", "a1b2c3", None, {"license": "llama3", "license_link": "LICENSE", "language": ["en"]})
EVALUATION: dict[str, Any] = {
    "needle": {"lengths": [64, 256], "mean": [1.0, 0.25], "examples": 4},
    "loss_by_position": {"length": 256, "mean": 2.5, "windows": 3},
    "dtype": "float32",
    "seconds": 1.25,
}


def card_of(text: str) -> Any:
    return ModelCard(text)


def test_says_where_the_model_comes_from_what_it_is_and_how_to_serve_it() -> None:
    recipe = tiny_recipe("org/base", positions={"type": "pose"})
    card = card_of(train_card(recipe, ORIGIN, LINEAR, WINDOW, ["A note."]))
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_revision"], data["base_model_relation"]) == (
        *("org/base", "a1b2c3"),
        "finetune",
    )
    assert (data["license"], data["license_link"], data["language"]) == ("llama3", "LICENSE", ["en"])
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    for text in (
        *("# tiny", "org/base (revision a1b2c3)", "from 64 to 256 tokens", '"rope_type": "linear"', '"factor": 4.0'),
        *("| positions | pose |", "| steps | 4 |", "| tokens a sample | 32 |", "| tokens trained | 512 |"),
        *("--max-model-len 256", "- A note.", "the same frequencies as a `llama3` that divides all of them"),
    ):
        assert text in card.text
    plain = train_card(recipe, ORIGIN, RopeSettings("default", 2000.0), WINDOW)
    assert "the same frequencies as" not in plain


def test_a_note_with_vllm_s_flags_takes_the_place_of_the_window_s() -> None:
    text = train_card(tiny_recipe("org/base"), ORIGIN, LINEAR, WINDOW, ["Give vLLM --max-model-len 128."])
    assert "--max-model-len 256" not in text
    assert "vllm serve path/to/this/folder\n" in text


def test_a_model_from_random_weights_has_no_base() -> None:
    card = card_of(train_card(tiny_recipe("init", model={"weights": "random"}), Origin("init"), LINEAR, WINDOW))
    assert "base_model" not in card.data.to_dict()
    assert "init" not in str(card)


def test_an_adapter_s_card_opens_its_base_with_the_config_beside_it() -> None:
    recipe = tiny_recipe("org/base", model={"lora": {"rank": 4, "also_train": ["norm"]}})
    card = card_of(adapter_card(recipe, ORIGIN, LINEAR, WINDOW))
    assert (card.data.base_model_relation, card.data.library_name) == ("adapter", "peft")
    assert 'from_pretrained("org/base", config=config' in card.text
    assert "LoRA of rank 4 on q_proj, k_proj, v_proj, o_proj, and norm whole" in card.text
    assert "vLLM" not in card.text  # it takes no module that is trained whole
    served = adapter_card(tiny_recipe("org/base", model={"lora": {"rank": 40}}), ORIGIN, LINEAR, WINDOW)
    assert "vllm serve org/base --max-model-len 256 --enable-lora --max-lora-rank 64 " in served
    assert (
        "--hf-overrides \"$(jq -c '{max_position_embeddings, rope_parameters}' path/to/this/folder/config.json)\""
        in served
    )
    through = Origin("org/base", None, "01-extend")
    assert 'from_pretrained("01-extend", config=config' in adapter_card(recipe, through, LINEAR, WINDOW)


@pytest.mark.parametrize(
    ("b", "base", "licence"),
    [
        (Origin("org/base", "a1b2c3", "extend", ORIGIN.metadata), "org/base", "llama3"),
        (Origin("org/other", None, None, {"license": "mit"}), ["org/base", "org/other"], None),
        (Origin("org/other"), ["org/base", "org/other"], None),
    ],
)
def test_a_merge_s_card_names_both_and_a_licence_only_where_they_agree(b: Origin, base: Any, licence: Any) -> None:
    card = card_of(merge_card("merge", {"a": ORIGIN, "b": b}, LINEAR, 256, [("weight of b", 0.5)]))
    data = card.data.to_dict()
    assert (data["base_model"], data.get("license"), data["base_model_relation"]) == (base, licence, "merge")
    assert "| weight of b | 0.5 |" in card.text
    assert ("org/other" in card.text) is (b.name == "org/other")


def test_an_evaluation_comes_into_it_once() -> None:
    plain = train_card(tiny_recipe("org/base"), ORIGIN, LINEAR, WINDOW)
    text = with_evaluation(plain, {**EVALUATION, "scales": {"64": 1, "256": 4}})
    assert "| 256 | 25.0% | 4 |" in text
    again = with_evaluation(text, EVALUATION)
    assert again == with_evaluation(plain, EVALUATION)
    assert again.count("## Evaluation") == 1
    assert again.index("## Training") < again.index("## Evaluation") < again.index("## Use")
    assert "| 256 | 25.0% |\n" in again
    (results,) = yaml.safe_load(again.split("---")[1])["model-index"]
    assert results["name"] == "tiny"
    assert [(r["dataset"]["name"], r["metrics"][0]["value"]) for r in results["results"]] == [
        ("needles, 64 tokens", 1.0),
        ("needles, 256 tokens", 0.25),
        ("held-out-text, 256 tokens", 2.5),
    ]


def test_the_evaluation_of_a_model_without_a_card_writes_none(tmp_path: Path) -> None:
    add_evaluation(str(tmp_path), EVALUATION)
    assert not storage.list_files(str(tmp_path))
    as_file(train_card(tiny_recipe("org/base"), ORIGIN, LINEAR, WINDOW))["README.md"](tmp_path / "README.md")
    add_evaluation(str(tmp_path), EVALUATION)
    assert "25.0%" in (tmp_path / "README.md").read_text()


def origin(folder: Path, card: str | None, **metadata: Any) -> Origin:
    folder.mkdir(parents=True)
    if card is not None:
        (folder / "README.md").write_text(card)
    return origin_of(str(folder), None, folder)


def test_only_the_name_of_a_place_is_told(tmp_path: Path) -> None:
    assert origin(tmp_path / "secret" / "llama", None) == Origin("llama")
    assert origin(tmp_path / "run" / "checkpoint", None).name == "run"
    assert origin_of("s3://bucket/models/llama/", None, tmp_path) == Origin("llama")
    assert origin_of("org/model", "v2", tmp_path) == Origin("org/model", "v2")
    snapshot = tmp_path / "models--org--model" / "snapshots" / "0a1b"
    assert origin(snapshot, None) == Origin("org/model", "0a1b")


def test_a_base_that_longspan_made_is_told_by_its_own_base(tmp_path: Path) -> None:
    card = train_card(tiny_recipe("org/base"), ORIGIN, LINEAR, WINDOW)
    found = origin(tmp_path / "01-extend" / "checkpoint", card)
    assert found == Origin("org/base", "a1b2c3", "01-extend", ORIGIN.metadata)
    assert "org/base (revision a1b2c3, as 01-extend made it)" in train_card(
        tiny_recipe("x"), found, LINEAR, Window(256, 256)
    )


def test_what_goes_on_from_a_merge_has_both_of_its_bases(tmp_path: Path) -> None:
    card = merge_card("merge", {"a": ORIGIN, "b": Origin("org/other", None, None, ORIGIN.metadata)}, LINEAR, 256, [])
    found = origin(tmp_path / "02-merge" / "checkpoint", card)
    text = train_card(tiny_recipe("x"), found, LINEAR, Window(256, 256))
    assert card_of(text).data.base_model == ["org/base", "org/other"]
    assert "org/base + org/other (as 02-merge made it), trained further at its window of 256 tokens" in text


@pytest.mark.parametrize(
    "card",
    [
        "no metadata",
        "---\n[1, 2]\n---\n",
        "---\nlicense: {a: b}\ntags: 3\n---\n",
        "---\na: [\n---\n",
        "---\nlicense: !!python/object/apply:os.system [ls]\n---\n",
        "---\nlicense: 'x\n\n  y'\nlanguage: []\n---\n",
        "---\nmodel-index: 7\n---\n",
    ],
)
def test_a_card_that_cannot_be_read_tells_nothing(tmp_path: Path, card: str) -> None:
    assert origin(tmp_path / "base", card) == Origin("base")
