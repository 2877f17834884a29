"""Sound files with values that do not fit each other or what they name: (command, file, overrides, what is said)."""


def _sets(*values: str) -> list[str]:
    return [word for value in values for word in ("--set", value)]


BAD_PLACES = (
    ("''", "'' is not a URI: give a local path or s3://bucket/key"),
    ("s3:/bucket/x", "s3:/bucket/x: a scheme ends in '://'; write s3://bucket/key"),
    ("gs://bucket/x", "gs://bucket/x: scheme gs:// is not supported; give a local path or s3://bucket/key"),
    ("' data'", "' data' begins or ends with a blank; give a local path or s3://bucket/key"),
)
PLACE_FIELDS = (
    ("train", "recipe", "output"),
    ("plan", "recipe", "model.path"),
    ("plan", "recipe", "data.manifest"),
    ("plan", "recipe", "data.selection={mode: weighted, from_length: 64, scores: @}"),
    ("plan", "recipe", "data.loss_weighting={type: longce, scores: @}"),
    ("prepare", "corpus", "output"),
    ("prepare", "corpus", "tokenizer={path: @}"),
    ("prepare", "corpus", "sources.0.paths=[@]"),
    ("run", "pipeline", "output"),
    ("run", "pipeline", "base"),
    ("run", "pipeline", "stages.0.data.manifest"),
    ("run", "pipeline", "evaluate={manifest: @, text_source: text, lengths: [64]}"),
    ("sweep", "sweep", "output"),
    ("sweep", "sweep", "set={model.path: @}"),
    ("compare", "compare", "output"),
    ("compare", "compare", "base.checkpoint"),
    ("compare", "compare", "impact={model: @, window: 64, sources: [text]}"),
)
"""Every field that is a place; @ stands for it where it is part of a section."""


def _places() -> list[tuple[str, str, list[str], str]]:
    cases = []
    for command, file, field in PLACE_FIELDS:
        for value, text in BAD_PLACES:
            change = field.replace("@", value) if "@" in field else f"{field}={value}"
            cases.append((command, file, _sets(change), text))
    return cases


RUNS = [
    *_places(),
    *(
        (command, name, _sets("output=binary"), "output: ")
        for command, name in (("train", "recipe"), ("run", "pipeline"))
    ),
    # recipes and models
    *(("plan", "recipe", _sets(f"model.path={path}"), "model.path: ") for path in ("void", "binary", "data", "text")),
    ("train", "recipe", _sets("model.path=void"), "model.path: "),
    (
        "plan",
        "recipe",
        _sets("data.manifest=nowhere"),
        "data.manifest: no finished corpus at 'nowhere'; give the directory",
    ),
    (
        "plan",
        "recipe",
        _sets("data.manifest=model"),
        "data.manifest: no finished corpus at 'model'; give the directory",
    ),
    ("plan", "recipe", _sets("data.mix.0.weights={books: 1}"), "books"),
    ("plan", "recipe", _sets("data.upsample={threshold: 9, ratio: 2, by_source: {books: {ratio: 3}}}"), "books"),
    ("plan", "recipe", _sets("data.repetition.by_source={books: 2}"), "books"),
    (
        "plan",
        "recipe",
        _sets("evaluate={lengths: [64]}"),
        "evaluate.text_source: required when evaluate.lengths is given",
    ),
    (
        "plan",
        "recipe",
        _sets("evaluate={lengths: [64], text_source: books}"),
        "evaluate.text_source: 'books' is no source",
    ),
    (
        "plan",
        "recipe",
        _sets("evaluate={lengths: [99999], text_source: text}"),
        "evaluate.lengths: 99999 tokens, but source",
    ),
    (
        "plan",
        "recipe",
        _sets("data.selection={mode: weighted, from_length: 64, scores: nowhere}"),
        "no manifest, so no finished analysis here; score the corpus first",
    ),
    ("plan", "recipe", _sets("data.loss_weighting={type: longce, scores: void}"), "data.loss_weighting.scores: "),
    ("plan", "recipe", _sets("rope={type: longrope, long_factor: [1.0, 2.0]}"), "long_factor"),
    (
        "plan",
        "recipe",
        _sets("model.lora={targets: [nope]}"),
        "model.lora.targets: LlamaForCausalLM has no linear layer 'nope'; it has",
    ),
    (
        "plan",
        "recipe",
        _sets("train.steps=100000", "data.repetition.max_epochs=1"),
        "data.repetition.max_epochs allows 1; lower its weight or train.steps, raise the limit",
    ),
    (
        "plan",
        "recipe",
        _sets("parallel={launch: ray, num_workers: 3, sequence_parallel: 3}", "data.sample_length=30"),
        "parallel.sequence_parallel 3 does not divide the model's num_attention_heads 4; use 2 or 4",
    ),
    # corpora
    ("prepare", "corpus", _sets("sources.0.paths=[nowhere]", "output=out"), "nowhere"),
    ("prepare", "corpus", _sets("sources.0.paths=[void]", "output=out"), "void"),
    ("prepare", "corpus", _sets("sources.0.pattern=*.zzz", "output=out"), "zzz"),
    ("prepare", "corpus", _sets("tokenizer={path: void}", "output=out"), "tokenizer.path"),
    ("prepare", "corpus", _sets("tokenizer={path: binary}", "output=out"), "tokenizer.path"),
    # pipelines
    *(("run", "pipeline", _sets(f"base={path}"), "base: ") for path in ("void", "binary", "text")),
    ("run", "pipeline", _sets("stages=[]"), "stages: list should have at least 1 item"),
    (
        "run",
        "pipeline",
        _sets("stages.0.type=tune"),
        "stages.0.type: input should be one of 'train', 'merge', not 'tune'",
    ),
    ("run", "pipeline", _sets("stages.0.name=a/b"), "stages.0.name: string should match pattern"),
    (
        "run",
        "pipeline",
        _sets("stages.1.name=extend"),
        "stages.1.name: 'extend' is taken; every stage needs a name of its",
    ),
    ("run", "pipeline", _sets("stages.0.start=later"), "stages.0.start: 'later' is no earlier stage; earlier are base"),
    ("run", "pipeline", _sets("stages.1.a=later"), "stages.1.a: 'later' is no earlier stage; earlier are base, extend"),
    ("run", "pipeline", _sets("stages.1.weight=3"), "stages.1.weight: input should be less than or equal to 1"),
    ("run", "pipeline", _sets("stages.1.rope=c"), "stages.1.rope: input should be 'a' or 'b'"),
    ("run", "pipeline", _sets("stages.0.train.stepz=3"), "stages.0.train.stepz: unknown key; did you mean 'steps'?"),
    ("run", "pipeline", _sets("common.train.stepz=3"), "common.train.stepz: unknown key; did you mean 'steps'?"),
    (
        "run",
        "pipeline",
        _sets("common.model.path=other"),
        "common.model.path: the pipeline's base and the stages before say",
    ),
    ("run", "pipeline", _sets("stages.0.extends=none.yaml"), "stages.0.extends: "),
    ("run", "pipeline", _sets("stages.0.extends=corpus.yaml"), "this is a corpus, not a recipe"),
    (
        "run",
        "pipeline",
        _sets("stages.0.data.manifest=nowhere"),
        "stage 'extend': data.manifest: no finished corpus at",
    ),
    ("run", "pipeline", _sets("stages.0.data.mix.0.weights={books: 1}"), "stage 'extend': "),
    (
        "run",
        "pipeline",
        _sets("evaluate={manifest: nowhere, text_source: text, lengths: [64]}"),
        "evaluate.manifest: no finished corpus at 'nowhere'; give the directory",
    ),
    (
        "run",
        "pipeline",
        _sets("evaluate={manifest: data, text_source: books, lengths: [64]}"),
        "evaluate.text_source: 'books' is no source of the corpus; it has text",
    ),
    (
        "run",
        "pipeline",
        _sets("evaluate={manifest: data, text_source: text, lengths: [99999]}"),
        "evaluate.lengths: 99999 tokens, but source 'text' has",
    ),
    ("run", "pipeline", _sets("evaluate={manifest: data}"), "evaluate: 'lengths' is needed"),
    # sweeps
    ("sweep", "sweep", _sets("recipe=none.yaml"), "sweep.yaml: recipe: none.yaml: no such file"),
    ("sweep", "sweep", _sets("recipe=corpus.yaml"), "recipe: corpus.yaml: this is a corpus, not a recipe"),
    ("sweep", "sweep", _sets("recipe=void"), "recipe: void: is a folder"),
    ("sweep", "sweep", _sets("metric=''"), "metric: string should match pattern"),
    (
        "sweep",
        "sweep",
        _sets("metric=evaluation.needle.mean.-1"),
        "metric: 'evaluation.needle.mean.-1' needs evaluate.lengths",
    ),
    ("sweep", "sweep", _sets("mode=best"), "mode: input should be 'max' or 'min', not 'best'"),
    ("sweep", "sweep", _sets("samples=0"), "samples: input should be greater than 0, not 0"),
    ("sweep", "sweep", _sets("max_concurrent=0"), "max_concurrent: input should be greater than 0, not 0"),
    ("sweep", "sweep", _sets("space={}"), "space: dictionary should have at least 1 item"),
    ("sweep", "sweep", _sets("space={train.stepz: {type: grid, values: [1]}}"), "space.train.stepz: "),
    ("sweep", "sweep", _sets("space={train.steps: {type: grid, values: []}}"), "list should have at least 1 item"),
    ("sweep", "sweep", _sets("space={train.steps: {type: grid, values: [-1]}}"), "space.train.steps: "),
    ("sweep", "sweep", _sets("space={train.steps: {type: uniform, low: 3, high: 1}}"), "uniform needs low < high"),
    ("sweep", "sweep", _sets("space={train.steps: {type: normal}}"), "'normal'"),
    ("sweep", "sweep", _sets("set={train.stepz: 1}"), "'set': train.stepz: unknown key; did you mean 'steps'?"),
    ("sweep", "sweep", _sets("set={model.path: void}"), "model.path: "),
    ("sweep", "sweep", _sets("set={data.manifest: nowhere}"), "data.manifest: no finished corpus at"),
    ("sweep", "sweep", _sets("name=a/b"), "name: string should match pattern"),
    # comparisons
    ("compare", "compare", _sets("base={checkpoint: void}"), "void"),
    ("compare", "compare", _sets("base={}"), "base: give either 'checkpoint', or 'config' and 'recipe'"),
    ("compare", "compare", _sets("recipe.data.manifest=nowhere"), "recipe.data.manifest: no finished corpus at"),
    (
        "compare",
        "compare",
        _sets("recipe.data={}"),
        "recipe.data.manifest: not given; name a prepared corpus, or describe",
    ),
    ("compare", "compare", _sets("methods=[]"), "methods: list should have at least 1 item"),
    ("compare", "compare", _sets("seeds=[1, 1]"), "'seeds' must differ, not [1, 1]"),
    ("compare", "compare", _sets("reference=other"), "'reference' other is none of the methods ['plain']"),
    (
        "compare",
        "compare",
        _sets("evaluate.text_source=books"),
        "evaluate.text_source: 'books' is no source of the corpus",
    ),
    ("compare", "compare", _sets("evaluate.lengths=[]"), "evaluate.lengths: list should have at least 1 item"),
    ("compare", "compare", _sets("evaluate.lengths=[99999]"), "evaluate.lengths: 99999 tokens, but source 'text' has"),
    ("compare", "compare", _sets("evaluate.tasks=[sing]"), "evaluate.tasks.0: input should be"),
    ("compare", "compare", _sets("budget={}"), "budget: give one of 'tokens', 'flops' and 'steps'"),
    ("compare", "compare", _sets("budget={tokens: 1}"), "budget"),
    ("compare", "compare", _sets("methods.0.set={train.stepz: 1}"), "train.stepz: unknown key; did you mean 'steps'?"),
    ("compare", "compare", _sets("methods.0.start=later"), "methods.0.start: 'later' is no earlier trained method"),
    ("compare", "compare", _sets("workers=-1"), "workers: input should be greater than or equal to 0, not -1"),
    (
        "compare",
        "compare",
        _sets("impact={window: 64, sources: [books], rope: ntk}"),
        "impact.sources: 'books' is none of",
    ),
    ("compare", "compare", _sets("impact={window: 64, sources: [text]}"), "impact: give either 'model', or 'rope'"),
    ("compare", "compare", _sets("recipe.rope.type=spiral"), "rope.type: input should be"),
]
