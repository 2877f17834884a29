"""Which tokens profit from a longer context: counts by token type, by part of speech, and by vocabulary item.

LongRecipe ranks vocabulary items by their score (2409.00509, Eq. 3) and takes the top 20 % at each position to count
parts of speech (Figure 4). Its sums favour frequent items, so means with a least count stand here; its "frequency" can
be read two ways, so both are given, and `lift` compares them with chance.

Scores are read twice, a part at a time: once to find the threshold of each range of positions, once to count.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.corpus.impact.reader import ImpactReader
from longspan.corpus.impact.vocabulary import VocabularyScores
from longspan.corpus.manifest import load_manifest
from longspan.corpus.reader import TokenReader
from longspan.corpus.tokenizer import open_tokenizer
from longspan.errors import ConfigError, DataError
from longspan.impact.part_of_speech import Tagger
from longspan.impact.tally import KindCount, SpeechTally, Sums, grouped, kind_counts, token_sums
from longspan.impact.token_types import VocabularyTypes, vocabulary_types

_BUCKETS = 32
"""Ranges of positions: bucket b holds the tokens at 2**(b-1) <= position < 2**b, bucket 0 position 0."""
_VALUES = 1 << 16


@dataclass(frozen=True)
class ImpactStatistics:
    """Statistics of one analysis.

    Attributes:
        analysis: fingerprint of the scores.
        top_share: what was asked for; ties at the threshold are left out, so the share found is not above it.
        tokens, top: counted, and among the top of their range of positions.
        by_type: kinds of `token_types.TOKEN_TYPES` that occur.
        by_part_of_speech: in order of lift; None without a tagger.
        untagged_documents: left out of it, because their text does not give their tokens again.
        by_position: for ranges of positions by powers of two: first position, and of the range's top tokens the share
            that is of each type.
        vocabulary: items with the highest mean score among those that occur often enough.
    """

    analysis: str
    top_share: float
    tokens: int
    top: int
    by_type: tuple[KindCount, ...]
    by_part_of_speech: tuple[KindCount, ...] | None
    untagged_documents: int
    by_position: tuple[tuple[int, dict[str, float]], ...]
    vocabulary: tuple[KindCount, ...]


class _Batch(NamedTuple):
    """The documents of one part, end to end.

    Attributes:
        tokens, scores: [num_tokens].
        bucket: int64 [num_tokens], range of positions.
        is_scored: bool [num_tokens], whether the score can be other than 0.
        ends: int64 [num_documents].
    """

    tokens: NDArray[np.uint32]
    scores: NDArray[np.float16]
    bucket: NDArray[np.int64]
    is_scored: NDArray[np.bool_]
    ends: NDArray[np.int64]


def collect_statistics(
    impact: str,
    corpus: str,
    *,
    top_share: float = 0.2,
    tagger: Tagger | None = None,
    min_count: int = 20,
    listed: int = 100,
) -> ImpactStatistics:
    """Statistics of the analysis at `impact` of the corpus at `corpus`.

    Tokens that score 0 because both prefixes are the same (the first of each document) are not counted.

    Args:
        top_share: share of the tokens of a range of positions that counts as top.
        tagger: for parts of speech (`part_of_speech.open_tagger`).
        min_count: vocabulary items that occur less often are not listed.
        listed: vocabulary items listed.

    Raises:
        ConfigError: a share outside (0, 1), or a tagger for a tokenizer that cannot give places in the text.
        DataError: analysis or corpus is damaged, they do not belong together, or no token has a score.
        StorageError: a file could not be read.
    """
    if not 0 < top_share < 1:
        raise ConfigError(f"impact.top_share: {top_share}; must be above 0 and below 1")
    manifest = load_manifest(corpus)
    scores, reader = ImpactReader(impact, manifest), TokenReader(corpus, manifest)
    tokenizer = open_tokenizer(corpus, manifest)
    if tagger is not None and not tokenizer.is_fast:
        raise ConfigError("impact: parts of speech need a fast tokenizer, which says where in the text a token lies")
    types = vocabulary_types(tokenizer, manifest.tokenizer)
    batches = partial(_batches, scores, reader)
    thresholds = _thresholds(batches(), top_share)
    speech = SpeechTally(tokenizer, _is_text(types), tagger) if tagger is not None else None
    items, by_position = _count(batches(), thresholds, types, speech)
    tokens, top = int(items[0].sum()), int(items[2].sum())
    if not tokens:
        raise DataError(f"{impact}: no token has a score: every document is within the short prefix")
    by_type = grouped(items, types.type_of, len(types.names))
    often = np.flatnonzero(items[0] >= max(min_count, 1))
    best = often[np.argsort(-(items[1] / np.maximum(items[0], 1))[often], kind="stable")][:listed]
    names = [str(name) for name in tokenizer.convert_ids_to_tokens(best.tolist())]
    return ImpactStatistics(
        analysis=scores.manifest.fingerprint,
        top_share=top_share,
        tokens=tokens,
        top=top,
        by_type=kind_counts(types.names, by_type, tokens, top),
        by_part_of_speech=speech.counts() if speech is not None else None,
        untagged_documents=speech.untagged if speech is not None else 0,
        by_position=_position_shares(by_position, types),
        vocabulary=kind_counts(names, items[:, best], tokens, top),
    )


def vocabulary_scores(impact: str, corpus: str) -> VocabularyScores:
    """Mean score of each vocabulary item over a finished analysis, in one pass over its parts.

    Raises:
        DataError: analysis or corpus is damaged, or they do not belong together.
        StorageError: a file could not be read.
    """
    manifest = load_manifest(corpus)
    scores, reader = ImpactReader(impact, manifest), TokenReader(corpus, manifest)
    items = np.zeros((3, manifest.tokenizer.vocab_size))
    for batch in _batches(scores, reader):
        own = batch.is_scored
        items += token_sums(batch.tokens[own], batch.scores[own], np.zeros(int(own.sum()), np.bool_), items.shape[1])
    return VocabularyScores(
        scores.manifest.fingerprint,
        manifest.tokenizer.fingerprint,
        items[0].astype(np.int64),
        items[1] / np.maximum(items[0], 1),
    )


def _count(
    batches: Iterator[_Batch], thresholds: NDArray[np.int64], types: VocabularyTypes, speech: SpeechTally | None
) -> tuple[Sums, NDArray[np.int64]]:
    """Sums by vocabulary item, and top tokens by range of positions and type; parts of speech go to `speech`."""
    items = np.zeros((3, types.type_of.size))
    by_position = np.zeros((_BUCKETS, len(types.names)), np.int64)
    for batch in batches:
        is_top = batch.is_scored & (_keys(batch.scores) >= thresholds[batch.bucket])
        own = batch.is_scored
        items += token_sums(batch.tokens[own], batch.scores[own], is_top[own], types.type_of.size)
        np.add.at(by_position, (batch.bucket[is_top], types.type_of[batch.tokens[is_top]]), 1)
        if speech is not None:
            columns = (batch.tokens, batch.scores, is_top, batch.is_scored)
            for document in zip(*(np.split(column, batch.ends[:-1]) for column in columns), strict=True):
                speech.add(*document)
    return items, by_position


def write_statistics(statistics: ImpactStatistics, uri: str) -> None:
    """Write the statistics as JSON."""
    storage.write_json(uri, statistics_dict(statistics))


def statistics_dict(statistics: ImpactStatistics) -> dict[str, Any]:
    """The same as JSON-able lists and numbers."""
    values = asdict(statistics)
    values["by_position"] = [{"from": first, "share_of_top": shares} for first, shares in statistics.by_position]
    return values


def _batches(scores: ImpactReader, reader: TokenReader) -> Iterator[_Batch]:
    first_scored = scores.manifest.settings.first_scored
    for number, info in enumerate(scores.manifest.parts):
        part = scores.part(number)
        ends = np.cumsum(part.length, dtype=np.int64)
        begins = ends - part.length
        tokens, _ = reader.gather(info.offset + begins, part.length)
        position = np.arange(tokens.size) - np.repeat(begins, part.length)
        bucket = np.frexp(position)[1].astype(np.int64)
        yield _Batch(tokens, part.scores, bucket, position >= first_scored, ends)


def _is_text(types: VocabularyTypes) -> NDArray[np.bool_]:
    return ~np.isin(types.type_of, [types.names.index("special"), types.names.index("needle")])


def _keys(scores: NDArray[np.float16]) -> NDArray[np.int64]:
    """Whole numbers in [0, 65536) that rise with the scores."""
    bits = scores.view(np.uint16)
    return np.where(bits & 0x8000, ~bits, bits | 0x8000).astype(np.int64)


def _thresholds(batches: Iterator[_Batch], top_share: float) -> NDArray[np.int64]:
    """Least key of a top token in each range of positions, int64 [_BUCKETS]: that of the most tokens that are not more
    than `top_share` of the range. Exact, since every value of a score has its own count.
    """
    counts = np.zeros(_BUCKETS * _VALUES, np.int64)
    for batch in batches:
        places = batch.bucket * _VALUES + _keys(batch.scores)
        np.add.at(counts, places[batch.is_scored], 1)
    at_least = np.cumsum(counts.reshape(_BUCKETS, _VALUES)[:, ::-1], axis=1)[:, ::-1]
    allowed = np.floor(top_share * at_least[:, :1])
    return (at_least > allowed).sum(axis=1)


def _position_shares(counts: NDArray[np.int64], types: VocabularyTypes) -> tuple[tuple[int, dict[str, float]], ...]:
    rows = []
    for bucket, row in enumerate(counts):
        if row.any():
            shares = {name: float(count / row.sum()) for name, count in zip(types.names, row, strict=True) if count}
            rows.append(((1 << bucket) >> 1, shares))
    return tuple(rows)
