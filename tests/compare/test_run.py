"""A whole comparison of a very small model: made, gone on with, and honest about what failed."""

import json
from pathlib import Path
from typing import Any

import pytest

from longspan.compare.plan import make_runs
from longspan.compare.run import perform_all, prepare_material, run_comparison
from longspan.config.compare import Comparison
from longspan.errors import ConfigError, LongspanError
from tests.compare.material import CONFIG, comparison, values

TASKS = {"text_source": "text", "length": 64, "documents": 40}


def small(folder: Path, **changes: Any) -> Comparison:
    """Corpus and base included; four runs, two of them of a step or two."""
    text = folder / "text"
    if not text.exists():
        text.mkdir(parents=True)
        for number in range(4):
            lines = [
                f"{number} {line}: the {line * 7 % 13} grey geese fly over {line * 3 % 17} hills.\n"
                for line in range(120)
            ]
            (text / f"{number}.txt").write_text("".join(lines))
    recipe = values()["recipe"]
    recipe["data"] = recipe["data"] | {"mix": [{"weights": {"needles": 1}}]}
    base = {"sample_length": 64, "target_length": 64, "mix": [{"weights": {"needles": 1}}], "packing": "sequential"}
    settings: dict[str, Any] = {
        "output": str(folder / "run"),
        "corpus": {
            "tokenizer": {"train_vocab_size": 300, "needle_tokens": True},
            "sources": [
                {"name": "text", "paths": [str(text / "0.txt"), str(text / "1.txt")]},
                {"name": "held", "paths": [str(text / "2.txt"), str(text / "3.txt")]},
                {"type": "needles", "name": "needles", **TASKS},
            ],
        },
        "base": {
            "config": {key: value for key, value in CONFIG.items() if key != "vocab_size"},
            "recipe": {
                "model": recipe["model"],
                "positions": {"type": "contiguous"},
                "data": base,
                "train": {"steps": 2, "global_batch_size": 2, "threads": 1},
            },
        },
        "recipe": recipe,
        "budget": {"tokens": 128},
        "methods": [
            {"name": "untouched", "train": False, "set": {"rope.type": "keep"}},
            *values()["methods"],
        ],
        "claims": [{"name": "as good", "method": "short", "against": "full", "metric": "tasks", "relation": "within"}],
        "workers": 1,
        "seeds": [3],
    }
    return comparison(**(settings | changes))


def test_a_comparison_is_made_once_and_gone_on_with(tmp_path: Path) -> None:
    lines: list[str] = []
    summary = run_comparison(small(tmp_path), lines.append)
    output = tmp_path / "run"
    assert "4 runs, 0 of them finished before" in lines
    assert list(summary["methods"]) == ["untouched", "yarn", "short", "full"]
    short, full, untouched = (summary["methods"][name] for name in ("short", "full", "untouched"))
    assert (short["steps"], full["steps"], untouched["steps"]) == (2, 1, 0)
    assert (short["tokens"], full["tokens"], untouched["flops"]) == (128, 128, 0)
    assert short["flops"] < full["flops"]
    assert set(short["metrics"]["larger@128"]["values"]) == {"3"}
    assert summary["claims"][0]["compute_share"] == pytest.approx(short["flops"] / full["flops"])
    assert json.loads((output / "compare.json").read_text()) == summary
    plots = {path.name for path in (output / "plots").iterdir()}
    assert {"accuracy_by_task.png", "accuracy_by_cost.png", "loss_by_position.png"} < plots
    assert "as good" in (output / "report.html").read_text()
    assert (output / "table.md").read_text().count("| short |") == 2
    config = json.loads((output / "runs" / "full" / "seed-3" / "checkpoint" / "config.json").read_text())
    assert config["max_position_embeddings"] == 128

    # Cut short between training and result.
    (output / "runs" / "short" / "seed-3" / "comparison.json").unlink()
    kept = (output / "runs" / "yarn" / "comparison.json").stat().st_mtime_ns
    trained = (output / "runs" / "short" / "seed-3" / "checkpoint" / "model.safetensors").stat().st_mtime_ns
    lines.clear()
    again = run_comparison(small(tmp_path), lines.append)
    assert "4 runs, 3 of them finished before" in lines
    assert [line.split(":")[0] for line in lines if line.startswith(("short, ", "full, "))] == ["short, seed 3"]
    assert (output / "runs" / "yarn" / "comparison.json").stat().st_mtime_ns == kept
    assert (output / "runs" / "short" / "seed-3" / "checkpoint" / "model.safetensors").stat().st_mtime_ns == trained
    for name in summary["methods"]:
        assert again["methods"][name]["metrics"] == summary["methods"][name]["metrics"]

    base = small(tmp_path).base
    assert base.config is not None
    other = base.model_copy(update={"config": base.config | {"hidden_size": 32}})
    with pytest.raises(ConfigError, match=r"base\.config: .*/init/config\.json is that of another base"):
        prepare_material(small(tmp_path).model_copy(update={"base": other}), lines.append)


def test_a_mistake_in_a_method_is_found_before_anything_trains(tmp_path: Path) -> None:
    methods = [*values()["methods"], {"name": "lost", "set": {"data.mix.0.weights": {"nowhere": 1}}}]
    lines: list[str] = []
    with pytest.raises(ConfigError, match=r"lost, seed 0: .*nowhere"):
        run_comparison(small(tmp_path, methods=methods, seeds=[0]), lines.append)
    assert not list(tmp_path.glob("run/runs/*/*/checkpoint"))
    assert not any("runs" in line for line in lines)


def test_a_run_that_cannot_be_made_is_an_outcome_and_not_an_end(tmp_path: Path) -> None:
    methods = [{"name": name, "train": False} for name in ("lost", "full")]
    asked = comparison(methods=methods, base={"checkpoint": str(tmp_path)})
    outcomes = list(perform_all(make_runs(asked, CONFIG), 1))
    assert [run.method for run, _ in outcomes] == ["lost", "full"]
    assert all(isinstance(found, LongspanError) for _, found in outcomes)
