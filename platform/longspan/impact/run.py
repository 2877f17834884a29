"""Score the documents of a corpus with a pair of models: units in any order and anywhere, one part each.

The work is a list of units made from the corpus alone, each done on its own, here (`in_order`) or on Ray's actors
(`on_ray`); so the parts are the same for any number of them. An interrupted run goes on from its records; a finished
one is found by its manifest and nothing is done.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch

from longspan import storage
from longspan.corpus.impact.manifest import MANIFEST_FILE, VERSION, ImpactManifest, load_impact, write_manifest
from longspan.corpus.impact.parts import (
    RECORDS_FOLDER,
    PartInfo,
    Unit,
    part_name,
    read_record,
    record_name,
    write_part,
    write_record,
)
from longspan.corpus.impact.settings import Machine, ScoreSettings, score_fingerprint
from longspan.corpus.index import corpus_table, document_offset
from longspan.corpus.manifest import Manifest, load_manifest
from longspan.corpus.reader import TokenReader
from longspan.errors import ConfigError
from longspan.impact.models import Pair, check_models, open_pair
from longspan.impact.scores import document_scores

_STATE_FILE = "state.json"
_READS_AHEAD = 16


@dataclass(frozen=True)
class Job:
    """What all units of an analysis have in common.

    Attributes:
        corpus: folder of the corpus, local or s3://.
        output: folder of the analysis.
        fingerprint: of the analysis (`settings.score_fingerprint`).
        settings, machine: see there.
    """

    corpus: str
    output: str
    fingerprint: str
    settings: ScoreSettings
    machine: Machine


class Done(NamedTuple):
    """A unit that is done: its number and its part."""

    number: int
    part: PartInfo


class Status(NamedTuple):
    """How far an analysis is: units and tokens done, of all."""

    units: int
    num_units: int
    tokens: int
    num_tokens: int


DoUnit = Callable[[Unit], Done]
RunUnits = Callable[[DoUnit, Sequence[Unit]], Iterable[Done]]
"""Does the units, in any order and anywhere, and gives each one's part when it is done."""


def in_order(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[Done]:
    """Runs the units one after the other in this process."""
    return map(do_unit, units)


def score_corpus(
    corpus: str,
    output: str,
    settings: ScoreSettings,
    machine: Machine | None = None,
    *,
    run_units: RunUnits = in_order,
    say: Callable[[str], None] | None = None,
    watch: Callable[[Status], None] | None = None,
) -> ImpactManifest:
    """Write the scores of the corpus at `corpus` to `output` (local or s3://), or find that they are there already.

    Args:
        run_units: does the units that are not done yet.
        say: takes lines of text.
        watch: takes the status, once before the first unit and after each.

    Raises:
        ConfigError: a model that cannot be read or does not fit the corpus, a source that the corpus lacks, or an
            output that holds an analysis, finished or not, of something else.
        DataError: the corpus is damaged, or a model gives scores that are not finite.
        StorageError: a file could not be read or written.
    """
    say = say or (lambda line: None)
    corpus, output = storage.absolute(corpus), storage.absolute(output)
    manifest = load_manifest(corpus)
    models = check_models(settings, manifest)
    fingerprint = score_fingerprint(settings, manifest.fingerprint, models)
    job = Job(corpus, output, fingerprint, settings, machine or Machine())
    if storage.exists(storage.join(output, MANIFEST_FILE)):
        return _already_there(output, fingerprint, say, models)
    with storage.hold(output, "impact"):
        return _score(job, manifest, models, run_units, say, watch or (lambda status: None))


def _score(
    job: Job,
    manifest: Manifest,
    models: dict[str, str],
    run_units: RunUnits,
    say: Callable[[str], None],
    watch: Callable[[Status], None],
) -> ImpactManifest:
    corpus, output, fingerprint, settings = job.corpus, job.output, job.fingerprint, job.settings
    if storage.exists(storage.join(output, MANIFEST_FILE)):  # since the first look
        return _already_there(output, fingerprint, say, models)
    units = list_units(corpus, manifest, settings)
    _claim(output, fingerprint)
    parts = _finished(output, fingerprint, units)
    if parts:
        say(f"{output}: {len(parts)} of {len(units)} units are done already, going on with the rest")
    tokens_done, tokens = sum(part.tokens for part in parts.values()), sum(int(unit.length.sum()) for unit in units)
    status = Status(len(parts), len(units), tokens_done, tokens)
    watch(status)
    try:
        for done in run_units(
            storage.carried(partial(do_unit, job)), [unit for unit in units if unit.number not in parts]
        ):
            parts[done.number] = done.part
            status = status._replace(units=status.units + 1, tokens=status.tokens + done.part.tokens)
            watch(status)
    finally:
        _opened.cache_clear()  # what comes next in this process may need the memory of two models
    ordered = tuple(parts[unit.number] for unit in units)
    finished = ImpactManifest(VERSION, fingerprint, manifest.fingerprint, settings, models, ordered)
    write_manifest(output, finished)
    _clean(output)
    say(f"{output}: {finished.documents} documents and {finished.tokens} tokens scored")
    return finished


def list_units(corpus: str, manifest: Manifest, settings: ScoreSettings) -> list[Unit]:
    """The units, in the order of the corpus: documents of at most `settings.part_tokens` together, or a longer one.

    Nothing about workers goes into them. Raises ConfigError for a source that the corpus lacks.
    """
    unknown = sorted(set(settings.sources or ()) - set(manifest.source_names))
    if unknown:
        raise ConfigError(f"impact.sources: '{unknown[0]}' is none of the corpus's sources {manifest.source_names}")
    table = corpus_table(corpus, manifest)
    units: list[Unit] = []
    first = 0
    for name, count in zip(manifest.source_names, table.source_documents.tolist(), strict=True):
        if settings.sources is None or name in settings.sources:
            length = np.array(table.length[first : first + min(count, settings.documents or count)])
            offset = document_offset(table, first)
            ends = np.cumsum(length, dtype=np.int64)
            begin = 0
            while begin < length.size:
                before = int(ends[begin] - length[begin])
                end = int(np.searchsorted(ends, before + settings.part_tokens, side="right"))
                end = max(end, begin + 1)
                units.append(Unit(len(units), first + begin, offset + before, length[begin:end]))
                begin = end
        first += count
    return units


def do_unit(job: Job, unit: Unit) -> Done:
    """Score the unit's documents, write the part and then its record. It may run anywhere, and again.

    Raises as `score_corpus`.
    """
    ends = np.cumsum(unit.length, dtype=np.int64)
    with _threads(job.machine.threads):
        pair, reader = _opened(job)
        tokens, _ = reader.gather(unit.offset + ends - unit.length, unit.length)
        documents = np.split(tokens, ends[:-1])
        scores = [document_scores(pair, each, job.settings, job.machine.batch_tokens) for each in documents]
    info = write_part(job.output, unit, np.concatenate(scores))
    write_record(job.output, unit.number, job.fingerprint, info)
    return Done(unit.number, info)


@lru_cache(maxsize=1)
def _opened(job: Job) -> tuple[Pair, TokenReader]:
    """Once a process: the models are by far the most that a unit needs."""
    return open_pair(job.settings, job.machine), TokenReader(job.corpus, load_manifest(job.corpus))


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _already_there(
    output: str, fingerprint: str, say: Callable[[str], None], models: Mapping[str, str]
) -> ImpactManifest:
    found = load_impact(output)
    if found.fingerprint != fingerprint:
        names = " and ".join(path for path in (found.settings.model, found.settings.base) if path)
        other = [field for field in models if found.models.get(field) != models[field]]
        replaced = f"; impact.{other[0]} is another model now, by its content" if other else ""
        raise ConfigError(
            f"impact.output: {output} holds the scores of another corpus, of other models or settings ({names}, window"
            f" {found.settings.window}{replaced}); choose another directory, or delete that one"
        )
    _clean(output)  # in case the last run ended just before it did
    say(f"{output}: already scored with these models and settings ({found.documents} documents), nothing done")
    return found


def _claim(output: str, fingerprint: str) -> None:
    """Write down whose the folder is. Raises ConfigError if another analysis, or something else, is in it."""
    where = storage.join(output, _STATE_FILE)
    try:
        state = storage.read_json(where)
    except storage.NotFoundError:
        if storage.exists(output):
            raise ConfigError(
                f"impact.output: {output} holds files, but neither a manifest nor the state of an interrupted"
                " analysis; choose another directory"
            ) from None
        storage.write_json(where, {"fingerprint": fingerprint})
        return
    if not isinstance(state, dict) or state.get("fingerprint") != fingerprint:
        raise ConfigError(
            f"impact.output: {output} holds an interrupted analysis of another corpus, of other models or settings;"
            " finish it with those, choose another directory, or delete that one"
        )


def _finished(output: str, fingerprint: str, units: Sequence[Unit]) -> dict[int, PartInfo]:
    """Parts that are whole, by number: with a record, and as large as it says."""
    names = set(storage.list_files(storage.join(output, RECORDS_FOLDER)))
    sizes = storage.list_sizes(output)
    wanted = [u.number for u in units if record_name(u.number, fingerprint).partition("/")[2] in names]
    with ThreadPoolExecutor(_READS_AHEAD) as pool:
        places = (storage.join(output, record_name(number, fingerprint)) for number in wanted)
        records = dict(zip(wanted, pool.map(read_record, places), strict=True))
    return {number: part for number, part in records.items() if part and sizes.get(part_name(number)) == part.bytes}


def _clean(output: str) -> None:
    storage.delete_tree(storage.join(output, RECORDS_FOLDER))
    storage.delete(storage.join(output, _STATE_FILE))
