"""`longspan sample`: one training sample as the step will see it, as text with documents, positions and loss weights.

Of a run directory by its plan; of a recipe by the plan that it will have, made as far as that sample and not kept.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.config.load import load_recipe
from longspan.config.recipe import Recipe
from longspan.corpus.index import corpus_table
from longspan.corpus.manifest import Manifest, load_manifest
from longspan.corpus.plan_table import PlanReader, PlanRow, write_plan
from longspan.corpus.tokenizer import open_tokenizer
from longspan.errors import ConfigError
from longspan.feed.batch import MicroBatch, Sample
from longspan.feed.source import PLAN_FOLDER, Source, feed_spec
from longspan.launch.begun import RECIPE_FILE, read_staged
from longspan.launch.stage import check_recipe, located
from longspan.planner.settings import plan_settings
from longspan.sampling.plan import PlanPart, plan_parts

_EXCERPT = 160
_PADDING = -1


@dataclass(frozen=True)
class Piece:
    """Neighbouring tokens [start, stop) of a sample: of one document, with no splice, positions one after the other.

    Attributes:
        document: its number in the corpus; -1 for padding.
        first_position, last_position: what the rotary embedding gets.
        attention: number of the segment that it attends within.
        targets: tokens of it that have a target.
        weight: mean loss weight of those targets; 0 without any.
    """

    start: int
    stop: int
    document: int
    first_position: float
    last_position: float
    attention: int
    targets: int
    weight: float
    text: str


@dataclass(frozen=True)
class Shown:
    """A sample to be shown; `step` (from 1) is the optimizer step that trains it."""

    sample: int
    step: int
    source: str
    epoch: int
    pieces: list[Piece]
    batch: MicroBatch


def show_sample(where: str, number: int, overrides: list[str] | None = None) -> Shown:
    """Sample `number` (from 0) of a recipe file or a run directory.

    Raises:
        ConfigError: neither lies there, the recipe does not fit model or corpus, or it has no such sample.
        DataError: the corpus or the plan is damaged.
    """
    if storage.is_remote(where) or Path(where).is_dir():
        if overrides:
            raise ConfigError(
                f"--set: {where} is a run, whose samples are planned; give its recipe to try other values"
            )
        recipe = read_staged(storage.absolute(where)).model_copy(update={"output": storage.absolute(where)})
        if not storage.exists(storage.join(recipe.run_uri, PLAN_FOLDER, "plan.json")):
            raise ConfigError(f"{where}: its plan is not there; give {where}/{RECIPE_FILE}, or train it")
        return _shown(recipe, load_manifest(recipe.data.manifest), number)
    recipe = located(load_recipe(where, overrides or []))
    _, manifest = check_recipe(recipe)
    _check_number(number, recipe.num_samples)
    with tempfile.TemporaryDirectory(prefix="longspan-sample-") as folder:
        planned = recipe.model_copy(update={"output": folder})
        _plan_until(planned, manifest, number)
        return _shown(planned, manifest, number)


def _check_number(number: int, count: int) -> None:
    if not 0 <= number < count:
        raise ConfigError(f"N: {number} is no sample of the run; it has 0 to {count - 1}")


def _plan_until(recipe: Recipe, manifest: Manifest, number: int) -> None:
    table = corpus_table(recipe.data.manifest, manifest)
    settings = plan_settings(recipe, manifest.source_names)
    parts: list[PlanPart] = []
    for part in plan_parts(table, settings):
        parts.append(part)
        if part.first_sample + part.num_samples > number:
            break
    count = sum(part.num_samples for part in parts)
    uri = storage.join(recipe.run_uri, PLAN_FOLDER)
    made_for = {"manifest": manifest.fingerprint}
    write_plan(uri, parts, manifest.source_names, settings.sample_length, count, made_for)


def _shown(recipe: Recipe, manifest: Manifest, number: int) -> Shown:
    plan = PlanReader(storage.join(recipe.run_uri, PLAN_FOLDER))
    _check_number(number, plan.info.num_samples)
    (row,) = plan.rows(number, number + 1)
    sample, batch = Source(replace(feed_spec(recipe), micro_batch_size=1)).sample(number)
    tokenizer = open_tokenizer(recipe.data.manifest, manifest)

    def text(ids: NDArray[np.int32]) -> str:
        return str(tokenizer.decode(ids.tolist(), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    step = number // recipe.train.global_batch_size + 1
    return Shown(number, step, row.source, row.epoch, list(_pieces(row, sample, batch, text)), batch)


def _pieces(row: PlanRow, sample: Sample, batch: MicroBatch, text: Any) -> Iterator[Piece]:
    documents = _documents(row, sample, batch.num_tokens)
    spans = np.zeros(batch.num_tokens, np.int64)
    ends = np.cumsum(sample.lengths)
    spans[ends[ends < batch.num_tokens]] = 1
    attention = np.zeros(batch.num_tokens, np.int64)
    attention[batch.cu_seqlens[1:-1]] = 1
    cut = (np.diff(batch.positions, prepend=-1) != 1) | (np.diff(documents, prepend=-2) != 0) | (spans == 1)
    starts = np.flatnonzero(cut | (attention == 1) | (np.arange(batch.num_tokens) == 0)).tolist()
    segment = np.cumsum(attention)
    for start, stop in zip(starts, [*starts[1:], batch.num_tokens], strict=True):
        is_target = batch.labels[start:stop] >= 0
        weights = batch.loss_weight[start:stop][is_target]
        document = int(documents[start])
        yield Piece(
            start,
            stop,
            document,
            float(batch.positions[start]),
            float(batch.positions[stop - 1]),
            int(segment[start]),
            int(is_target.sum()),
            float(weights.mean()) if weights.size else 0.0,
            "" if document == _PADDING else text(batch.input_ids[start:stop]),
        )


def _documents(row: PlanRow, sample: Sample, num_tokens: int) -> NDArray[np.int64]:
    """The document of every token: what was kept of the sample lies inside the spans that the plan gave it."""
    documents = np.full(num_tokens, _PADDING, np.int64)
    stop = 0
    for offset, length in zip(sample.offsets.tolist(), sample.lengths.tolist(), strict=True):
        inside = (row.offsets <= offset) & (offset < row.offsets + row.lengths)
        documents[stop : stop + length] = row.documents[np.flatnonzero(inside)[0]]
        stop += length
    return documents


def sample_values(shown: Shown) -> dict[str, Any]:
    """The sample as JSON has it, every token with its position, label and weight."""
    batch = shown.batch
    arrays = ("input_ids", "positions", "labels", "loss_weight", "cu_seqlens")
    return {
        "sample": shown.sample,
        "step": shown.step,
        "source": shown.source,
        "epoch": shown.epoch,
        "pieces": [asdict(piece) for piece in shown.pieces],
        **{name: getattr(batch, name).tolist() for name in arrays},
    }


def render_sample(shown: Shown, whole: bool = False) -> Any:
    """The same for the console, long texts by their beginnings and ends unless `whole`."""
    from rich.table import Table
    from rich.text import Text

    batch = shown.batch
    tokens = sum(piece.stop - piece.start for piece in shown.pieces if piece.document != _PADDING)
    title = (
        f"sample {shown.sample} (step {shown.step}), source {shown.source}, epoch {shown.epoch}: {tokens:,} tokens,"
        f" {int((batch.labels >= 0).sum()):,} targets, positions to {batch.positions.max():,.6g},"
        f" {len(batch.cu_seqlens) - 1} attention segments"
    )
    table = Table(title=title, show_lines=True)
    for name in ("tokens", "document", "positions", "attends in", "targets", "weight"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("text", overflow="fold")
    for piece in shown.pieces:
        padding = piece.document == _PADDING
        table.add_row(
            f"{piece.start}-{piece.stop - 1}",
            "padding" if padding else str(piece.document),
            f"{piece.first_position:,.6g} to {piece.last_position:,.6g}",
            str(piece.attention),
            str(piece.targets),
            f"{piece.weight:.4g}",
            Text(piece.text if whole else _excerpt(piece.text)),
        )
    return table


def _excerpt(text: str) -> str:
    shown = text.replace("\n", "\u23ce")
    return shown if len(shown) <= _EXCERPT else f"{shown[: _EXCERPT // 2]} ... {shown[-_EXCERPT // 2 :]}"
