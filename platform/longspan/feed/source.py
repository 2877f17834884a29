"""Where a micro-batch comes from: the run's plan and the corpus' shards, opened once a process."""

from dataclasses import dataclass
from functools import lru_cache

from longspan import storage
from longspan.config.recipe import Recipe
from longspan.corpus.manifest import load_manifest
from longspan.corpus.plan_table import read_plan_metadata, read_plan_rows
from longspan.corpus.shards import ShardReader
from longspan.errors import DataError
from longspan.feed.batch import BatchSettings, MicroBatch, Sample, make_micro_batch
from longspan.positions import Contiguous, LongRecipe, PoSE, PositionMethod, RandPos

PLAN_FILE = "plan.parquet"


@dataclass(frozen=True)
class FeedSpec:
    """What a feed worker needs, small enough to travel with every task."""

    plan_uri: str
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

    @property
    def micro_batches_per_step(self) -> int:
        return self.global_batch_size // self.micro_batch_size


def position_method(recipe: Recipe) -> PositionMethod:
    settings = recipe.positions
    match settings.type:
        case "contiguous":
            return Contiguous()
        case "longrecipe":
            return LongRecipe(variant=settings.variant, min_segments=settings.min_segments)
        case "pose":
            return PoSE(num_chunks=settings.num_chunks)
        case "randpos":
            return RandPos()


def feed_spec(recipe: Recipe) -> FeedSpec:
    """The feed of a staged run.

    Raises:
        DataError: the plan cannot be read.
    """
    plan_uri = storage.join(recipe.run_uri, PLAN_FILE)
    return FeedSpec(
        plan_uri=storage.absolute(plan_uri),
        manifest_uri=storage.absolute(recipe.data.manifest),
        manifest_fingerprint=read_plan_metadata(plan_uri)["manifest"],
        sample_length=recipe.data.sample_length,
        micro_batch_size=recipe.train.micro_batch_size,
        global_batch_size=recipe.train.global_batch_size,
        target_length=recipe.data.target_length,
        document_mask=recipe.data.document_mask,
        method=position_method(recipe),
        seed=recipe.seed,
    )


class Source:
    """Micro-batch k of the run, for any k, in any order: a pure function of the spec and k."""

    def __init__(self, spec: FeedSpec) -> None:
        self._spec = spec
        manifest = load_manifest(spec.manifest_uri)
        if manifest.fingerprint != spec.manifest_fingerprint:
            raise DataError(
                f"{spec.manifest_uri}: the corpus has changed since the plan was made; give the run another output"
            )
        self._reader = ShardReader(spec.manifest_uri, manifest)
        self._settings = BatchSettings(
            spec.target_length, spec.method, spec.document_mask, spec.seed, manifest.ends_sentence()
        )

    def micro_batch(self, index: int) -> MicroBatch:
        """Micro-batch `index`: samples [index * micro_batch_size, (index + 1) * micro_batch_size)."""
        first = index * self._spec.micro_batch_size
        rows = read_plan_rows(self._spec.plan_uri, first, first + self._spec.micro_batch_size)
        samples = [Sample(row.sample, row.documents, row.starts, row.lengths) for row in rows]
        return make_micro_batch(samples, self._reader.document, self._settings)


@lru_cache(maxsize=2)
def open_source(spec: FeedSpec) -> Source:
    """The source of `spec`, kept between the tasks of one process."""
    return Source(spec)


def group_indices(spec: FeedSpec, step: int, group: int, groups: int) -> range:
    """Micro-batches of optimizer step `step` (0-based) that data-parallel group `group` of `groups` computes.

    A step is always the same samples, whatever the number of groups; each group takes a neighbouring share.
    """
    per_group = spec.micro_batches_per_step // groups
    first = step * spec.micro_batches_per_step + group * per_group
    return range(first, first + per_group)
