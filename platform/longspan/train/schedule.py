"""Learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

import math

from longspan.config.recipe import Train


def learning_rate(train: Train, step: int) -> float:
    """Learning rate of optimizer step `step` (0-based): linear warm-up, then the schedule down to min_lr_ratio."""
    if step < train.warmup_steps:
        return train.learning_rate * (step + 1) / train.warmup_steps
    span = max(1, train.steps - train.warmup_steps)
    progress = min(1.0, (step - train.warmup_steps) / span)
    return train.learning_rate * (train.min_lr_ratio + (1 - train.min_lr_ratio) * _decay(train, progress))


def _decay(train: Train, progress: float) -> float:
    match train.schedule:
        case "constant":
            return 1.0
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return 1 - progress
        case "wsd":
            if train.decay_share == 0:
                return 1.0
            return min(1.0, (1 - progress) / train.decay_share)
