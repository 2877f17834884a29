"""`longspan plan`: what a recipe will do and cost, with plots, before anything is spent."""

from typing import Any

from longspan.config.recipe import Recipe
from longspan.corpus.index import corpus_table
from longspan.launch.stage import check_recipe
from longspan.launch.survey import describe_survey, open_survey, watched, write_description
from longspan.observe.report import write_plan_plots
from longspan.planner.render import render
from longspan.planner.settings import plan_settings
from longspan.sampling.plan import plan_parts


def preview(recipe: Recipe) -> list[Any]:
    """Tables for the console; writes RUN/plan.json and the plots of the plan under RUN/plots.

    The plan is made and counted in one pass and not kept.

    Raises:
        ConfigError, TopologyError, DataError: as `launch.stage.check_recipe`, or the mix asks for what is not there.
    """
    config, manifest = check_recipe(recipe)
    table = corpus_table(recipe.data.manifest, manifest)
    settings = plan_settings(recipe, manifest.source_names)
    survey = open_survey(table, settings)
    for _ in watched(plan_parts(table, settings), survey):
        pass
    description = describe_survey(recipe, config, manifest, survey)
    write_description(recipe, description)
    write_plan_plots(recipe.run_uri, description)
    return list(render(description))
