"""From YAML and overrides to a recipe: overrides, round trip, and what the fingerprint stands for."""

import copy
import datetime
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from longspan.config.attention_window import AttentionWindow
from longspan.config.data import Interleave
from longspan.config.load import apply_overrides, fingerprint, load_recipe, parse, read_yaml, to_yaml
from longspan.config.model import ShiftedGroups
from longspan.config.recipe import Recipe
from tests.config.conftest import RECIPE

Written = Callable[[str | bytes], Path]
BASE: dict[str, Any] = yaml.safe_load(RECIPE)


def test_defaults_are_filled_in(written: Written) -> None:
    recipe = load_recipe(written(RECIPE))
    assert recipe.run_uri == "runs/tiny"
    assert recipe.num_samples == 16
    assert (recipe.positions.type, recipe.parallel.launch, recipe.tracking.wandb) == ("longrecipe", "local", "off")


def test_interleaved_samples_have_no_document_mask_unless_one_is_asked_for(written: Written) -> None:
    """CIP and Untie-the-Knots attend over the whole sample (papers.md 3a); of other samples a mask is the default."""
    path = written(RECIPE)
    mixed = ["positions.type=contiguous", "data.interleave={}"]
    assert load_recipe(path).data.document_mask
    assert not load_recipe(path, mixed).data.document_mask
    asked = load_recipe(path, [*mixed, "data.document_mask=true"])
    assert asked.data.document_mask
    assert load_recipe(written(to_yaml(asked))) == asked
    assert load_recipe(path, [*mixed, "data.interleave=null"]).data.document_mask


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("train.steps=100", "train.steps", 100),
        (" train.steps = 100 ", "train.steps", 100),
        ("train.learning_rate=1e-3", "train.learning_rate", 1e-3),
        ("train.learning_rate=1.0e-3", "train.learning_rate", 1e-3),
        ("model.revision=main", "model.revision", "main"),
        ("model.gradient_checkpointing=false", "model.gradient_checkpointing", False),
        ("output=s3://bucket/run=3", "output", "s3://bucket/run=3"),
        ("output=null", "output", None),
        ("evaluate.lengths=[64, 128]", "evaluate.lengths", [64, 128]),
        ("data.mix.0.weights.text=3", "data.mix.0.weights.text", 3.0),
        ("data.mix.0.weights.code=0.5", "data.mix.0.weights", {"text": 1.0, "code": 0.5}),
        ("data.mix.0.weights={a: 2}", "data.mix.0.weights", {"a": 2.0}),
        ("data.upsample={threshold: 8, ratio: 5}", "data.upsample.ratio", 5.0),
        ("data.repetition.max_epochs=4", "data.repetition.max_epochs", 4.0),
        ("data.repetition.by_source.books=0.5", "data.repetition.by_source", {"books": 0.5}),
        ("data.mix.0.short={share: 0.4, weights: {code: 1}}", "data.mix.0.short.weights", {"code": 1.0}),
        ("data.packing=sequential", "data.packing", "sequential"),
        ("data.shuffle=false", "data.shuffle", False),
        ("rope={type: yarn, factor: 4}", "rope.factor", 4.0),
        ("tracking.wandb=off", "tracking.wandb", "off"),
        ("tracking.wandb=offline", "tracking.wandb", "offline"),
        ("parallel.use_gpu=auto", "parallel.use_gpu", "auto"),
        ("parallel.use_gpu=false", "parallel.use_gpu", False),
    ],
)
def test_an_override_sets_one_value(written: Written, override: str, path: str, value: object) -> None:
    changed = load_recipe(written(RECIPE), [override]).model_dump()
    found: Any = changed
    for part in path.split("."):
        found = found[int(part)] if isinstance(found, list) else found[part]
    assert found == value
    assert type(found) is type(value)
    plain = load_recipe(written(RECIPE)).model_dump()
    section = path.split(".")[0]
    assert {key: v for key, v in changed.items() if key != section} == {k: v for k, v in plain.items() if k != section}


def test_overrides_build_a_section_that_is_not_there(written: Written) -> None:
    recipe = load_recipe(written(RECIPE), ["data.upsample.threshold=8", "data.upsample.ratio=5"])
    assert recipe.data.upsample is not None
    assert (recipe.data.upsample.threshold, recipe.data.upsample.ratio) == (8, 5.0)
    given = ["data.upsample={threshold: 8, ratio: 1, by_source: {books: {ratio: 2}}}"]
    recipe = load_recipe(written(RECIPE), [*given, "data.upsample.by_source.books.ratio=7", "data.upsample.ratio=3"])
    assert recipe.data.upsample is not None
    assert recipe.data.upsample.ratio == 3
    books = recipe.data.upsample.by_source["books"]
    assert (books.threshold, books.ratio) == (None, 7)


def test_the_last_override_wins_and_the_values_given_stay(written: Written) -> None:
    before = copy.deepcopy(BASE)
    assert apply_overrides(BASE, ["train.steps=5", "train.steps=6"])["train"]["steps"] == 6
    assert before == BASE


def test_a_bare_date_is_a_name(written: Written) -> None:
    assert load_recipe(written(RECIPE.replace("tiny", "2026-01-31", 1))).name == str(datetime.date(2026, 1, 31))


def test_numbers_in_words_of_yaml(written: Written) -> None:
    recipe = load_recipe(written(RECIPE.replace("steps: 4", "learning_rate: 2e-4, eps: 1e-6, steps: 4")))
    assert (recipe.train.learning_rate, recipe.train.eps) == (2e-4, 1e-6)


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,12}", fullmatch=True)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
PLACES = TEXTS.map(lambda text: f"./{text}.").filter(lambda text: "\0" not in text and "://" not in text)
RATES = st.floats(min_value=0, max_value=1e6, exclude_min=True, allow_nan=False)
ROPES = st.one_of(
    st.fixed_dictionaries({"type": st.just("theta"), "theta": RATES}),
    st.fixed_dictionaries(
        {"type": st.just("yarn"), "factor": st.floats(1, 64), "beta_fast": RATES, "beta_slow": RATES}
    ),
    st.fixed_dictionaries({"type": st.sampled_from(["ntk", "dynamic_ntk", "linear", "llama3"])}),
)


WEIGHTS = st.dictionaries(TEXTS, RATES, min_size=1, max_size=3)


@st.composite
def phases(draw: st.DrawFn, starts: list[int]) -> list[dict[str, Any]]:
    short = st.none() | st.fixed_dictionaries({"share": st.floats(0, 1), "weights": WEIGHTS})
    return [
        {
            "from_step": start,
            "weights": draw(WEIGHTS),
            "short": draw(short),
            "ramp": start != starts[-1] and draw(st.booleans()),
        }
        for start in starts
    ]


@st.composite
def recipes(draw: st.DrawFn) -> dict[str, Any]:
    steps, micro, accumulation = (draw(st.integers(1, 50)) for _ in range(3))
    starts = [0, *sorted(draw(st.sets(st.integers(1, 49), max_size=2)))]
    length = draw(st.integers(2, 4096))
    return {
        "name": draw(NAMES),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "output": draw(st.none() | PLACES),
        "model": {"path": draw(PLACES), "dtype": draw(st.sampled_from(["float32", "bfloat16"]))},
        "rope": draw(ROPES),
        "data": {
            "manifest": draw(PLACES),
            "sample_length": length,
            "target_length": length * draw(st.integers(1, 100)),
            "mix": draw(phases([start for start in starts if start < steps])),
            "upsample": draw(
                st.none()
                | st.fixed_dictionaries(
                    {"threshold": st.just(9), "ratio": st.floats(1, 100)},
                    optional={"by_source": st.dictionaries(TEXTS, st.fixed_dictionaries({"ratio": st.floats(1, 100)}))},
                )
            ),
            "repetition": {
                "max_epochs": draw(st.none() | RATES),
                "by_source": draw(st.dictionaries(TEXTS, RATES, max_size=2)),
                "on_limit": draw(st.sampled_from(["refuse", "spread"])),
            },
            "packing": draw(st.sampled_from(["best_fit", "sequential"])),
            "shuffle": draw(st.booleans()),
            "shuffle_tokens": draw(st.integers(1, 10**9)),
        },
        "train": {
            "steps": steps,
            "global_batch_size": micro * accumulation,
            "micro_batch_size": micro,
            "learning_rate": draw(RATES),
            "grad_clip": draw(st.floats(0, 10)),
        },
        "evaluate": {
            "lengths": draw(st.lists(st.integers(1, 9999), max_size=3)),
            "text_source": draw(st.none() | TEXTS),
        },
        "tracking": {"wandb": draw(st.sampled_from(["off", "online", "offline"])), "project": draw(TEXTS)},
        "parallel": {"use_gpu": draw(st.sampled_from(["auto", True, False])), "address": draw(st.none() | TEXTS)},
    }


@settings(max_examples=60, deadline=None)
@given(values=recipes())
def test_what_is_written_is_read_back(tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]) -> None:
    recipe = parse(Recipe, values, "drawn")
    path = tmp_path_factory.getbasetemp() / "round.yaml"
    path.write_text(to_yaml(recipe), encoding="utf-8")
    assert load_recipe(path) == recipe
    assert fingerprint(load_recipe(path)) == fingerprint(recipe)
    assert to_yaml(load_recipe(path)) == path.read_text(encoding="utf-8")


# Every value of a recipe, and another one that it may have; what decides the numbers of a run changes the fingerprint.
DECIDES = {
    "seed": 1,
    "model.path": "other",
    "model.revision": "abc",
    "model.weights": "random",
    "model.dtype": "bfloat16",
    "model.drop_sliding_window": True,
    "model.lora": {"rank": 4},
    "model.trust_remote_code": True,
    "model.attention_pattern": ShiftedGroups(groups=2),
    "rope.type": "dynamic_ntk",
    "rope.drop_scaling": True,
    "rope.theta": 3.0,
    "rope.factor": 2.0,
    "rope.original_max_position_embeddings": 64,
    "rope.beta_fast": 30.0,
    "rope.beta_slow": 2.0,
    "rope.low_freq_factor": 2.0,
    "rope.high_freq_factor": 5.0,
    "rope.attention_factor": 1.5,
    "rope.long_factor": (1.0, 2.0),
    "rope.short_factor": (1.0, 1.5),
    "rope.critical_dimension": 3,
    "rope.mixed_window": True,
    "data.manifest": "other",
    "data.sample_length": 64,
    "data.target_length": 512,
    "data.mix": [{"weights": {"text": 1.0, "code": 1.0}}],
    "data.upsample": {"threshold": 8, "ratio": 5.0},
    "data.repetition.max_epochs": 4.0,
    "data.repetition.by_source": {"text": 4.0},
    "data.repetition.on_limit": "spread",
    "data.packing": "sequential",
    "data.shuffle": False,
    "data.shuffle_tokens": 1000,
    "data.document_mask": False,
    "data.selection": {"mode": "uniform", "from_length": 64},
    "data.interleave": Interleave(),
    "data.attention_window": AttentionWindow(start=4, rate=1.0),
    "data.loss_weighting": {"scores": "scores"},
    "positions.type": "pose",
    "positions.variant": "bounded",
    "positions.min_segments": 3,
    "positions.segments": "paragraph",
    "positions.num_chunks": 3,
    "positions.last_chunk": "suffix",
    "positions.text_offset": "uniform",
    "positions.sigma": 2.0,
    "positions.window": 64,
    "positions.num_sinks": 3,
    "train.steps": 5,
    "train.global_batch_size": 8,
    "train.learning_rate": 1.0,
    "train.schedule": "wsd",
    "train.warmup_steps": 1,
    "train.min_lr_ratio": 0.1,
    "train.decay_share": 0.5,
    "train.weight_decay": 0.1,
    "train.beta1": 0.8,
    "train.beta2": 0.9,
    "train.eps": 1e-6,
    "train.grad_clip": 0.5,
}
DOES_NOT = {
    "name": "other",
    "output": "elsewhere",
    "model.attention": "sdpa",
    "model.gradient_checkpointing": False,
    "train.micro_batch_size": 1,
    "train.zero_stage": 3,
    "train.loss_chunk": 7,
    "train.save_every": 2,
    "train.keep_checkpoints": 5,
    "train.threads": 1,
    "parallel.launch": "ray",
    "parallel.num_workers": 2,
    "parallel.sequence_parallel": 2,
    "parallel.use_gpu": True,
    "parallel.cpus_per_worker": 0.5,
    "parallel.feed_workers": 2,
    "parallel.prefetch_batches": 1,
    "parallel.shard_cache_bytes": 2**20,
    "parallel.address": "auto",
    "parallel.max_failures": 0,
    "evaluate.lengths": [8],
    "evaluate.needles": 3,
    "evaluate.examples": 3,
    "evaluate.text_source": "held",
    "evaluate.scale_window": 128,
    "tracking.wandb": "offline",
    "tracking.project": "other",
}


def leaves(section: BaseModel, prefix: str = "") -> Iterator[str]:
    for name in type(section).model_fields:
        value = getattr(section, name)
        yield from leaves(value, f"{prefix}{name}.") if isinstance(value, BaseModel) else [f"{prefix}{name}"]


def test_every_field_is_known_to_decide_or_not() -> None:
    assert set(leaves(parse(Recipe, BASE, "base"))) == {*DECIDES, *DOES_NOT}


def changed(path: str, value: Any) -> Recipe:
    """The base recipe with one value changed, whether it is sensible or not."""
    *sections, field = path.split(".")
    recipe = parse(Recipe, BASE, "base")
    if not sections:
        return recipe.model_copy(update={field: value})
    if isinstance(value, dict) or path == "data.mix":
        section = sections[0]
        if len(sections) == 1:
            return parse(Recipe, {**BASE, section: {**BASE[section], field: value}}, "base")
    return _with(recipe, sections, field, value)


def _with(section: Any, path: list[str], field: str, value: Any) -> Any:
    if not path:
        return section.model_copy(update={field: value})
    return section.model_copy(update={path[0]: _with(getattr(section, path[0]), path[1:], field, value)})


@pytest.mark.parametrize(("path", "value"), DECIDES.items())
def test_what_decides_the_numbers_is_in_the_fingerprint(path: str, value: object) -> None:
    assert fingerprint(changed(path, value)) != fingerprint(parse(Recipe, BASE, "base"))


@pytest.mark.parametrize(("path", "value"), DOES_NOT.items())
def test_where_and_how_fast_is_not(path: str, value: object) -> None:
    other = changed(path, value)
    assert other != parse(Recipe, BASE, "base")
    assert fingerprint(other) == fingerprint(parse(Recipe, BASE, "base"))


def test_the_fingerprint_is_of_the_values_not_of_their_spelling(written: Written) -> None:
    spelled = RECIPE.replace("{text: 1.0}", "{text: 1}").replace("steps: 4", "weight_decay: 0, steps: '4'")
    assert fingerprint(load_recipe(written(spelled))) == fingerprint(parse(Recipe, BASE, "base"))


def test_the_yaml_has_every_default_and_no_alias(written: Written) -> None:
    path = written(
        to_yaml(load_recipe(written(RECIPE), ["data.mix=[{weights: {a: 1}}, {from_step: 2, weights: {a: 1}}]"]))
    )
    assert read_yaml(path)["train"]["beta2"] == 0.95
    assert read_yaml(path)["tracking"]["wandb"] == "off"
    assert len(read_yaml(path)["data"]["mix"]) == 2
