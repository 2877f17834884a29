"""One optimizer step: the loss is a sum over the global batch, divided once by its weight."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from longspan.errors import DataError, NotFiniteError
from longspan.train.exchange import RankBatch
from longspan.train.world import World


@dataclass(frozen=True)
class StepResult:
    """Of the global batch: loss (nats, `accumulate`), gradient norm before clipping, targets, highest position."""

    loss: float
    grad_norm: float
    valid_targets: int
    max_position: float


def train_step(
    engine: Any, batches: list[RankBatch], world: World, step: int, lr: float, per_target: bool = False
) -> StepResult:
    """Forward, backward and update over `batches`, this rank's micro-batches of optimizer step `step`; `per_target` as
    in `accumulate`.

    Raises:
        DataError: the global batch has no target.
        NotFiniteError: the loss, a gradient or their norm is not finite; weights and optimizer are those of the step
            before.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    loss, targets, highest = accumulate(engine, batches, world, step, per_target)
    # Before the update, so that a broken batch never reaches the weights.
    if not math.isfinite(loss):
        raise NotFiniteError(f"step {step}: loss is {loss}; weights and optimizer are those of step {step - 1}")
    engine.step()
    grad_norm = float(engine.get_global_grad_norm())
    # DeepSpeed looks for such gradients on all ranks before it updates (`engine.deepspeed_config`), and skips the step.
    if engine.optimizer.overflow or not 0 <= grad_norm < math.inf:
        raise NotFiniteError(
            f"step {step}: the gradient norm is not finite; weights and optimizer are those of step {step - 1}"
        )
    return StepResult(loss, grad_norm, targets, highest)


def accumulate(
    engine: Any, batches: list[RankBatch], world: World, step: int, per_target: bool = False
) -> tuple[float, int, float]:
    """Gradients of the global batch, reduced over the ranks; returns loss, targets and highest position of it.

    The gradient is the derivative of (sum of w * CE over the global batch) / (sum of w over the global batch):
    DeepSpeed divides by the number of ranks and by the accumulation steps, so both are put back here.

    Args:
        per_target: divide by the number of targets instead, as LongCE does (2410.23771): there the weights may raise
            the loss on the whole, not only shift it between tokens.
    """
    totals = _gather(_statistics(batches), world)
    weight = totals[:, 0].sum().item()
    if weight == 0:
        raise DataError(f"step {step}: none of its samples has a target; check the loss weights of data.mix's sources")
    targets = int(totals[:, 1].sum())
    divisor = targets if per_target else weight
    scale = world.topology.world_size * len(batches) / divisor
    loss_sum = torch.zeros(1, dtype=torch.float64, device=world.device)
    for number, batch in enumerate(batches):
        loss = engine(batch.input_ids, batch.positions, batch.labels, batch.loss_weight, batch.documents)
        engine.backward(loss * scale)
        loss_sum += loss.detach().double()
        if number < len(batches) - 1:
            engine.step()
    loss_value = _gather(loss_sum, world).sum().item() / divisor
    return loss_value, targets, totals[:, 2].max().item()


def _statistics(batches: list[RankBatch]) -> torch.Tensor:
    """Of this rank: sum of target weights, number of targets, highest position; float64 [3]."""
    weight = sum(batch.loss_weight.double().sum() for batch in batches)
    targets = sum((batch.labels >= 0).sum().double() for batch in batches)
    highest = torch.stack([batch.positions.max().double() for batch in batches]).max()
    return torch.stack([torch.as_tensor(weight), torch.as_tensor(targets), highest])


def _gather(row: torch.Tensor, world: World) -> torch.Tensor:
    """[world_size, columns] of every rank's row, in rank order: sums come out the same on every rank."""
    row = row.to(world.device)
    gathered = [torch.empty_like(row) for _ in range(world.topology.world_size)]
    dist.all_gather(gathered, row)
    return torch.stack(gathered).cpu()
