"""Experiment trackers: the same per-step metrics as metrics.jsonl, sent to Weights & Biases when a recipe asks for it.

Opened by rank 0 before the first step. Once a run is under way, no failure in here reaches the training loop.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

from longspan import storage
from longspan.errors import ConfigError
from longspan.observe.formatting import is_number

_logger = logging.getLogger(__name__)


class Tracker(Protocol):
    """What the training loop needs of a tracker."""

    def log(self, step: int, metrics: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...


class NoTracker:
    """The tracker of a run that asked for none."""

    def log(self, step: int, metrics: Mapping[str, object]) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""


class WandbTracker:
    """One W&B run. The first failure is logged as a warning and ends tracking; training goes on."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def log(self, step: int, metrics: Mapping[str, object]) -> None:
        """Send the finite numbers among `metrics` at this 1-based step.

        After a restart W&B ignores steps that it has seen; a resumed longspan run repeats them with equal values.
        """
        if self._run is None:
            return
        try:
            self._run.log({name: value for name, value in metrics.items() if is_number(value)}, step=step)
        except Exception as error:  # whatever a tracker throws, training goes on
            self._give_up(f"step {step}", error)

    def close(self) -> None:
        """Finish the run, which waits for what is still to be sent; closing twice is harmless."""
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:
            self._give_up("the end of the run", error)
        self._run = None

    def _give_up(self, where: str, error: Exception) -> None:
        self._run = None
        _logger.warning("Weights & Biases failed at %s (%s); training goes on untracked", where, error)


def open_tracker(
    mode: Literal["off", "online", "offline"],
    project: str,
    run_name: str,
    run_id: str,
    config: Mapping[str, object],
    directory: str | Path,
) -> Tracker:
    """The tracker that the recipe asked for.

    Args:
        mode: "offline" writes below `directory` for a later `wandb sync`.
        run_id: the same across restarts, so that they continue one W&B run.
        config: the resolved recipe. It is published as it is: it must hold no credentials (W&B takes its key from the
            environment or `wandb login`, never from a recipe).
        directory: local folder for W&B's files.

    Raises:
        ConfigError: wandb is not installed, refuses the settings or has no key, or `directory` is not local.
    """
    if mode == "off":
        return NoTracker()
    if storage.is_remote(str(directory)):
        raise ConfigError(
            f"tracking.wandb: W&B writes to a local folder, not to {directory}; give it a path on this machine"
        )
    try:
        import wandb
    except ImportError as error:
        raise ConfigError(
            "tracking.wandb: the package wandb is not installed; run `pip install wandb`, or set tracking.wandb to off"
        ) from error
    Path(directory).mkdir(parents=True, exist_ok=True)
    try:
        # W&B would wrap stdout, which Ray's workers have wrapped already.
        settings = wandb.Settings(console="off", save_code=False)
        run = wandb.init(
            project=project,
            name=run_name,
            id=run_id,
            config=dict(config),
            dir=str(directory),
            mode=mode,
            resume="allow",
            settings=settings,
        )
    except (wandb.errors.UsageError, wandb.errors.AuthenticationError) as error:
        raise ConfigError(
            f"tracking.wandb: {str(error).rstrip('.')}. Mend the setting, run `wandb login` or set WANDB_API_KEY "
            "on the machine that trains, or set tracking.wandb to offline or off"
        ) from error
    except Exception as error:  # W&B being down must not stop a run from starting or resuming
        _logger.warning("Weights & Biases could not start (%s); training goes on untracked", error)
        return NoTracker()
    return WandbTracker(run)
