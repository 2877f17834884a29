"""A run that dies: `python -m tests.launch.killed_run RECIPE K` ends without a word in optimizer step K."""

import os
import sys
from typing import Any

from longspan.config.load import load_recipe
from longspan.launch.run import train
from longspan.train import loop


def main() -> None:
    path, last = sys.argv[1], int(sys.argv[2])
    train_step = loop.train_step

    def step_or_die(engine: Any, batches: Any, world: Any, step: int, *rest: Any) -> Any:
        result = train_step(engine, batches, world, step, *rest)
        if step == last:
            os._exit(137)
        return result

    loop.train_step = step_or_die
    train(load_recipe(path), show_progress=False)


if __name__ == "__main__":
    main()
