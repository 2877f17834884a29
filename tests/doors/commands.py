"""Wrong command lines, and what is said about each. Words are divided by one blank; two make an empty word."""

NO_FILE = "no such file; give the path of a YAML file"
FILES = (
    ("none.yaml", f"none.yaml: {NO_FILE}"),
    ("", f"'': {NO_FILE}"),
    ("void", "void: is a folder; give the path of a YAML file"),
    ("data", "data: is a folder; give the path of a YAML file"),
    ("binary", "binary: not valid YAML: 'utf-8' codec can't decode byte 0x80"),
    ("empty.yaml", "empty.yaml: expected a mapping of sections at the top, found NoneType"),
    ("text/a.txt", "text/a.txt: expected a mapping of sections at the top, found str"),
)
KINDS = {
    "train": ("recipe.yaml", "recipe"),
    "run": ("pipeline.yaml", "pipeline"),
    "prepare": ("corpus.yaml", "corpus"),
    "sweep": ("sweep.yaml", "sweep"),
    "compare": ("compare.yaml", "comparison"),
}
"""Commands, the files that they take, and what these are."""
PLACES = (
    ("", "'' is not a URI: give a local path or s3://bucket/key"),
    ("s3:/bucket/x", "s3:/bucket/x: a scheme ends in '://'; write s3://bucket/key, or ./s3:/bucket/x for a local path"),
    ("gs://bucket/x", "gs://bucket/x: scheme gs:// is not supported; give a local path or s3://bucket/key"),
    ("http://host/x", "http://host/x: scheme http:// is not supported"),
    ("s3://b/x", "s3://b/x: 'b' is not a bucket name; write s3://bucket/key"),
    ("s3://me:secret@bucket/x", "credentials do not belong in a URI; use the standard AWS chain"),
)
UNWRITABLE = (
    ("binary", "cannot be a folder: "),
    ("binary/x/y", "is a file; give another place"),
    ("/proc/nowhere/x", "/proc/nowhere/x cannot be written to (/proc: No such file or directory); give another place"),
)

MERGE = "merge model model --output out"
EVALUATE = "evaluate model --manifest data --source text --lengths 64 --dtype float32"
IMPACT = "impact data --model model --output out --window 64 --short-prefix 8 --stride 4"


def _files() -> list[tuple[str, str]]:
    cases = []
    for command, (_, kind) in KINDS.items():
        cases += [(f"{command} {word}", text) for word, text in FILES]
        for other, (file, name) in KINDS.items():
            if other != command:
                text = f"{file}: this is a {name}, not a {kind}; give it to `longspan {other}`"
                cases.append((f"{command} {file}", text))
    cases += [(f"plan {word}", text) for word, text in FILES]
    cases += [(f"recipe stages {word}", text) for word, text in FILES]
    cases.append(("plan corpus.yaml", "corpus.yaml: this is a corpus, not a recipe; give it to `longspan prepare`"))
    cases.append(("recipe show pipeline.yaml", "this is a pipeline, not a recipe; give it to `longspan run`"))
    cases.append(("recipe stages recipe.yaml", "this is a recipe, not a pipeline; give it to `longspan train`"))
    return cases


def _places() -> list[tuple[str, str]]:
    """Every argument that is a place, with what no place can be; every output with what nothing can be written to."""
    arguments = [(f"{command} {file} --output", "--output") for command, (file, _) in KINDS.items()]
    arguments += [("plan recipe.yaml --output", "--output"), ("demo --output", "--output")]
    arguments += [(f"{EVALUATE} --output", "--output"), ("evaluate", "MODEL"), ("report", "RUN")]
    arguments += [(f"{EVALUATE} --manifest", "--manifest"), (f"{IMPACT} --model", "--model")]
    arguments += [(f"{IMPACT} --base", "--base"), (f"{IMPACT} --output", "--output"), ("impact", "CORPUS")]
    arguments += [("export", "RUN "), ("export model --window 64 --output", "--output")]
    arguments += [("merge model model --output", "--output"), ("merge model", "B"), ("merge", "A")]
    rest = {"MODEL": EVALUATE.removeprefix("evaluate model"), "CORPUS": IMPACT.removeprefix("impact data")}
    rest |= {"RUN ": " --window 64 --output out", "B": " --output out", "A": " model --output out"}
    cases = []
    for words, name in arguments:
        cases += [(f"{words} {word}{rest.get(name, '')}", f"{name.strip()}: ") for word, _ in PLACES]
        cases += [(f"{words} {word}{rest.get(name, '')}", text) for word, text in PLACES[:1]]
        if name in ("--output", "RUN"):
            cases += [(f"{words} {word}", text) for word, text in UNWRITABLE]
    cases += [
        (f"plan recipe.yaml --output {word}", f"--output: {text}") for word, text in PLACES if "secret" not in word
    ]
    return cases


COMMANDS = [
    *_files(),
    *_places(),
    # typer's own
    ("unknown", "no such command 'unknown'; see longspan --help"),
    ("recipe sho", "no such command 'sho'. Did you mean 'show'?; see longspan recipe --help"),
    ("train", "missing argument 'RECIPE'; see longspan train --help"),
    ("train recipe.yaml again", "(again); see longspan train --help"),
    ("train recipe.yaml --outptu x", "no such option: --outptu"),
    ("train recipe.yaml --set", "option '--set' requires an argument; see longspan"),
    ("recipe schema recipe.yaml", "(recipe.yaml); see longspan recipe schema --help"),
    ("demo --seed x", "invalid value for '--seed'"),
    (
        "demo --seed -1",
        "invalid value for '--seed': Input should be greater than or equal to 0; see longspan demo --help",
    ),
    ("prepare corpus.yaml --workers -1", "invalid value for '--workers'"),
    ("prepare corpus.yaml --workers two", "invalid value for '--workers'"),
    ("merge model", "missing argument 'B'; see longspan merge --help"),
    ("merge model model", "missing option '--output'; see longspan merge --help"),
    (f"{MERGE} --weight 2", "invalid value for '--weight': Input should be less than or equal to 1"),
    (f"{MERGE} --weight nan", "'--weight'"),
    (f"{MERGE} --weight half", "invalid value for '--weight'"),
    (f"{MERGE} --rope c", "invalid value for '--rope'"),
    (f"{MERGE} --vocabulary both", "invalid value for '--vocabulary'"),
    (f"{MERGE} --dtype int8", "'int8' is not one of 'float32', 'bfloat16', 'float16'; see longspan merge --help"),
    ("evaluate model", "missing option '--manifest'; see longspan evaluate --help"),
    (f"{EVALUATE} --needles 0", "invalid value for '--needles'"),
    (f"{EVALUATE} --examples 0", "invalid value for '--examples'"),
    (f"{EVALUATE} --seed -1", "invalid value for '--seed'"),
    (f"{EVALUATE} --dtype float16", "'float16' is not one of 'float32', 'bfloat16'; see longspan evaluate --help"),
    (f"{EVALUATE} --scale 0", "invalid value for '--scale'"),
    (f"{EVALUATE} --scale-window 0", "invalid value for '--scale-window'"),
    (f"{IMPACT} --window 1", "invalid value for '--window'"),
    (f"{IMPACT} --window wide", "invalid value for '--window'"),
    (f"{IMPACT} --short-prefix 0", "invalid value for '--short-prefix'"),
    (f"{IMPACT} --stride 0", "invalid value for '--stride'"),
    (f"{IMPACT} --documents 0", "invalid value for '--documents'"),
    (f"{IMPACT} --actors -1", "invalid value for '--actors'"),
    (f"{IMPACT} --measure odds", "'odds' is not one of 'logprob', 'logit'; see longspan impact --help"),
    (f"{IMPACT} --rope longrope", "invalid value for '--rope'"),
    (f"{IMPACT} --dtype float16", "invalid value for '--dtype'"),
    # what they name is not there, or does not go together
    ("report void", "void: neither summary.json nor metrics.jsonl is here; give the directory of a run"),
    ("report data", "data: neither summary.json nor metrics.jsonl is here; give the directory of a run"),
    ("export model --window 0 --output out", "invalid value for '--window'"),
    ("export model --window 64", "missing option '--output'; see longspan export --help"),
    ("export nowhere --window 64 --output out", "nowhere"),
    ("export void --window 64 --output out", "void"),
    ("export model --window 64 --output out", "model"),
    ("merge nowhere model --output out", "merge: a: nowhere is no directory; give a Hugging Face model directory"),
    ("merge model void --output out", "void has no config.json; give a Hugging Face model directory"),
    ("merge model binary --output out", "merge: b: binary is no directory; give a Hugging Face model directory"),
    ("merge model model --output model", "model exists and is not empty; give another one or remove it first"),
    (f"{EVALUATE} --manifest nowhere", "--manifest: no finished corpus at 'nowhere'; give the directory that"),
    (f"{EVALUATE} --manifest binary", "--manifest: no finished corpus at 'binary'; give the directory that"),
    (f"{EVALUATE} --source books", "--source: 'books' is no source of the corpus; it has text"),
    (f"{EVALUATE} --lengths 64,100000", "--lengths: 100000 tokens, but source 'text' has"),
    (f"{EVALUATE} --lengths many", "--lengths many: expected whole numbers, for example 1024,4096"),
    (f"{EVALUATE} --lengths 0", "--lengths 0: lengths are 1 or more"),
    (f"{EVALUATE} --lengths 64,", "--lengths 64,: expected whole numbers, for example 1024,4096"),
    (f"{EVALUATE} --scale 2 --scale-window 64", "both a scale and a scale_window are given"),
    ("evaluate void" + EVALUATE.removeprefix("evaluate model"), "void"),
    (
        "impact nowhere" + IMPACT.removeprefix("impact data"),
        "impact: corpus: no finished corpus at 'nowhere'; give the",
    ),
    (
        "impact data --model model --output out --window 64",
        "give base, a model with a shorter context, or short_prefix",
    ),
    (f"{IMPACT} --sources books", "books"),
    (f"{IMPACT} --tagger guess", "tagger 'guess': must be spacy"),
    (f"{IMPACT} --short-prefix 64", "impact.short_prefix: 64 + stride 4 is more than half of window 64"),
    (f"{IMPACT} --model void", "void"),
]
