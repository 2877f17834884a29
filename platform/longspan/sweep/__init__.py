"""Search over recipe values with Ray Tune."""

from longspan.sweep.run import run_sweep_file

__all__ = ["run_sweep_file"]
