"""Whether a corpus was tokenised with the model's own tokenizer: asked before a run is staged or previewed."""

from typing import Any

from longspan.config.recipe import Recipe
from longspan.corpus.manifest import Manifest
from longspan.corpus.tokenizer import num_ids, open_tokenizer
from longspan.corpus.tokenizer_files import has_tokenizer, open_tokenizer_files, probe_ids
from longspan.errors import ConfigError


def check_tokenizer(recipe: Recipe, manifest: Manifest, rows: int) -> None:
    """Every id of the manifest's vocabulary must stand for the same token in the model's tokenizer, both must cut text
    alike, and the model must have an embedding for each of its ids.

    A model directory without a tokenizer passes, and so does a model whose vocabulary goes on after the manifest's.

    Args:
        rows: of the model's embedding (vocab_size); more than its tokenizer has ids is padding.

    Raises:
        ConfigError: an id means another token, or has no embedding; a text has other tokens; the model's tokenizer
            cannot be loaded.
        DataError, StorageError: the corpus's tokenizer cannot be read.
    """
    path = recipe.model.path
    if not has_tokenizer(path, recipe.model.revision):
        _check_rows("data.manifest: its tokenizer", manifest.tokenizer.vocab_size, rows)
        return
    own: Any = open_tokenizer_files(path, recipe.model.revision, field="model.path", say=True)
    _check_rows(f"model.path: the tokenizer of '{path}'", num_ids(own), rows)
    corpus: Any = open_tokenizer(recipe.data.manifest, manifest)
    model = {number: token for token, number in own.get_vocab().items()}
    wrong = min(
        ((number, token) for token, number in corpus.get_vocab().items() if model.get(number) != token), default=None
    )
    prepare = f"prepare the corpus with tokenizer.path: {path}"
    if wrong is not None:
        number, token = wrong
        found = repr(model[number]) if number in model else "no token"
        raise ConfigError(
            f"data.manifest: prepared with another tokenizer than the model's (id {number}: {token!r} there, {found} in"
            f" the model); {prepare}"
        )
    if probe_ids(own) != probe_ids(corpus):
        raise ConfigError(
            "data.manifest: prepared with a tokenizer that has the model's tokens, but cuts text into others;"
            f" {prepare}"
        )


def _check_rows(whose: str, ids: int, rows: int) -> None:
    if ids > rows:
        raise ConfigError(
            f"{whose} has {ids} ids, but the model's embedding {rows} rows (vocab_size); take the tokens beyond out of"
            " the tokenizer, or give the model rows for them (resize_token_embeddings of transformers)"
        )
