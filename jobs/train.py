"""Entry point for `ray job submit --working-dir . -- python jobs/train.py RECIPE [--set section.key=value] [--output
DIR]`.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "platform"))

from longspan.cli import main

if __name__ == "__main__":
    sys.argv = [sys.argv[0], "train", *sys.argv[1:]]
    main()
