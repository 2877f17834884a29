"""The pipelines that come with longspan are valid, say where their settings come from, and hold the papers' figures."""

from pathlib import Path

import pytest

from longspan.config.data import Interleave
from longspan.config.load import load_recipe
from longspan.config.pipeline import MergeStage, Pipeline, TrainStage, load_pipeline
from longspan.config.recipe import Recipe
from longspan.config.weighting import SequenceMean
from longspan.recipes.plan import plan_stages
from longspan.rope import RopeSettings
from longspan.rope.resolve import resolve_rope

FILES = sorted((Path(__file__).parents[2] / "jobs" / "pipelines").glob("*.yaml"))
THETAS = {
    "llama3-8b-80k": 48.9e6,
    "llama3-8b-128k": 131.5e6,
    "qwen2-7b-80k": 13.5e6,
    "qwen2-7b-128k": 13.5e6,
    "mistral-7b-80k": 4.87e6,
    "mistral-7b-128k": 13.54e6,
}
"""Table 4 of LongRecipe (2409.00509); for Mistral-7B, of which it says nothing, the same formula."""
WINDOWS = {"llama3-8b": (5e5, 8192), "mistral-7b": (1e6, 32768), "qwen2-7b": (1e6, 131072)}
"""rope_theta and max_position_embeddings of the models' own config.json."""
SHORT_MIX = {
    "fineweb-edu": 27,
    "fineweb": 27,
    "wikipedia": 11,
    "stackexchange": 11,
    "tulu": 8,
    "openwebmath": 8,
    "arxiv": 8,
}
LONG_MIXES = (
    {"code-repositories": 30, "books": 30, "textbooks": 3},
    {"code-repositories-512k": 15, "code-repositories-64k": 15, "books-512k": 5, "books-64k": 25, "textbooks": 3},
)
"""ProLong (2410.02660): its ShortMix, and the long sources of its two stages, percent."""


def named(name: str) -> Pipeline:
    return load_pipeline(next(path for path in FILES if path.stem == name))


def pipeline_text(name: str) -> str:
    return next(path for path in FILES if path.stem == name).read_text(encoding="utf-8")


def lone(name: str) -> Recipe:
    """A recipe that stands for itself."""
    return load_recipe(FILES[0].parents[1] / "recipes" / f"{name}.yaml")


def recipe(pipeline: Pipeline, name: str) -> Recipe:
    stage = next(stage for stage in pipeline.stages if stage.name == name)
    assert isinstance(stage, TrainStage)
    return stage.recipe


def tokens(recipe: Recipe) -> int:
    return recipe.num_samples * recipe.data.sample_length


def test_there_are_pipelines_each_under_the_name_of_its_file() -> None:
    assert len(FILES) >= 8
    assert [load_pipeline(path).name for path in FILES] == [path.stem for path in FILES]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_pipeline_that_comes_with_longspan_can_be_planned(path: Path) -> None:
    pipeline = load_pipeline(path)
    steps = plan_stages(pipeline, {})
    assert [step.action for step in steps] == ["run"] * len(pipeline.stages)
    assert all(step.evaluate for step in steps)
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert "Ours" in text or "our design" in text


def optimiser(recipe: Recipe) -> dict[str, object]:
    """What a paper says of the optimiser; clipping at 1 everywhere."""
    train = recipe.train
    assert train.grad_clip == 1.0
    return {
        "rate": train.learning_rate,
        "betas": (train.beta1, train.beta2),
        "decay": train.weight_decay,
        "schedule": train.schedule,
        "floor": train.min_lr_ratio,
        "warm-up": train.warmup_steps,
        "steps": train.steps,
        "batch": train.global_batch_size,
    }


def longrecipe_optimiser(**changes: object) -> dict[str, object]:
    """Table 4, betas and decay of the public code."""
    common = {"betas": (0.9, 0.999), "decay": 0.1, "floor": 0.0, "warm-up": 0, "batch": 96}
    return {**common, "rate": 5e-5, "schedule": "constant", "steps": 104, **changes}


@pytest.mark.parametrize("model", list(WINDOWS))
@pytest.mark.parametrize(("size", "target", "sample"), [("80k", 81920, 24000), ("128k", 131072, 38400)])
def test_longrecipe_has_the_figures_of_the_paper(model: str, size: str, target: int, sample: int) -> None:
    pipeline = named(f"longrecipe-{model}-{size}")
    assert [stage.name for stage in pipeline.stages] == ["extend", "replay", "merge"]
    extend, replay = recipe(pipeline, "extend"), recipe(pipeline, "replay")
    assert (extend.data.sample_length, extend.data.target_length) == (sample, target)
    assert (extend.positions.type, replay.positions.type) == ("longrecipe", "contiguous")
    assert optimiser(extend) == longrecipe_optimiser()
    assert tokens(extend) == pytest.approx(240e6 if size == "80k" else 384e6, rel=0.01)
    assert optimiser(replay) == longrecipe_optimiser(rate=5e-6, schedule="cosine", steps=87)
    assert (replay.rope.type, replay.data.sample_length, replay.data.target_length) == ("keep", 8192, 8192)
    assert replay.data.mix[0].weights == {"wizardlm-evol-instruct": 1.0, "magicoder-oss-instruct": 1.0}
    assert tokens(replay) == pytest.approx(68e6, rel=0.01)
    theta, window = WINDOWS[model]
    found = resolve_rope(RopeSettings(rope_type="default", rope_theta=theta), extend.rope, 128, window, target)
    assert found.rope_theta == pytest.approx(THETAS[f"{model}-{size}"], rel=0.005)
    merge = pipeline.stages[2]
    assert isinstance(merge, MergeStage)
    assert (merge.a, merge.b, merge.weight, merge.rope) == ("base", "replay", 0.5, "b")


@pytest.mark.parametrize("path", [path for path in FILES if path.stem.startswith("longrecipe")], ids=lambda p: p.stem)
def test_longrecipe_selects_from_long_samples_of_upsampled_sources(path: Path) -> None:
    data = recipe(load_pipeline(path), "extend").data
    assert data.selection is not None
    assert (data.selection.mode, data.selection.score_by, data.selection.from_length) == ("weighted", "type", 131072)
    assert data.selection.scores == data.manifest.replace("/corpora/", "/impact/")
    text = path.read_text(encoding="utf-8")
    assert f"longspan impact {data.manifest} --model LONGER --base {load_pipeline(path).base} " in text
    assert f"--output {data.selection.scores}\n" in text
    # Fu et al. (2402.10171): the shares of SlimPajama, and 30 % of sequences above 4k in each become 70 %.
    (phase,) = data.mix
    assert phase.weights == {
        "c4": 0.266,
        "commoncrawl": 0.534,
        "stackexchange": 0.032,
        "wikipedia": 0.034,
        "github": 0.05,
        "arxiv": 0.043,
        "books": 0.041,
    }
    assert data.upsample is not None
    assert data.upsample.threshold == 4096
    often = data.upsample.ratio * 0.3
    assert often / (often + 0.7) == pytest.approx(0.7, abs=0.003)


@pytest.mark.parametrize("path", [path for path in FILES if "mistral" in path.stem], ids=lambda p: p.stem)
def test_settings_that_the_paper_does_not_give_are_not_called_its_own(path: Path) -> None:
    text = " ".join(path.read_text(encoding="utf-8").replace("#", "").split())
    assert "The paper trains Mistral-7B too and gives no settings for it. Ours: those of its other models" in text
    assert "Paper, table 4" not in text


def test_the_single_recipe_has_longrecipe_s_figures_too() -> None:
    single, stage = lone("llama3-8b-128k"), recipe(named("longrecipe-llama3-8b-128k"), "extend")
    assert (single.rope, single.positions, single.train) == (stage.rope, stage.positions, stage.train)
    assert single.data == stage.data.model_copy(update={"selection": None})
    assert single.model.path == named("longrecipe-llama3-8b-128k").base


def test_e2llm_has_the_figures_of_the_paper() -> None:
    pipeline = named("e2llm-llama2-7b-80k")
    assert pipeline.base == "meta-llama/Llama-2-7b-hf"
    extend = recipe(pipeline, "extend")
    assert optimiser(extend) == {
        "rate": 1e-5,
        "betas": (0.9, 0.95),
        "decay": 0.0,
        "schedule": "constant",
        "floor": 0.0,
        "warm-up": 0,
        "steps": 30000,
        "batch": 16,
    }
    assert (extend.data.sample_length, extend.positions.window, extend.positions.num_sinks) == (4096, 4096, 4)
    assert extend.data.target_length == 20 * 4096  # scales 1 to 20
    assert tokens(extend) == pytest.approx(1.97e9, rel=0.01)
    assert set(extend.data.mix[0].weights) == {"pile", "sharegpt", "long-summaries"}
    assert (extend.parallel.num_workers, extend.train.zero_stage) == (16, 2)
    plain = RopeSettings(rope_type="default", rope_theta=1e4)
    exported = resolve_rope(plain, extend.rope, 128, 4096, 81920)
    assert (exported.rope_type, exported.factor, exported.rope_theta) == ("linear", 20, 1e4)


def test_prolong_has_the_figures_of_the_paper() -> None:
    pipeline = named("prolong-llama3-8b-512k")
    first, second, tune = (recipe(pipeline, name) for name in ("long-64k", "long-512k", "tune"))
    assert [stage.rope.theta for stage in (first, second)] == [8e6, 1.28e8]
    assert [stage.data.sample_length for stage in (first, second, tune)] == [65536, 524288, 65536]
    assert [stage.data.target_length for stage in (first, second, tune)] == [65536, 524288, 65536]
    assert [stage.positions.type for stage in (first, second, tune)] == ["contiguous"] * 3
    assert all(stage.data.document_mask for stage in (first, second, tune))
    common = {"betas": (0.9, 0.95), "decay": 0.1, "schedule": "cosine", "floor": 0.1}
    assert optimiser(first) == {**common, "rate": 1e-5, "warm-up": 500, "steps": 5000, "batch": 64}
    assert optimiser(second) == {**common, "rate": 1e-5, "warm-up": 250, "steps": 2500, "batch": 16}
    assert optimiser(tune) == {**common, "rate": 2e-5, "warm-up": 13, "steps": 250, "batch": 64}
    assert [tokens(stage) for stage in (first, second)] == pytest.approx([20e9, 20e9], rel=0.05)
    assert [s.train.global_batch_size * s.data.sample_length for s in (first, second)] == [2**22, 2**23]
    assert tokens(tune) == pytest.approx(1e9, rel=0.05)
    assert tune.train.warmup_steps / tune.train.steps == pytest.approx(0.05, abs=0.002)
    assert (tune.rope.type, tune.data.mix[0].weights, tune.data.mix[0].short) == ("keep", {"ultrachat": 1.0}, None)
    assert second.parallel.sequence_parallel == 8
    assert lone("llama3-8b-64k-prolong").data == first.data
    assert lone("llama3-8b-64k-prolong").train == first.train


def test_prolong_has_the_mixes_of_the_paper() -> None:
    pipeline = named("prolong-llama3-8b-512k")
    (first,), (second,) = (recipe(pipeline, name).data.mix for name in ("long-64k", "long-512k"))
    shares = [{name: pytest.approx(weight / 63) for name, weight in long.items()} for long in LONG_MIXES]
    for phase, expected in zip((first, second), shares, strict=True):
        total = sum(phase.weights.values())
        assert {name: weight / total for name, weight in phase.weights.items()} == expected
        assert phase.short is not None
        assert phase.short.share == pytest.approx(0.37)
        assert phase.short.weights == SHORT_MIX
    assert sum(SHORT_MIX.values()) == 100


def test_longlora_has_the_figures_of_the_paper() -> None:
    extend = recipe(named("longlora-llama2-7b-32k"), "extend")
    lora, pattern = extend.model.lora, extend.model.attention_pattern
    assert lora is not None
    assert pattern is not None
    assert (lora.rank, lora.alpha, pattern.groups) == (8, 16, 4)
    assert lora.also_train == ["embed_tokens", "norm", "input_layernorm", "post_attention_layernorm"]
    assert (extend.train.steps, extend.train.global_batch_size, extend.train.learning_rate) == (1000, 64, 2e-5)
    assert (extend.train.warmup_steps, extend.train.schedule, extend.data.document_mask) == (20, "constant", False)
    found = resolve_rope(RopeSettings(rope_type="default", rope_theta=1e4), extend.rope, 128, 4096, 32768)
    assert (found.rope_type, found.factor) == ("linear", 8)


def test_longskywork_has_what_is_known_of_it() -> None:
    pipeline = named("longskywork-qwen2-7b-128k")
    assert [stage.name for stage in pipeline.stages] == ["long-pretrain", "tune", "long-tune"]
    long, tune, long_tune = (recipe(pipeline, stage.name) for stage in pipeline.stages)
    # Untie the Knots (2409.04774): 20B tokens, batch 4M, 1e-5 to 1e-6 by cosine, 200 steps of warm-up.
    assert tokens(long) == pytest.approx(20e9, rel=0.01)
    assert long.train.global_batch_size * long.data.sample_length == 2**22
    found = optimiser(long)
    assert (found["rate"], found["schedule"], found["floor"], found["warm-up"]) == (1e-5, "cosine", 0.1, 200)
    # CIP-2: two chunks a document, cut at random, no document mask; RoPE by NTK.
    assert not long.data.document_mask
    assert long.data.interleave == Interleave(method="cip", chunks=2, cut="random")
    found_rope = resolve_rope(RopeSettings(rope_type="default", rope_theta=1e6), long.rope, 128, 131072, 131072)
    assert (long.rope.type, found_rope.rope_theta) == ("ntk", pytest.approx(4.09e6, rel=0.005))
    assert [stage.data.target_length for stage in (long, tune, long_tune)] == [131072, 8192, 131072]
    assert [stage.data.sample_length for stage in (long, tune, long_tune)] == [131072, 8192, 131072]
    assert long_tune.train.steps == 200
    for stage in (tune, long_tune):  # LongAlign (2401.18058)
        found = optimiser(stage)
        assert (found["rate"], found["betas"], found["decay"]) == (2e-5, (0.9, 0.95), 0.0)
        assert (found["schedule"], found["floor"]) == ("cosine", 0.0)
        assert stage.train.warmup_steps / stage.train.steps == 0.03
        assert stage.rope.type == "keep"
        assert stage.data.document_mask
        assert stage.data.loss_weighting == SequenceMean(type="sequence")
    text = " ".join(pipeline_text("longskywork-qwen2-7b-128k").replace("#", "").split())
    assert "Its lengths, rates, batches and mixes are not public." in text
    assert "SynL itself included, is our design and not the paper's" in text


def test_the_lora_pipeline_has_the_figures_of_longlora() -> None:
    extend = recipe(named("lora-llama3-8b-32k-one-gpu"), "extend")
    lora = extend.model.lora
    assert lora is not None
    assert (lora.rank, lora.alpha) == (8, 16)
    assert lora.targets == ["q_proj", "k_proj", "v_proj", "o_proj"]
    assert lora.also_train == ["embed_tokens", "norm", "input_layernorm", "post_attention_layernorm"]
    found = optimiser(extend)
    assert (found["rate"], found["schedule"], found["warm-up"], found["steps"]) == (2e-5, "constant", 20, 1000)
    assert extend.data.sample_length == pytest.approx(0.3 * extend.data.target_length, rel=0.001)
    assert extend.parallel.launch == "local"


def test_the_qlora_recipe_holds_four_bits_and_trains_all_norms() -> None:
    lora = lone("llama3-8b-32k-lora-one-gpu").model.lora
    assert lora is not None
    assert lora.quantize == "nf4"
    assert {"norm", "input_layernorm", "post_attention_layernorm"} <= set(lora.also_train)
