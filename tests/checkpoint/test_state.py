"""Save and load through real engines: every bit comes back, in any layout, or all ranks say the same error."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from longspan import storage
from longspan.checkpoint import state as state_module
from longspan.checkpoint.commit import COMMIT, newest_commit, step_uri
from longspan.checkpoint.state import StoredState, find_resume, load_weights
from longspan.errors import CheckpointError
from longspan.model.load import open_model
from longspan.model.loss import CausalLMLoss
from longspan.train.world import start_single_process
from tests.checkpoint.state_case import RUN, Layout, Trainer, begin, error_of, recipe_for, resume, work
from tests.ranks import run_ranks
from tests.s3 import Fault, FaultProxy
from tests.tiny import tiny_model_directory

ORIGINS = {
    "1 rank, ZeRO-1": Layout(1, 1, 1),
    "1 rank, ZeRO-2, bf16": Layout(1, 1, 2, "bfloat16"),
    "2 ranks, SP 2, ZeRO-2": Layout(2, 2, 2),
    "2 ranks, ZeRO-3": Layout(2, 1, 3),
    "2 ranks, SP 2, ZeRO-3, bf16": Layout(2, 2, 3, "bfloat16"),
}
TARGETS = [
    Layout(1, 1, 1),
    Layout(1, 1, 3),
    Layout(2, 1, 1),
    Layout(2, 2, 2),
    Layout(2, 1, 3),
    Layout(2, 2, 3),
    Layout(3, 1, 1),
    Layout(3, 1, 3),
]
PATHS = [(name, target) for name in ORIGINS if "bf16" not in name for target in TARGETS]
PATHS += [
    (name, target._replace(dtype="bfloat16"))
    for name in ORIGINS
    if "bf16" in name
    for target in (ORIGINS[name], Layout(1, 1, 1), Layout(3, 1, 3))
]
FAULTS = ("full_disk", "failing_commit", "damaged")


class Results:
    """What all layouts gave. Two starts of processes in all: they take longer than the steps."""

    def __init__(self, folder: Path) -> None:
        self.model = str(tiny_model_directory(folder / "model", num_hidden_layers=1))
        self.folder = folder
        start_single_process(use_gpu=False)
        self.begun: dict[str, dict[str, Any]] = {}
        self.resumed: dict[tuple[str, Layout], list[dict[str, Any]]] = {}
        self.faults: dict[str, list[dict[str, Any]]] = {}
        for name, layout in ORIGINS.items():
            if layout.world == 1:
                self.begun[name] = begin(self.run_uri(name), self.model, layout)
        self._two_ranks()
        for name, target in PATHS:
            if target.world == 1:
                self.resumed[name, target] = [resume(self.run_uri(name), self.model, target)]
        self._resume_in(3)

    def run_uri(self, name: str) -> str:
        return str(self.folder / name)

    def _two_ranks(self) -> None:
        origins = [(name, layout) for name, layout in ORIGINS.items() if layout.world == 2]
        paths = [path for path in PATHS if path[1].world == 2]
        jobs = [("begin", self.run_uri(name), self.model, layout) for name, layout in origins]
        jobs += [("resume", self.run_uri(name), self.model, target) for name, target in paths]
        jobs += [(fault, self.run_uri(fault), self.model, Layout(2, 1, 1)) for fault in FAULTS]
        ranks = run_ranks(work, 2, jobs)
        for number, (name, _) in enumerate(origins):
            self.begun[name] = ranks[0][number]
        for number, path in enumerate(paths, start=len(origins)):
            self.resumed[path] = [rank[number] for rank in ranks]
        for number, fault in enumerate(FAULTS, start=len(origins) + len(paths)):
            self.faults[fault] = [rank[number] for rank in ranks]

    def _resume_in(self, world: int) -> None:
        paths = [path for path in PATHS if path[1].world == world]
        ranks = run_ranks(work, world, [("resume", self.run_uri(n), self.model, target) for n, target in paths])
        for number, path in enumerate(paths):
            self.resumed[path] = [rank[number] for rank in ranks]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("state"))


def same_bits(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) and a[n].dtype == torch.float32 for n in a)


def furthest(a: dict[str, Tensor], b: dict[str, Tensor], kind: str) -> float:
    return max(float((a[name] - b[name]).abs().max()) for name in a if name.startswith(f"{kind}/"))


def distance(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Of all weights, Euclidean."""
    return float(torch.stack([(a[n] - b[n]).norm() for n in a if n.startswith("weight/")]).norm())


@pytest.mark.parametrize(("origin", "target"), PATHS, ids=[f"{o} to {tuple(t)}" for o, t in PATHS])
def test_state_survives_any_change_of_layout(results: Results, origin: str, target: Layout) -> None:
    begun = results.begun[origin]
    for rank in results.resumed[origin, target]:
        assert rank["first"] == 2
        assert same_bits(rank["loaded"], begun["saved"]), (
            "float32 weights and both moments are the saved ones, every bit"
        )
        if target == ORIGINS[origin]:
            assert rank["loss"] == begun["losses"][2]
            assert same_bits(rank["end"], begun["end"])
            continue
        if target.dtype == "float32":
            assert rank["loss"] == pytest.approx(begun["losses"][2], rel=1e-6)
            assert furthest(rank["end"], begun["end"], "weight") < 1e-6
        else:  # gradients are rounded to 8 bits before they meet, in another order
            assert rank["loss"] == pytest.approx(begun["losses"][2], rel=1e-3)
            assert distance(rank["end"], begun["end"]) < 0.05 * distance(begun["saved"], begun["end"])


def test_the_saved_state_is_not_trivial(results: Results) -> None:
    """Else equality would show nothing."""
    for begun in results.begun.values():
        for name, value in begun["saved"].items():
            assert value.abs().max() > 0, name
        assert furthest(begun["saved"], begun["end"], "weight") > 1e-4
        assert len(set(begun["losses"])) == 3


def test_the_step_count_of_adam_comes_back(tmp_path: Path, results: Results) -> None:
    """Without it the bias correction of the next step is that of the first: the equal third step above shows it."""
    trainer = Trainer(results.run_uri("1 rank, ZeRO-1"), results.model, Layout(1, 1, 1))
    steps = {float(entry["step"]) for entry in trainer.engine.optimizer.optimizer.state.values()}
    trainer.engine.destroy()
    assert steps == {2.0}


def test_every_rank_writes_a_part_and_safetensors_only(results: Results) -> None:
    for name, layout in ORIGINS.items():
        names = storage.list_files(step_uri(results.run_uri(name), 2))
        parts = [f"state-{rank:05d}-of-{layout.world:05d}.safetensors" for rank in range(layout.world)]
        assert names == sorted([COMMIT, *parts])
        commit = newest_commit(results.run_uri(name), RUN)
        assert commit is not None
        assert (commit.next_sample, commit.topology) == (12, {"world_size": layout.world})
        sizes = [file.size for file in commit.files]
        assert min(sizes) > 0.25 * max(sizes), "the work is shared"


def test_a_rank_that_cannot_write_stops_all_ranks_with_one_error(results: Results) -> None:
    first, last = results.faults["full_disk"]
    assert first == last
    assert "step-00000002: not saved; rank 1: " in first["message"]
    assert first["kept"] == 1
    assert first["left"] == ["state-00000-of-00002.safetensors"], "neither a record nor a partial file"
    assert first["after"] == 3


def test_a_record_that_cannot_be_written_stops_all_ranks_with_one_error(results: Results) -> None:
    first, last = results.faults["failing_commit"]
    assert first == last
    assert first["message"].endswith("step-00000002: not committed; [Errno 28] No space left on device")
    assert first["kept"] == 1


def test_all_ranks_pass_over_a_damaged_step_or_all_refuse(results: Results) -> None:
    for rank in results.faults["damaged"]:
        assert rank["from"] == 1
        assert same_bits(rank["loaded"], rank["saved"])
        assert "is intact" in rank["nothing left"]
        assert "step-00000002/state-00001-of-00002.safetensors: digest" in rank["nothing left"]
        assert "to start anew" in rank["nothing left"]
        assert "of another recipe" in rank["other recipe"]
    first, last = results.faults["damaged"]
    assert first["nothing left"] == last["nothing left"]


@pytest.fixture
def run(results: Results, tmp_path: Path) -> str:
    """A copy of a run with step 2, to damage."""
    shutil.copytree(results.run_uri("1 rank, ZeRO-1"), tmp_path / "run")
    return str(tmp_path / "run")


def test_left_overs_of_a_lost_save_do_not_matter(results: Results, run: str) -> None:
    base = Path(step_uri(run, 3))
    base.mkdir()
    (base / "state-00000-of-00001.partial-77").write_bytes(b"half")
    (base / "state-00000-of-00001.safetensors").write_bytes(b"another half")
    (base / "state-00005-of-00008.safetensors").write_bytes(b"of eight ranks")
    Path(step_uri(run, 2), "state-00000-of-00001.partial-78").write_bytes(b"half")
    trainer = Trainer(run, results.model, Layout(1, 1, 1))
    assert trainer.done == 2
    loss = trainer.step()
    trainer.save()
    assert loss == results.begun["1 rank, ZeRO-1"]["losses"][2]
    assert same_bits(trainer.state(), results.begun["1 rank, ZeRO-1"]["end"])
    again = Trainer(run, results.model, Layout(1, 1, 1))
    assert again.done == 3
    assert same_bits(again.state(), trainer.state())
    again.engine.destroy()
    trainer.engine.destroy()


def test_a_step_saved_again_replaces_the_first(results: Results, run: str) -> None:
    trainer = Trainer(run, results.model, Layout(1, 1, 1))
    trainer.step()
    trainer.done = 2
    trainer.save()
    state = trainer.state()
    trainer.engine.destroy()
    again = Trainer(run, results.model, Layout(1, 1, 1))
    assert same_bits(again.state(), state)
    again.engine.destroy()


def test_the_same_through_a_store(
    results: Results, s3_bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    begun = begin(f"{s3_bucket}/run", results.model, Layout(1, 1, 1))
    assert begun["losses"] == results.begun["1 rank, ZeRO-1"]["losses"]
    resumed = resume(f"{s3_bucket}/run", results.model, Layout(1, 1, 1))
    assert same_bits(resumed["loaded"], begun["saved"])
    assert same_bits(resumed["end"], begun["end"])


def test_a_resume_from_a_store_reads_each_byte_once_in_ranges_and_keeps_nothing(
    results: Results,
    s3_bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault_proxy: Callable[..., FaultProxy],
) -> None:
    monkeypatch.setenv("LONGSPAN_CACHE", str(tmp_path / "cache"))
    begun = begin(f"{s3_bucket}/run", results.model, Layout(1, 1, 1))
    commit = newest_commit(f"{s3_bucket}/run", RUN)
    assert commit is not None
    size = sum(file.size for file in commit.files)
    monkeypatch.setattr("longspan.storage.s3.PART_BYTES", 1 << 14)
    proxy = fault_proxy()
    resumed = resume(f"{s3_bucket}/run", results.model, Layout(1, 1, 1))
    assert same_bits(resumed["loaded"], begun["saved"])
    assert size <= proxy.num_body_bytes < size + 20_000, "the tensors once, beside listings and the record"
    assert proxy.num_requests >= size // (1 << 14)
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_a_bit_that_the_wire_flips_costs_a_fetch_and_no_checkpoint(
    results: Results, s3_bucket: str, fault_proxy: Callable[..., FaultProxy]
) -> None:
    begun = begin(f"{s3_bucket}/run", results.model, Layout(1, 1, 1))
    proxy = fault_proxy(Fault("flip", times=1, method="GET", path=".safetensors"))
    resumed = resume(f"{s3_bucket}/run", results.model, Layout(1, 1, 1))
    assert proxy.struck == {"flip": 1}
    assert resumed["first"] == 2
    assert same_bits(resumed["loaded"], begun["saved"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_hidden_layers": 2}, r"differ in parameter model.model.layers.1."),
        (
            {"intermediate_size": 64, "num_hidden_layers": 1},
            r"differ in the shape of .*mlp.*: \(48, 32\) and \(64, 32\); the model directory has",
        ),
    ],
)
def test_a_model_that_has_changed_is_refused(
    results: Results, run: str, tmp_path: Path, changes: dict[str, int], message: str
) -> None:
    recipe = recipe_for(str(tiny_model_directory(tmp_path / "other", **changes)), Layout(1, 1, 1))
    network, _ = open_model(recipe.model, recipe.rope, recipe.data.target_length, seed=0)
    commit = newest_commit(run, RUN)
    assert commit is not None
    with pytest.raises(CheckpointError, match=message):
        load_weights(CausalLMLoss(network, 16), StoredState(run, commit))


def test_a_save_that_fails_leaves_no_partial_file(run: str, results: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(run, results.model, Layout(1, 1, 1))
    trainer.step()

    def half(tensors: Any, path: Path) -> None:
        Path(path).write_bytes(b"half")
        raise RuntimeError("the machine says no")

    monkeypatch.setattr(state_module, "save_file", half)
    assert error_of(trainer.save).endswith("step-00000003: not saved; rank 0: the machine says no")
    trainer.engine.destroy()
    assert storage.list_files(step_uri(run, 3)) == []
    found = find_resume(run, RUN)
    assert found is not None
    assert found.step == 2
