"""One look at a plan while it passes by: its figures, some of its samples, and a line of progress.

`stage` looks while it writes the plan, `preview` without writing it; both get the same description. What is kept does
not grow with the plan.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.config.resume import run_mark
from longspan.corpus.manifest import Manifest
from longspan.corpus.reader import TokenReader
from longspan.feed.attention_window import limit_attention
from longspan.feed.batch import BatchSettings, Sample, make_micro_batch, spans_of
from longspan.feed.interleave import interleave_samples
from longspan.feed.scores import apply_scores, open_scores, score_use
from longspan.feed.segments import segment_ends
from longspan.feed.source import position_method
from longspan.model.load import read_config
from longspan.planner.data import documents_in_samples, tokens_in_samples
from longspan.planner.describe import describe_plan
from longspan.positions import coverage_unit
from longspan.rope import from_hf
from longspan.rope.resolve import replacement
from longspan.sampling.plan import PlanPart, PlanSettings
from longspan.sampling.statistics import LENGTH_BUCKETS, PlanStatistics, open_statistics
from longspan.sampling.table import CorpusTable

DESCRIPTION_FILE = "plan.json"
SAMPLES_MEASURED = 256
_SPANS_MEASURED = 1024
"""Each may lie in a chunk of its own, which is fetched whole: what is read of a far corpus stays below a gigabyte."""
_LINE_AFTER_S = 10.0


@dataclass
class Survey:
    """What is kept of a plan that has passed by.

    Attributes:
        statistics: counts over all parts.
        documents_per_sample: int64 [LENGTH_BUCKETS], samples by the power of two at or below their documents.
        tokens_per_sample: int64 [sample_length + 1], samples by their tokens.
        wanted: int64 [<= SAMPLES_MEASURED], samples spread evenly over the run.
        picked: those of them that have passed.
    """

    statistics: PlanStatistics
    documents_per_sample: NDArray[np.int64]
    tokens_per_sample: NDArray[np.int64]
    wanted: NDArray[np.int64]
    picked: list[Sample] = field(default_factory=list)


def open_survey(table: CorpusTable, settings: PlanSettings) -> Survey:
    """An empty one, for a plan of `settings` over `table`."""
    count = min(SAMPLES_MEASURED, settings.num_samples)
    return Survey(
        statistics=open_statistics(table, settings),
        documents_per_sample=np.zeros(LENGTH_BUCKETS, np.int64),
        tokens_per_sample=np.zeros(settings.sample_length + 1, np.int64),
        wanted=np.unique(np.linspace(0, settings.num_samples - 1, count).astype(np.int64)),
    )


def watched(parts: Iterable[PlanPart], survey: Survey) -> Iterator[PlanPart]:
    """The parts as they come, each counted in `survey`; says on stderr how far it is where that takes long."""
    say = progress_lines(survey.statistics.settings.num_samples)
    for part in parts:
        survey.statistics.add(part)
        survey.documents_per_sample += documents_in_samples(part)
        survey.tokens_per_sample += tokens_in_samples(part, survey.statistics.settings.sample_length)
        end = part.first_sample + part.num_samples
        for index in survey.wanted[slice(*np.searchsorted(survey.wanted, [part.first_sample, end]))].tolist():
            spans = slice(*part.span_offsets[index - part.first_sample : index - part.first_sample + 2])
            # Copies: a view would keep the whole part.
            survey.picked.append(Sample(index, part.offset[spans].copy(), part.length[spans].copy()))
        say(end)
        yield part


def progress_lines(
    total: int, write: Callable[[str], object] | None = None, clock: Callable[[], float] = time.monotonic
) -> Callable[[int], None]:
    """A function of the samples done that writes a line (to stderr by default) every ten seconds, the first after ten.

    A plan that is made sooner says nothing.
    """
    out = sys.stderr.write if write is None else write
    began = said = clock()

    def say(done: int) -> None:
        nonlocal said
        now = clock()
        if now - said >= _LINE_AFTER_S and done < total:
            left = (now - began) * (total - done) / done
            out(f"plan {done:,} of {total:,} samples ({done / total:.0%}), {left:,.0f} s left\n")
            said = now

    return say


def describe_survey(recipe: Recipe, config: Any, manifest: Manifest, survey: Survey) -> dict[str, Any]:
    """The description of the plan (`planner.describe_plan`) under the fingerprints of its recipe and corpus.

    Args:
        config: the transformers config with the run's RoPE in it.

    Raises:
        DataError: a chunk of a measured sample is missing or damaged.
    """
    fields = config.to_dict()
    settings = from_hf(fields)
    description = describe_plan(
        recipe,
        survey.statistics,
        survey.documents_per_sample,
        survey.tokens_per_sample,
        {name: source.length_histogram for name, source in manifest.sources.items()},
        fields,
        settings,
        _positions(recipe, manifest, survey.picked),
    )
    replaced = replacement(from_hf(read_config(recipe.model).to_dict()), recipe.rope, settings)
    if replaced is not None:
        description["warnings"].insert(0, replaced)
    return {"recipe": run_mark(recipe), "manifest": manifest.fingerprint, **description}


def write_description(recipe: Recipe, description: dict[str, Any]) -> None:
    """RUN/plan.json."""
    uri = storage.join(recipe.run_uri, DESCRIPTION_FILE)
    storage.write_text(uri, json.dumps(description, indent=1) + "\n")


def _positions(recipe: Recipe, manifest: Manifest, picked: list[Sample]) -> Iterator[tuple[Any, Any]]:
    """(positions, cu_seqlens) of the samples as training will see them, without their padding."""
    while len(picked) > 1 and sum(sample.lengths.size for sample in picked) > _SPANS_MEASURED:
        picked = picked[::2]
    reader = TokenReader(recipe.data.manifest, manifest, disk_bytes=recipe.parallel.shard_cache_bytes)
    method = position_method(recipe)
    settings = BatchSettings(
        recipe.data.sample_length,
        recipe.data.target_length,
        method,
        recipe.data.document_mask,
        recipe.seed,
        segment_ends(recipe.data.manifest, manifest, method),
    )
    scores = open_scores(score_use(recipe), manifest, recipe.seed)
    for sample in picked:
        chosen, tokens = apply_scores(scores, [sample], reader.gather(*spans_of([sample])))
        if recipe.data.interleave:
            chosen, tokens = interleave_samples(
                chosen, tokens, recipe.data.interleave, document_mask=recipe.data.document_mask, seed=recipe.seed
            )
        batch = make_micro_batch(chosen, tokens, settings)
        if recipe.data.attention_window:
            batch = limit_attention(batch, chosen, recipe.data.attention_window, recipe.train.global_batch_size)
        size = int(chosen[0].lengths.sum())
        positions = batch.positions[:size] * np.float32(coverage_unit(method, recipe.data.target_length))
        yield positions, batch.cu_seqlens[batch.cu_seqlens <= size]
