"""Importing the room is cheap: `longspan --help` pays for it."""

import os
import subprocess
import sys


def test_no_heavy_library_is_imported_before_it_is_used() -> None:
    heavy = ("s3fs", "fsspec", "botocore", "aiohttp", "pyarrow", "torch", "ray", "numpy")
    program = f"import sys, longspan.storage; print([name for name in {heavy} if name in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")
