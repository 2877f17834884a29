"""Harder retrieval in needle tokens (corpus.synthesis.needle_tasks), scored as the needle grid is.

`run` asks them beside the grid where `EvaluationSettings.tasks` names them.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from longspan.config.tasks import TASKS, Task
from longspan.corpus.synthesis.needle_tasks import task_example
from longspan.corpus.synthesis.needles import NeedleVocabulary
from longspan.evaluate.grid import GridExample, NeedleGrid, score_grid


def task_grid(
    model: nn.Module,
    vocabulary: NeedleVocabulary,
    text: NDArray[np.uint32],
    task: Task,
    lengths: Sequence[int],
    *,
    num_questions: int = 10,
    examples: int = 16,
    seed: int,
    device: torch.device | str,
    batch_tokens: int = 16384,
    report: Callable[[str], None] | None = None,
) -> NeedleGrid:
    """Accuracy of a task by depth and length. A question counts when all its answer tokens are right; its depth bin is
    its rank by where the first record that it needs lies.

    Args:
        model: a causal LM on `device` whose vocabulary includes the needle tokens.
        text: held-out token ids [num_text_tokens], at least as many as the longest length.
        seed: with task, length and index, decides the sequence; the same for every model.
        lengths, examples, batch_tokens, report: as for `needles.needle_grid`.

    Raises:
        ConfigError: a length has no room for the questions, or there are more of them than the keys are enough for.
        DataError: `text` is shorter than a length.
    """

    def make(length: int, index: int) -> GridExample:
        rng = np.random.default_rng([seed, length, index, *([TASKS.index(task)] if task != "recall" else [])])
        made = task_example(rng, task, text, length, vocabulary, num_questions)
        return GridExample(made.tokens, made.answer_positions, made.questions)

    return score_grid(
        model,
        make,
        lengths,
        task=task,
        num_needles=num_questions,
        examples=examples,
        device=device,
        batch_tokens=batch_tokens,
        report=report,
    )
