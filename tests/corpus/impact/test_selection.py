"""Selection as the paper means it; the released code's ways (papers.md 1c) are each pinned as not ours."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longspan.corpus.impact.selection import (
    Selection,
    SelectionRule,
    select_sentences,
    sentence_starts,
    sentence_weights,
    splice,
)
from longspan.errors import ConfigError, DataError


class Sample(NamedTuple):
    starts: np.ndarray
    document_starts: np.ndarray
    num_tokens: int
    scores: np.ndarray


@st.composite
def samples(draw: Any) -> Sample:
    sizes = draw(st.lists(st.integers(1, 9), min_size=1, max_size=30))
    starts = np.cumsum([0, *sizes[:-1]])
    begins = draw(st.sets(st.sampled_from(starts.tolist()), max_size=4)) | {0}
    scores = draw(st.lists(st.integers(-20, 40), min_size=sum(sizes), max_size=sum(sizes)))
    return Sample(starts, np.array(sorted(begins)), sum(sizes), np.array(scores, np.float32) / 8)


@st.composite
def rules(draw: Any, mode: str | None = None) -> SelectionRule:
    return SelectionRule(
        mode=mode or draw(st.sampled_from(["prefix", "uniform", "weighted"])),  # type: ignore[arg-type]
        budget=draw(st.integers(1, 150)),
        statistic=draw(st.sampled_from(["mean", "sum"])),
        temperature=draw(st.sampled_from([0.0, 0.5, 1.0])),
        keep_first=draw(st.booleans()),
    )


def select(rule: SelectionRule, sample: Sample, index: int = 3, seed: int = 0) -> Selection:
    starts, document_starts, num_tokens, scores = sample
    return select_sentences(rule, starts, document_starts, num_tokens, seed=seed, index=index, scores=scores)


def kept_tokens(selection: Selection) -> list[int]:
    return [
        t
        for start, length in zip(selection.starts, selection.lengths, strict=True)
        for t in range(start, start + length)
    ]


@given(samples(), rules())
def test_exactly_the_budget_in_order_without_overlap(sample: Sample, rule: SelectionRule) -> None:
    """1c.3: the released code never fills up what it drops."""
    found = select(rule, sample)
    tokens = kept_tokens(found)
    assert len(tokens) == min(rule.budget, sample.num_tokens)
    assert tokens == sorted(set(tokens))
    assert not tokens or (tokens[0] >= 0 and tokens[-1] < sample.num_tokens)
    assert (found.lengths > 0).all()


@given(samples(), rules())
def test_sentences_are_whole_but_for_one(sample: Sample, rule: SelectionRule) -> None:
    """Splices and sentence borders coincide (1c.7), a cut sentence keeps its beginning."""
    kept = np.zeros(sample.num_tokens, bool)
    found = select(rule, sample)
    kept[kept_tokens(found)] = True
    parts = np.split(kept, sample.starts[1:])
    cut = [part for part in parts if part.any() and not part.all()]
    assert len(cut) <= 1
    assert all((np.diff(part.astype(int)) <= 0).all() for part in cut)
    assert np.isin(found.starts, sample.starts).all()


@given(samples(), rules())
def test_a_span_is_a_run_of_one_document(sample: Sample, rule: SelectionRule) -> None:
    found = select(rule, sample)
    ends = found.starts + found.lengths
    edges = np.append(sample.document_starts, sample.num_tokens)
    assert (edges[found.document] <= found.starts).all()
    assert (ends <= edges[found.document + 1]).all()
    # Neighbouring spans either leave text out between them or belong to two documents.
    assert ((ends[:-1] < found.starts[1:]) | (np.diff(found.document) > 0)).all()


@given(samples(), rules(mode="weighted"))
def test_the_highest_scored_sentences_are_in(sample: Sample, rule: SelectionRule) -> None:
    rule = SelectionRule("weighted", rule.budget, rule.statistic, 0.0, rule.keep_first)
    weights = sentence_weights(sample.scores, sample.starts, rule.statistic)
    kept = set(kept_tokens(select(rule, sample)))
    ends = np.append(sample.starts[1:], sample.num_tokens)
    in_full = np.array([set(range(a, b)) <= kept for a, b in zip(sample.starts, ends, strict=True)])
    touched = np.array([a in kept for a in sample.starts])
    if rule.keep_first:
        assert touched[0]
        weights, in_full, touched = weights[1:], in_full[1:], touched[1:]
    if touched.any():
        assert in_full[weights > weights[touched].min()].all()


@given(samples(), rules())
def test_the_choice_depends_on_seed_and_sample_alone(sample: Sample, rule: SelectionRule) -> None:
    """1c.4: the released code keeps samples in the order in which threads finish."""
    first = select(rule, sample, index=7)
    select(rule, sample, index=8)
    for one, two in zip(first, select(rule, sample, index=7), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("rule", [SelectionRule("uniform", 40), SelectionRule("weighted", 40, temperature=1.0)])
def test_other_samples_and_seeds_choose_otherwise(rule: SelectionRule) -> None:
    sample = Sample(np.arange(0, 400, 4), np.zeros(1, int), 400, np.ones(400, np.float32))
    choices = {tuple(kept_tokens(select(rule, sample, index, seed))) for index in range(5) for seed in range(5)}
    assert len(choices) == 25


def test_the_whole_sample_is_chosen_from() -> None:
    """1c.3: the released code cuts the sample to its first tokens and chooses among those."""
    scores = np.zeros(1000, np.float32)
    scores[900:] = 1
    sample = Sample(np.arange(0, 1000, 10), np.zeros(1, int), 1000, scores)
    weighted = select(SelectionRule("weighted", 110), sample)
    assert kept_tokens(weighted) == [*range(10), *range(900, 1000)]
    assert weighted.starts.tolist() == [0, 900]
    uniform = [select(SelectionRule("uniform", 110, keep_first=False), sample, index) for index in range(40)]
    places = np.concatenate([kept_tokens(each) for each in uniform])
    assert abs(places.mean() - 499.5) < 30
    assert kept_tokens(select(SelectionRule("prefix", 110), sample)) == list(range(110))


def test_scores_decide_and_not_digits() -> None:
    """1c.1: the released code keeps sentences that hold a digit and tosses a coin for the others, without any score;
    its ratio drops more the higher it is. Here a sentence's words are not looked at, and more budget keeps more.
    """
    scores = np.repeat(np.array([0, 3, 1, 2], np.float32), 5)
    sample = Sample(np.arange(0, 20, 5), np.zeros(1, int), 20, scores)
    kept = [kept_tokens(select(SelectionRule("weighted", budget, keep_first=False), sample)) for budget in (5, 10, 15)]
    assert kept == [[*range(5, 10)], [*range(5, 10), *range(15, 20)], [*range(5, 20)]]
    assert all(set(few) < set(more) for few, more in pairwise(kept))


def test_draws_follow_the_weights() -> None:
    weights = np.array([1, 2, 3, 0], np.float32)
    sample = Sample(np.arange(0, 8, 2), np.zeros(1, int), 8, np.repeat(weights, 2))
    rule = SelectionRule("weighted", 2, temperature=1.0, keep_first=False)
    first = [int(select(rule, sample, index).starts[0]) // 2 for index in range(3000)]
    np.testing.assert_allclose(np.bincount(first, minlength=4) / 3000, [1 / 6, 2 / 6, 3 / 6, 0], atol=0.03)


def test_mean_and_sum_differ_by_length_and_harm_does_not_undo_help() -> None:
    scores = np.array([3, -9, 1, 1, 1, 1, -1], np.float32)
    starts = np.array([0, 2, 6])
    np.testing.assert_array_equal(sentence_weights(scores, starts, "sum"), [3, 4, 0])
    np.testing.assert_array_equal(sentence_weights(scores, starts, "mean"), [1.5, 1, 0])
    np.testing.assert_array_equal(sentence_weights(scores, starts, "mean_abs"), [6, 1, 1])


def test_sentences_end_where_the_tokenizer_says_and_with_documents() -> None:
    """1c.5: the released code has the ids of one tokenizer."""
    ends = np.zeros(50, bool)
    ends[[7, 30]] = True
    tokens = np.array([1, 7, 30, 2, 13, 0, 30, 4, 5, 6])
    assert sentence_starts(tokens, np.array([0, 9]), ends).tolist() == [0, 3, 7, 9]
    # A run of ends across a document's border does not hide the border.
    assert sentence_starts(np.array([1, 7, 7, 2, 3]), np.array([0, 2]), ends).tolist() == [0, 2, 3]
    # The last token of a document, an eos behind a full stop, is not a sentence by itself; a whole document is.
    assert sentence_starts(tokens, np.array([0, 8]), ends).tolist() == [0, 3, 8]
    assert sentence_starts(np.array([7, 7]), np.array([0, 1]), ends).tolist() == [0, 1]


@given(samples(), rules())
def test_spans_move_to_the_token_stream(sample: Sample, rule: SelectionRule) -> None:
    """1c.6: tokens stay the ids that they were, nothing is decoded and encoded again."""
    lengths = np.diff(np.append(sample.document_starts, sample.num_tokens))
    offsets = 1000 * (1 + np.arange(lengths.size))[::-1]
    places = np.concatenate([np.arange(o, o + n) for o, n in zip(offsets, lengths, strict=True)])
    found = select(rule, sample)
    begins, sizes = splice(found, offsets, lengths)
    assert sizes.dtype == np.int32
    moved = np.concatenate([np.arange(b, b + n) for b, n in zip(begins, sizes, strict=True)])
    np.testing.assert_array_equal(moved, places[kept_tokens(found)])


@settings(max_examples=20)
@given(samples())
def test_a_sample_within_the_budget_is_kept_whole(sample: Sample) -> None:
    found = select(SelectionRule("weighted", sample.num_tokens), sample)
    np.testing.assert_array_equal(found.starts, sample.document_starts)
    assert found.lengths.sum() == sample.num_tokens


def test_what_does_not_fit_is_refused() -> None:
    sample = Sample(np.array([0, 3]), np.array([0]), 6, np.zeros(6, np.float32))
    rule = SelectionRule("weighted", 3)
    for starts in ([1, 3], [0, 6], [0, 3, 3], []):
        with pytest.raises(DataError, match="sentence starts must rise from 0"):
            select(rule, sample._replace(starts=np.array(starts, int)))
    for document_starts in ([0, 2], [3], [], [0, 0]):
        with pytest.raises(DataError, match="document starts must rise from 0"):
            select(rule, sample._replace(document_starts=np.array(document_starts, int)))
    for scores in (np.zeros(5), np.full(6, np.nan)):
        with pytest.raises(DataError, match="needs a finite score for each of 6 tokens"):
            select(rule, sample._replace(scores=scores))
    with pytest.raises(DataError, match="found none"):
        select_sentences(rule, sample.starts, sample.document_starts, 6, seed=0, index=0)
    for wrong in ({"mode": "best"}, {"budget": 0}, {"statistic": "max"}, {"temperature": -1.0}):
        with pytest.raises(ConfigError, match=rf"^selection\.{next(iter(wrong))}: "):
            SelectionRule(**{"mode": "prefix", "budget": 1, **wrong})  # type: ignore[arg-type]
