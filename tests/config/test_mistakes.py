"""Sections that do not go with each other, and what is no file; the tables of mistakes are in `tests/doors`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.config.corpus import Corpus
from longspan.config.load import load_recipe, parse, read_yaml
from longspan.errors import ConfigError, TopologyError
from tests.config.conftest import CORPUS, RECIPE

Written = Callable[[str | bytes], Path]
RAY = "parallel.launch=ray"


@pytest.mark.parametrize(
    ("from_length", "offset", "message"),
    [
        (300, "same", "data.selection.from_length: 300 is above data.target_length 256; with positions.text_offset:"),
        (300, "none", "data.selection.mode: 'chunks' takes the text"),
        (16, "same", "data: 'selection.from_length' 16 is below 'sample_length' 32"),
    ],
)
def test_chunks_that_do_not_fit(written: Written, from_length: int, offset: str, message: str) -> None:
    def load(from_length: int, offset: str) -> None:
        load_recipe(
            written(RECIPE),
            [
                f"positions={{type: pose, text_offset: {offset}}}",
                f"data.selection={{mode: chunks, from_length: {from_length}}}",
            ],
        )

    load(256, "same")
    load(300, "uniform")
    with pytest.raises(ConfigError) as caught:
        load(from_length, offset)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rope.mixed_window=true", "data.interleave: rope.mixed_window tells documents by their length, which chunks"),
        ("data.selection={mode: uniform, from_length: 64}", "data: 'interleave' mixes whole documents, 'selection'"),
    ],
)
def test_what_does_not_go_with_interleaving(written: Written, override: str, message: str) -> None:
    mixed = ["positions.type=contiguous", "data.interleave={}", "data.document_mask=true"]
    assert load_recipe(written(RECIPE), mixed).data.interleave
    with pytest.raises(ConfigError) as caught:
        load_recipe(written(RECIPE), [*mixed, override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["parallel.num_workers=3", "parallel.sequence_parallel=2"], "parallel.num_workers 3 is not a multiple of"),
        (["parallel.num_workers=3", "parallel.sequence_parallel=3"], "use a sample_length of 30 or 33"),
        (["parallel.num_workers=4"], "train.global_batch_size 4 is not a multiple of train.micro_batch_size 2 * 4"),
    ],
)
def test_a_layout_that_does_not_divide(written: Written, overrides: list[str], message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        load_recipe(written(RECIPE), [RAY, *overrides])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r": no such file; give the path of a YAML file$"):
        read_yaml(tmp_path / "missing.yaml")
    with pytest.raises(ConfigError, match=r": is a folder; give the path of a YAML file$"):
        read_yaml(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        read_yaml(tmp_path / ("x" * 3000))


def test_the_corpus_file_without_mistakes_is_one(written: Written) -> None:
    corpus = parse(Corpus, read_yaml(written(CORPUS)), "corpus.yaml")
    assert [source.type for source in corpus.sources] == ["text", "jsonl", "needles"]
