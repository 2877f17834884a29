"""Runs the demonstration from end to end and says what it shows, no more."""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from longspan import storage
from longspan.config.load import to_yaml
from longspan.config.recipe import Recipe
from longspan.corpus.prepare import prepare
from longspan.demo import settings
from longspan.demo.findings import summarise
from longspan.errors import ConfigError

CONTROLS = ("no-gaps", "full-length")
_CPU_SLOTS = 3
"""Two training workers and the feed; the controls after them take two."""


class Stages:
    """Names each part of the demonstration on the console and keeps its seconds."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"== {name}", flush=True)  # noqa: T201
        started = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started, 2)


def run_demo(output: str, seed: int = 0) -> dict[str, Any]:
    """Everything under `output`: corpus, base, extension, controls, summary.json, plots and report.html.

    Run again on the same directory it reads what is finished and goes on with the rest.

    Raises:
        LongspanError: what it is meant to show does not show (the summary and the report are written all the same).
    """
    if storage.is_remote(output):
        raise ConfigError(f"--output {output}: the demonstration writes to a local directory")
    output = storage.absolute(output)  # in its recipes, which are to be run from anywhere
    with storage.hold(output, "demo"):
        return _run(output, seed)


def _run(output: str, seed: int) -> dict[str, Any]:
    import ray

    from longspan.launch.cluster import start_cluster
    from longspan.launch.run import train

    started = time.perf_counter()
    stages = Stages()
    # Ray's start is waiting and one core's work; corpus and base are another's. The pool must outlive the cluster:
    # Ray's processes are told to die with the thread that started them.
    pool = ThreadPoolExecutor(1)
    cluster = pool.submit(start_cluster, _CPU_SLOTS, quiet=True)
    with stages.stage("corpus: the standard library's source and retrieval tasks, tokenised"):
        corpus = settings.corpus(output, seed)
        manifest = prepare(corpus, print)
        _initial_model(output, manifest.tokenizer.vocab_size)
    base = settings.base_recipe(output, seed)
    extended = settings.extension_recipe(output, seed, "longrecipe")
    controls = [settings.extension_recipe(output, seed, name) for name in CONTROLS]
    for recipe in (base, extended, *controls):
        storage.write_text(f"{output}/recipes/{recipe.name}.yaml", to_yaml(recipe))

    try:
        with stages.stage(f"base: a tiny Llama trained at {settings.WINDOW} tokens, in this process"):
            train(base)
        with stages.stage("ray: what is left of starting a cluster of this machine"):
            cluster.result()
        with stages.stage("longrecipe: positions up to 1,024 on 307-token samples; Ray Train, 2 workers a sample"):
            summaries = {"longrecipe": train(extended)}
        with stages.stage("controls: trained side by side, and the base with NTK and YaRN alone"):
            tasks = {recipe.name: _train_task().remote(recipe) for recipe in controls}
            untrained = {name: _evaluate_task().remote(base, extended, name) for name in ("base", "ntk", "yarn")}
            summaries |= {name: ray.get(task) for name, task in tasks.items()}
            evaluations = {name: ray.get(task) for name, task in untrained.items()}
    finally:
        ray.shutdown()
        pool.shutdown()
    evaluations |= {name: summary["evaluation"] for name, summary in summaries.items()}
    with stages.stage("report"):
        return summarise(output, evaluations, summaries, stages.seconds, started)


def _initial_model(output: str, vocab_size: int) -> None:
    """DIR/init: config.json and tokenizer of the tiny model; its weights are drawn when it is trained."""
    storage.write_json(f"{output}/init/config.json", settings.model_config(vocab_size))
    for name in storage.list_files(f"{output}/data/tokenizer"):
        storage.write_bytes(f"{output}/init/{name}", storage.read_bytes(f"{output}/data/tokenizer/{name}"))


def _train_task() -> Any:
    import ray

    from longspan.launch.run import train

    in_our_name = storage.carried(train)

    def run(recipe: Recipe) -> dict[str, Any]:
        found: dict[str, Any] = in_our_name(recipe, show_progress=False)
        return found

    return ray.remote(num_cpus=1)(run)


def _evaluate_task() -> Any:
    import ray

    return ray.remote(num_cpus=1)(evaluate_untrained)


def evaluate_untrained(base: Recipe, extended: Recipe, name: str) -> dict[str, Any]:
    """The base checkpoint as it is, or with its RoPE changed and nothing trained (`ntk`, `yarn`)."""
    from dataclasses import replace

    import torch

    from longspan.config.model import Rope
    from longspan.evaluate.run import evaluate_model, settings_of
    from longspan.rope import from_hf
    from longspan.rope.resolve import resolve_rope
    from longspan.train.memory import keep_freed_memory

    torch.set_num_threads(1)
    keep_freed_memory()
    checkpoint = f"{base.run_uri}/checkpoint"
    rope = None
    if name != "base":
        config = storage.read_json(f"{checkpoint}/config.json")
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        rope = resolve_rope(
            from_hf(config), Rope.model_validate({"type": name}), head_dim, settings.WINDOW, settings.TARGET
        )
    return evaluate_model(checkpoint, extended.data.manifest, replace(settings_of(extended), rope=rope))
