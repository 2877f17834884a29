"""The command line: thin; every command imports what it needs when it runs, so that `--help` stays quick."""

from typing import Annotated, Literal

import typer

from longspan.arguments import (
    OneLineGroup,
    Overrides,
    PipelinePath,
    RecipePath,
    place,
    plain_errors,
    printed,
    whole_numbers,
    with_output,
)
from longspan.inspections import add_inspections

app = typer.Typer(
    name="longspan",
    cls=OneLineGroup,
    help="Extend the context window of open language models.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
add_inspections(app)


def _set_take_over(context: typer.Context, wanted: bool) -> bool:
    if wanted:
        from longspan.storage import taking_over

        context.with_resource(taking_over(True))
    return wanted


TakeOver = Annotated[
    bool,
    typer.Option(
        "--take-over", callback=_set_take_over, help="Take the output from a driver that still runs; that one ends."
    ),
]
Output = Annotated[str | None, typer.Option("--output", metavar="DIR", help="Run directory, local or s3://.")]


@app.command()
def demo(
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Where everything is written.")] = "runs/demo",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of data, weights and plan.")] = 0,
    take_over: TakeOver = False,
) -> None:
    """Extend a tiny model from 128 to 1,024 tokens, with controls, on this machine, in minutes."""
    with plain_errors():
        _writable(place(output, "--output"), "--output")
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
    take_over: TakeOver = False,
) -> None:
    """Tokenise a corpus into Parquet shards and a manifest; an interrupted run is gone on with."""
    with plain_errors("the same command resumes from the units that are done"):
        from longspan.config.corpus import Corpus
        from longspan.config.load import apply_overrides, parse, read_yaml

        config = parse(Corpus, apply_overrides(read_yaml(corpus, "corpus"), with_output(overrides, output)), corpus)
        _writable(config.output)
        from longspan.corpus.render import render_manifest
        from longspan.launch.prepare import prepare_corpus

        printed(render_manifest(prepare_corpus(config, workers, address)))


@app.command()
def plan(recipe: RecipePath, overrides: Overrides = None, output: Output = None) -> None:
    """Say what a recipe will do and cost, before anything is spent; plots go to the run directory."""
    with plain_errors():
        from longspan.config.load import load_recipe

        loaded = load_recipe(recipe, with_output(overrides, output))
        _writable(loaded.run_uri)
        from longspan.launch.preview import preview

        for part in preview(loaded):
            printed(part)


@app.command()
def train(
    recipe: RecipePath,
    overrides: Overrides = None,
    output: Output = None,
    take_over: TakeOver = False,
    resume_from: Annotated[
        str | None,
        typer.Option("--resume-from", metavar="RUN[@STEP]", help="Begin with that run's checkpoint, in a new output."),
    ] = None,
) -> None:
    """Train a recipe, from its last checkpoint if there is one."""
    with plain_errors():
        from longspan.config.load import load_recipe

        loaded = load_recipe(recipe, with_output(overrides, output))
        _writable(loaded.run_uri)
        from longspan.launch.run import train as run

        summary = run(loaded, resume_from=resume_from)
        if not summary["finished"]:
            typer.echo(f"longspan: stopped after step {summary['steps']}; the same command resumes it", err=True)
            raise typer.Exit(130)
        typer.echo(f"{summary['checkpoint']}: {summary['steps']} steps, {summary['tokens']:,} tokens")
        typer.echo(f"{loaded.run_uri}/report.html")


@app.command("run")
def run_stages(
    pipeline: PipelinePath, overrides: Overrides = None, output: Output = None, take_over: TakeOver = False
) -> None:
    """Run a pipeline's stages in order (extend, replay, fine-tune, merge); those that are done are not run again."""
    with plain_errors():
        from longspan.config.pipeline import load_pipeline

        loaded = load_pipeline(pipeline, with_output(overrides, output))
        _writable(loaded.output)
        from longspan.observe.tables import results_table
        from longspan.recipes.run import run_pipeline

        summary = run_pipeline(loaded, typer.echo)
        if summary["models"]:
            printed(results_table(summary))
        if not summary["finished"]:
            typer.echo("longspan: stopped; the same command resumes from there", err=True)
            raise typer.Exit(130)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hugging Face model directory or hub name.")],
    manifest: Annotated[str, typer.Option(metavar="DIR", help="Prepared corpus that holds the held-out text.")],
    source: Annotated[str, typer.Option(metavar="NAME", help="Held-out source of the corpus.")],
    lengths: Annotated[str, typer.Option(metavar="N,N,...", help="Lengths in tokens.")],
    needles: Annotated[int, typer.Option(min=1, help="Needles an example, one a depth.")] = 10,
    examples: Annotated[int, typer.Option(min=1, help="Examples a length.")] = 16,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the examples.")] = 0,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the weights.")] = "bfloat16",
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
    take_over: TakeOver = False,
) -> None:
    """Needle grid and loss by position of a model."""
    with plain_errors():
        asked = whole_numbers(lengths, "--lengths")
        place(model, "MODEL")
        place(manifest, "--manifest")
        if output is not None:
            _writable(place(output, "--output"), "--output")
        from longspan.evaluate.run import EvaluationSettings
        from longspan.launch.assess import assess

        settings = EvaluationSettings(
            tuple(asked), source, needles, examples, seed, dtype=dtype, scale_window=scale_window, scale=scale
        )
        printed(assess(model, manifest, settings, output))


@app.command()
def impact(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="Prepared corpus, the directory of its manifest.")],
    model: Annotated[str, typer.Option(metavar="MODEL", help="The model that sees the whole text.")],
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Where scores and statistics are written.")],
    window: Annotated[int, typer.Option(min=2, help="Tokens that the model sees at most.")],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Model to compare with (LongRecipe's impactful tokens).")
    ] = None,
    short_prefix: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Compare with N tokens of text before a token (LongCE).")
    ] = None,
    stride: Annotated[int, typer.Option(min=1, help="Tokens that one pass over a short prefix scores.")] = 1024,
    measure: Annotated[
        Literal["logprob", "logit"],
        typer.Option(help="What is subtracted; logit as LongRecipe writes it, LongCE needs logprob."),
    ] = "logprob",
    sources: Annotated[
        str | None, typer.Option(metavar="NAME,NAME,...", help="Sources to score; all if left out.")
    ] = None,
    documents: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N of each source: enough for statistics.")
    ] = None,
    rope: Annotated[
        Literal["ntk", "dynamic_ntk", "linear", "yarn"] | None,
        typer.Option(help="RoPE put over MODEL, untrained, so that it reaches the window; its own if left out."),
    ] = None,
    tagger: Annotated[
        str | None, typer.Option(metavar="spacy|nltk", help="Statistics by part of speech too; must be installed.")
    ] = None,
    actors: Annotated[int, typer.Option(min=0, help="Ray actors, each with its models; 0 is automatic.")] = 0,
    address: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Ray cluster to use.")] = None,
    dtype: Annotated[Literal["float32", "bfloat16"], typer.Option(help="Type of the models' weights.")] = "bfloat16",
    drop_sliding_window: Annotated[
        bool, typer.Option("--drop-sliding-window", help="Attend to everything although a model has a sliding window.")
    ] = False,
    take_over: TakeOver = False,
) -> None:
    """Score how much far text helps each token; for sentence selection and LongCE weights of recipes."""
    with plain_errors("the same command resumes from the parts that are done"):
        for text, name in ((corpus, "CORPUS"), (model, "--model"), (base, "--base"), (output, "--output")):
            if text is not None:
                place(text, name)
        _writable(output, "--output")
        from dataclasses import replace

        from longspan.corpus.impact.settings import ScoreSettings
        from longspan.impact.part_of_speech import open_tagger
        from longspan.launch.impact import describe, render_statistics, score

        if tagger is not None:
            open_tagger(tagger)  # what it lacks is to be known before the scoring, which takes hours
        chosen = tuple(sources.split(",")) if sources else None
        settings = ScoreSettings(model, window, base, short_prefix, stride, measure, chosen, documents)
        settings = replace(settings, dtype=dtype, rope=rope, drop_sliding_window=drop_sliding_window)
        score(corpus, output, settings, actors=actors, address=address)
        printed(render_statistics(describe(corpus, output, tagger=tagger)))


@app.command()
def merge(
    a: Annotated[str, typer.Argument(metavar="A", help="First checkpoint, for example the original model.")],
    b: Annotated[str, typer.Argument(metavar="B", help="Second checkpoint, for example the extended model.")],
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Directory to make, local or s3://.")],
    weight: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of B: 0 gives A, 1 gives B.")] = 0.5,
    rope: Annotated[
        Literal["a", "b"] | None, typer.Option(help="Whose RoPE settings to keep where they differ.")
    ] = None,
    vocabulary: Annotated[
        Literal["a", "b"] | None, typer.Option(help="Whose tokens to keep where they differ.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None,
        typer.Option(help="Type of the result's weights; the tensors' own if left out."),
    ] = None,
    take_over: TakeOver = False,
) -> None:
    """Average two checkpoints tensor by tensor."""
    with plain_errors():
        for text, name in ((a, "A"), (b, "B"), (output, "--output")):
            place(text, name)
        _writable(output, "--output")
        from longspan.merge.merge import merge_checkpoints

        result = merge_checkpoints(a, b, output, weight=weight, rope=rope, vocabulary=vocabulary, dtype=dtype)
        typer.echo(
            f"{output}: {result['tensors']} tensors, {result['parameters']:,} parameters, RoPE of {result['rope']}"
        )


@app.command()
def export(
    run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory of a finished E2-LLM training.")],
    window: Annotated[int, typer.Option(min=1, metavar="N", help="Window in tokens; its scale is written.")],
    output: Annotated[str, typer.Option("--output", metavar="DIR", help="Directory to make, local or s3://.")],
    take_over: TakeOver = False,
) -> None:
    """Write the checkpoint of an E2-LLM run at the scale of another window."""
    with plain_errors():
        for text, name in ((run, "RUN"), (output, "--output")):
            place(text, name)
        _writable(output, "--output")
        from longspan.launch.export import export_scale

        result = export_scale(run, window, output)
        typer.echo(f"{output}: window {window:,}, scale {result['scale']}, {result['files']} files")


@app.command()
def compare(
    comparison: Annotated[str, typer.Argument(metavar="COMPARE", help="Comparison, a YAML file (see jobs/compare/).")],
    overrides: Overrides = None,
    output: Output = None,
    take_over: TakeOver = False,
) -> None:
    """Train and ask several methods on one base, corpus and budget; writes the table, plots and verdicts on claims."""
    with plain_errors("the same command resumes with the runs that are not finished"):
        from longspan.config.compare import load_comparison

        loaded = load_comparison(comparison, with_output(overrides, output))
        _writable(loaded.output_uri)
        from longspan.compare.run import run_comparison

        run_comparison(loaded, typer.echo)


@app.command()
def sweep(
    space: Annotated[str, typer.Argument(metavar="SWEEP", help="Search space, a YAML file (see sweeps/).")],
    overrides: Overrides = None,
    output: Output = None,
    take_over: TakeOver = False,
) -> None:
    """Search recipe values with Ray Tune; writes the table, a plot and the best recipe."""
    with plain_errors("the same command resumes with the trials that are not finished"):
        from longspan.sweep.space import load_sweep

        loaded, base = load_sweep(space, with_output(overrides, output))
        _writable(loaded.output_uri)
        from longspan.sweep.run import render, run_sweep

        printed(render(loaded, run_sweep(loaded, base)))


@app.command()
def report(run: Annotated[str, typer.Argument(metavar="RUN", help="Run directory, local or s3://.")]) -> None:
    """Write RUN/report.html anew."""
    with plain_errors():
        _writable(place(run, "RUN"), "RUN")
        from longspan.observe.report import write_report

        typer.echo(write_report(run))


def _writable(uri: str, field: str = "output") -> None:
    from longspan.storage import check_output

    check_output(uri, field)


def main() -> None:
    app(prog_name="longspan")


if __name__ == "__main__":
    main()
