"""A pipeline of four stages, killed (SIGKILL) anywhere, again and again, until it is through: is it the same pipeline?

    python tests/reliability/kill_pipeline.py                  (five minutes on 2 cores)
    python tests/reliability/kill_pipeline.py --runs 100       (pipelines from beginning to end, a dozen kills each)

Extend, replay on conversations, long fine-tuning, merge, each evaluated. A kill comes before the N-th change of a file
below the output, or by the clock, so also in the middle of an export, a merge, a record. After every kill no JSON file
may be half there, no committed checkpoint lack a file, no directory with a config.json be another model than that of
the undisturbed run; at the end every file is there, models and metrics to the bit. Exit code 1 if one is not.
"""

# ruff: noqa: E402  (a script finds the package before it imports it)
import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "platform"))

# All that a run imports, so that a fork costs nothing.
import deepspeed  # noqa: F401
import matplotlib.figure  # noqa: F401
import torch
import transformers  # noqa: F401
from tokenizers import AddedToken

import longspan.evaluate.run
import longspan.launch.local
import longspan.merge.merge
import longspan.observe.plots
import longspan.train.loop  # noqa: F401
from longspan.config.corpus import Corpus, Tokenizer
from longspan.config.load import parse
from longspan.config.pipeline import load_pipeline
from longspan.corpus.prepare import prepare
from longspan.corpus.tokenizer import train_tokenizer
from longspan.model.companions import CARD
from longspan.recipes.run import run_pipeline
from tests.corpus.test_chat import CHATML
from tests.tiny import tiny_model_directory

CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.copyfile", "shutil.rmtree")
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SPREADS = (20, 60, 150, 400)
"""A kill comes at one of the first so many changes: small ones keep to the beginnings, large ones reach the ends."""
TIMED = ("seconds", "wall_seconds", "step_s", "tokens_per_s", "data_wait_s")
IDENTITIES = ("made", "evaluated", "began_with", "reported")


@dataclass
class Strike:
    """When this process is to kill itself: before change number `at` of a file below `output`; 0 for never."""

    output: str = ""
    at: int = 0
    seen: int = 0

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.at:
            return
        opened = event == "open" and isinstance(arguments[0], str) and arguments[2] & WRITES
        if not (opened or event in CHANGES) or self.output not in str(arguments):
            return
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


STRIKE = Strike()
sys.addaudithook(STRIKE.hook)


def make_material(folder: Path) -> Path:
    """Texts, conversations, a tokenizer with a chat template, a tiny model; returns the pipeline's file."""
    texts = []
    for name in ("text", "held"):
        (folder / name).mkdir()
        for number in range(8):
            lines = [f"{name} {number} {k}: the {k * 7 % 13} grey geese fly over {k * k % 17}.\n" for k in range(80)]
            texts.append("".join(lines))
            (folder / name / f"{number}.txt").write_text(texts[-1])
    for name, count, turns in (("chat", 300, 1), ("long", 60, 8)):
        records = [json.dumps({"messages": conversation(number, turns)}) for number in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(records) + "\n")
    tokenizer = train_tokenizer(texts, Tokenizer(train_vocab_size=300))
    marks = [AddedToken(mark, special=True) for mark in ("<|im_start|>", "<|im_end|>")]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.chat_template = CHATML
    tiny_model_directory(folder / "model", vocab_size=320)
    tokenizer.save_pretrained(folder / "model")
    sources = [
        *({"type": "text", "name": name, "paths": [str(folder / name)]} for name in ("text", "held")),
        *({"type": "chat", "name": name, "paths": [str(folder / f"{name}.jsonl")]} for name in ("chat", "long")),
    ]
    corpus = {"output": str(folder / "corpus"), "tokenizer": {"path": str(folder / "model")}, "sources": sources}
    prepare(parse(Corpus, corpus, "corpus"))
    file = folder / "pipeline.yaml"
    file.write_text(yaml.safe_dump(pipeline_values(folder)))
    return file


def conversation(number: int, turns: int) -> list[dict[str, str]]:
    messages = []
    for turn in range(turns):
        answer = " ".join([f"{(number + turn) % 13} grey geese"] * (1 + number % 4))
        messages += [
            {"role": "user", "content": f"How many geese fly over house {number * 3 % 11 + turn}?"},
            {"role": "assistant", "content": f"{answer}."},
        ]
    return messages


def pipeline_values(folder: Path) -> dict[str, Any]:
    def stage(name: str, length: int, target: int, mix: dict[str, float], steps: int, **more: Any) -> dict[str, Any]:
        data = {"sample_length": length, "target_length": target, "mix": [{"weights": mix}], **more.pop("data", {})}
        train = {"steps": steps, "learning_rate": 5e-3, "save_every": 2, **more.pop("train", {})}
        return {"type": "train", "name": name, "data": data, "train": train, **more}

    extend = {"rope": {"type": "dynamic_ntk"}, "positions": {"type": "longrecipe"}, "data": {"packing": "sequential"}}
    tune = {"positions": {"type": "contiguous"}, "data": {"loss_weighting": {"type": "sequence"}}}
    return {
        "name": "killed",
        "base": str(folder / "model"),
        "seed": 7,
        "evaluate": {
            "manifest": str(folder / "corpus"),
            "text_source": "held",
            "lengths": [128, 256],
            "needles": 1,
            "examples": 2,
        },
        "common": {
            "model": {"dtype": "float32", "gradient_checkpointing": False},
            "data": {"manifest": str(folder / "corpus")},
            "train": {"global_batch_size": 2, "threads": 1},
            "parallel": {"launch": "local", "use_gpu": False},
        },
        "stages": [
            stage("extend", 64, 256, {"text": 1.0}, 6, **extend),
            stage("replay", 96, 96, {"chat": 1.0}, 5, positions={"type": "contiguous"}),
            stage("tune", 256, 256, {"long": 0.7, "chat": 0.3}, 4, train={"save_every": 1}, **tune),
            {"type": "merge", "name": "blend", "a": "base", "rope": "b"},
        ],
    }


def attempt(pipeline: Path, output: Path, at: int, after_s: float) -> int:
    """Run the pipeline in a process of its own until it ends or is killed; returns what `os.waitpid` says of it."""
    child = os.fork()
    if child == 0:
        log = os.open(output.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
            signal.setitimer(signal.ITIMER_REAL, after_s)
            STRIKE.output, STRIKE.at = str(output), at
            run_pipeline(load_pipeline(pipeline, [f"output={output}"]))
            code = 0
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def damage(reference: Path, output: Path) -> Iterator[str]:
    """What must not be after any kill: half a file, half a checkpoint, another model."""
    for path in output.rglob("*.json"):
        try:
            json.loads(path.read_text())
        except ValueError as error:
            yield f"{path}: {error}"
    for record in output.rglob("COMMIT.json"):
        for file in json.loads(record.read_text())["files"]:
            path = record.parent / file["name"]
            if not path.exists() or path.stat().st_size != file["size"]:
                yield f"{record}: without a whole {file['name']}"
    for config in reference.glob("0*/checkpoint/config.json"):
        mine = output / config.relative_to(reference)
        if mine.exists():
            yield from (
                f"{mine.parent / path.name}: another than the undisturbed run's"
                for path in config.parent.iterdir()
                if path.name != CARD  # its evaluation comes after the export
                if not (mine.parent / path.name).exists() or (mine.parent / path.name).read_bytes() != path.read_bytes()
            )


def differences(reference: Path, output: Path) -> Iterator[str]:
    """What a finished output has otherwise than the undisturbed one."""
    names = [{path.relative_to(root) for path in root.rglob("*")} for root in (reference, output)]
    yield from (f"{output / name}: missing" for name in sorted(names[0] - names[1]))
    yield from (f"{output / name}: left over" for name in sorted(names[1] - names[0]))
    for name in sorted(names[0] & names[1]):
        if name.name in ("summary.json", "stage.json", "base.json"):
            texts = [(root / name).read_text().replace(str(output), str(reference)) for root in (reference, output)]
            if len({json.dumps(lasting(json.loads(text))) for text in texts}) > 1:
                yield f"{output / name}: other values"
        if name.name == CARD and (reference / name).read_bytes() != (output / name).read_bytes():
            yield f"{output / name}: another card"
        if name.name == "metrics.jsonl":
            lines = [[lasting(json.loads(line)) for line in (root / name).open()] for root in (reference, output)]
            if lines[0] != lines[1]:
                yield f"{output / name}: other metrics"


def lasting(value: Any) -> Any:
    """Without times and marks that a run draws anew."""
    if isinstance(value, dict):
        return {key: lasting(item) for key, item in value.items() if key not in (*TIMED, *IDENTITIES)}
    return [lasting(item) for item in value] if isinstance(value, list) else value


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=300, help="begin no further pipeline after so long")
    parser.add_argument("--runs", type=int, help="stop after so many pipelines instead")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rng, console = random.Random(given.seed), Console(soft_wrap=True)
    problems = runs = kills = 0

    def note(found: Iterable[str]) -> None:
        nonlocal problems
        for problem in found:
            problems += 1
            console.print(problem, markup=False, highlight=False)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pipeline, reference, output = make_material(folder), folder / "whole", folder / "killed"
        assert attempt(pipeline, reference, 0, 0) == 0, reference.with_suffix(".log").read_text()
        until = time.monotonic() + given.seconds
        while not runs or (runs < given.runs if given.runs else time.monotonic() < until):
            shutil.rmtree(output, ignore_errors=True)
            runs, spread = runs + 1, rng.choice(SPREADS)
            while True:
                by_clock = rng.random() < 0.25
                at, after_s = (0, rng.uniform(0.3, 6)) if by_clock else (rng.randint(1, spread), 0)
                status = attempt(pipeline, output, at, after_s)
                note(damage(reference, output))
                if not os.WIFSIGNALED(status):
                    break
                kills += 1
            if status != 0:
                note([f"run {runs} could not go on: {output.with_suffix('.log').read_text()[-2000:]}"])
            note(differences(reference, output) if status == 0 else [])
            console.print(f"{runs} runs, {kills} kills, {problems} problems", highlight=False)
    return int(bool(problems) or not kills)


if __name__ == "__main__":
    sys.exit(main())
