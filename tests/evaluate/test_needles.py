"""Token needles: the vocabulary read from a tokenizer, and retrieval entered at the depth where it happens."""

from typing import Any

import numpy as np
import pytest

from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.errors import ConfigError, DataError
from longspan.evaluate.needles import has_needle_tokens, needle_grid, token_example, vocabulary_from_tokenizer

VOCABULARY = NeedleVocabulary(first_id=20, num_keys=6, num_values=5)
SIZE = 20 + len(VOCABULARY)
TEXT = (np.arange(600) % 20).astype(np.uint32)


def lookup(window: int | None = None) -> Any:
    """Answers a query from the records among the last `window` tokens; anything else with token 0."""
    records = {VOCABULARY.needle(k, v): (k, v) for k in range(6) for v in range(5)}

    def answer(tokens: list[int]) -> int:
        key = tokens[-1] - VOCABULARY.query(0)
        seen = dict(records[token] for token in tokens[-window if window else 0 :] if token in records)
        return VOCABULARY.value(seen[key]) if 0 <= key < 6 and key in seen else 0

    return answer


def grid(model: Any, **settings: Any) -> Any:
    options: dict[str, Any] = {"num_needles": 4, "examples": 3, "seed": 5, "device": "cpu"} | settings
    return needle_grid(model, VOCABULARY, TEXT, [40, 80], **options)


def test_a_model_that_looks_back_retrieves_all(oracle: Any) -> None:
    assert grid(oracle(lookup(), SIZE)).mean == (1.0, 1.0)
    assert grid(oracle(lookup(), SIZE)).task == "tokens"


def test_what_lies_before_a_models_window_is_lost_by_depth(oracle: Any) -> None:
    # 36 tokens back from the questions of 40 reach all but the start; of 80, the last two bins of 18 tokens at best.
    found = grid(oracle(lookup(window=38), SIZE), examples=6)
    assert [row[0] for row in found.accuracy][1:] == [1.0, 1.0, 1.0]
    assert [row[1] for row in found.accuracy][:2] == [0.0, 0.0]
    assert found.accuracy[3][1] > 0.9


def test_every_model_is_asked_the_same_and_another_seed_something_else(oracle: Any) -> None:
    first, second, third = oracle(lookup(), SIZE), oracle(lambda tokens: 0, SIZE), oracle(lookup(), SIZE)
    grid(first)
    grid(second, batch_tokens=1)
    grid(third, seed=6)
    assert [row.tolist() for row in first.seen] == [row.tolist() for row in second.seen]
    assert [row.tolist() for row in first.seen] != [row.tolist() for row in third.seen]


def test_an_example_depends_on_its_own_length_and_index_only(oracle: Any) -> None:
    model = oracle(lookup(), SIZE)
    needle_grid(model, VOCABULARY, TEXT, [80], num_needles=4, examples=2, seed=5, device="cpu")
    alone = token_example(5, 80, 1, TEXT, VOCABULARY, 4)
    assert model.seen[1].tolist() == alone.tokens.tolist()


def test_bins_rank_the_needles_by_depth() -> None:
    example = token_example(0, 60, 0, TEXT, VOCABULARY, 4)
    places = {}
    for at, token in enumerate(example.tokens.tolist()):
        if VOCABULARY.needle(0, 0) <= token < VOCABULARY.query(0):
            places[(token - VOCABULARY.first_id) // VOCABULARY.num_values] = at
    asked = example.tokens[example.positions - 1].astype(int) - VOCABULARY.query(0)
    in_order = sorted(places, key=lambda key: places[key])
    assert [in_order[index] for index in example.bins] == asked.tolist()


def test_a_length_without_room_and_a_text_too_short_are_refused(oracle: Any) -> None:
    with pytest.raises(ConfigError, match="no room for 4 needles"):
        needle_grid(oracle(lookup(), SIZE), VOCABULARY, TEXT, [8], num_needles=4, seed=0, device="cpu")
    with pytest.raises(DataError, match="needle text has 600 tokens"):
        needle_grid(oracle(lookup(), SIZE), VOCABULARY, TEXT, [800], num_needles=4, seed=0, device="cpu")


def test_vocabulary_is_read_from_the_added_tokens(make_tokenizer: Any) -> None:
    tokenizer = make_tokenizer(needles=NeedleVocabulary(0, 3, 2).tokens())
    vocabulary = vocabulary_from_tokenizer(tokenizer)
    assert (vocabulary.num_keys, vocabulary.num_values) == (3, 2)
    assert tokenizer.convert_tokens_to_ids("<n:2:1>") == vocabulary.needle(2, 1)
    assert tokenizer.convert_tokens_to_ids("<v:1>") == vocabulary.value(1)
    assert has_needle_tokens(tokenizer)


def test_a_tokenizer_without_needle_tokens_is_refused(tokenizer: Any) -> None:
    assert not has_needle_tokens(tokenizer)
    with pytest.raises(ConfigError, match=r"corpus prepared with tokenizer.needle_tokens: true"):
        vocabulary_from_tokenizer(tokenizer)


@pytest.mark.parametrize("damage", ["missing", "order"])
def test_needle_tokens_that_are_no_whole_block_are_refused(make_tokenizer: Any, damage: str) -> None:
    names = NeedleVocabulary(0, 3, 2).tokens()
    names = names[:-1] if damage == "missing" else names[::-1]
    if damage == "missing":
        names.remove("<q:1>")
    with pytest.raises(ConfigError, match=r"needle token <\w:.*> has id .*, expected \d+"):
        vocabulary_from_tokenizer(make_tokenizer(needles=names))
