"""The position bugs of LongRecipe's released code (repo @bcc7692), one test each: what ours does instead.

Numbers are those of the list in the project's notes on the papers, 1c. Bug 10 is the paper's, the code is right there.
"""

import numpy as np
import pytest

from longspan.feed.batch import BatchSettings, MicroBatch, Sample, make_micro_batch
from longspan.positions import LongRecipe, PoSE, PositionMethod, RandPos, measure_coverage, segment_starts
from tests.positions.single import one_document

VOCAB = 1000
NOTHING = np.zeros(0, np.int64)


def batch_of(
    indices: list[int], tokens: np.ndarray, ends: np.ndarray, method: PositionMethod | None = None
) -> MicroBatch:
    """One document a sample, all of the same length."""
    length = len(tokens) // len(indices)
    samples = [Sample(index, np.zeros(1, np.int64), np.array([length], np.int32)) for index in indices]
    settings = BatchSettings(length, 10 * length, method or LongRecipe(min_segments=1), True, 0, ends)
    return make_micro_batch(samples, (tokens.astype(np.uint32), None), settings)


def text(num_tokens: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Random tokens, about every tenth of which ends a sentence."""
    return np.random.default_rng(seed).integers(0, VOCAB, num_tokens), np.arange(VOCAB) % 10 == 3


def test_bug_04_samples_finished_in_another_order_keep_their_positions() -> None:
    """There filtered samples are written as they finish, and meet other samples' positions."""
    tokens, ends = text(400)
    forth = batch_of([7, 8], tokens, ends)
    back = batch_of([8, 7], np.concatenate([tokens[200:], tokens[:200]]), ends)
    np.testing.assert_array_equal(forth.positions[:200], back.positions[200:])
    np.testing.assert_array_equal(forth.positions[200:], back.positions[:200])


def test_bug_05_sentence_ends_are_those_of_the_tokenizer_not_five_fixed_ids() -> None:
    tokens = np.array([5, 13, 6, 198, 7, 30, 8, 0, 9, 627, 5, 900, 6])
    ends = np.zeros(VOCAB, np.bool_)
    ends[900] = True
    assert segment_starts(tokens, ends).tolist() == [0, 12]


def test_bug_07_gaps_are_at_the_sentences_of_the_text_that_is_trained() -> None:
    """There they are at those of the text before selection."""
    tokens, ends = text(5000)
    batch = batch_of([0], tokens, ends)
    jumps = np.flatnonzero(np.diff(batch.positions) != 1)
    assert len(jumps) > 300
    assert ends[batch.input_ids[jumps]].all()


def test_bug_08_the_top_of_the_window_is_reached() -> None:
    """24,000 tokens for 80,000 positions: there the last position averages 55,900 or less."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, 24_000, 88)
    last = [one_document(LongRecipe(), 24_000, starts, 80_000, rng)[-1] for _ in range(50)]
    assert np.mean(last) > 79_500


def test_bug_09_no_contiguous_head_before_the_first_gap() -> None:
    """There up to the first 12,000 positions are 0, 1, 2, ... and a jump of that size follows."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, 24_000, 88)
    for _ in range(20):
        steps = np.diff(one_document(LongRecipe(), 24_000, starts, 80_000, rng))
        assert np.flatnonzero(steps != 1)[0] < 88 * 8
        assert steps.max() < 4000


def test_bug_10_positions_do_not_overrun_the_window() -> None:
    """Algorithm 1 as printed has a list of the target's length before the sentences are put in."""
    rng = np.random.default_rng(0)
    starts = np.arange(0, 90, 9)
    drawn = [one_document(LongRecipe(), 90, starts, 100, rng)[-1] for _ in range(2000)]
    assert max(drawn) == 99


def test_bug_11_a_first_sentence_of_one_token_starts_at_zero() -> None:
    """There index 0 counts as false, is dropped, and comes back as the second sentence's start less 1."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        positions = one_document(LongRecipe(min_segments=1), 5, np.array([0, 1]), 500, rng)
        assert positions[0] == 0
        assert np.array_equal(np.diff(positions[1:]), [1, 1, 1])


@pytest.mark.parametrize("method", [LongRecipe(), RandPos(), PoSE()], ids=repr)
def test_bug_12_every_sample_has_positions_of_its_own(method: PositionMethod) -> None:
    """There sample 1,000 gets those of sample 0, as the index is that in a batch of 1,000."""
    tokens, ends = text(60)
    seen = {batch_of([index], tokens, ends, method).positions.tobytes() for index in range(0, 20_000, 1000)}
    assert len(seen) == 20


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 500, 12_001])
def test_bug_13_short_samples_get_a_position_a_token_and_are_not_dropped(num_tokens: int) -> None:
    """There one position too many, or fewer tokens than the contiguous head, drops the sample without a word."""
    tokens, ends = text(num_tokens)
    assert batch_of([3], tokens, ends).positions.shape == (num_tokens,)


def test_bug_14_pose_skips_in_nearly_every_sample() -> None:
    """There the split is drawn from the free window: it is beyond the text, which stays contiguous, in 57 % of the
    samples at this size. The definition leaves the 1 in 57 that draw a skip of 0.
    """
    rng = np.random.default_rng(0)
    ours = [one_document(PoSE(), 24, NOTHING, 80, rng)[-1] == 23 for _ in range(4000)]
    assert abs(np.mean(ours) - 1 / 57) < 0.01


def test_bug_15_randpos_is_the_sorted_sample_that_the_code_has_right() -> None:
    """Every token but the first has a mean of its share of the window."""
    rng = np.random.default_rng(0)
    drawn = np.stack([one_document(RandPos(), 9, NOTHING, 99, rng) for _ in range(4000)])
    np.testing.assert_allclose(drawn.mean(axis=0), np.arange(9) * 10, atol=1.2)
    coverage = measure_coverage([(row, np.array([0, 9])) for row in drawn], 99)
    assert coverage.mean_token_distance == pytest.approx(100 / 3, rel=0.02)
