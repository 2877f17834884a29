"""What to ask a model whose vocabulary has needle tokens: one token holds key and value, one asks, one answers.

For corpora that longspan prepares with `tokenizer.needle_tokens: true`: plain recall, which is the needle grid, and
harder retrieval (corpus.synthesis.needle_tasks). Other models are asked in plain sentences (`plain_needles`).
"""

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longspan.config.tasks import TASKS, Task
from longspan.corpus.synthesis.needle_tasks import task_example
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.errors import ConfigError
from longspan.evaluate.grid import GridExample, MakeExample

_NEEDLE = re.compile(r"<n:(\d+):(\d+)>|<q:(\d+)>|<v:(\d+)>")


def has_needle_tokens(tokenizer: Any) -> bool:
    """Whether any added token of a Hugging Face tokenizer is a needle token."""
    return any(_NEEDLE.fullmatch(token) for token in tokenizer.get_added_vocab())


def vocabulary_from_tokenizer(tokenizer: Any) -> NeedleVocabulary:
    """The needle vocabulary that a Hugging Face tokenizer's added tokens (`<n:3:7>`, `<q:3>`, `<v:7>`) spell out.

    Raises:
        ConfigError: it has none, or they are not one whole block of ids in the order of `NeedleVocabulary.tokens`.
    """
    added = {token: index for token, index in tokenizer.get_added_vocab().items() if _NEEDLE.fullmatch(token)}
    if not added:
        raise ConfigError(
            "tokenizer: no needle tokens (<n:0:0>, <q:0>, <v:0>); the needle grid of this version needs a corpus"
            " prepared with tokenizer.needle_tokens: true"
        )
    pairs = [match.groups() for match in map(_NEEDLE.fullmatch, added) if match]
    num_keys = 1 + max(int(key or query or 0) for key, _, query, _ in pairs)
    num_values = 1 + max(int(value or answer or 0) for _, value, _, answer in pairs)
    vocabulary = NeedleVocabulary(min(added.values()), num_keys, num_values)
    expected = {token: vocabulary.first_id + index for index, token in enumerate(vocabulary.tokens())}
    if added != expected:
        differing = sorted(token for token in expected.keys() | added.keys() if expected.get(token) != added.get(token))
        raise ConfigError(
            f"tokenizer: needle token {differing[0]} has id {added.get(differing[0])}, expected"
            f" {expected.get(differing[0])} ({len(differing)} of {len(expected)} differ); prepare the corpus again with"
            " tokenizer.needle_tokens: true"
        )
    return vocabulary


def task_examples(
    task: Task, vocabulary: NeedleVocabulary, text: NDArray[np.uint32], seed: int, num_questions: int
) -> MakeExample:
    """Sequences of a task for `grid.score_grid`; blind chance is 1 / num_values a question.

    A question's depth bin is its rank by where the first record that it needs lies: of `recall`, the bin of its needle.

    Args:
        vocabulary: ids of the needle tokens, which the model has embeddings for.
        text: held-out token ids [num_text_tokens], at least as many as the longest length.
        seed: with task, length and index, decides the sequence.
        num_questions: questions a sequence.

    Raises (from the maker):
        ConfigError: a length has no room for the questions, or there are more of them than the keys are enough for.
        DataError: `text` is shorter than a length.
    """

    def make(length: int, index: int) -> GridExample:
        rng = np.random.default_rng([seed, length, index, *([TASKS.index(task)] if task != "recall" else [])])
        made = task_example(rng, task, text, length, vocabulary, num_questions)
        return GridExample(made.tokens, made.answer_positions, made.questions)

    return make
