"""The names of the needle tasks, for corpora that train them and comparisons that ask them.

What each one is stands in corpus.synthesis.needle_tasks.
"""

from typing import Literal, get_args

Task = Literal["recall", "latest", "history", "larger", "hop"]
TASKS: tuple[Task, ...] = get_args(Task)
