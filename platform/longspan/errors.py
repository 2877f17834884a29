"""The exception tree: every message says what is wrong, where (field, URI, shard and row), and the mend.

The command line prints a `LongspanError` as one line and exits with its code: 2 where the same command would fail again
until the user mends something, 1 where a machine, a store or a worker failed and it may succeed. Anything else is a bug
and keeps its traceback.
"""


class LongspanError(Exception):
    """Something the user can mend. `exit_code` is what the command line exits with."""

    exit_code = 1


class ConfigError(LongspanError):
    """A recipe, an override or a command-line argument is wrong; found before anything starts."""

    exit_code = 2


class TopologyError(ConfigError):
    """The workers, heads or lengths do not divide the way the parallel layout needs."""


class DataError(LongspanError):
    """A corpus, shard, manifest or plan is missing, damaged or does not fit the recipe."""

    exit_code = 2


class NotFiniteError(LongspanError):
    """Training has diverged: a loss or a gradient is infinite or not a number; found before weights are updated."""


class StorageError(LongspanError):
    """A URI could not be read or written after retries."""


class CheckpointError(LongspanError):
    """A checkpoint is incomplete, damaged, or belongs to another run."""

    exit_code = 2


class HeldError(ConfigError):
    """Another driver holds the output; says who, since when, and how to take it over. Found before anything starts."""


class LeaseLostError(LongspanError):
    """Another driver has taken this one's output over; nothing more is written by this one."""


class LaunchError(LongspanError):
    """The cluster cannot start or finish the run (too few CPUs or GPUs, workers that keep failing)."""
