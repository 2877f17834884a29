"""Which runs a comparison is made of: for each method and seed a checked recipe, with the steps its budget pays for.

Nothing is trained here; `run` starts what is missing.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from longspan import storage
from longspan.config.compare import Budget, Comparison, Merge, Method, Questions, dotted
from longspan.config.load import apply_overrides, fingerprint, parse
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.evaluate.run import EvaluationSettings
from longspan.planner.attention_window import attention_group
from longspan.planner.costs import flops_per_token, model_sizes

DATA, INIT, BASE, IMPACT, RUNS = "data", "init", "base", "impact", "runs"
_ANY_STEPS = 2**31 - 1
"""Stands for the steps of a recipe until the budget has decided them."""


@dataclass(frozen=True)
class Run:
    """One model to be made and asked.

    Attributes:
        seed: None where nothing is trained: the base with the recipe's RoPE.
        recipe: its `output` is the run's directory.
        flops: training FLOPs of the whole run and of those that it goes on from; 0 untrained.
        settings: what it is asked.
        start: the run whose model it goes on from; None is the base.
        merge: nothing is trained, but the base averaged with the model of `start`.
    """

    method: str
    seed: int | None
    recipe: Recipe
    flops: float
    settings: EvaluationSettings
    start: "Run | None" = None
    merge: Merge | None = None

    @property
    def label(self) -> str:
        return self.method if self.seed is None else f"{self.method}, seed {self.seed}"

    @property
    def depth(self) -> int:
        """How many runs must be finished before it."""
        return 0 if self.start is None else 1 + self.start.depth

    @property
    def root(self) -> "Run":
        """The run that began with the base, of those that this one goes on from, or itself."""
        return self if self.start is None else self.start.root

    @property
    def checkpoint(self) -> str:
        """Where its model is, or will be."""
        return storage.join(self.recipe.run_uri, "checkpoint")

    def mark(self) -> str:
        """Hash of all that decides the result."""
        asked = json.dumps(asdict(self.settings), sort_keys=True)
        parts = [fingerprint(self.recipe), str(self.seed), asked]
        if self.start is not None:
            parts += [self.start.mark(), self.merge.model_dump_json() if self.merge else ""]
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()[:32]


def manifest_uri(comparison: Comparison) -> str:
    """Where the corpus is, or will be once it is prepared."""
    if comparison.corpus is not None:
        return storage.join(storage.absolute(comparison.output_uri), DATA)
    given = (comparison.recipe.get("data") or {}).get("manifest")
    if not given:
        raise ConfigError("recipe.data.manifest: not given; name a prepared corpus, or describe one in 'corpus'")
    return storage.absolute(given)


def base_path(comparison: Comparison) -> str:
    """The checkpoint that all methods begin with."""
    if comparison.base.checkpoint is not None:
        return comparison.base.checkpoint
    return storage.join(storage.absolute(comparison.output_uri), BASE, "checkpoint")


def base_recipe(comparison: Comparison) -> Recipe | None:
    """The recipe of the base, which is trained once; None where a checkpoint is given."""
    if comparison.base.recipe is None:
        return None
    output = storage.absolute(comparison.output_uri)
    values = _filled(comparison.base.recipe, manifest_uri(comparison))
    values["model"] = {**(values.get("model") or {}), "path": storage.join(output, INIT), "weights": "random"}
    values |= {"name": BASE, "output": storage.join(output, BASE)}
    return _local(parse(Recipe, values, "base.recipe"), "base.recipe")


def make_runs(comparison: Comparison, config: Mapping[str, Any]) -> list[Run]:
    """All runs, seed by seed and inside it method by method, so that an interrupted comparison has whole seeds.

    Args:
        config: the base's config.json.

    Raises:
        ConfigError: a method's recipe is wrong, or its budget pays for no step; names the method.
    """
    runs = [_run(comparison, method, None, config, None) for method in comparison.methods if not method.train]
    for seed in comparison.seeds:
        made: dict[str, Run] = {}
        for method in (method for method in comparison.methods if method.train):
            made[method.name] = _run(comparison, method, seed, config, made.get(method.start or ""))
        runs += made.values()
    return runs


def _run(comparison: Comparison, method: Method, seed: int | None, config: Mapping[str, Any], start: Run | None) -> Run:
    origin = f"method {method.name}"
    if method.merge is not None and start is not None:
        recipe = start.recipe.model_copy(update=_place(comparison, method, seed))
        return Run(method.name, seed, recipe, start.flops, start.settings, start, method.merge)
    values = apply_overrides(_filled(comparison.recipe, manifest_uri(comparison)), dotted(method.set))
    model = {"path": base_path(comparison), **(values.get("model") or {})}
    values["model"] = model if start is None else {**model, "path": start.checkpoint, "revision": None}
    values["data"] = _with_scores(comparison, values["data"])
    values |= _place(comparison, method, seed)
    if "evaluate" in values:
        raise ConfigError(f"{origin}: evaluate belongs to the comparison: every method is asked the same")
    if (values.get("train") or {}).get("steps") is not None:
        raise ConfigError(f"{origin}: train.steps follows from the budget; leave it out")
    values["train"] = {**(values.get("train") or {}), "steps": _ANY_STEPS}
    recipe = _local(parse(Recipe, values, origin), origin)
    flops = start.flops if start is not None else 0.0
    if seed is not None:
        per_step = recipe.train.global_batch_size * recipe.data.sample_length
        attended = attention_group(recipe) or recipe.data.sample_length
        per_token = flops_per_token(model_sizes(config), attended, recipe.model.lora)
        steps = steps_for(method.budget or comparison.budget, per_step, per_token, origin)
        values["train"]["steps"] = steps
        recipe = parse(Recipe, values, f"{origin} ({steps} steps from its budget)")
        flops += steps * per_step * per_token
    return Run(method.name, seed, recipe, flops, settings_for(comparison.evaluate, recipe, start), start)


def _place(comparison: Comparison, method: Method, seed: int | None) -> dict[str, Any]:
    """Name, output and seed of a run."""
    output = storage.join(storage.absolute(comparison.output_uri), RUNS, method.name)
    return {
        "name": method.name if seed is None else f"{method.name}-{seed}",
        "output": output if seed is None else storage.join(output, f"seed-{seed}"),
        "seed": seed or 0,
    }


def _with_scores(comparison: Comparison, data: Mapping[str, Any]) -> dict[str, Any]:
    """The data section with the comparison's scores where it needs some and names none."""
    values = dict(data)
    scores = storage.join(storage.absolute(comparison.output_uri), IMPACT)
    for field in ("selection", "loss_weighting"):
        section = values.get(field)
        if comparison.impact is None or not isinstance(section, Mapping) or "scores" in section:
            continue
        if section.get("mode") == "weighted" or (
            field == "loss_weighting" and section.get("type", "longce") == "longce"
        ):
            values[field] = {**section, "scores": scores}
    return values


def steps_for(budget: Budget, tokens_per_step: int, flops_per_token: float, origin: str) -> int:
    """Optimizer steps that come nearest to the budget.

    Raises:
        ConfigError: it pays for less than half a step; begins with `origin`.
    """
    if budget.steps is not None:
        return budget.steps
    if budget.tokens is not None:
        steps = round(budget.tokens / tokens_per_step)
    else:
        steps = round((budget.flops or 0.0) / (tokens_per_step * flops_per_token))
    if steps < 1:
        raise ConfigError(
            f"{origin}: the budget is less than one step of {tokens_per_step:,} tokens; raise it or lower"
            " train.global_batch_size"
        )
    return steps


def settings_for(asked: Questions, recipe: Recipe, start: Run | None = None) -> EvaluationSettings:
    """The evaluation of a run, without its RoPE. E2-LLM is asked at the scale that each length needs, as it is used;
    so is what goes on from it.
    """
    lengths = tuple(sorted(set(asked.lengths)))
    inherited = start.settings.scale_window if start is not None and recipe.rope.type == "keep" else None
    return EvaluationSettings(
        lengths=lengths,
        text_source=asked.text_source,
        num_needles=asked.questions,
        examples=asked.examples,
        seed=asked.seed,
        dtype=recipe.model.dtype,
        loss_windows=asked.loss_windows,
        drop_sliding_window=recipe.model.drop_sliding_window,
        tasks=tuple(task for task in dict.fromkeys(asked.tasks) if task != "recall"),
        short_length=asked.short_length or lengths[0],
        scale_window=recipe.scale_window or inherited,
    )


def _filled(sections: Mapping[str, Any], manifest: str) -> dict[str, Any]:
    values = dict(sections)
    values["data"] = {**(values.get("data") or {}), "manifest": manifest}
    return values


def _local(recipe: Recipe, origin: str) -> Recipe:
    if recipe.parallel.launch != "local":
        raise ConfigError(
            f"{origin}: parallel.launch is {recipe.parallel.launch}; a comparison runs each method in one process"
        )
    return recipe
