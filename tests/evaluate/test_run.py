"""From a checkpoint and a prepared corpus to results: both tasks, remote models, and every refusal."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from longspan import storage
from longspan.config.corpus import Corpus
from longspan.corpus.manifest import load_manifest
from longspan.corpus.prepare import prepare
from longspan.corpus.tokenizer import copy_tokenizer
from longspan.errors import ConfigError
from longspan.evaluate.run import EvaluationSettings, evaluate_model, settings_of
from longspan.rope import RopeSettings
from tests.tiny import tiny_model_directory, tiny_recipe

SETTINGS = EvaluationSettings(
    lengths=(128, 64),
    text_source="val",
    num_needles=4,
    examples=3,
    dtype="float32",
    device="cpu",
    loss_windows=4,
    buckets=4,
)


def make_corpus(folder: Path, needle_tokens: bool) -> str:
    """A corpus of three short documents and one long one to evaluate on, and needles made from them."""
    rng = np.random.default_rng(0)
    words = [f"{a}{b}" for a in "bdfgklmnprst" for b in ("ab", "el", "in", "or", "um")]
    (folder / "text").mkdir(parents=True)
    for number, size in enumerate((30, 900, 20, 40)):
        (folder / "text" / f"{number}.txt").write_text(" ".join(rng.choice(words, size)) + ".\n")
    sources: list[dict[str, Any]] = [{"type": "text", "name": "val", "paths": [str(folder / "text")]}]
    if needle_tokens:
        sources.append({"type": "needles", "name": "needles", "text_source": "val", "length": 64, "documents": 2})
    tokenizer = {"train_vocab_size": 300, "needle_tokens": needle_tokens}
    output = str(folder / "corpus")
    prepare(Corpus.model_validate({"output": output, "tokenizer": tokenizer, "sources": sources}))
    return output


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_corpus(tmp_path_factory.mktemp("needles"), needle_tokens=True)


@pytest.fixture(scope="module")
def plain_corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_corpus(tmp_path_factory.mktemp("plain"), needle_tokens=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, corpus: str) -> str:
    vocab_size = load_manifest(corpus).tokenizer.vocab_size
    return str(tiny_model_directory(tmp_path_factory.mktemp("run") / "model", vocab_size=vocab_size))


def test_results_are_json_and_whole(model: str, corpus: str) -> None:
    lines: list[str] = []
    results = evaluate_model(model, corpus, SETTINGS, report=lines.append)
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert results["needle"]["task"] == "tokens"
    assert results["needle"]["lengths"] == [64, 128]
    assert np.shape(results["needle"]["accuracy"]) == (4, 2)
    assert results["loss_by_position"]["length"] == 128
    assert results["loss_by_position"]["windows"] == 4
    assert not results["loss_by_position"]["joined"]
    assert results["rope"] == {"rope_type": "default", "rope_theta": 500.0}
    assert results["tokens"] == 3 * (64 + 128) + 4 * 128
    assert results["seconds"] > 0
    assert len(lines) == 3
    assert lines[-1].startswith("loss by position: 128 tokens: ")


def test_harder_tasks_and_the_short_loss_come_on_top(model: str, corpus: str) -> None:
    lines: list[str] = []
    settings = dataclasses.replace(SETTINGS, tasks=("larger", "hop"), short_length=32)
    results = evaluate_model(model, corpus, settings, report=lines.append)
    plain = evaluate_model(model, corpus, SETTINGS)
    assert (results["needle"], results["loss_by_position"]) == (plain["needle"], plain["loss_by_position"])
    assert {name: grid["task"] for name, grid in results["tasks"].items()} == {"larger": "larger", "hop": "hop"}
    assert all(grid["lengths"] == [64, 128] for grid in results["tasks"].values())
    # As many tokens as the windows of the longest length.
    assert (results["short_loss"]["length"], results["short_loss"]["windows"]) == (32, 16)
    assert results["tokens"] == 3 * 3 * (64 + 128) + 4 * 128 + 16 * 32
    assert sum(line.startswith("needle grid of hop: ") for line in lines) == 2
    assert not {"tasks", "short_loss", "scales"} & set(plain)


def test_another_rope_gives_another_loss_on_the_same_text(model: str, corpus: str) -> None:
    rope = RopeSettings("linear", 500.0, factor=2.0)
    own, other = (evaluate_model(model, corpus, dataclasses.replace(SETTINGS, rope=given)) for given in (None, rope))
    assert other["rope"]["factor"] == 2.0
    assert own["loss_by_position"]["loss"] != other["loss_by_position"]["loss"]
    assert own["loss_by_position"]["counts"] == other["loss_by_position"]["counts"]


SCALED = dataclasses.replace(SETTINGS, lengths=(64, 128, 256), tasks=("latest",), short_length=32)


def fixed(factor: float) -> RopeSettings:
    return RopeSettings("linear", 500.0, factor=factor) if factor > 1 else RopeSettings("default", 500.0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, model: str) -> str:
    """The same weights as E2-LLM exports them: 'linear', with the scale of some window."""
    directory = tmp_path_factory.mktemp("exported") / "model"
    shutil.copytree(model, directory)
    config = json.loads((directory / "config.json").read_text())
    parameters = {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}
    (directory / "config.json").write_text(json.dumps(config | {"rope_parameters": parameters}))
    return str(directory)


@pytest.fixture(scope="module")
def at_fixed(model: str, corpus: str) -> dict[int, dict[str, Any]]:
    """The answers at each scale of a window of 64, each of a model opened with that."""
    return {scale: evaluate_model(model, corpus, dataclasses.replace(SCALED, rope=fixed(scale))) for scale in (1, 2, 4)}


def test_the_scale_by_length_answers_as_a_model_opened_at_each_scale(
    exported: str, corpus: str, at_fixed: dict[int, dict[str, Any]]
) -> None:
    """Bit for bit, from weights that are loaded once: grids by column, the loss at the longest, the short one at 1."""
    results = evaluate_model(exported, corpus, dataclasses.replace(SCALED, scale_window=64))
    assert results["scales"] == {"32": 1, "64": 1, "128": 2, "256": 4}
    assert results["rope"]["factor"] == 4.0
    for found, expected in (
        (results["needle"], {scale: answers["needle"] for scale, answers in at_fixed.items()}),
        (results["tasks"]["latest"], {scale: answers["tasks"]["latest"] for scale, answers in at_fixed.items()}),
    ):
        for column, scale in enumerate((1, 2, 4)):
            assert found["mean"][column] == expected[scale]["mean"][column]
            for row, other in zip(found["accuracy"], expected[scale]["accuracy"], strict=True):
                assert row[column] == other[column]
    assert results["loss_by_position"] == at_fixed[4]["loss_by_position"]
    assert results["short_loss"] == at_fixed[1]["short_loss"]
    assert at_fixed[1]["loss_by_position"] != at_fixed[4]["loss_by_position"]
    assert at_fixed[1]["short_loss"] != at_fixed[4]["short_loss"]
    assert results["tokens"] == at_fixed[1]["tokens"]


def test_one_scale_at_all_lengths_is_that_of_a_model_opened_with_it(
    exported: str, model: str, corpus: str, at_fixed: dict[int, dict[str, Any]]
) -> None:
    kept = ("needle", "tasks", "loss_by_position", "short_loss")
    fourfold = evaluate_model(exported, corpus, dataclasses.replace(SCALED, scale=4))
    assert set(fourfold["scales"].values()) == {4}
    inside = evaluate_model(exported, corpus, dataclasses.replace(SCALED, scale_window=256))
    own = evaluate_model(model, corpus, SCALED)
    for key in kept:
        assert fourfold[key] == at_fixed[4][key]
        # Within the window it is the plain model.
        assert inside[key] == at_fixed[1][key] == own[key]


def test_a_scale_that_cannot_be_chosen_is_refused(model: str, corpus: str) -> None:
    yarn = RopeSettings("yarn", 500.0, factor=4.0, original_max_position_embeddings=64)
    for change, message in (
        ({"scale_window": 64, "scale": 2}, "both a scale and a scale_window are given"),
        ({"scale_window": 0}, "a window must be 1 token or more, got 64 from an original 0"),
        ({"scale_window": 64, "rope": yarn}, "'yarn' has no scale to choose, only plain RoPE and 'linear' have"),
        ({"scale": 0}, "rope.factor is 0.0; it must be a number above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            evaluate_model(model, corpus, dataclasses.replace(SETTINGS, **change))


def test_without_needle_tokens_the_needles_are_sentences(model: str, plain_corpus: str) -> None:
    settings = dataclasses.replace(SETTINGS, lengths=(400,), num_needles=2)
    results = evaluate_model(model, plain_corpus, settings)
    assert results["needle"]["task"] == "text"
    assert results["needle"]["mean"] == [0.0]


def test_a_model_on_s3(
    model: str, corpus: str, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    storage.upload_tree(model, f"{s3_bucket}/model")
    remote, local = (evaluate_model(path, corpus, SETTINGS) for path in (f"{s3_bucket}/model", model))
    for key in ("needle", "loss_by_position"):
        assert remote[key] == local[key]


def test_the_models_own_tokenizer_must_be_the_corpus_s(
    model: str, corpus: str, plain_corpus: str, tmp_path: Path
) -> None:
    vocab_size = load_manifest(corpus).tokenizer.vocab_size
    own = tiny_model_directory(tmp_path / "own", vocab_size=vocab_size)
    copy_tokenizer(corpus, load_manifest(corpus), own)
    assert evaluate_model(str(own), corpus, SETTINGS)["needle"] == evaluate_model(model, corpus, SETTINGS)["needle"]
    with pytest.raises(
        ConfigError, match=r"the tokenizer of '.*own' is not the corpus's: 560 tokens differ, '<n:0:0>' is 300"
    ):
        evaluate_model(str(own), plain_corpus, SETTINGS)


def test_a_model_with_too_few_embeddings_is_refused(corpus: str, tmp_path: Path) -> None:
    small = tiny_model_directory(tmp_path / "small", vocab_size=96)
    with pytest.raises(ConfigError, match="has 96 token embeddings, the corpus's tokenizer 860 tokens"):
        evaluate_model(str(small), corpus, SETTINGS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_source": "none"}, r"evaluate.text_source: 'none' is no source of the corpus; it has val, needles"),
        ({"text_source": "needles"}, "'needles' holds needle tokens"),
        ({"lengths": ()}, "evaluate.lengths"),
        ({"lengths": (1,)}, "evaluate.lengths"),
        ({"lengths": (100_000,)}, "evaluate.lengths: 100000 tokens, but source 'val' has"),
    ],
)
def test_refuses_what_cannot_be_asked(model: str, corpus: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_model(model, corpus, dataclasses.replace(SETTINGS, **change))


def test_a_recipe_says_what_to_evaluate() -> None:
    recipe = tiny_recipe(
        "m", seed=3, evaluate={"lengths": [256, 64, 64], "text_source": "val", "needles": 5, "examples": 7}
    )
    settings = settings_of(recipe, device="cpu")
    assert settings == EvaluationSettings(
        lengths=(64, 256), text_source="val", num_needles=5, examples=7, seed=3, dtype="float32", device="cpu"
    )
    scaled = tiny_recipe("m", evaluate={"lengths": [64], "text_source": "val", "scale_window": 64})
    assert settings_of(scaled).scale_window == 64
    with pytest.raises(ConfigError, match=r"evaluate.lengths: empty"):
        settings_of(tiny_recipe("m"))
    with pytest.raises(ConfigError, match=r"evaluate.text_source: not given"):
        settings_of(tiny_recipe("m", evaluate={"lengths": [64]}))
