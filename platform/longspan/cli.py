"""The command line: thin; every command imports what it needs when it runs, so that `--help` stays quick."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Literal

import typer

from longspan.errors import LongspanError

app = typer.Typer(
    name="longspan",
    help="Extend the context window of open language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
recipe_app = typer.Typer(help="Look at recipes and pipelines.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(recipe_app, name="recipe")

RecipePath = Annotated[str, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.")]
PipelinePath = Annotated[str, typer.Argument(metavar="PIPELINE", help="Stages in order, a YAML file.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="section.key=value", help="Override one value; may be repeated.")
]
Output = Annotated[str | None, typer.Option("--output", metavar="DIR", help="Run directory, local or s3://.")]


@contextmanager
def _plain_errors() -> Iterator[None]:
    """A user's mistake is one line on stderr and an exit code; the traceback of anything else is kept."""
    try:
        yield
    except LongspanError as error:
        typer.echo(f"longspan: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    except KeyboardInterrupt:
        typer.echo("longspan: interrupted; the same command goes on from the last checkpoint", err=True)
        raise typer.Exit(130) from None


def _overrides(given: list[str] | None, output: str | None) -> list[str]:
    return [*(given or []), *([f"output={output}"] if output else [])]


@app.command()
def demo(
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Where everything is written.")] = "runs/demo",
    seed: Annotated[int, typer.Option(help="Seed of data, weights and plan.")] = 0,
) -> None:
    """Extend a tiny model from 128 to 1,024 tokens, with controls, on this machine, in minutes."""
    with _plain_errors():
        from longspan.demo import run_demo

        run_demo(output, seed)


@app.command()
def prepare(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Corpus description, a YAML file.")],
    overrides: Overrides = None,
    output: Output = None,
    workers: Annotated[
        int, typer.Option(min=0, metavar="N", help="Tasks at a time; more than 1 asks for Ray, 0 is automatic.")
    ] = 0,
    address: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Ray cluster to use; RAY_ADDRESS stands for it.")
    ] = None,
) -> None:
    """Tokenise a corpus into Parquet shards and a manifest; an interrupted run is gone on with."""
    with _plain_errors():
        from longspan.config.corpus import Corpus
        from longspan.config.load import apply_overrides, parse, read_yaml
        from longspan.corpus.render import render_manifest
        from longspan.launch.prepare import prepare_corpus

        config = parse(Corpus, apply_overrides(read_yaml(corpus), _overrides(overrides, output)), corpus)
        try:
            manifest = prepare_corpus(config, workers, address)
        except KeyboardInterrupt:
            typer.echo("longspan: interrupted; the same command goes on from the units that are done", err=True)
            raise typer.Exit(130) from None
        _print(render_manifest(manifest))


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None, output: Output = None) -> None:
    """Say what a recipe will do and cost, before anything is spent; plots go to the run directory."""
    with _plain_errors():
        from longspan.config.load import load_recipe
        from longspan.launch.preview import preview

        for part in preview(load_recipe(recipe, _overrides(overrides, output))):
            _print(part)


@app.command()
def train(recipe: RecipePath, overrides: Overrides = None, output: Output = None) -> None:
    """Train a recipe, from its last checkpoint if there is one."""
    with _plain_errors():
        from longspan.config.load import load_recipe

        loaded = load_recipe(recipe, _overrides(overrides, output))
        from longspan.launch.run import train as run

        summary = run(loaded)
        if not summary["finished"]:
            typer.echo(
                f"longspan: stopped after step {summary['steps']}; the same command goes on from there", err=True
            )
            raise typer.Exit(130)
        typer.echo(f"{summary['checkpoint']}: {summary['steps']} steps, {summary['tokens']:,} tokens")
        typer.echo(f"{loaded.run_uri}/report.html")


@app.command("run")
def run_stages(pipeline: PipelinePath, overrides: Overrides = None, output: Output = None) -> None:
    """Run a pipeline's stages in order (extend, replay, fine-tune, merge); those that are done are not run again."""
    with _plain_errors():
        from longspan.config.pipeline import load_pipeline
        from longspan.observe.tables import results_table
        from longspan.recipes.run import run_pipeline

        summary = run_pipeline(load_pipeline(pipeline, overrides or [], output), typer.echo)
        if summary["models"]:
            _print(results_table(summary))
        if not summary["finished"]:
            typer.echo("longspan: stopped; the same command goes on from there", err=True)
            raise typer.Exit(130)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hugging Face model directory or hub name.")],
    manifest: Annotated[str, typer.Option(metavar="DIR", help="Prepared corpus that holds the held-out text.")],
    source: Annotated[str, typer.Option(metavar="NAME", help="Held-out source of the corpus.")],
    lengths: Annotated[str, typer.Option(metavar="N,N,...", help="Lengths in tokens.")],
    needles: Annotated[int, typer.Option(help="Needles an example, one a depth.")] = 10,
    examples: Annotated[int, typer.Option(help="Examples a length.")] = 16,
    seed: Annotated[int, typer.Option(help="Seed of the examples.")] = 0,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "bfloat16",
    scale_window: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="E2-LLM: interpolate by ceil(length / N), N the model's own window."),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(min=1, metavar="G", help="E2-LLM: interpolate by G at all lengths.")
    ] = None,
    output: Annotated[
        str | None, typer.Option(metavar="DIR", help="Write summary.json, plots and report.html.")
    ] = None,
) -> None:
    """Needle grid and loss by position of a model."""
    with _plain_errors():
        asked = _lengths(lengths)
        from longspan.evaluate.run import EvaluationSettings
        from longspan.launch.assess import assess

        settings = EvaluationSettings(
            tuple(asked), source, needles, examples, seed, dtype=dtype, scale_window=scale_window, scale=scale
        )
        _print(assess(model, manifest, settings, output))


@app.command()
def impact(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Prepared corpus, the directory of its manifest.")],
    model: Annotated[str, typer.Option(metavar="MODEL", help="The model that sees the whole text.")],
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Where scores and statistics are written.")],
    window: Annotated[int, typer.Option(help="Tokens that the model sees at most.")],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model to compare with (LongRecipe's impactful tokens).")
    ] = None,
    short_prefix: Annotated[
        int | None, typer.Option(metavar="N", help="Compare with N tokens of text before a token (LongCE).")
    ] = None,
    stride: Annotated[int, typer.Option(help="Tokens that one pass over a short prefix scores.")] = 1024,
    measure: Annotated[
        Literal["logprob", "logit"],
        typer.Option(help="What is subtracted; logit as LongRecipe writes it, LongCE needs logprob."),
    ] = "logprob",
    sources: Annotated[
        str | None, typer.Option(metavar="NAME,NAME,...", help="Sources to score; all if left out.")
    ] = None,
    documents: Annotated[
        int | None, typer.Option(metavar="N", help="Only the first N of each source: enough for statistics.")
    ] = None,
    rope: Annotated[
        Literal["ntk", "dynamic_ntk", "linear", "yarn"] | None,
        typer.Option(help="RoPE put over MODEL, untrained, so that it reaches the window; its own if left out."),
    ] = None,
    tagger: Annotated[
        str | None, typer.Option(metavar="spacy|nltk", help="Statistics by part of speech too; must be installed.")
    ] = None,
    actors: Annotated[int, typer.Option(help="Ray actors, each with its models; 0 is automatic.")] = 0,
    address: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Ray cluster to use.")] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the models' weights.")] = "bfloat16",
    drop_sliding_window: Annotated[
        bool, typer.Option("--drop-sliding-window", help="Attend to everything although a model has a sliding window.")
    ] = False,
) -> None:
    """Score how much far text helps each token; for sentence selection and LongCE weights of recipes."""
    with _plain_errors():
        from dataclasses import replace

        from longspan.corpus.impact.settings import ScoreSettings
        from longspan.impact.part_of_speech import open_tagger
        from longspan.launch.impact import describe, render_statistics, score

        if tagger is not None:
            open_tagger(tagger)  # what it lacks is to be known before the scoring, which takes hours
        chosen = tuple(sources.split(",")) if sources else None
        settings = ScoreSettings(model, window, base, short_prefix, stride, measure, chosen, documents)
        settings = replace(settings, dtype=dtype, rope=rope, drop_sliding_window=drop_sliding_window)
        try:
            score(corpus, output, settings, actors=actors, address=address)
        except KeyboardInterrupt:
            typer.echo("longspan: interrupted; the same command goes on from the parts that are done", err=True)
            raise typer.Exit(130) from None
        _print(render_statistics(describe(corpus, output, tagger=tagger)))


@app.command()
def merge(
    a: Annotated[str, typer.Argument(metavar="A", help="First checkpoint, for example the original model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Second checkpoint, for example the extended model.")],
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Directory to make, local or s3://.")],
    weight: Annotated[float, typer.Option(help="Share of B: 0 gives A, 1 gives B.")] = 0.5,
    rope: Annotated[
        str | None, typer.Option(metavar="a|b", help="Whose RoPE settings to keep where they differ.")
    ] = None,
    vocabulary: Annotated[
        str | None, typer.Option(metavar="a|b", help="Whose tokens to keep where they differ.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; the tensors' own if left out.")
    ] = None,
) -> None:
    """Average two checkpoints tensor by tensor."""
    with _plain_errors():
        from longspan.merge.merge import merge_checkpoints

        result = merge_checkpoints(a, b, output, weight=weight, rope=rope, vocabulary=vocabulary, dtype=dtype)
        typer.echo(
            f"{output}: {result['tensors']} tensors, {result['parameters']:,} parameters, RoPE of {result['rope']}"
        )


@app.command()
def compare(
    comparison: Annotated[str, typer.Argument(metavar="COMPARE", help="Comparison, a YAML file (see jobs/compare/).")],
    overrides: Overrides = None,
    output: Output = None,
) -> None:
    """Train and ask several methods on one base, corpus and budget; writes the table, plots and verdicts on claims."""
    with _plain_errors():
        from longspan.compare.run import run_comparison
        from longspan.config.compare import load_comparison

        loaded = load_comparison(comparison, _overrides(overrides, output))
        try:
            run_comparison(loaded, typer.echo)
        except KeyboardInterrupt:
            typer.echo("longspan: interrupted; the same command goes on with the runs that are not finished", err=True)
            raise typer.Exit(130) from None


@app.command()
def sweep(
    space: Annotated[str, typer.Argument(metavar="SWEEP", help="Search space, a YAML file (see sweeps/).")],
    overrides: Overrides = None,
    output: Output = None,
) -> None:
    """Search recipe values with Ray Tune; writes the table, a plot and the best recipe."""
    with _plain_errors():
        from longspan.sweep import run_sweep_file

        _print(run_sweep_file(space, overrides or [], output))


@app.command()
def report(run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, local or s3://.")]) -> None:
    """Write RUN/report.html anew."""
    with _plain_errors():
        from longspan.observe.report import write_report

        typer.echo(write_report(run))


@recipe_app.command("show")
def recipe_show(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Print a recipe with every default written out."""
    with _plain_errors():
        from longspan.config.load import load_recipe, to_yaml

        typer.echo(to_yaml(load_recipe(recipe, overrides or [])), nl=False)


@recipe_app.command("stages")
def recipe_stages(pipeline: PipelinePath, overrides: Overrides = None) -> None:
    """Print a pipeline with every default of every stage written out."""
    with _plain_errors():
        from longspan.config.pipeline import load_pipeline, show_pipeline

        typer.echo(show_pipeline(load_pipeline(pipeline, overrides or [])), nl=False)


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of recipes, with help for every field (for editors)."""
    import json

    from longspan.config.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))


def _lengths(text: str) -> list[int]:
    from longspan.errors import ConfigError

    try:
        lengths = [int(part.replace("_", "")) for part in text.split(",")]
    except ValueError:
        raise ConfigError(f"--lengths {text}: expected whole numbers, for example 1024,4096") from None
    if not lengths or min(lengths) < 1:
        raise ConfigError(f"--lengths {text}: lengths are 1 or more")
    return lengths


def _print(renderable: object) -> None:
    from rich.console import Console

    Console().print(renderable)


def main() -> None:
    sys.exit(app())


if __name__ == "__main__":
    main()
