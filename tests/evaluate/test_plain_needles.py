"""Needles in plain sentences: exact lengths, answers that can be found in the text, scored by whole numbers."""

import re
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from longspan.errors import ConfigError, DataError
from longspan.evaluate.grid import score_grid
from longspan.evaluate.plain_needles import plain_example, sentence_examples

STATEMENT = re.compile(r"\nThe special magic number for (\w+ \w+) is: (\d{7})\.\n")


def copier(tokens: list[int]) -> int:
    """Continues as the text did after the longest earlier stretch equal to the end: what an induction head does."""
    best, follower = 0, 0
    for end in range(len(tokens) - 1, 0, -1):
        size = 0
        while size < end and size < 60 and tokens[end - 1 - size] == tokens[-1 - size]:
            size += 1
        if size > best:
            best, follower = size, tokens[end]
    return follower


@pytest.fixture
def bos_tokenizer(make_tokenizer: Any) -> Any:
    return make_tokenizer(bos=True)


def test_an_example_has_its_length_and_asks_every_needle_once(tokenizer: Any, text: np.ndarray) -> None:
    for length in (400, 401, 1000):
        example = plain_example(3, length, 0, text, tokenizer, 4)
        assert example.tokens.shape == (length,)
        assert example.tokens.dtype == np.uint32
        found = STATEMENT.findall(tokenizer.decode(example.tokens))
        stated, asked = found[:4], found[4:]
        assert len(found) == 8
        assert sorted(stated) == sorted(asked)
        assert len({key for key, _ in stated}) == 4
        # The answer tokens of bin i spell the value that was stated at depth i.
        for depth, (_, value) in enumerate(stated):
            spelled = tokenizer.decode(example.tokens[example.positions[example.bins == depth]])
            assert spelled.strip() == value


def test_needles_lie_in_their_bins_of_the_text(tokenizer: Any, text: np.ndarray) -> None:
    for index in range(5):
        example = plain_example(0, 1200, index, text, tokenizer, 5)
        decoded = tokenizer.decode(example.tokens)
        starts = [match.start() / len(decoded) for match in STATEMENT.finditer(decoded)][:5]
        assert starts == sorted(starts)
        assert starts[0] < 0.25
        assert starts[-1] > 0.5


def test_a_model_that_copies_retrieves_all_and_one_that_guesses_nothing(
    oracle: Any, tokenizer: Any, text: np.ndarray
) -> None:
    make = sentence_examples(tokenizer, text, 1, 2)
    settings: dict[str, Any] = {"task": "text", "num_needles": 2, "examples": 1, "device": "cpu"}
    assert score_grid(oracle(copier, 300), make, [200], **settings).mean == (1.0,)
    assert score_grid(oracle(lambda tokens: 5, 300), make, [200], **settings).mean == (0.0,)


def test_examples_are_a_pure_function_of_seed_length_and_index(tokenizer: Any, text: np.ndarray) -> None:
    def tokens(seed: int, length: int, index: int) -> list[int]:
        return plain_example(seed, length, index, text, tokenizer, 2).tokens.tolist()

    assert tokens(1, 300, 0) == tokens(1, 300, 0)
    assert tokens(1, 300, 0) != tokens(1, 300, 1)
    assert tokens(1, 300, 0) != tokens(2, 300, 0)


def test_the_start_token_is_put_in_front_only_where_the_tokenizer_does(
    tokenizer: Any, bos_tokenizer: Any, text: np.ndarray
) -> None:
    with_start = plain_example(0, 300, 0, text, bos_tokenizer, 2).tokens
    assert with_start[0] == bos_tokenizer.bos_token_id
    assert with_start.size == 300
    assert bos_tokenizer.bos_token_id not in plain_example(0, 300, 0, text, tokenizer, 2).tokens


def test_refuses_too_little_room_too_many_needles_and_too_short_a_text(tokenizer: Any, text: np.ndarray) -> None:
    with pytest.raises(
        ConfigError, match=r"100 tokens has no room for 4 needles in plain text.*lengths of at least \d+"
    ):
        plain_example(0, 100, 0, text, tokenizer, 4)
    with pytest.raises(ConfigError, match=r"num_needles=300; must be in \[1, 256\]"):
        plain_example(0, 100, 0, text, tokenizer, 300)
    with pytest.raises(DataError, match="held-out text has 10 tokens"):
        plain_example(0, 400, 0, text[:10], tokenizer, 2)


def test_the_least_length_named_in_the_refusal_works(tokenizer: Any, text: np.ndarray) -> None:
    with pytest.raises(ConfigError) as refusal:
        plain_example(0, 100, 0, text, tokenizer, 4)
    least = int(re.findall(r"at least (\d+)", str(refusal.value))[0])
    # Another length draws other needles, whose sentences may take a few tokens more.
    assert plain_example(0, least + 16, 0, text, tokenizer, 4).tokens.size == least + 16


def test_a_slow_tokenizer_is_refused(text: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="SimpleNamespace gives no character offsets"):
        sentence_examples(SimpleNamespace(is_fast=False), text, 0, 2)
