"""Whether a corpus was tokenised with the model's own tokenizer: asked before a run is staged or previewed."""

from pathlib import Path
from typing import Any

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.corpus.manifest import Manifest
from longspan.corpus.tokenizer import open_tokenizer
from longspan.errors import ConfigError

_FAST = "tokenizer.json"
_FILES = (_FAST, "tokenizer_config.json", "tokenizer.model", "vocab.json")


def check_tokenizer(recipe: Recipe, manifest: Manifest) -> None:
    """Every id of the manifest's vocabulary must stand for the same token in the model's tokenizer.

    A model directory without a tokenizer passes, and so does a model whose vocabulary goes on after the manifest's.

    Raises:
        ConfigError: an id means another token; the model's tokenizer cannot be loaded.
        DataError, StorageError: the corpus's tokenizer cannot be read.
    """
    path = recipe.model.path
    folder = Path(storage.local_directory(path) if storage.is_remote(path) else path)
    if folder.is_dir():
        if not any((folder / name).is_file() for name in _FILES):
            return
        digest = manifest.tokenizer.files.get(_FAST)
        if (folder / _FAST).is_file() and storage.digest_file(str(folder / _FAST)) == digest:
            return
    model = _model_vocabulary(recipe, str(folder) if folder.is_dir() else path)
    corpus = open_tokenizer(recipe.data.manifest, manifest).get_vocab()
    wrong = min(((number, token) for token, number in corpus.items() if model.get(number) != token), default=None)
    if wrong is not None:
        number, token = wrong
        found = repr(model[number]) if number in model else "no token"
        raise ConfigError(
            f"data.manifest: prepared with another tokenizer than the model's (id {number}: {token!r} there, {found} in"
            f" the model); prepare the corpus with tokenizer.path: {path}"
        )


def _model_vocabulary(recipe: Recipe, path: str) -> dict[int, str]:
    """Tokens by id. No code of the repository is run, whatever the recipe allows the model."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(path, revision=recipe.model.revision, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"model.path: the tokenizer of '{recipe.model.path}' cannot be loaded ({reason}); mend or remove its files"
        ) from None
    return {number: token for token, number in tokenizer.get_vocab().items()}
