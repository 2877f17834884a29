"""`longspan export`: the checkpoint of an E2-LLM run for another window. The weights are the same, and are copied."""

import dataclasses
import json
import logging
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from longspan import storage
from longspan.checkpoint.card import as_file, origin_of, train_card
from longspan.checkpoint.export import complete_config
from longspan.config.recipe import Recipe
from longspan.errors import ConfigError
from longspan.launch.stage import read_staged
from longspan.merge.output import new_directory
from longspan.model.companions import CARD, companion_names, companions, tokenizer_note
from longspan.model.limits import Window
from longspan.rope import RopeSettings, e2_other_scale, e2_scale, from_hf, reader_notes

_logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint"


def export_scale(run: str, window: int, output: str) -> dict[str, Any]:
    """Write the checkpoint of the E2-LLM run at `run` to `output`, with the RoPE of one scale: that of `window`.

    Weights and companion files are copied byte for byte, one at a time; config.json comes last, and it, the limits
    that name the window, and the model card are those of the new one. Nothing of it needs the base model or a GPU.

    Args:
        run: run directory, local or s3://.
        window: longest input that the result is for, in tokens; its scale is ceil(window / the model's own window).
        output: directory to make, local or s3://; must be absent or empty.

    Returns:
        {output, window, scale, files}.

    Raises:
        HeldError: another driver writes to the output; LeaseLostError: one has taken it over.
        ConfigError: no run of E2-LLM, one that is not finished, a window below the model's own, or an output that is
            not empty.
        StorageError: something cannot be read or written.
    """
    recipe = read_staged(run)
    original, source = _checked(run, recipe, window), storage.join(run, CHECKPOINT)
    with storage.hold(output, "export"), tempfile.TemporaryDirectory() as place, new_directory(output) as put:
        names, folder = storage.list_files(source), Path(place)
        for name in names:
            if not name.endswith(".safetensors"):
                storage.download_file(storage.join(source, name), folder / name)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        settings, scale = _settings(recipe, config, original, window)
        for name in names:
            if name.endswith((".safetensors", ".safetensors.index.json")):
                put(name, partial(_fetch, storage.join(source, name)))
        moved = Window(config["max_position_embeddings"], window)
        trusted = recipe.model.trust_remote_code
        files = companions(folder, moved, trusted)
        card = as_file(_card(recipe, run, folder, settings, Window(original, window)))
        for name, write in {**files, **card}.items():
            put(name, write)
        code = {name for name in companion_names(folder, trusted) if name.endswith(".py")}

        def write_config(path: Path) -> None:
            path.write_text(json.dumps({**config, "max_position_embeddings": window}), encoding="utf-8")
            complete_config(path, settings, moved, code)

        put("config.json", write_config)
    return {"output": output, "window": window, "scale": scale, "files": len(names)}


def _checked(run: str, recipe: Recipe, window: int) -> int:
    """The model's own window in tokens, from which the scale is counted."""
    if recipe.rope.type != "e2llm" or recipe.positions.window is None:
        raise ConfigError(
            f"export: {run} was trained with rope.type: {recipe.rope.type}, whose checkpoint has one RoPE for every"
            f" window; only E2-LLM (rope.type: e2llm) has a scale for each. Take {storage.join(run, CHECKPOINT)} as it"
            " is"
        )
    if not storage.exists(storage.join(run, CHECKPOINT, "config.json")):
        raise ConfigError(
            f"export: {run} has no checkpoint yet; finish it with `longspan train {storage.join(run, 'recipe.yaml')}`"
        )
    if window < recipe.positions.window:
        raise ConfigError(
            f"export: --window {window} is below the model's own window of {recipe.positions.window} tokens; give that"
            " one or a longer one"
        )
    return recipe.positions.window


def _settings(recipe: Recipe, config: dict[str, Any], original: int, window: int) -> tuple[RopeSettings, int]:
    """The RoPE of the window and its scale, from the exported config.json and the scale that it was made for."""
    target = max(recipe.data.target_length, original)
    was, scale = recipe.rope.factor or e2_scale(target, original), e2_scale(window, original)
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    settings = e2_other_scale(from_hf(config), was, scale, original, head_dim)
    if scale > e2_scale(target, original):
        _logger.warning(
            "the scale of %d tokens is %d, and the run trained scales to %d: beyond them E2-LLM extrapolates",
            window,
            scale,
            e2_scale(target, original),
        )
    return settings, scale


def _card(recipe: Recipe, run: str, folder: Path, settings: RopeSettings, window: Window) -> str:
    known = (folder / CARD).is_file()
    origin = origin_of(recipe.model.path, recipe.model.revision, folder)
    if known:  # the run's own card says where it began
        origin = dataclasses.replace(origin, through=None)
    note = tokenizer_note(folder)
    notes = [*reader_notes(settings, window.new), *([note] if note else [])]
    return train_card(recipe, origin, settings, window, notes)


def _fetch(source: str, path: Path) -> None:
    storage.download_file(source, path)
