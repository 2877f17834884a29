"""`longspan` that stands still: `python -m tests.launch.halting_run K COMMAND...` stops itself (SIGSTOP) in step K."""

import os
import signal
import sys
from typing import Any

from longspan.cli import main
from longspan.train import loop


def halt_in(last: int) -> None:
    train_step = loop.train_step

    def step_and_halt(engine: Any, batches: Any, world: Any, step: int, *rest: Any) -> Any:
        result = train_step(engine, batches, world, step, *rest)
        if step == last:
            os.kill(os.getpid(), signal.SIGSTOP)
        return result

    loop.train_step = step_and_halt


if __name__ == "__main__":
    halt_in(int(sys.argv[1]))
    sys.argv = ["longspan", *sys.argv[2:]]
    main()
