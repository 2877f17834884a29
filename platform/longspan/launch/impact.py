"""`longspan impact` on a machine or a cluster: scores a corpus with progress on stderr, then says what has them.

Here or on Ray's actors, by the same function on the same units, so both write the same files.
"""

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from longspan import storage
from longspan.corpus.impact.manifest import ImpactManifest
from longspan.corpus.impact.settings import Machine, ScoreSettings
from longspan.corpus.manifest import named_manifest
from longspan.observe.formatting import compact

if TYPE_CHECKING:
    from longspan.impact.run import RunUnits, Status
    from longspan.impact.statistics import ImpactStatistics

STATISTICS_FILE = "statistics.json"
PLOT_FILE = "statistics.png"
_LINE_INTERVAL_S = 15.0


def score(
    corpus: str,
    output: str,
    settings: ScoreSettings,
    machine: Machine | None = None,
    *,
    actors: int = 0,
    cpus_per_actor: float = 1.0,
    address: str | None = None,
) -> ImpactManifest:
    """`impact.run.score_corpus` with progress on stderr; an interrupted analysis is gone on with.

    Args:
        corpus, output: folders, local or s3://.
        actors: processes on Ray that each hold the models; 0 is one for each GPU of the cluster. More than 1 asks for
            Ray, and so does an address; else all is done in this process.
        address: of a Ray cluster; RAY_ADDRESS stands for it.

    Raises:
        LongspanError: as `score_corpus`, or LaunchError: no such cluster, or its actors kept failing.
    """
    from longspan.impact.run import score_corpus

    named_manifest(corpus, "impact: corpus")
    with _progress(sys.stderr) as (say, watch):
        runner = _runner(actors, cpus_per_actor, address, say)
        return score_corpus(corpus, output, settings, machine, run_units=runner, say=say, watch=watch)


def describe(
    corpus: str, output: str, *, top_share: float = 0.2, tagger: str | None = None, min_count: int = 20
) -> "ImpactStatistics":
    """Statistics of a finished analysis; writes OUTPUT/statistics.json, OUTPUT/statistics.png and, for selection by
    vocabulary item, OUTPUT/vocabulary.parquet.

    Args:
        tagger: `spacy`, `spacy:MODEL` or `nltk` for parts of speech; None counts token types only.

    Raises:
        ConfigError, DataError, StorageError: as `impact.statistics.collect_statistics` and `open_tagger`.
    """
    from longspan.corpus.impact.vocabulary import write_vocabulary
    from longspan.impact.part_of_speech import open_tagger
    from longspan.impact.plots import plot_statistics
    from longspan.impact.statistics import collect_statistics, vocabulary_scores, write_statistics

    opened = open_tagger(tagger) if tagger is not None else None
    found = collect_statistics(output, corpus, top_share=top_share, tagger=opened, min_count=min_count)
    with storage.hold(output, "impact"), tempfile.TemporaryDirectory() as folder:
        write_statistics(found, storage.join(output, STATISTICS_FILE))
        write_vocabulary(output, vocabulary_scores(output, corpus))
        picture = Path(folder) / PLOT_FILE
        plot_statistics(found, picture)
        storage.write_bytes(storage.join(output, PLOT_FILE), picture.read_bytes())
    return found


def render_statistics(statistics: "ImpactStatistics") -> Any:
    """A table for the console: parts of speech if they were tagged, else token types, the most impactful first."""
    from rich.table import Table

    kinds = statistics.by_part_of_speech if statistics.by_part_of_speech is not None else statistics.by_type
    table = Table(
        title=f"{compact(statistics.tokens)} scored tokens, top {statistics.top_share:.0%} at each range of positions"
    )
    for name in ("kind", "tokens", "mean score", "share of top", "lift"):
        table.add_column(name, justify="left" if name == "kind" else "right")
    for kind in sorted(kinds, key=lambda kind: -kind.lift):
        table.add_row(
            kind.name, compact(kind.count), f"{kind.mean:.3f}", f"{kind.share_of_top:.1%}", f"{kind.lift:.2f}"
        )
    return table


def _runner(actors: int, cpus_per_actor: float, address: str | None, say: Callable[[str], None]) -> "RunUnits":
    """Runs units in this process unless Ray is asked for; a cluster is joined only if there is something to do."""
    from longspan.impact.run import Done, DoUnit, in_order

    asked = actors > 1 or bool(address or os.environ.get("RAY_ADDRESS"))

    def run(do_unit: DoUnit, units: Sequence[Any]) -> Iterable[Done]:
        if not asked or not units:
            return in_order(do_unit, units)
        import ray

        from longspan.impact.on_ray import ray_runner
        from longspan.launch.cluster import join_cluster

        if not ray.is_initialized():
            join_cluster(address, actors * cpus_per_actor + 1, "--address")
            say(f"Ray: {ray.cluster_resources().get('CPU', 0):g} CPU slots")
        return ray_runner(actors, cpus_per_actor)(do_unit, units)

    return run


@contextmanager
def _progress(out: TextIO) -> Iterator[tuple[Callable[[str], None], Callable[["Status"], None]]]:
    """Yields `say(line)` and `watch(status)`: one line that is written over in a terminal, a line now and then
    elsewhere.
    """
    is_live = out.isatty()
    printed_at = time.monotonic()
    first: tuple[float, int] | None = None

    def say(line: str) -> None:
        print(f"\r\x1b[K{line}" if is_live else line, file=out, flush=True)

    def watch(status: "Status") -> None:
        nonlocal printed_at, first
        now = time.monotonic()
        first = first or (now, status.tokens)
        rate = (status.tokens - first[1]) / max(now - first[0], 1e-9)
        left = f", {(status.num_tokens - status.tokens) / rate:,.0f} s left" if rate else ""
        line = (
            f"{status.units}/{status.num_units} units | {compact(status.tokens)} of {compact(status.num_tokens)}"
            f" tokens, {compact(rate)} tokens/s{left}"
        )
        if is_live:
            print(f"\r\x1b[K{line}", end="", file=out, flush=True)
        elif now - printed_at >= _LINE_INTERVAL_S:
            say(line)
            printed_at = now

    try:
        yield say, watch
    finally:
        if is_live:
            print("\r\x1b[K", end="", file=out, flush=True)
