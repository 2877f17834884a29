"""Where a micro-batch comes from: the run's plan and the corpus' shards, opened once a process."""

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from longspan import storage
from longspan.config.attention_window import AttentionWindow
from longspan.config.data import Interleave
from longspan.config.recipe import Recipe
from longspan.config.weighting import SequenceMean
from longspan.corpus.changed import expect_manifest
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import PlanReader, read_plan_info
from longspan.corpus.reader import MEMORY_BYTES, TokenReader
from longspan.corpus.writer import TOKEN_BYTES
from longspan.errors import DataError
from longspan.feed.attention_window import limit_attention
from longspan.feed.batch import BatchSettings, MicroBatch, Sample, make_micro_batch, spans_of, split_rows
from longspan.feed.interleave import interleave_samples
from longspan.feed.scores import NO_SCORES, ScoreUse, apply_scores, open_scores, score_use
from longspan.feed.segments import segment_ends
from longspan.feed.weighting import weigh_sequences
from longspan.positions import CREAM, E2LLM, Contiguous, LongRecipe, PoSE, PositionMethod, RandPos, check_scales

PLAN_FOLDER = "plan"
_MOST_MEMORY_BYTES = 2 << 30
_OPEN_SOURCES = 2

_sources: "OrderedDict[FeedSpec, Source]" = OrderedDict()
_lock = threading.Lock()


@dataclass(frozen=True)
class FeedSpec:
    """What a feed worker needs, small enough to travel with every task."""

    plan_uri: str
    plan_fingerprint: str
    """Of the plan as the driver saw it; workers refuse another one in its place."""
    manifest_uri: str
    manifest_fingerprint: str
    """Of the corpus that the plan was made for; workers refuse another one."""
    sample_length: int
    micro_batch_size: int
    global_batch_size: int
    target_length: int
    document_mask: bool
    method: PositionMethod
    seed: int
    shard_cache_bytes: int
    """Disk of a node for chunks of a corpus in a store."""
    chunk_memory_bytes: int = MEMORY_BYTES
    """Memory of a process for chunks: what is shuffled together is read together."""
    score_use: ScoreUse = NO_SCORES
    interleave: Interleave | None = None
    """Chunks of each sample's documents are mixed (`interleave.interleave_samples`)."""
    sequence_mean: bool = False
    """Every sequence counts alike in the loss (`weighting.weigh_sequences`)."""
    attention_window: AttentionWindow | None = None
    """Attention stays in blocks that widen with the steps (`attention_window.limit_attention`)."""

    @property
    def micro_batches_per_step(self) -> int:
        return self.global_batch_size // self.micro_batch_size


def position_method(recipe: Recipe) -> PositionMethod:
    """The method that the recipe names; what it leaves out is the method's own default.

    Raises:
        ConfigError: settings that do not go with the data section.
    """
    settings = recipe.positions.model_dump(exclude_none=True)
    match settings.pop("type"):
        case "contiguous":
            return Contiguous()
        case "longrecipe":
            return LongRecipe(**settings)
        case "pose":
            return PoSE(**settings)
        case "randpos":
            return RandPos()
        case "cream":
            return CREAM(**settings)
        case _:
            method = E2LLM(**settings)
            check_scales(method, recipe.data.target_length)
            return method


def feed_spec(recipe: Recipe) -> FeedSpec:
    """The feed of a staged run.

    Raises:
        DataError: the plan or an analysis cannot be read, or the plan is not one for samples of this length.
    """
    plan_uri = storage.absolute(storage.join(recipe.run_uri, PLAN_FOLDER))
    info = read_plan_info(plan_uri)
    if info.sample_length != recipe.data.plan_length:
        field = "data.selection.from_length" if recipe.data.selection else "data.sample_length"
        raise DataError(
            f"{plan_uri}: a plan of samples of {info.sample_length} tokens, but {field} is"
            f" {recipe.data.plan_length}; give the run another output"
        )
    return FeedSpec(
        plan_uri=plan_uri,
        plan_fingerprint=info.fingerprint,
        manifest_uri=storage.absolute(recipe.data.manifest),
        manifest_fingerprint=info.metadata["manifest"],
        sample_length=recipe.data.sample_length,
        micro_batch_size=recipe.train.micro_batch_size,
        global_batch_size=recipe.train.global_batch_size,
        target_length=recipe.data.target_length,
        document_mask=recipe.data.document_mask,
        method=position_method(recipe),
        seed=recipe.seed,
        shard_cache_bytes=recipe.parallel.shard_cache_bytes,
        chunk_memory_bytes=chunk_memory(recipe),
        score_use=score_use(recipe),
        interleave=recipe.data.interleave,
        sequence_mean=isinstance(recipe.data.loss_weighting, SequenceMean),
        attention_window=recipe.data.attention_window,
    )


def chunk_memory(recipe: Recipe) -> int:
    """Bytes that hold the shuffle windows of all sources of the mix at once, and something over; at most 2 GiB."""
    names = {name for phase in recipe.data.mix for mix in (phase, phase.short) if mix for name in mix.weights}
    windows = len(names) * recipe.data.shuffle_tokens * TOKEN_BYTES
    return min(max(MEMORY_BYTES, windows * 5 // 4), _MOST_MEMORY_BYTES)


class Source:
    """Micro-batch k of the run, for any k, in any order: a pure function of the spec and k. Safe in threads."""

    def __init__(self, spec: FeedSpec) -> None:
        """
        Raises:
            DataError: plan or corpus cannot be read, or are not those of the spec; says what changed.
        """
        self._spec = spec
        manifest = load_manifest(spec.manifest_uri)
        expect_manifest(spec.manifest_uri, manifest, spec.manifest_fingerprint, spec.plan_uri)
        self._plan = PlanReader(spec.plan_uri)
        if self._plan.info.fingerprint != spec.plan_fingerprint:
            raise DataError(
                f"{spec.plan_uri}: the plan was written anew since the run began; run the same command again, which"
                f" resumes by it"
            )
        self._reader = TokenReader(
            spec.manifest_uri,
            manifest,
            memory_bytes=spec.chunk_memory_bytes,
            disk_bytes=spec.shard_cache_bytes,
        )
        self._settings = BatchSettings(
            sample_length=spec.sample_length,
            target_length=spec.target_length,
            method=spec.method,
            document_mask=spec.document_mask,
            seed=spec.seed,
            ends_segment=segment_ends(spec.manifest_uri, manifest, spec.method),
        )
        self._scores = open_scores(spec.score_use, manifest, spec.seed)

    def micro_batch(self, index: int) -> MicroBatch:
        """Micro-batch `index`: samples [index * micro_batch_size, (index + 1) * micro_batch_size)."""
        return self.micro_batches([index])[0]

    def micro_batches(self, indices: Sequence[int]) -> list[MicroBatch]:
        """`micro_batch` of each index; what they need from a store is fetched side by side."""
        if not indices:
            return []
        batches = [self._samples(index) for index in indices]
        row = self._row([sample for batch in batches for sample in batch])[1]
        return split_rows(row, [batch[0].index for batch in batches])

    def sample(self, number: int) -> tuple[Sample, MicroBatch]:
        """Sample `number` by itself: what is taken of the corpus for it, and its arrays as in any micro-batch."""
        (row,) = self._plan.rows(number, number + 1)
        samples, batch = self._row([Sample(row.sample, row.offsets, row.lengths)])
        return samples[0], batch

    def _row(self, samples: list[Sample]) -> tuple[list[Sample], MicroBatch]:
        """The samples after selection and interleaving, and their arrays end to end."""
        samples, tokens = apply_scores(self._scores, samples, self._reader.gather(*spans_of(samples)))
        spec = self._spec
        if spec.interleave:
            samples, tokens = interleave_samples(
                samples, tokens, spec.interleave, document_mask=spec.document_mask, seed=spec.seed
            )
        row = make_micro_batch(samples, tokens, self._settings)
        if spec.sequence_mean:
            row = weigh_sequences(row, samples)
        if spec.attention_window:
            row = limit_attention(row, samples, spec.attention_window, spec.global_batch_size)
        return samples, row

    def _samples(self, index: int) -> list[Sample]:
        first = index * self._spec.micro_batch_size
        rows = self._plan.rows(first, first + self._spec.micro_batch_size)
        return [Sample(row.sample, row.offsets, row.lengths) for row in rows]


def open_source(spec: FeedSpec) -> Source:
    """The source of `spec`, kept between the tasks of one process; of other runs the last one is kept besides.

    Raises as `Source`.
    """
    with _lock:
        if spec not in _sources:
            _sources[spec] = Source(spec)
        _sources.move_to_end(spec)
        while len(_sources) > _OPEN_SOURCES:
            _sources.popitem(last=False)
        return _sources[spec]


def group_indices(spec: FeedSpec, step: int, group: int, groups: int) -> range:
    """Micro-batches of optimizer step `step` (0-based) that data-parallel group `group` of `groups` computes.

    A step is always the same samples, whatever the number of groups; each group takes a neighbouring share.
    """
    per_group = spec.micro_batches_per_step // groups
    first = step * spec.micro_batches_per_step + group * per_group
    return range(first, first + per_group)
