"""`longspan plan`: what a recipe will do and cost, with plots, before anything is spent."""

import logging
from typing import Any

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.corpus.index import corpus_table
from longspan.errors import HeldError
from longspan.launch.stage import check_recipe
from longspan.launch.survey import describe_survey, open_survey, watched, write_description
from longspan.observe.report import write_plan_plots
from longspan.planner.render import render
from longspan.planner.settings import plan_settings
from longspan.sampling.plan import plan_parts

_logger = logging.getLogger(__name__)


def preview(recipe: Recipe) -> list[Any]:
    """Tables for the console; writes RUN/plan.json and the plan's plots under RUN/plots, unless a driver holds RUN.

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
    try:
        with storage.hold(recipe.run_uri, "plan"):
            write_description(recipe, description)
            write_plan_plots(recipe.run_uri, description)
    except HeldError as error:  # a run may be looked at while it trains, but its plan.json is its own
        _logger.warning("plan.json and plots are not written: %s", error)
    return list(render(description))
