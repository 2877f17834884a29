"""Mistakes in recipes, overrides and corpus files: one line each, which names the place and the mend."""

from collections.abc import Callable
from pathlib import Path

import pytest

from longspan.config.corpus import Corpus
from longspan.config.load import MAX_CONFIG_BYTES, apply_overrides, load_recipe, parse, read_yaml
from longspan.errors import ConfigError, TopologyError
from tests.config.conftest import CORPUS, RECIPE

Written = Callable[[str | bytes], Path]
RAY = "parallel.launch=ray"

BY_OVERRIDE = [
    # unknown keys
    ("train.stepz=3", "train.stepz: unknown key; did you mean 'steps'?"),
    ("trian.steps=3", "trian: unknown key; did you mean 'train'?"),
    ("data.sample_lenght=3", "data.sample_lenght: unknown key; did you mean 'sample_length'?"),
    ("data.mix.0.weigths.a=1", "data.mix.0.weigths: unknown key; did you mean 'weights'?"),
    ("data.upsample={treshold: 3, ratio: 2, threshold: 4}", "data.upsample.treshold: unknown key; did you mean 'thres"),
    ("tracking.zzz=3", "tracking.zzz: unknown key; known keys: wandb, project"),
    # types
    (
        "train.steps=ten",
        "train.steps: input should be a valid integer, unable to parse string",
    ),
    ("train.steps=1.5", "train.steps: input should be a valid integer, got a number with a fractional part, not 1.5"),
    ("train.steps=[1]", "train.steps: input should be a valid integer, not [1]"),
    ("train.steps=null", "train.steps: input should be a valid integer, not None"),
    ("train.steps=yes", "train.steps: a number is needed, not true"),
    ("train.learning_rate=true", "train.learning_rate: a number is needed, not true"),
    ("rope.factor=false", "rope.factor: a number is needed, not false"),
    ("train.learning_rate=fast", "train.learning_rate: input should be a valid number"),
    ("train=3", "train: input should be a valid dictionary"),
    ("data.mix={}", "data.mix: input should be a valid list, not {}"),
    ("evaluate.lengths=64", "evaluate.lengths: input should be a valid list, not 64"),
    ("evaluate.lengths=[64, x]", "evaluate.lengths.1: input should be a valid integer"),
    ("model.path=3", "model.path: input should be a valid string, not 3"),
    ("model.path=null", "model.path: input should be a valid string, not None"),
    ("model.trust_remote_code=maybe", "model.trust_remote_code: input should be a valid boolean"),
    ("parallel.use_gpu=maybe", "parallel.use_gpu: input should be a valid boolean, unable to interpret input or input"),
    # ranges
    ("train.steps=-3", "train.steps: input should be greater than 0, not -3"),
    ("train.steps=0", "train.steps: input should be greater than 0, not 0"),
    ("train.learning_rate=-1", "train.learning_rate: input should be greater than 0, not -1"),
    ("train.learning_rate=0", "train.learning_rate: input should be greater than 0, not 0"),
    ("train.learning_rate=.nan", "train.learning_rate: input should be"),
    ("train.learning_rate=.inf", "train.learning_rate: input should be a finite number, not inf"),
    ("train.grad_clip=.inf", "train.grad_clip: input should be a finite number, not inf"),
    ("train.beta1=1", "train.beta1: input should be less than 1, not 1"),
    ("train.beta2=.nan", "train.beta2: input should be"),
    ("train.min_lr_ratio=2", "train.min_lr_ratio: input should be less than or equal to 1, not 2"),
    ("train.zero_stage=4", "train.zero_stage: input should be 1, 2 or 3, not 4"),
    ("train.keep_checkpoints=0", "train.keep_checkpoints: input should be greater than or equal to 1, not 0"),
    ("train.warmup_steps=9", "train: 'warmup_steps' 9 is above 'steps' 4"),
    ("seed=-1", "seed: input should be greater than or equal to 0, not -1"),
    ("seed=4294967296", "seed: input should be less than 4294967296"),
    ("parallel.max_failures=-2", "parallel.max_failures: input should be greater than or equal to -1, not -2"),
    ("evaluate.lengths=[0]", "evaluate.lengths.0: input should be greater than 0, not 0"),
    ("data.upsample={threshold: 3, ratio: 0.5}", "data.upsample.ratio: input should be greater than or equal to 1"),
    ("data.upsample={threshold: 3, ratio: 101}", "data.upsample.ratio: input should be less than or equal to 100"),
    ("data.upsample.threshold=3", "data.upsample.ratio: required, but not given"),
    ("data.target_length=100000000", "data.target_length: input should be less than or equal to 16777216"),
    ("data.sample_length=1", "data.sample_length: input should be greater than or equal to 2, not 1"),
    ("data.sample_length=300", "data: 'sample_length' 300 is above 'target_length' 256; positions must fit"),
    # words of a choice
    (
        "positions.type=yarn",
        "positions.type: input should be 'contiguous', 'longrecipe', 'pose', 'randpos', 'cream' or 'e2llm', not '",
    ),
    ("positions={type: pose, num_chunks: 0}", "positions.num_chunks: input should be greater than or equal to 1"),
    (
        "positions={type: pose, last_chunk: top}",
        "positions.last_chunk: input should be 'random' or 'suffix', not 'top'",
    ),
    ("positions.segments=word", "positions.segments: input should be 'sentence' or 'paragraph', not 'word'"),
    ("positions={type: cream, sigma: .nan}", "positions.sigma: input should be"),
    ("positions={type: cream, sigma: 0}", "positions.sigma: input should be greater than 0, not 0"),
    ("positions={type: e2llm, window: 64, num_sinks: 0}", "positions.num_sinks: input should be greater than 0"),
    ("positions.type=e2llm", "positions: type 'e2llm' needs 'window', the model's own window in tokens"),
    ("positions.num_chunks=2", "positions: 'num_chunks' has no meaning for type 'longrecipe'; it belongs to ['pose']"),
    ("positions={type: pose, text_offset: other}", "positions.text_offset: input should be 'none', 'same' or"),
    ("positions.text_offset=same", "positions: 'text_offset' has no meaning for type 'longrecipe'; it belongs to"),
    (
        "positions={type: pose, text_offset: same}",
        "positions.text_offset: 'same' takes chunks of a longer sample; set data.selection.mode: chunks",
    ),
    (
        "data.selection={mode: chunks, from_length: 64}",
        "data.selection.mode: 'chunks' takes the text that PoSE's positions ask for; set positions.type: pose and",
    ),
    ("positions.last_chunk=suffix", "positions: 'last_chunk' has no meaning for type 'longrecipe'"),
    ("positions.sigma=2", "positions: 'sigma' has no meaning for type 'longrecipe'; it belongs to ['cream']"),
    ("positions.window=64", "positions: 'window' has no meaning for type 'longrecipe'; it belongs to ['e2llm']"),
    ("positions.num_sinks=4", "positions: 'num_sinks' has no meaning for type 'longrecipe'"),
    ("positions={type: pose, variant: bounded}", "positions: 'variant' has no meaning for type 'pose'"),
    ("positions={type: randpos, segments: sentence}", "positions: 'segments' has no meaning for type 'randpos'"),
    ("positions={type: contiguous, min_segments: 7}", "positions: 'min_segments' has no meaning for type 'contig"),
    ("model.dtype=float16", "model.dtype: input should be 'float32' or 'bfloat16', not 'float16'"),
    ("tracking.wandb=on", "tracking.wandb: input should be 'off', 'online' or 'offline', not True"),
    ("train.schedule=step", "train.schedule: input should be 'constant', 'cosine', 'linear' or 'wsd', not 'step'"),
    # RoPE
    ("rope.type=ntkk", "rope.type: input should be 'keep', 'theta', 'ntk'"),
    ("rope.type=theta", "rope: type 'theta' needs 'theta', the new rope_theta"),
    ("rope.theta=.inf", "rope.theta: input should be a finite number"),
    ("rope.beta_fast=3", "rope: 'beta_fast' has no meaning for type 'ntk'; it belongs to ['yarn']"),
    ("rope.low_freq_factor=3", "rope: 'low_freq_factor' has no meaning for type 'ntk'; it belongs to ['llama3']"),
    ("rope={type: keep, factor: 2}", "rope: 'factor' has no meaning for type 'keep'; it belongs to"),
    ("rope.factor=0.5", "rope.factor: input should be greater than or equal to 1, not 0.5"),
    ("rope.factor=.inf", "rope.factor: input should be a finite number, not inf"),
    ("rope.factor=.nan", "rope.factor: input should be"),
    # mix
    ("data.mix=[]", "data: 'mix' phases need from_step rising from 0, not []"),
    ("data.mix.0.from_step=1", "data: 'mix' phases need from_step rising from 0, not [1]"),
    ("data.mix=[{weights: {a: 1}}, {weights: {a: 1}}]", "data: 'mix' phases need from_step rising from 0, not [0, 0]"),
    (
        "data.mix=[{weights: {a: 1}}, {from_step: 3, weights: {a: 1}}, {from_step: 2, weights: {a: 1}}]",
        "data: 'mix' phases need from_step rising from 0, not [0, 3, 2]",
    ),
    (
        "data.mix=[{weights: {a: 1}}, {from_step: 4, weights: {a: 1}}]",
        "data.mix: from_step 4 is never reached in",
    ),
    ("data.mix.0.weights={}", "data.mix.0: 'weights' needs at least one source with a weight above 0"),
    ("data.mix.0.weights.text=0", "data.mix.0: 'weights' needs at least one source with a weight above 0"),
    ("data.mix.0.weights.text=-1", "data.mix.0.weights.text: input should be greater than or equal to 0, not -1"),
    ("data.mix.0.weights.text=.nan", "data.mix.0.weights.text: input should be"),
    ("data.mix.0.short.share=0.5", "data.mix.0.short.weights: required, but not given"),
    ("data.mix.0.short={share: 1.5, weights: {a: 1}}", "data.mix.0.short.share: input should be less than or equal to"),
    ("data.mix.0.short={share: 0.5, weights: {a: 0}}", "data.mix.0.short: 'weights' needs at least one source with a"),
    (
        "data.mix.0.short={shaer: 0, share: 0, weights: {a: 1}}",
        "data.mix.0.short.shaer: unknown key; did you mean 'share'?",
    ),
    ("data.mix.0.ramp=true", "data.mix.0.ramp: the last phase has no next one to move to; add a phase to reach"),
    ("data.mix.0.ramp=1.5", "data.mix.0.ramp: input should be a valid boolean"),
    # upsampling and repetition
    (
        "data.upsample={threshold: 3, ratio: 2, by_source: {a: {ratio: 0}}}",
        "data.upsample.by_source.a.ratio: input should be greater than or equal to 1, not 0",
    ),
    (
        "data.upsample={threshold: 3, ratio: 2, by_source: {a: 5}}",
        "data.upsample.by_source.a: input should be a valid dictionary",
    ),
    (
        "data.upsample={threshold: 3, ratio: 2, by_source: {a: {treshold: 5, ratio: 2}}}",
        "data.upsample.by_source.a.treshold: unknown key; did you mean 'threshold'?",
    ),
    ("data.repetition=4", "data.repetition: input should be a valid dictionary"),
    ("data.repetition.max_epochs=0", "data.repetition.max_epochs: input should be greater than 0, not 0"),
    ("data.repetition.max_epochs=.inf", "data.repetition.max_epochs: input should be a finite number, not inf"),
    ("data.repetition.by_source.a=-1", "data.repetition.by_source.a: input should be greater than 0, not -1"),
    ("data.repetition.on_limit=stop", "data.repetition.on_limit: input should be 'refuse' or 'spread', not 'stop'"),
    ("data.repetition.max_epoch=3", "data.repetition.max_epoch: unknown key; did you mean 'max_epochs'?"),
    # packing
    ("data.packing=bestfit", "data.packing: input should be 'best_fit' or 'sequential', not 'bestfit'"),
    ("data.interleave.chunks=[3, 2]", "data.interleave: 'chunks' is [3, 2]; the least comes first"),
    ("data.interleave.chunks=0", "data.interleave.chunks"),
    ("data.interleave.method=synl", "data.interleave.method: input should be 'cip' or 'utk', not 'synl'"),
    (
        "data.interleave={}",
        "data.interleave: it decides the positions, so it does not go with positions.type: longrecipe; set positions.",
    ),
    ("data.shuffle=wide", "data.shuffle: input should be a valid boolean"),
    ("data.shuffle_tokens=0", "data.shuffle_tokens: input should be greater than 0, not 0"),
    ("parallel.shard_cache_bytes=0", "parallel.shard_cache_bytes: input should be greater than 0, not 0"),
    # names
    ("name=a/b", "name: string should match pattern"),
    ("name=../up", "name: string should match pattern"),
    ('name="a\\n"', "name: string should match pattern"),
    ("name=", "name: input should be a valid string, not None"),
    # layout
    (
        "parallel.sequence_parallel=2",
        "parallel: 'launch' local is one process; num_workers 1 and sequence_",
    ),
    ("train.global_batch_size=3", "train.global_batch_size 3 is not a multiple of train.micro_batch_size 2 * 1"),
]


@pytest.mark.parametrize(("override", "message"), BY_OVERRIDE)
def test_a_wrong_value_is_one_line_that_names_it(written: Written, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_recipe(written(RECIPE), [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("from_length", "offset", "message"),
    [
        (300, "same", "data.selection.from_length: 300 is above data.target_length 256; with positions.text_offset:"),
        (300, "none", "data.selection.mode: 'chunks' takes the text"),
        (16, "same", "data: 'selection.from_length' 16 is below 'sample_length' 32"),
    ],
)
def test_chunks_that_do_not_fit(written: Written, from_length: int, offset: str, message: str) -> None:
    def load(from_length: int, offset: str) -> None:
        load_recipe(
            written(RECIPE),
            [
                f"positions={{type: pose, text_offset: {offset}}}",
                f"data.selection={{mode: chunks, from_length: {from_length}}}",
            ],
        )

    load(256, "same")
    load(300, "uniform")
    with pytest.raises(ConfigError) as caught:
        load(from_length, offset)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("rope.mixed_window=true", "data.interleave: rope.mixed_window tells documents by their length, which chunks"),
        ("data.selection={mode: uniform, from_length: 64}", "data: 'interleave' mixes whole documents, 'selection'"),
    ],
)
def test_what_does_not_go_with_interleaving(written: Written, override: str, message: str) -> None:
    mixed = ["positions.type=contiguous", "data.interleave={}", "data.document_mask=true"]
    assert load_recipe(written(RECIPE), mixed).data.interleave
    with pytest.raises(ConfigError) as caught:
        load_recipe(written(RECIPE), [*mixed, override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["parallel.num_workers=3", "parallel.sequence_parallel=2"], "parallel.num_workers 3 is not a multiple of"),
        (["parallel.num_workers=3", "parallel.sequence_parallel=3"], "use a sample_length of 30 or 33"),
        (["parallel.num_workers=4"], "train.global_batch_size 4 is not a multiple of train.micro_batch_size 2 * 4"),
    ],
)
def test_a_layout_that_does_not_divide(written: Written, overrides: list[str], message: str) -> None:
    with pytest.raises(TopologyError) as caught:
        load_recipe(written(RECIPE), [RAY, *overrides])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps", "--set steps: expected section.key=value, for example train.steps=100"),
        ("train.steps", "--set train.steps: expected section.key=value"),
        ("=3", "--set =3: expected section.key=value"),
        (" =3", "--set  =3: expected section.key=value"),
        ("train..steps=3", "--set train..steps=3: expected section.key=value"),
        ("train.=3", "--set train.=3: expected section.key=value"),
        ("train.steps.x=3", "'train.steps' is a value, not a section"),
        ("data.mix.1.from_step=3", "'1' is no item of the list (1 items, from 0)"),
        ("data.mix.-1.from_step=3", "'-1' is no item of the list"),
        ("data.mix.x=3", "'x' is no item of the list"),
        ("data.mix.\u00b2=3", "'\u00b2' is no item of the list"),
        ("train.steps=[", "'[' is not a YAML value"),
        ("train.steps=*a", "'*a' is not a YAML value"),
        ("train.steps={a: 1, a: 2}", "'{a: 1, a: 2}' is not a YAML value"),
        ("name=2026-99-99", "'2026-99-99' is not a YAML value"),
        ("train.steps=!!python/object/apply:os.system ['true']", "is not a YAML value"),
        (f"seed={'1' * 5000}", "is not a YAML value"),
        (f"seed={'[' * 3000}", "is not a YAML value"),
    ],
)
def test_a_wrong_override_is_one_line_that_quotes_it(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides({"train": {"steps": 4}, "data": {"mix": [{"weights": {}}]}}, [override])
    assert str(caught.value).startswith(f"--set {override}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
FILES: list[tuple[str | bytes, str]] = [
    ("", "expected a mapping of sections at the top, found NoneType"),
    ("# nothing yet\n", "expected a mapping of sections at the top, found NoneType"),
    ("- a\n- b\n", "expected a mapping of sections at the top, found list"),
    ("only text\n", "expected a mapping of sections at the top, found str"),
    (RECIPE.replace("  manifest", "\tmanifest"), r"found character '\t' that cannot start any token"),
    (RECIPE + "name: again\n", "key 'name' is given twice (line 11)"),
    (RECIPE.replace("steps: 4", "steps: 4, steps: 5"), "key 'steps' is given twice (line 10)"),
    (BOMB, "alias at line 2: write the value out"),
    (RECIPE + "<<: {a: 1}\n", "not valid YAML"),
    (RECIPE + "positions: !!python/object:os.system {}\n", "could not determine a constructor for the tag"),
    (RECIPE + "1: 2\n", "key 1 at line 11 is not text"),
    (RECIPE + "? [a, b]\n: 3\n", "at line 11 is not text"),
    (RECIPE + "---\nname: second\n", "expected a single document"),
    (RECIPE + "seed: !!int x\n", "not valid YAML"),
    (RECIPE + "output: 2026-99-99\n", "not valid YAML"),
    (RECIPE + f"seed: {'9' * 5000}\n", "not valid YAML"),
    ("[" * 5000, "nested too deeply"),
    ("{a: " * 2000, "nested too deeply"),
    (RECIPE + "output: \x01\n", "special characters are not allowed"),
    (b"\xff\xfe\x00", "'utf-8' codec can't decode byte 0xff in position 0"),
    (RECIPE.encode("utf-16"), "not valid YAML"),
    (b"name: caf\xe9\n", "'utf-8' codec can't decode byte 0xe9 in position 9"),
    ("x" * (MAX_CONFIG_BYTES + 1), "1000001 bytes is no configuration; the limit is 1000000"),
    (RECIPE.replace("name: tiny\n", ""), "name: required, but not given"),
    (RECIPE.replace("path: models/tiny, ", ""), "model.path: required, but not given"),
    (RECIPE.replace("train:", "training:"), "train: required, but not given"),
    (RECIPE.replace("    - weights: {text: 1.0}", "    - {}"), "data.mix.0.weights: required, but not given"),
]


@pytest.mark.parametrize(("text", "message"), FILES, ids=range(len(FILES)))
def test_a_wrong_file_is_one_line_that_names_it(written: Written, text: str | bytes, message: str) -> None:
    path = written(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.yaml", tmp_path):
        with pytest.raises(ConfigError, match=r": no such file; give the path of a YAML file$"):
            read_yaml(path)
    with pytest.raises(ConfigError, match="cannot be read: File name too long"):
        read_yaml(tmp_path / ("x" * 3000))


BY_CORPUS_OVERRIDE = [
    ("outptu=x", "outptu: unknown key; did you mean 'output'?"),
    ("output=null", "output: input should be a valid string, not None"),
    ("seed=-1", "seed: input should be greater than or equal to 0, not -1"),
    ("shard_tokens=0", "shard_tokens: input should be greater than 0, not 0"),
    ("chunk_tokens=0", "chunk_tokens: input should be greater than 0, not 0"),
    ("unit_bytes=-1", "unit_bytes: input should be greater than 0, not -1"),
    ("sources.0={type: parquet, name: books}", "sources.0.paths: required, but not given"),
    ("sources.0={type: parquet, name: books, paths: [a], split: x}", "sources.0.split: unknown key"),
    ("sources.0={type: arrow, name: books, paths: [a], split: [x]}", "sources.0.split: input should be a valid string"),
    ("shard_tokens=true", "shard_tokens: a number is needed, not true"),
    ("sources={}", "sources: input should be a valid list, not {}"),
    ("sources.0.pahts=[a]", "sources.0.pahts: unknown key; did you mean 'paths'?"),
    ("sources.0.paths=texts", "sources.0.paths: input should be a valid list, not 'texts'"),
    ("sources.0.max_bytes=-5", "sources.0.max_bytes: input should be greater than 0, not -5"),
    (
        "sources.0.type=csv",
        "sources.0.type: input should be one of 'text', 'jsonl', 'parquet', 'arrow', 'needles', 'synl', 'interleaved',"
        " 'chat', not 'csv'",
    ),
    ("sources.0.name=a/b", "sources.0.name: string should match pattern"),
    ("sources.1.name=books", "sources: names must differ, not ['books', 'books', 'needles']"),
    ("sources.1.text_feild=body", "sources.1.text_feild: unknown key; did you mean 'text_field'?"),
    ("sources.2.text_source=nobody", "sources.2.text_source: 'nobody' is none of ['books', 'lines']"),
    ("sources.2.fill=[0.1]", "sources.2.fill.1: required, but not given"),
    ("sources.2.fill=[0.1, 2]", "sources.2.fill.1: input should be less than or equal to 1, not 2"),
    ("sources.2.query_fraction=.nan", "sources.2.query_fraction: input should be"),
    ("sources.2.length=0", "sources.2.length: input should be greater than 0, not 0"),
    *(
        (f"sources.2={{name: made, {given}}}", message)
        for given, message in (
            ("type: synl, documents: 5", "sources.2.lengths: required, but not given"),
            ("type: synl, documents: 5, lengths: []", "sources.2: 'lengths' must name one or more"),
            (
                "type: synl, documents: 5, lengths: [9, 9]",
                "sources.2: 'lengths' must name one or more, each once, not [9, 9]",
            ),
            ("type: synl, documents: 5, lengths: [9], formats: [xml]", "sources.2.formats.0: input should be 'csv'"),
            (
                "type: synl, documents: 5, lengths: [9], kinds: [sum]",
                "sources.2: 'questions' is 8; it must be at most 1",
            ),
            (
                "type: synl, documents: 5, lengths: [9], split: test",
                "sources.2.split: input should be 'train' or 'eval'",
            ),
            ("type: interleaved, text_source: books", "sources.2.window: required, but not given"),
            (
                "type: interleaved, text_source: books, window: 1",
                "sources.2.window: input should be greater than or equal",
            ),
            (
                "type: interleaved, text_source: made, window: 9",
                "sources.2.text_source: 'made' is none of ['books', 'lines']",
            ),
            (
                "type: interleaved, text_source: books, window: 9, chunks: [3, 2]",
                "sources.2: 'chunks' is [3, 2]; the least",
            ),
            (
                "type: interleaved, text_source: books, window: 9, chunks: 0",
                "sources.2.chunks: input should be greater",
            ),
            (
                "type: interleaved, text_source: books, window: 9, names: true",
                "sources.2: 'names' has no meaning for method 'cip'; it belongs to ['utk']",
            ),
            (
                "type: interleaved, text_source: books, window: 9, method: utk, names: true, marks: {name_open: a}",
                "sources.2: 'names' needs marks.name_close, or nothing tells a name from text; give its text",
            ),
            (
                "type: interleaved, text_source: books, window: 9, method: utk, marks: {head: a, recall_open: b}",
                "sources.2: marks.recall_open goes with names only; set names: true, or leave it out",
            ),
            (
                "type: interleaved, text_source: books, window: 9, method: utk, marks: {tail: ''}",
                "sources.2.marks.tail: string should have at least 1 character",
            ),
            (
                "type: interleaved, text_source: books, window: 9, keep_order: false",
                "sources.2: 'keep_order' has no meaning for method 'cip'",
            ),
            (
                "type: interleaved, text_source: books, window: 9, share: 1.5",
                "sources.2.share: input should be less than or equal to 1",
            ),
            ("type: chat, paths: [a], longer: keep", "sources.2.longer: input should be 'drop', 'turns' or 'cut'"),
            ("type: chat, paths: [a], messages_feild: x", "sources.2.messages_feild: unknown key; did you mean"),
        )
    ),
    ("sources=[{type: chat, name: t, paths: [a]}]", "tokenizer: 'train_vocab_size' needs a source of texts"),
    ("tokenizer={}", "tokenizer: give either 'path' (an existing tokenizer) or 'train_vocab_size' (train one here)"),
    ("tokenizer.path=gpt2", "tokenizer: give either 'path'"),
    ("tokenizer={path: gpt2, needle_tokens: true}", "tokenizer: 'needle_tokens' needs 'train_vocab_size'"),
    (
        "tokenizer.train_vocab_size=256",
        "tokenizer.train_vocab_size: input should be greater than or equal to 257",
    ),
]


@pytest.mark.parametrize(("override", "message"), BY_CORPUS_OVERRIDE)
def test_a_wrong_corpus_file_is_one_line_that_names_the_field(written: Written, override: str, message: str) -> None:
    values = apply_overrides(read_yaml(written(CORPUS)), [override])
    with pytest.raises(ConfigError) as caught:
        parse(Corpus, values, "corpus.yaml")
    assert str(caught.value).startswith(f"corpus.yaml: {message}")
    assert "\n" not in str(caught.value)


def test_the_corpus_file_without_mistakes_is_one(written: Written) -> None:
    corpus = parse(Corpus, read_yaml(written(CORPUS)), "corpus.yaml")
    assert [source.type for source in corpus.sources] == ["text", "jsonl", "needles"]
