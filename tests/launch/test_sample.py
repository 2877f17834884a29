"""A sample on the console is the sample that the step computes on, before training and after."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from longspan import storage
from longspan.cli import app
from longspan.config.load import to_yaml
from longspan.config.recipe import Recipe
from longspan.corpus.index import corpus_table, document_offset
from longspan.corpus.manifest import load_manifest
from longspan.corpus.reader import TokenReader
from longspan.corpus.tokenizer import open_tokenizer
from longspan.feed.source import Source, feed_spec
from longspan.launch.sample import sample_values, show_sample
from longspan.launch.stage import located, stage_run
from tests.launch.conftest import MakeRecipe

CASES: dict[str, dict[str, Any]] = {
    "gaps": {"positions": {"type": "pose"}},
    "packed": {"data": {"packing": "best_fit", "sample_length": 120, "target_length": 512}},
    "selected": {"data": {"selection": {"mode": "uniform", "from_length": 90}}, "positions": {"type": "longrecipe"}},
    "interleaved": {
        "data": {"interleave": {"method": "cip"}, "packing": "best_fit", "sample_length": 200, "document_mask": True},
        "positions": {"type": "contiguous"},
    },
    "weighed": {"data": {"loss_weighting": {"type": "sequence"}, "packing": "best_fit", "sample_length": 120}},
}


def recipe_file(recipe: Recipe, folder: Path) -> str:
    path = folder / "recipe.yaml"
    path.write_text(to_yaml(recipe))
    return str(path)


@pytest.mark.parametrize("name", CASES)
def test_what_is_shown_is_what_is_trained(make: MakeRecipe, tmp_path: Path, name: str) -> None:
    recipe = make(**CASES[name])
    path = recipe_file(recipe, tmp_path)
    before = [sample_values(show_sample(path, number)) for number in (0, 7)]
    assert not storage.exists(recipe.run_uri)
    recipe = stage_run(located(recipe))
    assert [sample_values(show_sample(recipe.run_uri, number)) for number in (0, 7)] == before
    source, manifest = Source(feed_spec(recipe)), load_manifest(recipe.data.manifest)
    tokenizer, table = open_tokenizer(recipe.data.manifest, manifest), corpus_table(recipe.data.manifest, manifest)
    reader = TokenReader(recipe.data.manifest, manifest)
    for number, values in zip((0, 7), before, strict=True):
        batch = source.micro_batch(number)
        for array in ("input_ids", "positions", "labels", "loss_weight", "cu_seqlens"):
            assert np.array_equal(values[array], getattr(batch, array)), array
        assert values["step"] == number // 2 + 1
        pieces = values["pieces"]
        assert [piece["start"] for piece in pieces[1:]] == [piece["stop"] for piece in pieces[:-1]]
        assert (pieces[0]["start"], pieces[-1]["stop"]) == (0, batch.num_tokens)
        assert sum(piece["targets"] for piece in pieces) == int((batch.labels >= 0).sum())
        for piece in pieces:
            part = slice(piece["start"], piece["stop"])
            assert (np.diff(batch.positions[part]) == 1).all()
            assert (piece["first_position"], piece["last_position"]) == tuple(batch.positions[part][[0, -1]])
            if piece["document"] < 0:
                assert not piece["text"]
                continue
            assert piece["text"] == tokenizer.decode(batch.input_ids[part].tolist())
            first = np.array([document_offset(table, piece["document"])])
            whole = reader.gather(first, table.length[piece["document"] : piece["document"] + 1])[0].astype(np.int32)
            assert batch.input_ids[part].tobytes() in whole.tobytes(), "its tokens are of that document"


def test_the_console_shows_it(make: MakeRecipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "220")
    path = recipe_file(make(**CASES["packed"]), tmp_path)
    shown = CliRunner().invoke(app, ["sample", path, "3"])
    assert shown.exit_code == 0, shown.output
    assert "sample 3 (step 2), source text, epoch 0" in shown.stdout
    assert "grey geese" in shown.stdout
    whole = CliRunner().invoke(app, ["sample", path, "3", "--full"])
    assert len(whole.stdout) > len(shown.stdout)
    plain = json.loads(CliRunner().invoke(app, ["sample", path, "3", "--json"]).stdout)
    assert len(plain["input_ids"]) == 120
    other = json.loads(CliRunner().invoke(app, ["sample", path, "3", "--json", "--set", "seed=4"]).stdout)
    assert other["input_ids"] != plain["input_ids"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{recipe}", "12"], "N: 12 is no sample of the run; it has 0 to 11"),
        (["{run}", "12"], "N: 12 is no sample of the run; it has 0 to 11"),
        (["{run}", "1", "--set", "seed=1"], "is a run, whose samples are planned; give its recipe to try other values"),
        (["{nothing}", "0"], "no recipe.yaml; give a run directory that `longspan train` made"),
        (["{nothing}/recipe.yaml", "0"], "no such file; give the path of a YAML file"),
        (["{unplanned}", "0"], "its plan is not there; give"),
    ],
)
def test_what_cannot_be_shown_is_one_line(make: MakeRecipe, tmp_path: Path, arguments: list[str], message: str) -> None:
    recipe = make()
    stage_run(recipe)
    stage_run(make(output=tmp_path / "unplanned"))
    storage.delete_tree(str(tmp_path / "unplanned" / "plan"))
    (tmp_path / "nothing").mkdir()
    places = {
        "recipe": recipe_file(recipe, tmp_path),
        "run": recipe.run_uri,
        "nothing": tmp_path / "nothing",
        "unplanned": tmp_path / "unplanned",
    }
    ended = CliRunner().invoke(app, ["sample", *(text.format(**places) for text in arguments)])
    assert ended.exit_code == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert message in line
