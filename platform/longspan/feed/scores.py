"""What a run keeps of its samples and how much their targets weigh, most of it by the scores of the corpus.

`source` calls it between reading and making a micro-batch, `launch.stage` asks beforehand whether the scores fit. The
order is that of LongRecipe: select, fill up to the budget, and only then segments and positions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from longspan import storage
from longspan.config.data import Selection as SelectionSection
from longspan.config.recipe import Recipe
from longspan.config.weighting import LongCE
from longspan.corpus.impact.longce import longce_weights
from longspan.corpus.impact.manifest import ImpactManifest, load_impact
from longspan.corpus.impact.reader import ImpactReader
from longspan.corpus.impact.selection import Selection, SelectionRule, select_sentences, sentence_starts, splice
from longspan.corpus.impact.vocabulary import VocabularyScores, read_vocabulary
from longspan.corpus.manifest import Manifest
from longspan.errors import ConfigError, DataError
from longspan.feed.batch import Sample, Tokens, spans_of
from longspan.feed.text_chunks import ChunkRule, chunk_rule, keep_chunks
from longspan.planner.settings import phase_weights

_LEAST_FACTOR = np.float32(1e-12)
"""A weight that rounds to 0 would take its token out of the targets, whose number the loss is divided by."""


@dataclass(frozen=True)
class Analysis:
    """Where scores are, and the fingerprint that they had when the run was launched."""

    uri: str
    fingerprint: str


@dataclass(frozen=True)
class ScoreUse:
    """What of the recipe asks for scores, small enough to travel in `source.FeedSpec`.

    Attributes:
        rule: how sentences or chunks are selected; None keeps samples as they are planned.
        selection: scores that `rule` goes by, if it does.
        by_type: it goes by their means of the vocabulary's items, which need not be of this corpus.
        gamma: largest LongCE weight; None weighs targets as the corpus does.
        weighting: scores that the weights come from.
    """

    rule: SelectionRule | ChunkRule | None = None
    selection: Analysis | None = None
    by_type: bool = False
    gamma: float | None = None
    weighting: Analysis | None = None


NO_SCORES = ScoreUse()


@dataclass(frozen=True)
class OpenScores:
    """A `ScoreUse` over an open corpus; `ends_sentence` is bool [vocab_size], `item_scores` float32 [vocab_size]."""

    use: ScoreUse
    seed: int
    ends_sentence: NDArray[np.bool_]
    selection: ImpactReader | None
    item_scores: NDArray[np.float32] | None
    weighting: ImpactReader | None


def score_use(recipe: Recipe) -> ScoreUse:
    """What the recipe asks for. Raises DataError where an analysis that it names is missing or damaged."""
    found = {
        field: Analysis(storage.absolute(uri), load_impact(uri).fingerprint) for field, uri in _named_analyses(recipe)
    }
    selection, weighting = recipe.data.selection, recipe.data.loss_weighting
    return ScoreUse(
        rule=_rule(recipe, selection) if selection else None,
        selection=found.get("data.selection.scores"),
        by_type=_is_by_type(recipe),
        gamma=weighting.gamma if isinstance(weighting, LongCE) else None,
        weighting=found.get("data.loss_weighting.scores"),
    )


def _rule(recipe: Recipe, selection: SelectionSection) -> SelectionRule | ChunkRule:
    if selection.mode == "chunks":
        return chunk_rule(recipe)
    return SelectionRule(
        selection.mode,
        recipe.data.sample_length,
        statistic=selection.statistic or "mean",
        temperature=selection.temperature or 0.0,
    )


def scores_mark(recipe: Recipe) -> str:
    """Fingerprints of the analyses that the recipe names, as one text; "" without any. Raises as `score_use`."""
    return " ".join(f"{field}={load_impact(uri).fingerprint}" for field, uri in _named_analyses(recipe))


def check_scores(recipe: Recipe, manifest: Manifest) -> None:
    """Are the recipe's scores those of its corpus, and of all that the mix draws from? By type they may be of any text
    in the same tokens.

    Raises:
        ConfigError: LongCE weights are asked of scores that are not differences of log-probabilities.
        DataError: an analysis is missing, damaged, of another corpus or tokenizer, or leaves documents of the mix out.
    """
    drawn = {name for phase in recipe.data.mix for name, share in phase_weights(phase).items() if share > 0}
    for field, uri in _named_analyses(recipe):
        impact = _named_impact(field, uri)
        if field == "data.selection.scores" and _is_by_type(recipe):
            _vocabulary(Analysis(uri, impact.fingerprint), manifest)
            continue
        mend = ", or set data.selection.score_by: type" if field == "data.selection.scores" else ""
        if impact.corpus != manifest.fingerprint:
            raise DataError(
                f"{field}: {uri} holds the scores of another corpus than {recipe.data.manifest}; score this one{mend}"
            )
        for name in sorted(drawn):
            if not _covers(impact, manifest, name):
                raise DataError(
                    f"{field}: {uri} does not hold the scores of all of source '{name}', which data.mix draws from;"
                    f" score it too{mend}"
                )
        if field == "data.loss_weighting.scores" and impact.settings.measure != "logprob":
            raise ConfigError(f"{field}: {uri} has differences of {impact.settings.measure}s; LongCE needs logprob")


def _named_impact(field: str, uri: str) -> ImpactManifest:
    try:
        return load_impact(uri)
    except DataError as error:
        raise DataError(f"{field}: {error}") from None


def open_scores(use: ScoreUse, manifest: Manifest, seed: int) -> OpenScores:
    """The readers that `use` needs, over the corpus of `manifest`.

    Raises:
        DataError: an analysis is missing, of another corpus, or not the one that the run was launched with.
    """
    whole = {use.weighting, None if use.by_type else use.selection}
    readers = {analysis: _reader(analysis, manifest) for analysis in whole if analysis}
    of_items = use.selection if use.by_type else None
    return OpenScores(
        use=use,
        seed=seed,
        ends_sentence=manifest.ends_sentence(),
        selection=readers[use.selection] if use.selection and not use.by_type else None,
        item_scores=_vocabulary(of_items, manifest).item_scores() if of_items else None,
        weighting=readers[use.weighting] if use.weighting else None,
    )


def apply_scores(scores: OpenScores, samples: list[Sample], tokens: Tokens) -> tuple[list[Sample], Tokens]:
    """The samples as they are trained on, and their tokens. A function of (seed, global sample index) for each sample.

    Args:
        tokens: of all spans of all samples (`batch.spans_of`), end to end; so are those returned.

    Raises:
        DataError: a token was not scored, or a part of an analysis is damaged.
    """
    if scores.use.rule is not None:
        samples, tokens = _select(scores, scores.use.rule, samples, tokens)
    if scores.weighting is not None and scores.use.gamma is not None:
        factor = longce_weights(scores.weighting.gather(*spans_of(samples)), scores.use.gamma)
        factor = np.maximum(factor, _LEAST_FACTOR)
        tokens = (tokens[0], factor if tokens[1] is None else tokens[1] * factor)
    return samples, tokens


def _select(
    scores: OpenScores, rule: SelectionRule | ChunkRule, samples: Sequence[Sample], tokens: Tokens
) -> tuple[list[Sample], Tokens]:
    chosen: list[Sample] = []
    places: list[NDArray[np.int64]] = []
    begin = 0
    for sample in samples:
        size = int(sample.lengths.sum())
        positions = None
        if isinstance(rule, ChunkRule):
            kept, positions = keep_chunks(rule, sample.lengths, seed=scores.seed, index=sample.index)
        else:
            kept = _sentences(scores, rule, sample, tokens[0][begin : begin + size])
        offsets, lengths = splice(kept, sample.offsets, sample.lengths)
        chosen.append(Sample(sample.index, offsets, lengths, kept.document, positions))
        moves = kept.starts - (np.cumsum(kept.lengths) - kept.lengths)
        places.append(begin + np.arange(kept.lengths.sum()) + np.repeat(moves, kept.lengths))
        begin += size
    at = np.concatenate(places)
    return chosen, (tokens[0][at], None if tokens[1] is None else tokens[1][at])


def _sentences(scores: OpenScores, rule: SelectionRule, sample: Sample, tokens: NDArray[np.uint32]) -> Selection:
    document_starts = np.cumsum(sample.lengths, dtype=np.int64) - sample.lengths
    return select_sentences(
        rule,
        sentence_starts(tokens, document_starts, scores.ends_sentence),
        document_starts,
        tokens.size,
        seed=scores.seed,
        index=sample.index,
        scores=_scores_of(scores, sample, tokens),
    )


def _scores_of(scores: OpenScores, sample: Sample, tokens: NDArray[np.uint32]) -> NDArray[np.float32] | None:
    """What sentences are chosen by, [num_tokens] of the sample."""
    if scores.item_scores is not None:
        return scores.item_scores[tokens]
    return scores.selection.gather(sample.offsets, sample.lengths) if scores.selection else None


def _named_analyses(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Fields of the recipe that name an analysis, with their values."""
    selection, weighting = recipe.data.selection, recipe.data.loss_weighting
    if selection is not None and selection.scores is not None:
        yield "data.selection.scores", selection.scores
    if isinstance(weighting, LongCE):
        yield "data.loss_weighting.scores", weighting.scores


def _is_by_type(recipe: Recipe) -> bool:
    return recipe.data.selection is not None and recipe.data.selection.score_by == "type"


def _covers(impact: ImpactManifest, manifest: Manifest, source: str) -> bool:
    settings = impact.settings
    is_whole = settings.documents is None or settings.documents >= manifest.sources[source].documents
    return is_whole and (settings.sources is None or source in settings.sources)


def _reader(analysis: Analysis, manifest: Manifest) -> ImpactReader:
    reader = ImpactReader(analysis.uri, manifest)
    if reader.manifest.fingerprint != analysis.fingerprint:
        raise DataError(
            f"{analysis.uri}: the corpus was scored anew since the run began; restore those scores, or give the run"
            " another output"
        )
    return reader


def _vocabulary(analysis: Analysis, manifest: Manifest) -> VocabularyScores:
    found = read_vocabulary(analysis.uri)
    if found.analysis != analysis.fingerprint:
        raise DataError(f"{analysis.uri}: scored anew since its items were counted; run `longspan impact` again")
    if found.tokenizer != manifest.tokenizer.fingerprint:
        raise DataError(
            f"data.selection.scores: {analysis.uri} is of a corpus with another tokenizer; score text in this one's"
        )
    return found
