"""What lies at the places that a recipe names, for records that outlive it: models and corpora by content, so that
one put in another's place under the same path is noticed, and one that is gone is no difference.

Pipelines, comparisons and evaluations keep these beside their results; a run has them in RUN/model.json and RUN/plan.
"""

from collections.abc import Mapping
from typing import Any

from longspan.config.model import Model
from longspan.config.recipe import Recipe
from longspan.corpus.manifest import load_manifest
from longspan.errors import LongspanError
from longspan.feed.scores import scores_mark
from longspan.model.identity import identify, model_changes, pinned

Contents = Mapping[str, Any]
"""By field: `model.path` an identity, `data.manifest` and `evaluate.manifest` a corpus' fingerprint, `data.scores`
those of the analyses. What could not be read is not there.
"""


def recipe_contents(recipe: Recipe) -> dict[str, Any]:
    """Of the model, the corpus and the scores of a recipe."""
    return {
        **model_contents(recipe.model),
        **corpus_contents("data.manifest", recipe.data.manifest),
        **_known("data.scores", lambda: scores_mark(recipe)),
    }


def model_contents(model: Model) -> dict[str, Any]:
    return _known("model.path", lambda: identify(pinned(model)))


def corpus_contents(field: str, manifest_uri: str) -> dict[str, Any]:
    return _known(field, lambda: load_manifest(manifest_uri).fingerprint)


def _known(field: str, read: Any) -> dict[str, Any]:
    try:
        return {field: read()}
    except LongspanError:  # gone, or not to be reached: nothing can be said of it
        return {}


def content_changes(old: Contents, new: Contents) -> list[str]:
    """What differs of what both have, each by its field, and of a model by file and key."""
    found = []
    for field in old:
        if field not in new or old[field] == new[field]:
            continue
        if field == "model.path":
            found += [f"model.path: {change}" for change in model_changes(old[field], new[field])]
        else:
            found.append(f"{field}: another {'analysis' if field == 'data.scores' else 'corpus'} lies there now")
    return found
