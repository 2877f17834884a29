"""Commands that look and train nothing: recipes and pipelines written out, one sample, the node's cache."""

import json
from typing import Annotated

import typer

from longspan.arguments import Overrides, PipelinePath, RecipePath, plain_errors, printed

recipe_app = typer.Typer(help="Look at recipes and pipelines.", no_args_is_help=True, rich_markup_mode=None)


def add_inspections(app: typer.Typer) -> None:
    """Give the command line these commands."""
    app.add_typer(recipe_app, name="recipe")
    app.command()(sample)
    app.command()(cache)


def sample(
    where: Annotated[str, typer.Argument(metavar="RECIPE|RUN", help="Recipe, a YAML file, or a run directory.")],
    number: Annotated[int, typer.Argument(metavar="N", min=0, help="Sample of the run, from 0.")],
    overrides: Overrides = None,
    whole: Annotated[bool, typer.Option("--full", help="All of the text, not its beginnings and ends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Plain JSON, token by token.")] = False,
) -> None:
    """Show a training sample as text with its documents, positions and loss weights, before or after training."""
    with plain_errors():
        from longspan.launch.sample import render_sample, sample_values, show_sample

        shown = show_sample(where, number, overrides)
        if as_json:
            typer.echo(json.dumps(sample_values(shown)))
        else:
            printed(render_sample(shown, whole))


def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove all that no process uses.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Plain JSON.")] = False,
) -> None:
    """Show what this node keeps of remote models, checkpoints and corpora, or clear it."""
    with plain_errors():
        from longspan.launch.node_cache import cache_values, clear_cache, render_cache

        if clear:
            typer.echo(clear_cache())
        elif as_json:
            typer.echo(json.dumps(cache_values(), indent=2))
        else:
            printed(render_cache())


@recipe_app.command("show")
def recipe_show(recipe: RecipePath, overrides: Overrides = None) -> None:
    """Print a recipe with every default written out."""
    with plain_errors():
        from longspan.config.load import load_recipe, to_yaml

        typer.echo(to_yaml(load_recipe(recipe, overrides or [])), nl=False)


@recipe_app.command("stages")
def recipe_stages(pipeline: PipelinePath, overrides: Overrides = None) -> None:
    """Print a pipeline with every default of every stage written out."""
    with plain_errors():
        from longspan.config.pipeline import load_pipeline, show_pipeline

        typer.echo(show_pipeline(load_pipeline(pipeline, overrides or [])), nl=False)


@recipe_app.command("schema")
def recipe_schema() -> None:
    """Print the JSON schema of recipes, with help for every field (for editors)."""
    from longspan.config.recipe import Recipe

    typer.echo(json.dumps(Recipe.model_json_schema(), indent=2))
