"""Needle documents and grid examples: what is asked can be answered, and the loss weighs what can be predicted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from longspan.corpus.synthesis.needles import (
    MAX_ANSWER_WEIGHT,
    NeedleVocabulary,
    needle_document,
    needle_grid_example,
)
from longspan.errors import ConfigError, DataError

VOCABULARY = NeedleVocabulary(first_id=384)
TEXT = np.arange(5000, dtype=np.uint32) % 384


def parse(token: int, vocabulary: NeedleVocabulary = VOCABULARY) -> tuple[str, ...]:
    """Kind and numbers of a token, read from its string: ("n", "3", "7"), or ("text",)."""
    index = token - vocabulary.first_id
    return tuple(vocabulary.tokens()[index].strip("<>").split(":")) if index >= 0 else ("text",)


def test_tokens_are_named_in_the_order_of_their_ids() -> None:
    names = VOCABULARY.tokens()
    assert len(names) == len(set(names)) == len(VOCABULARY) == 560
    assert names[VOCABULARY.needle(3, 7) - 384] == "<n:3:7>"
    assert names[VOCABULARY.query(3) - 384] == "<q:3>"
    assert names[VOCABULARY.value(7) - 384] == "<v:7>"
    assert (VOCABULARY.needle(0, 0), VOCABULARY.value(15)) == (384, 384 + 559)


@given(
    seed=st.integers(0, 2**32 - 1),
    length=st.integers(1, 400),
    low=st.floats(0, 1),
    high=st.floats(0, 1),
    query_fraction=st.floats(0, 1),
    pure_text_share=st.sampled_from([0.0, 0.2, 1.0]),
    num_keys=st.integers(1, 32),
)
def test_every_question_follows_its_only_record(
    seed: int, length: int, low: float, high: float, query_fraction: float, pure_text_share: float, num_keys: int
) -> None:
    vocabulary = NeedleVocabulary(first_id=384, num_keys=num_keys)
    tokens, weight = needle_document(
        np.random.default_rng(seed),
        TEXT,
        length,
        vocabulary,
        fill=(min(low, high), max(low, high)),
        query_fraction=query_fraction,
        pure_text_share=pure_text_share,
    )
    assert (tokens.dtype.name, weight.dtype.name) == ("uint32", "float32")
    assert tokens.shape == weight.shape == (length,)
    assert weight[0] == 0
    bound: dict[str, str] = {}
    asked = None
    for index, token in enumerate(tokens):
        kind, *numbers = parse(int(token), vocabulary)
        if asked is not None:
            assert (kind, *numbers) == ("v", bound[asked])
            assert weight[index] > 0 or weight[1:].sum() == 0
            asked = None
        elif kind == "n":
            assert numbers[0] not in bound
            bound[numbers[0]] = numbers[1]
            assert weight[index] == 0
        elif kind == "q":
            asked = numbers[0]
            assert weight[index] == 0
        else:
            assert kind == "text"
            assert weight[index] == (index > 0)
    assert asked is None


def test_text_keeps_its_order_and_fills_what_needles_leave() -> None:
    text = np.arange(100_000, 102_000, dtype=np.uint32)
    tokens, _ = needle_document(
        np.random.default_rng(0), text, 128, VOCABULARY, fill=(0.5, 0.5), query_fraction=0.5, pure_text_share=0.0
    )
    kept = tokens[tokens >= 100_000].astype(np.int64)
    assert kept.size == 64
    assert (np.diff(kept) == 1).all()
    kinds = [parse(int(token))[0] for token in tokens if token < 100_000]
    assert (kinds.count("n"), kinds.count("q"), kinds.count("v")) == (32, 16, 16)


def test_answers_together_weigh_as_much_as_the_text() -> None:
    tokens, weight = needle_document(
        np.random.default_rng(1), TEXT, 307, VOCABULARY, fill=(0.4, 0.4), query_fraction=0.6, pure_text_share=0.0
    )
    is_text, is_answer = tokens < 384, tokens >= VOCABULARY.value(0)
    assert weight[is_answer].sum() == pytest.approx(weight[is_text].sum())
    assert weight.sum() == pytest.approx(weight[is_text | is_answer].sum())


def test_a_lonely_answer_is_capped() -> None:
    tokens, weight = needle_document(
        np.random.default_rng(1), TEXT, 1000, VOCABULARY, fill=(0.004, 0.004), query_fraction=0.5, pure_text_share=0.0
    )
    assert weight[tokens >= VOCABULARY.value(0)].tolist() == [MAX_ANSWER_WEIGHT]


def test_answers_weigh_one_where_there_is_no_text() -> None:
    tokens, weight = needle_document(
        np.random.default_rng(1), TEXT, 32, VOCABULARY, fill=(1.0, 1.0), query_fraction=0.6, pure_text_share=0.0
    )
    assert set(weight[tokens >= VOCABULARY.value(0)].tolist()) == {1.0}
    assert not weight[tokens < VOCABULARY.value(0)].any()


def test_all_questions_and_no_records_leaves_text() -> None:
    tokens, _ = needle_document(
        np.random.default_rng(0), TEXT, 32, VOCABULARY, fill=(0.5, 0.5), query_fraction=1.0, pure_text_share=0.0
    )
    assert (tokens < 384).all()


def test_pure_text_share_is_the_share_of_documents_without_needles() -> None:
    rng = np.random.default_rng(2)
    documents = [
        needle_document(rng, TEXT, 32, VOCABULARY, fill=(0.5, 1.0), query_fraction=0.6, pure_text_share=0.25)[0]
        for _ in range(400)
    ]
    assert 0.17 < np.mean([(tokens < 384).all() for tokens in documents]) < 0.33


def test_a_document_is_a_pure_function_of_the_generator() -> None:
    one, two = (
        needle_document(
            np.random.default_rng(7), TEXT, 128, VOCABULARY, fill=(0.05, 1.0), query_fraction=0.6, pure_text_share=0.2
        )
        for _ in range(2)
    )
    assert one[0].tobytes() == two[0].tobytes()
    assert one[1].tobytes() == two[1].tobytes()


def test_grid_has_one_record_per_bin_and_true_answers() -> None:
    seen_orders = set()
    for seed in range(20):
        example = needle_grid_example(np.random.default_rng(seed), TEXT, 120, VOCABULARY)
        tokens = example.tokens
        assert tokens.dtype.name == "uint32"
        assert tokens.shape == (120,)
        assert example.answer_positions.tolist() == list(range(101, 120, 2))
        assert (tokens[example.answer_positions] == example.answers).all()
        records = {parse(int(tokens[i]))[1]: (i, parse(int(tokens[i]))[2]) for i in range(100) if tokens[i] >= 384}
        assert sorted(index // 10 for index, _ in records.values()) == list(range(10))
        for position, answer, depth in zip(example.answer_positions, example.answers, example.depths, strict=True):
            (index, value), query = records[parse(int(tokens[position - 1]))[1]], parse(int(tokens[position - 1]))[0]
            assert (query, parse(int(answer))) == ("q", ("v", value))
            assert depth == index / 120
        seen_orders.add(tuple(np.argsort(example.depths)))
    assert len(seen_orders) > 10


def test_the_shortest_grid_still_has_a_place_for_every_record() -> None:
    example = needle_grid_example(np.random.default_rng(0), TEXT, 30, VOCABULARY)
    assert sorted(example.depths * 30) == pytest.approx(list(range(10)))


@pytest.mark.parametrize(("first_id", "num_keys", "num_values"), [(-1, 32, 16), (0, 0, 16), (0, 32, 0)])
def test_rejects_an_impossible_vocabulary(first_id: int, num_keys: int, num_values: int) -> None:
    with pytest.raises(ConfigError, match="first_id"):
        NeedleVocabulary(first_id=first_id, num_keys=num_keys, num_values=num_values)


@pytest.mark.parametrize(
    ("length", "fill", "query_fraction", "pure_text_share", "named"),
    [
        (0, (0.1, 0.2), 0.5, 0.2, "length"),
        (32, (0.3, 0.2), 0.5, 0.2, "fill"),
        (32, (0.3, 1.2), 0.5, 0.2, "fill"),
        (32, (0.1, 0.2), 1.5, 0.2, "query_fraction"),
        (32, (0.1, 0.2), 0.5, -0.1, "pure_text_share"),
    ],
)
def test_rejects_a_document_that_cannot_be(
    length: int, fill: tuple[float, float], query_fraction: float, pure_text_share: float, named: str
) -> None:
    with pytest.raises(ConfigError, match=named):
        needle_document(
            np.random.default_rng(0),
            TEXT,
            length,
            VOCABULARY,
            fill=fill,
            query_fraction=query_fraction,
            pure_text_share=pure_text_share,
        )


def test_rejects_text_shorter_than_the_sequence() -> None:
    with pytest.raises(DataError, match="5000 tokens"):
        needle_grid_example(np.random.default_rng(0), TEXT, 5001, VOCABULARY)


@pytest.mark.parametrize(("num_needles", "length"), [(0, 128), (33, 128), (10, 29)])
def test_rejects_a_grid_without_room(num_needles: int, length: int) -> None:
    with pytest.raises(ConfigError, match="needle grid"):
        needle_grid_example(np.random.default_rng(0), TEXT, length, VOCABULARY, num_needles=num_needles)
