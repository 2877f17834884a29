"""A whole comparison of a very small model: made, gone on with, and honest about what failed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

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
    assert {"accuracy_by_task.png", "accuracy_grid.png", "loss_by_position.png", "claims.png"} < plots
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


def test_methods_that_go_on_from_others_and_choose_by_scores(tmp_path: Path) -> None:
    chosen = {"data.selection": {"mode": "weighted", "from_length": 64}}
    methods = [
        *values()["methods"][1:],
        {"name": "chosen", "set": chosen},
        {"name": "again", "start": "short", "budget": {"tokens": 64}, "set": {"rope.type": "keep"}},
        {"name": "mean", "start": "again", "merge": {"weight": 0.25}},
        {"name": "scaled", "set": {"rope.type": "e2llm", "positions.type": "e2llm", "positions.window": 64}},
    ]
    analysis = {"rope": "yarn", "window": 128, "sources": ["needles"]}
    asked = small(tmp_path, methods=methods, impact=analysis, claims=[], workers=2)
    summary = run_comparison(asked, lambda line: None)
    found = {name: method["steps"] for name, method in summary["methods"].items()}
    assert found == {"short": 2, "full": 1, "chosen": 2, "again": 3, "mean": 3, "scaled": 2}
    assert summary["methods"]["again"]["seconds"] > summary["methods"]["short"]["seconds"]

    folders = {name: tmp_path / "run" / "runs" / name / "seed-3" / "checkpoint" for name in found}
    base = load_file(tmp_path / "run" / "base" / "checkpoint" / "model.safetensors")
    again, mean, short = (load_file(folders[name] / "model.safetensors") for name in ("again", "mean", "short"))
    assert any(not torch.equal(again[name], short[name]) for name in short)
    for name, tensor in mean.items():
        assert torch.allclose(tensor, 0.75 * base[name] + 0.25 * again[name], atol=1e-6)
    ropes = {name: json.loads((path / "config.json").read_text())["rope_parameters"] for name, path in folders.items()}
    assert ropes["mean"] == ropes["again"] == ropes["short"]
    result = json.loads((tmp_path / "run" / "runs" / "scaled" / "seed-3" / "comparison.json").read_text())
    assert result["measured"]["evaluation"]["scales"] == {"64": 1, "128": 2}

    # Cut short in the middle of the merge, and of what it stands on nothing is made again.
    trained = (folders["again"] / "model.safetensors").stat().st_mtime_ns
    (tmp_path / "run" / "runs" / "mean" / "seed-3" / "comparison.json").unlink()
    (folders["mean"] / "config.json").unlink()
    repeated = run_comparison(asked, lambda line: None)
    assert (folders["again"] / "model.safetensors").stat().st_mtime_ns == trained
    assert repeated["methods"]["mean"]["metrics"] == summary["methods"]["mean"]["metrics"]


def test_what_stands_on_a_failed_run_fails_with_it(tmp_path: Path) -> None:
    asked = small(tmp_path)
    prepare_material(asked, lambda line: None)
    from transformers import AutoConfig, AutoModelForCausalLM

    methods = [*values()["methods"][1:], {"name": "again", "start": "short", "set": {"rope.type": "keep"}}]
    # Weights that are no numbers: that comes out when a run begins.
    broken: Any = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "run" / "init"))
    for weight in broken.parameters():
        weight.data.fill_(float("nan"))
    broken.save_pretrained(tmp_path / "broken")
    without = {"base": {"checkpoint": str(tmp_path / "broken")}, "corpus": None, "methods": methods, "claims": []}
    recipe = asked.recipe | {"data": asked.recipe["data"] | {"manifest": str(tmp_path / "run" / "data")}}
    lines: list[str] = []
    with pytest.raises(LongspanError, match=r"3 of 3 runs failed; short, seed 3: "):
        run_comparison(small(tmp_path, **without, recipe=recipe, output=str(tmp_path / "other")), lines.append)
    assert "again, seed 3: failed: short, seed 3, which it goes on from, failed" in lines


def test_a_base_without_weights_is_found_before_anything_trains(tmp_path: Path) -> None:
    asked = small(tmp_path)
    prepare_material(asked, lambda line: None)
    recipe = asked.recipe | {"data": asked.recipe["data"] | {"manifest": str(tmp_path / "run" / "data")}}
    changes = {"base": {"checkpoint": str(tmp_path / "run" / "init")}, "corpus": None, "recipe": recipe}
    with pytest.raises(ConfigError, match=r"model\.path: .*init holds neither model\.safetensors nor"):
        run_comparison(small(tmp_path, **changes, output=str(tmp_path / "other")), lambda line: None)
    assert not list(tmp_path.glob("other/runs/*/*/checkpoint"))


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
