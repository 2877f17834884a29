"""Entry point for `ray job submit --working-dir . -- python jobs/train.py RECIPE [--set section.key=value] [--output
DIR]`; a file with stages is a pipeline, and its stages are run in order.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from longspan.cli import main
from longspan.config.load import read_yaml
from longspan.errors import LongspanError


def command_for(arguments: list[str]) -> str:
    """`run` for a file with stages, else `train`, which also says what is wrong with the arguments."""
    try:
        return "run" if arguments and "stages" in read_yaml(arguments[0]) else "train"
    except LongspanError:
        return "train"


if __name__ == "__main__":
    sys.argv = [sys.argv[0], command_for(sys.argv[1:]), *sys.argv[1:]]
    main()
