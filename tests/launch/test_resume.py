"""A resumed run is the run that was begun: what may change does, is recorded, and all else is refused by its name."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from longspan import storage
from longspan.checkpoint.commit import read_commit, written_steps
from longspan.config.recipe import Recipe
from longspan.config.resume import Change
from longspan.corpus.plan_table import PlanReader
from longspan.errors import CheckpointError, ConfigError, NotFiniteError
from longspan.launch import local
from longspan.launch.begun import read_staged
from longspan.launch.run import train
from longspan.launch.stage import stage_run
from longspan.observe.metrics import read_metrics
from longspan.train import loop
from tests.launch.conftest import MakeRecipe
from tests.launch.test_local import _always_stopped, numbers, weights
from tests.tiny import tiny_model_directory

MIXED = {"mix": [{"weights": {"text": 1, "held": 1}}], "packing": "sequential"}


@pytest.fixture
def model(folder: Path, tmp_path: Path) -> Path:
    shutil.copytree(folder / "model", tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Callable[[Recipe], None]:
    """One more step of a recipe, then a stop."""

    def run(recipe: Recipe, **options: Any) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(local, "stop_signals", _always_stopped)
            assert not train(recipe, show_progress=False, **options)["finished"]

    return run


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def other_theta(model: Path) -> None:
    edit(model / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 10000.0})


def other_dtype(model: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = model / "model.safetensors"
    save_file({name: value.half() for name, value in load_file(path).items()}, path, {"format": "pt"})


def other_weights(model: Path) -> None:
    tiny_model_directory(model, vocab_size=320, seed=1)


def other_last_weight(model: Path) -> None:
    """One byte in the middle of the file: a frozen base is read whole."""
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


CHANGED = [
    (other_theta, {}, "config.json: rope_parameters.rope_theta was 500.0, is 10000.0"),
    (
        lambda model: edit(model / "generation_config.json", top_k=3),
        {},
        "generation_config.json: its content has changed",
    ),
    (lambda model: (model / "generation_config.json").unlink(), {}, "generation_config.json: was removed"),
    (lambda model: (model / "merges.txt").write_text("a b"), {}, "merges.txt: was added"),
    (other_dtype, {}, "model.safetensors: "),
    (other_weights, {}, "model.safetensors: other weights"),
    (other_last_weight, {"lora": {"rank": 2}}, "model.safetensors: other weights"),
]


@pytest.mark.parametrize(
    ("change", "section", "message"), CHANGED, ids=[f"{n}-{m[:20]}" for n, (_, _, m) in enumerate(CHANGED)]
)
def test_a_model_that_was_changed_between_a_stop_and_a_resume_is_refused_by_file_and_key(
    make: MakeRecipe, model: Path, stopped: Any, change: Callable[[Path], None], section: dict[str, Any], message: str
) -> None:
    recipe = make(model={"path": str(model), **section})
    stopped(recipe)
    stopped(recipe)
    change(model)
    with pytest.raises(
        ConfigError, match=rf"^model\.path: {re.escape(message)}.*; restore it, or give this run another o"
    ):
        train(recipe, show_progress=False)
    assert written_steps(recipe.run_uri) == [2, 1]


def test_the_same_model_in_another_place_is_the_same(
    make: MakeRecipe, model: Path, stopped: Any, tmp_path: Path
) -> None:
    stopped(make(model={"path": str(model)}))
    model.rename(tmp_path / "moved")
    stopped(make(model={"path": str(tmp_path / "moved")}))
    assert written_steps(make().run_uri) == [2, 1]


def test_before_the_first_checkpoint_a_model_may_still_be_mended(make: MakeRecipe, model: Path) -> None:
    recipe = make(model={"path": str(model)})
    stage_run(recipe)
    other_theta(model)
    stage_run(recipe)
    saved = storage.read_json(storage.join(recipe.run_uri, "model.json"))
    assert saved["model"]["config"]["rope_parameters"]["rope_theta"] == 10000.0


def hub_model(cache: Path, folder: Path, commits: list[str]) -> None:
    """A hub's cache as a download leaves it, `main` at the last of the commits."""
    base = cache / "models--org--tiny"
    for number, commit in enumerate(commits):
        for part in ("model", "data/tokenizer"):
            shutil.copytree(folder / part, base / "snapshots" / commit, dirs_exist_ok=True)
        edit(base / "snapshots" / commit / "config.json", initializer_range=0.01 * (number + 1))
    (base / "refs").mkdir(exist_ok=True)
    (base / "refs" / "main").write_text(commits[-1])


def test_a_hub_name_is_pinned_to_its_commit_at_the_start(
    make: MakeRecipe, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stopped: Any
) -> None:
    from huggingface_hub import constants

    first, second = "a" * 40, "b" * 40
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True, raising=False)
    hub_model(tmp_path / "hub", folder, [first])
    recipe = make(model={"path": "org/tiny"})
    stopped(recipe)
    assert read_staged(recipe.run_uri).model.revision == first
    hub_model(tmp_path / "hub", folder, [first, second])
    stopped(recipe)
    assert read_staged(recipe.run_uri).model.revision == first
    stopped(make(model={"path": "org/tiny", "revision": first}))
    with pytest.raises(
        ConfigError, match=f"^model.path: revision was {first}, is {second} .*give this run another output"
    ):
        train(make(model={"path": "org/tiny", "revision": second}), show_progress=False)


def test_a_lower_rate_is_taken_from_its_step_on_and_recorded(make: MakeRecipe, stopped: Any) -> None:
    for _ in range(2):
        stopped(make())
    lower = make(train={"learning_rate": 1e-3, "save_every": 1, "keep_checkpoints": 3})
    summary = train(lower, show_progress=False)
    rates = [line["learning_rate"] for line in read_metrics(lower.run_uri)]
    assert [round(rate / full, 6) for rate, full in zip(rates, full_rates(make()), strict=True)] == [
        1,
        1,
        0.1,
        0.1,
        0.1,
        0.1,
    ]
    assert set(read_commit(lower.run_uri, 6).changes) == {
        Change("train.learning_rate", 1e-2, 1e-3, 2),
        Change("train.save_every", 0, 1, 2),
        Change("train.keep_checkpoints", 2, 3, 2),
    }
    assert summary["changes"][1] == {"field": "train.learning_rate", "was": 1e-2, "now": 1e-3, "from_step": 2}
    page = storage.read_text(storage.join(lower.run_uri, "report.html"))
    assert "After step 2" in page
    assert "train.learning_rate: 0.01 → 0.001" in page


def full_rates(recipe: Recipe) -> list[float]:
    from longspan.train.schedule import learning_rate

    return [learning_rate(recipe.train, step) for step in range(recipe.train.steps)]


def test_a_rate_changed_twice_is_told_twice_and_a_change_that_was_taken_back_is_not(
    make: MakeRecipe, stopped: Any
) -> None:
    stopped(make())
    stage_run(make(train={"learning_rate": 1.0}))
    stopped(make(train={"learning_rate": 5e-3}))
    stopped(make(train={"learning_rate": 2e-3}))
    changes = [Change("train.learning_rate", 1e-2, 5e-3, 1), Change("train.learning_rate", 5e-3, 2e-3, 2)]
    assert read_commit(make().run_uri, 3).changes == tuple(changes)


REFUSED = {
    "train.global_batch_size": ({"train": {"global_batch_size": 4}}, "train.global_batch_size was 2, is 4"),
    "train.weight_decay": ({"train": {"weight_decay": 0.5}}, "train.weight_decay was 0.0, is 0.5"),
    "seed": ({"seed": 3}, "seed was 0, is 3"),
    "rope": ({"rope": {"type": "linear"}}, 'rope.type was "ntk", is "linear"'),
    "lora": ({"model": {"lora": {"rank": 2}}}, "model.lora.rank was null, is 2"),
    "mix": ({"data": MIXED}, "data.mix was"),
}


@pytest.mark.parametrize(("sections", "message"), REFUSED.values(), ids=REFUSED)
def test_what_would_be_another_run_is_refused_by_field_and_values(
    make: MakeRecipe, stopped: Any, sections: dict[str, Any], message: str
) -> None:
    stopped(make())
    with pytest.raises(ConfigError) as caught:
        train(make(**sections), show_progress=False)
    assert message in str(caught.value)
    assert "Give this one another output" in str(caught.value)
    assert ("--resume-from" in str(caught.value)) == (sections == {"train": {"weight_decay": 0.5}})


@pytest.mark.parametrize("data", [{}, MIXED], ids=["one source", "two sources"])
def test_a_longer_run_trains_the_same_samples_first(make: MakeRecipe, stopped: Any, data: dict[str, Any]) -> None:
    recipe = make(data=data, train={"steps": 4, "schedule": "constant"})
    train(recipe, show_progress=False)
    plan = PlanReader(storage.join(recipe.run_uri, "plan")).rows(0, 8)
    before, files = numbers(recipe), weights(recipe)
    longer = make(data=data, train={"steps": 9, "schedule": "constant"})
    summary = train(longer, show_progress=False)
    assert (summary["finished"], summary["steps"]) == (True, 9)
    extended = PlanReader(storage.join(recipe.run_uri, "plan"))
    assert extended.info.metadata["ends"] == "[4, 9]"
    for old, new in zip(plan, extended.rows(0, 8), strict=True):
        assert old.source == new.source
        assert (old.offsets == new.offsets).all()
    assert numbers(longer)[:4] == before
    assert [line["step"] for line in numbers(longer)] == list(range(1, 10))
    assert any(not torch.equal(value, files[name]) for name, value in weights(longer).items())
    # Its plan is lost, and made again from the commits.
    shutil.rmtree(Path(recipe.run_uri, "plan"))
    train(longer, show_progress=False)
    again = PlanReader(storage.join(recipe.run_uri, "plan"))
    assert again.info.fingerprint == extended.info.fingerprint


def test_steps_may_be_lowered_to_those_done_and_no_further(make: MakeRecipe, stopped: Any) -> None:
    for _ in range(3):
        stopped(make())
    with pytest.raises(
        ConfigError, match=r"^train\.steps: 2, but the run in .*run has done 3; give 3 or more, or begin"
    ):
        train(make(train={"steps": 2}), show_progress=False)
    assert train(make(train={"steps": 3}), show_progress=False)["finished"]
    with pytest.raises(
        ConfigError, match=r"^train\.grad_clip: .* was 1\.0, is 2\.0, but the run in .* is finished after 3"
    ):
        train(make(train={"steps": 3, "grad_clip": 2.0}), show_progress=False)
    assert train(make(train={"steps": 4, "grad_clip": 2.0}), show_progress=False)["steps"] == 4


def test_an_extension_that_would_change_trained_samples_is_refused_with_the_reason(
    make: MakeRecipe, stopped: Any
) -> None:
    """`spread` gives what is over a limit to the other source, over the whole run."""
    spread = {"max_epochs": 0.05, "by_source": {"held": 50.0}, "on_limit": "spread"}
    data = {**MIXED, "repetition": spread}
    for _ in range(3):
        stopped(make(data=data, train={"steps": 4}))
    with pytest.raises(
        ConfigError, match=r"^train\.steps: with 200 steps, sample \d+, which was trained already, would be"
    ):
        train(make(data=data, train={"steps": 200}), show_progress=False)
    assert train(make(data=data, train={"steps": 4}), show_progress=False)["finished"]


def test_what_is_not_finite_is_told_with_a_command_that_works(
    make: MakeRecipe, stopped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped(make())
    step = loop.train_step

    def broken(*given: Any) -> Any:
        raise NotFiniteError("step 2: loss is nan; weights and optimizer are those of step 1")

    monkeypatch.setattr(loop, "train_step", broken)
    with pytest.raises(NotFiniteError) as caught:
        train(make(), show_progress=False)
    monkeypatch.setattr(loop, "train_step", step)
    (rate,) = re.findall(r"the same command with --set train\.learning_rate=(\S+)\)", str(caught.value))
    assert re.search(r"samples, 2 to 3: longspan sample \S+run 2$", str(caught.value))
    assert train(make(train={"learning_rate": float(rate)}), show_progress=False)["finished"]


def test_a_run_that_begins_with_anothers_checkpoint_is_its_continuation(
    make: MakeRecipe, stopped: Any, tmp_path: Path
) -> None:
    whole = make(output=tmp_path / "whole", train={"save_every": 2, "keep_checkpoints": 3})
    train(whole, show_progress=False)
    before = sorted(storage.list_files(whole.run_uri))
    same = make(output=tmp_path / "same", train={"save_every": 1, "keep_checkpoints": 9})
    stopped(same, resume_from=f"{whole.run_uri}@2")
    summary = train(same, show_progress=False)
    assert summary["parent"] == f"{whole.run_uri}@2"
    assert numbers(same) == numbers(whole)[2:]
    assert all(torch.equal(value, weights(whole)[name]) for name, value in weights(same).items())
    assert written_steps(same.run_uri) == [6, 5, 4, 3]
    assert sorted(storage.list_files(whole.run_uri)) == before
    assert f"{whole.run_uri}@2" in storage.read_text(storage.join(same.run_uri, "report.html"))


def test_the_train_section_may_differ_there_and_the_newest_step_is_the_default(
    make: MakeRecipe, tmp_path: Path
) -> None:
    whole = make(output=tmp_path / "whole", data=MIXED)
    train(whole, show_progress=False)
    changed = {"steps": 8, "learning_rate": 1e-3, "weight_decay": 0.1, "beta2": 0.99, "schedule": "constant"}
    fork = make(output=tmp_path / "fork", data=MIXED, train=changed)
    summary = train(fork, show_progress=False, resume_from=whole.run_uri)
    assert [line["step"] for line in read_metrics(fork.run_uri)] == [7, 8]
    fields = {change["field"] for change in summary["changes"]}
    assert fields == {f"train.{key}" for key in changed}
    rows = [PlanReader(storage.join(uri, "plan")).rows(0, 12) for uri in (whole.run_uri, fork.run_uri)]
    assert all((old.offsets == new.offsets).all() for old, new in zip(*rows, strict=True))


BAD_FORKS: list[tuple[dict[str, Any], str, str]] = [
    ({}, "@3", "@3: there is no checkpoint of this step; restore"),
    ({}, "@x", "expected RUN or RUN@STEP"),
    ({"train": {"steps": 6}}, "", r"train\.steps: 6, but \S+@6 has done 6; give more, or begin with an earlier step"),
    (
        {"seed": 1},
        "@2",
        "seed was 0, is 1; a run that begins with another's checkpoint keeps all but the train section",
    ),
    ({"train": {"global_batch_size": 4}}, "@2", r"train\.global_batch_size was 2, is 4; a run that begins"),
]


@pytest.fixture(scope="module")
def parent(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    from tests.tiny import tiny_recipe

    sizes = {"steps": 6, "global_batch_size": 2, "micro_batch_size": 1, "save_every": 2, "keep_checkpoints": 3}
    output = str(tmp_path_factory.mktemp("parent") / "run")
    recipe = tiny_recipe(folder / "model", folder / "data", output=output, train=sizes)
    train(recipe, show_progress=False)
    return recipe


@pytest.mark.parametrize(("sections", "suffix", "message"), BAD_FORKS, ids=[m[:20] for *_, m in BAD_FORKS])
def test_a_checkpoint_that_it_cannot_begin_with(
    make: MakeRecipe, parent: Recipe, sections: dict[str, Any], suffix: str, message: str
) -> None:
    recipe = make(**sections)
    with pytest.raises((ConfigError, CheckpointError), match=message):
        stage_run(recipe, f"{parent.run_uri}{suffix}")
    assert not storage.exists(recipe.run_uri)


def test_a_run_keeps_the_parent_that_it_began_with(make: MakeRecipe, parent: Recipe, tmp_path: Path) -> None:
    recipe = make(train={"steps": 9})
    stage_run(recipe, f"{parent.run_uri}@4")
    stage_run(recipe)
    stage_run(recipe, parent.run_uri)
    with pytest.raises(ConfigError, match=r"@2: the run in \S+ began with \S+@4; give another output"):
        stage_run(recipe, f"{parent.run_uri}@2")
    other = make(output=tmp_path / "other")
    stage_run(other)
    with pytest.raises(ConfigError, match="did not begin with a checkpoint; give another output"):
        stage_run(other, parent.run_uri)


def test_a_parent_that_is_gone_or_damaged_is_said_and_never_touched(
    make: MakeRecipe, parent: Recipe, tmp_path: Path
) -> None:
    copied = tmp_path / "copy"
    shutil.copytree(parent.run_uri, copied)
    recipe = make(train={"steps": 9})
    stage_run(recipe, f"{copied}@4")
    (state,) = (copied / "checkpoints" / "step-00000004").glob("*.safetensors")
    data = bytearray(state.read_bytes())
    data[-1] ^= 1
    state.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"digest .*; restore it, or begin in another output with --resume-from"):
        train(recipe, show_progress=False)
    assert written_steps(str(copied)) == [6, 4, 2]
    shutil.rmtree(copied / "checkpoints" / "step-00000004")
    with pytest.raises(CheckpointError, match=r"copy@4: there is no checkpoint of this step; restore"):
        train(recipe, show_progress=False)
