"""`longspan prepare`: from the texts of a corpus configuration to shards, tables, tokenizer and manifest.

The work is a list of units (`units`), each done on its own (`work`), here or on Ray's workers, and put together at the
end (`combine`). A run that was interrupted leaves the records of its finished units, and goes on from them.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from longspan import storage
from longspan.config.corpus import (
    ChatSource,
    Corpus,
    FileSection,
    InterleavedSource,
    NeedleSource,
    SynlSource,
    TextualSource,
)
from longspan.corpus.bad_rows import LimitWatch, Tally, num_bad
from longspan.corpus.chat import chat_template
from longspan.corpus.combine import SHARDS_FOLDER, check_bad_rows, combine, pool_shards, records_of, text_shards
from longspan.corpus.documents import Job, chat_format, check_knots, check_synl, num_bos, windows_of
from longspan.corpus.encoding import WHOLE_BYTES, is_divisible, plain_added_tokens
from longspan.corpus.manifest import MANIFEST_FILE, Manifest, ShardInfo, TokenizerInfo, load_manifest
from longspan.corpus.records import UNITS_FOLDER
from longspan.corpus.sources import read_texts
from longspan.corpus.tokenizer import (
    needle_vocabulary,
    open_stored,
    sentence_end_ids,
    store_tokenizer,
    train_tokenizer,
)
from longspan.corpus.tokenizer_files import open_tokenizer_files
from longspan.corpus.units import Unit, list_units, window_units
from longspan.corpus.work import UnitResult, do_unit, unit_record_name
from longspan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Progress = Callable[[str], None]
"""Takes one line of text at a time: what was done, with counts."""
DoUnit = Callable[[Unit], UnitResult]
RunUnits = Callable[[DoUnit, Sequence[Unit]], Iterable[UnitResult]]
"""Does the units, in any order and anywhere, and gives each one's result when it is done."""

TRAINING_CHARACTERS = 256_000_000
"""A tokenizer is trained on the first texts of every source, this many characters in all and evenly shared."""
_NOT_CONTENT = ("anonymous", "on_bad", "max_bad_share", "zst_window_bytes")
"""Settings of sources that decide whether it can be made, and not what it is: they may change between two tries."""
_ADDED_SETTINGS = {
    "pattern": None,
    "added_tokens": "ids",
    "max_document_bytes": FileSection.model_fields["max_document_bytes"].default,
    "tools_field": "tools",
    "ignore": [],
}
"""Settings that corpora were once made without, with what they stand for: those corpora are still the same."""
_STATE_FILE = f"{UNITS_FOLDER}/state.json"


class Status(NamedTuple):
    """How far a preparation is: units and bytes of input done, of all; documents and tokens written by this run."""

    units: int
    num_units: int
    num_bytes: int
    total_bytes: int
    documents: int = 0
    tokens: int = 0


def in_order(do_unit: DoUnit, units: Sequence[Unit]) -> Iterator[UnitResult]:
    """Runs the units one after the other in this process."""
    return map(do_unit, units)


def prepare(
    corpus: Corpus,
    progress: Progress | None = None,
    *,
    run_units: RunUnits = in_order,
    watch: Callable[[Status], None] | None = None,
) -> Manifest:
    """Write the corpus to `corpus.output` (local or s3://), or find that it is there already.

    The same texts give the same bytes, whoever runs the units and however often the run was interrupted. A directory
    that holds this very configuration's corpus is left as it is, even if the texts have changed since.

    Args:
        progress: takes lines of text.
        run_units: does the units that are not done yet.
        watch: takes the status, once before the first unit and after each.

    Raises:
        HeldError: another driver writes to the output; LeaseLostError: one has taken it over.
        ConfigError: a path without files, a tokenizer that cannot be had or is not fit for a source (no needle tokens,
            no chat template, a slow one for SynL, no token of a mark), SynL lengths without room for their questions,
            windows without room for their marks, or an output directory that holds something else.
        DataError: a text or conversation that cannot be read, a source without a usable document, or too little text
            for what is made of it.
        StorageError: a file could not be read or written.
    """
    say = progress or (lambda line: None)
    fingerprint = corpus_fingerprint(corpus)
    if storage.exists(storage.join(corpus.output, MANIFEST_FILE)):
        return _already_there(corpus, fingerprint, say)
    with storage.hold(corpus.output, "prepare"):
        return _prepare(corpus, fingerprint, run_units, say, watch)


def _prepare(
    corpus: Corpus,
    fingerprint: str,
    run_units: RunUnits,
    say: Progress,
    watch: Callable[[Status], None] | None,
) -> Manifest:
    if storage.exists(storage.join(corpus.output, MANIFEST_FILE)):  # since the first look
        return _already_there(corpus, fingerprint, say)
    units = list_units(corpus, say)
    state = _interrupted(corpus, fingerprint, say)
    info, ends = _tokenizer(corpus, fingerprint, units, state, say)
    job = Job(corpus, fingerprint, info, {})

    later = [source for source in corpus.sources if isinstance(source, NeedleSource | InterleavedSource)]
    names = {source.name for source in later}
    first_units = [unit for name, own in units.items() if name not in names for unit in own]
    everything = [unit for own in units.values() for unit in own]
    status = Status(0, len(everything), 0, sum(unit.num_bytes for unit in everything))
    status = _run(job, first_units, status, run_units, say, watch)
    if later:
        job, units = _with_text(job, units, say)
        later_units = [unit for source in later for unit in units[source.name]]
        # Windows were not known before.
        everything = [unit for own in units.values() for unit in own]
        total_bytes = sum(unit.num_bytes for unit in everything)
        status = status._replace(num_units=len(everything), total_bytes=total_bytes)
        _run(job, later_units, status, run_units, say, watch)
    return combine(job, units, ends, say)


def _with_text(job: Job, units: dict[str, list[Unit]], say: Progress) -> tuple[Job, dict[str, list[Unit]]]:
    """The job with the text of needle documents, and the units with those of interleaved ones; all texts are done."""
    pools: dict[str, tuple[ShardInfo, ...]] = {}
    found = dict(units)
    for source in job.corpus.sources:
        if isinstance(source, NeedleSource) and source.text_source not in pools:
            pools[source.text_source] = pool_shards(job, units[source.text_source])
        elif isinstance(source, InterleavedSource):
            text, bos = text_shards(job, units[source.text_source]), num_bos(job)
            windows = windows_of(job, source, [shard.length for shard in text])
            shards = [shard.info for shard in text]
            found[source.name] = window_units(source, shards, bos, windows, job.corpus.unit_bytes)
            left = sum(shard.tokens - bos * shard.documents for shard in shards) - int(windows.sum())
            say(f"{source.name}: {windows.size:,} windows; the last {left:,} tokens of {source.text_source} fill none")
    return replace(job, pools=pools), found


def corpus_fingerprint(corpus: Corpus) -> str:
    """Hash of everything in the configuration that decides the corpus's content; where it is written is left out."""
    values = corpus.model_dump(mode="json", exclude={"output"})
    for source in values["sources"]:
        for name in _NOT_CONTENT:
            source.pop(name, None)
        for name, default in _ADDED_SETTINGS.items():
            if source.get(name, default) == default:
                source.pop(name, None)
    return _hash(values)


def _already_there(corpus: Corpus, fingerprint: str, say: Progress) -> Manifest:
    manifest = load_manifest(corpus.output)
    if manifest.corpus != fingerprint:
        raise ConfigError(
            f"output: {corpus.output} holds a corpus of another configuration (sources {manifest.source_names});"
            " choose another directory, or delete that one"
        )
    for source in corpus.sources:
        bad = num_bad(manifest.sources[source.name].left_out)
        if bad and isinstance(source, FileSection) and source.on_bad == "refuse":
            raise ConfigError(
                f"output: {corpus.output} holds this corpus without {bad:,} bad rows of {source.name}, and its on_bad"
                " is refuse; set on_bad: skip, or choose another directory"
            )
    storage.delete_tree(storage.join(corpus.output, UNITS_FOLDER))  # in case the last run ended just before it did
    count = manifest.index.rows
    say(f"{corpus.output}: already prepared from this configuration ({count} documents), nothing done")
    return manifest


def _interrupted(corpus: Corpus, fingerprint: str, say: Progress) -> dict[str, Any]:
    """What an interrupted run of this configuration wrote down, {} if there was none; another's work is removed.

    Raises ConfigError for a folder of shards that no interrupted run tells of.
    """
    try:
        state = storage.read_json(storage.join(corpus.output, _STATE_FILE))
    except storage.NotFoundError:
        if storage.exists(storage.join(corpus.output, SHARDS_FOLDER)):
            raise ConfigError(
                f"output: {corpus.output} has a folder '{SHARDS_FOLDER}', but neither a manifest nor the state of an"
                " interrupted run; choose another directory, or delete that folder"
            ) from None
        return {}
    except DataError:
        state = None
    if isinstance(state, dict) and state.get("corpus") == fingerprint:
        return state
    say(f"{corpus.output}: an interrupted run of another configuration is removed")
    for folder in (SHARDS_FOLDER, UNITS_FOLDER):
        storage.delete_tree(storage.join(corpus.output, folder))
    return {}


def _tokenizer(
    corpus: Corpus, fingerprint: str, units: dict[str, list[Unit]], state: dict[str, Any], say: Progress
) -> tuple[TokenizerInfo, tuple[int, ...]]:
    """The tokenizer as stored in the corpus, and the ids that end a sentence.

    One that is trained here is taken over from an interrupted run if the texts are still the same.
    """
    inputs = _hash([[asdict(unit) for unit in own] for own in units.values()])
    if corpus.tokenizer.path is None and state.get("inputs") == inputs:
        info = TokenizerInfo(**state["tokenizer"])
        return info, sentence_end_ids(open_stored(corpus.output, info))
    if corpus.tokenizer.path is not None:
        tokenizer = open_tokenizer_files(corpus.tokenizer.path, field="tokenizer.path", say=True)
    else:
        say(f"tokenizer: training {corpus.tokenizer.train_vocab_size} byte-level BPE tokens")
        tokenizer = train_tokenizer(_training_texts(corpus, units), corpus.tokenizer)
    _check_sources(corpus, tokenizer)
    _say_of_tokenizer(corpus, tokenizer, say)
    info = store_tokenizer(tokenizer, corpus.output)
    values = {"corpus": fingerprint, "inputs": inputs, "tokenizer": asdict(info)}
    storage.write_json(storage.join(corpus.output, _STATE_FILE), values)
    return info, sentence_end_ids(tokenizer)


def _say_of_tokenizer(corpus: Corpus, tokenizer: "PreTrainedTokenizerBase", say: Progress) -> None:
    """What of the tokenizer costs time or memory, or makes other ids than asked for."""
    if not tokenizer.is_fast:
        marks = "; its added tokens in texts stay text" if plain_added_tokens(tokenizer) else ""
        say(f"tokenizer: {corpus.tokenizer.path} has no fast version; it is several times slower{marks}")
    texts = [source for source in corpus.sources if isinstance(source, TextualSource)]
    if texts and not is_divisible(tokenizer):
        limit = max(source.max_document_bytes for source in texts)
        say(
            "tokenizer: a long document cannot be encoded in pieces with the same ids; a worker needs about"
            f" {WHOLE_BYTES} bytes of memory for each of its bytes, {limit * WHOLE_BYTES / 1e9:,.0f} GB for one of"
            f" max_document_bytes {limit}"
        )


def _training_texts(corpus: Corpus, units: dict[str, list[Unit]]) -> Iterator[str]:
    sources = [source for source in corpus.sources if isinstance(source, TextualSource)]
    budget = TRAINING_CHARACTERS // max(len(sources), 1)
    for source in sources:
        used = 0
        pieces = [piece for unit in units[source.name] for piece in unit.pieces]
        for text in Tally(source).good(read_texts(source, pieces)):
            yield text[: budget - used]
            used += len(text)
            if used >= budget:
                break


def _check_sources(corpus: Corpus, tokenizer: "PreTrainedTokenizerBase") -> None:
    """Raises ConfigError for a source that this tokenizer cannot serve, before anything is made."""
    for number, source in enumerate(corpus.sources):
        if isinstance(source, NeedleSource) and needle_vocabulary(tokenizer) is None:
            raise ConfigError(
                f"sources.{number}: needles need needle tokens in the tokenizer; set tokenizer.needle_tokens with"
                " train_vocab_size, or give the path of a tokenizer that was trained so"
            )
        try:
            if isinstance(source, SynlSource):
                check_synl(corpus, source, tokenizer)
            elif isinstance(source, InterleavedSource):
                check_knots(corpus, source, tokenizer)
            elif isinstance(source, ChatSource):
                chat_template(tokenizer, chat_format(source))
        except ConfigError as error:
            raise ConfigError(f"sources.{number}: {error}") from None


def _run(
    job: Job,
    units: Sequence[Unit],
    status: Status,
    run_units: RunUnits,
    say: Progress,
    watch: Callable[[Status], None] | None,
) -> Status:
    """Does the units that have no record yet; the status afterwards."""
    output = job.corpus.output
    records = {unit.name: unit_record_name(job, unit) for unit in units}
    there = {f"{UNITS_FOLDER}/{name}" for name in storage.list_files(storage.join(output, UNITS_FOLDER))}
    for record in there - set(records.values()):
        # Of other files under the same name: were it left, its shards would be taken for these one day.
        if record.removeprefix(f"{UNITS_FOLDER}/").partition(".")[0] in records:
            storage.delete(storage.join(output, record))
    pending = [unit for unit in units if records[unit.name] not in there]
    done = len(units) - len(pending)
    if done:
        say(f"{output}: {done} of {len(units)} units are done already, going on with the rest")
    skipped_bytes = sum(unit.num_bytes for unit in units) - sum(unit.num_bytes for unit in pending)
    status = status._replace(units=status.units + done, num_bytes=status.num_bytes + skipped_bytes)
    if watch is not None:
        watch(status)
    check = _watch_bad_rows(job, units, pending)
    for result in run_units(storage.carried(partial(do_unit, job)), pending):
        check(result)
        status = status._replace(
            units=status.units + 1,
            num_bytes=status.num_bytes + result.num_bytes,
            documents=status.documents + result.documents,
            tokens=status.tokens + result.tokens,
        )
        if watch is not None:
            watch(status)
    return status


def _watch_bad_rows(job: Job, units: Sequence[Unit], pending: Sequence[Unit]) -> Callable[[UnitResult], None]:
    """Takes the result of each unit; raises DataError as soon as a source has more bad rows than it allows."""
    skipping = {s.name: s for s in job.corpus.sources if isinstance(s, FileSection) and s.on_bad == "skip"}
    own = {name: [unit for unit in units if unit.source == name] for name in skipping}
    source_of = {unit.name: unit.source for of_source in own.values() for unit in of_source}
    watches = {name: LimitWatch(source, [unit.name for unit in own[name]]) for name, source in skipping.items()}

    def check(result: UnitResult) -> None:
        name = source_of.get(result.unit)
        if name is not None and (number := watches[name].add(result.unit, result.rows, result.bad)):
            check_bad_rows(job, name, [record.tally for record in records_of(job, own[name][:number])])

    left = {unit.name for unit in pending}
    done = [unit for of_source in own.values() for unit in of_source if unit.name not in left]
    for unit, record in zip(done, records_of(job, done), strict=True):
        check(UnitResult(0, 0, 0, record.tally.rows, record.tally.bad, unit.name))
    return check


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]
