"""The models of an analysis: opened through longspan's own loading, checked against the corpus, told apart by content.

`run` checks and fingerprints them in the driver; each worker opens its own pair once.
"""

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from longspan import storage
from longspan.config.model import Model, Rope
from longspan.corpus.impact.settings import Machine, ScoreSettings, UntrainedRope
from longspan.corpus.manifest import Manifest
from longspan.errors import ConfigError
from longspan.evaluate.opening import open_for_evaluation
from longspan.model.checks import check_weights
from longspan.model.identity import is_directory, pinned
from longspan.model.load import extend_config, read_config
from longspan.rope import RopeSettings, from_hf
from longspan.rope.resolve import replacement

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pair:
    """The long-context model and the base, which is None where it is the same model."""

    long: nn.Module
    base: nn.Module | None


def open_pair(settings: ScoreSettings, machine: Machine) -> Pair:
    """Both models in evaluation mode on the device. Raises ConfigError as `open_for_evaluation`."""

    def opened(path: str, rope: RopeSettings | None = None) -> nn.Module:
        return open_for_evaluation(
            path,
            rope=rope,
            dtype=settings.dtype,
            device=machine.device,
            drop_sliding_window=settings.drop_sliding_window,
        )[0]

    long = opened(settings.model, _untrained_rope(settings))
    return Pair(long, opened(settings.base) if settings.base is not None else None)


def _untrained_rope(settings: ScoreSettings) -> RopeSettings | None:
    """What `settings.rope` is on the model, reaching the window; None where the model keeps its own."""
    if settings.rope is None:
        return None
    config = read_config(Model(path=settings.model, drop_sliding_window=settings.drop_sliding_window), "impact.model")
    return extend_config(config, _put_over(settings.rope), settings.window)


def _put_over(rope: UntrainedRope) -> Rope:
    """It is named to stand in the place of what the model has; `check_models` says what that was."""
    return Rope(type=rope, drop_scaling=True)


def check_models(settings: ScoreSettings, manifest: Manifest) -> dict[str, str]:
    """Fingerprints of `model`, and of `base` where there is one.

    A base whose prefix is not shortened may be read beyond its window: that is LongRecipe's own comparison.

    Raises:
        ConfigError: a model that cannot be read, whose window is shorter than what it is to read, or whose vocabulary
            does not hold the corpus's tokens; the message names the field.
    """
    found = {}
    wanted = {"model": (settings.model, settings.window if settings.rope is None else 0)}
    if settings.base is not None:
        wanted["base"] = (settings.base, settings.short_width if settings.short_prefix is not None else 0)
    for field, (path, width) in wanted.items():
        config = read_config(Model(path=path, drop_sliding_window=settings.drop_sliding_window), f"impact.{field}")
        check_weights(path, None, config, f"impact.{field}")
        if config.max_position_embeddings < width:
            raise ConfigError(
                f"impact.{field}: '{path}' has a window of {config.max_position_embeddings} tokens, but is to read"
                f" {width}; lower {'impact.window' if field == 'model' else 'impact.short_prefix'}"
            )
        if config.vocab_size < manifest.tokenizer.vocab_size:
            raise ConfigError(
                f"impact.{field}: '{path}' has {config.vocab_size} tokens, the corpus {manifest.tokenizer.vocab_size};"
                " take a model of the corpus's tokenizer, or prepare the corpus with the model's"
            )
        commit = None if is_directory(path) else pinned(Model(path=path)).revision
        found[field] = f"{path}@{commit}" if commit else model_fingerprint(path)
        if field == "model" and settings.rope is not None:
            own, rope = from_hf(config.to_dict()), _put_over(settings.rope)
            replaced = replacement(own, rope, extend_config(config, rope, settings.window))
            if replaced is not None:
                _logger.warning("impact.%s", replaced)
    return found


def model_fingerprint(path: str) -> str:
    """Digest of config and weights of a model directory (local or s3://): equal for equal files under any name.

    Raises:
        StorageError: the directory or a file could not be read.
    """
    folder = Path(storage.local_directory(path))
    files = sorted(file for file in folder.iterdir() if file.name == "config.json" or file.suffix == ".safetensors")
    lines = [f"{file.name} {storage.digest_file(file)}" for file in files]
    return storage.digest_bytes("\n".join(lines).encode())
