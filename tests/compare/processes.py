"""What the tests call in processes of their own; imports little, so that these start quickly."""

import os
import sys
import time
from functools import partial
from pathlib import Path

from longspan.errors import LongspanError


def half(number: int) -> int | LongspanError:
    """Half of an even number; an odd one is a mistake, 0 ends the process."""
    if number == 0:
        os._exit(1)
    return LongspanError(f"{number} is odd") if number % 2 else number // 2


def wait_for_word(folder: str, number: int) -> None:
    """Leaves FOLDER/NUMBER.begun, waits for FOLDER/go, leaves FOLDER/NUMBER.ended."""
    Path(folder, f"{number}.begun").touch()
    while not Path(folder, "go").exists():
        time.sleep(0.02)
    Path(folder, f"{number}.ended").touch()


def main(folder: str) -> None:
    from longspan.compare.pool import in_processes

    try:
        for _ in in_processes(partial(wait_for_word, folder), list(range(6)), 2):
            pass
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main(sys.argv[1])
