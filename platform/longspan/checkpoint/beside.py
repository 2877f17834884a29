"""What lies beside the weights of a run's result: the source's companion files and the model cards."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.checkpoint.card import adapter_card, as_file, origin_of, train_card
from longspan.config.recipe import Recipe
from longspan.corpus.manifest import load_manifest
from longspan.model.companions import Write, companions, has_tokenizer, model_folder, tokenizer_note
from longspan.model.limits import Window
from longspan.rope import RopeSettings, reader_notes

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beside:
    """What lies beside the weights of an export.

    Attributes:
        window: of the source and of the result; None leaves the limits in config.json as they are.
        files: companion files and model card, by their names.
        adapter_files: the same for the adapter of a run with LoRA.
    """

    window: Window | None = None
    files: Mapping[str, Write] = field(default_factory=dict)
    adapter_files: Mapping[str, Write] = field(default_factory=dict)


def beside_export(recipe: Recipe, config: Any, settings: RopeSettings) -> Beside:
    """What the export of a run has beside its weights. A model that brings no tokenizer gets the corpus's: on its
    tokens it was trained.

    Args:
        config: of `model.path`, from `model.load.read_config`, before its window is extended.
        settings: RoPE of the exported model.

    Raises:
        ConfigError: files of a hub name that cannot be fetched.
        DataError, StorageError: the corpus or the model's directory cannot be read.
    """
    model = recipe.model
    folder = model_folder(model.path, model.revision, model.trust_remote_code)
    old = config.max_position_embeddings
    window = Window(old, max(old, recipe.data.target_length))
    files = companions(folder, window, model.trust_remote_code)
    tokenizer = folder if has_tokenizer(folder) else _corpus_tokenizer(recipe)
    if tokenizer is not None and tokenizer != folder:
        files = {**files, **companions(tokenizer, window)}
    notes = list(reader_notes(settings, window.new))
    if tokenizer is not None and (note := tokenizer_note(tokenizer)):
        _logger.warning("%s", note)
        notes.append(note)
    origin = origin_of(model.path, getattr(config, "_commit_hash", None) or model.revision, folder)
    about = (recipe, origin, settings, window, notes)
    return Beside(window, {**files, **as_file(train_card(*about))}, {**files, **as_file(adapter_card(*about))})


def _corpus_tokenizer(recipe: Recipe) -> Path | None:
    manifest = load_manifest(recipe.data.manifest)
    if not manifest.tokenizer.files:
        return None
    return storage.local_directory(storage.join(recipe.data.manifest, manifest.tokenizer.directory))
