"""Start-up proof that attention follows the document boundaries and nothing else.

A token before a gap in the positions must reach the last token of its document; a token of another document must not,
bit for bit. The library's own mask fails the first half without any error, which is why every run checks before it
spends anything.
"""

import torch
import torch.distributed as dist
from torch import Tensor

from longspan.errors import LongspanError
from longspan.model.attention import Documents
from longspan.model.loss import CausalLMLoss


def boundary_probe(
    forward: CausalLMLoss, documents: Documents, vocab_size: int, device: torch.device, ranks: int = 1, rank: int = 0
) -> tuple[float, float]:
    """Largest change of the last token's hidden state when a token changes (across a gap in its document, in another
    document).

    Runs the model as it stands (training mode, checkpointing, sequence parallelism). `documents` carries kernel and
    sequence parallelism; its boundaries are replaced by the probe's own. Every rank of the sequence-parallel group must
    call it.
    """
    length = 16 * ranks
    first, second = length // 4, length
    layout = Documents((0, first, second), documents.kernel, documents.sequence_parallel).on(device)
    # Fractional and skipped positions, as PoSE, LongRecipe and E2-LLM make them.
    positions = torch.arange(length, dtype=torch.float32)
    positions[first:] -= first
    middle = (first + second) // 2
    positions[middle:] += 40.5
    base = (torch.arange(length) * 7 + 3) % vocab_size
    local = slice(rank * length // ranks, (rank + 1) * length // ranks)

    def last_state(changed: int | None) -> Tensor:
        tokens = base.clone()
        if changed is not None:
            tokens[changed] = (tokens[changed] + 1) % vocab_size
        with torch.no_grad():
            hidden = forward.hidden_states(tokens[local][None].to(device), positions[local][None].to(device), layout)
        return hidden[0, -1].float()

    reference = last_state(None)
    across_gap = (last_state(first) - reference).abs().max().item()
    across_boundary = (last_state(0) - reference).abs().max().item()
    return across_gap, across_boundary


def require_structure(
    forward: CausalLMLoss, documents: Documents, vocab_size: int, device: torch.device, ranks: int, rank: int
) -> None:
    """Raises LongspanError on every rank of the world unless `boundary_probe` shows the structure asked for.

    Every rank must call it: `rank` of the `ranks` that share a sample.
    """
    values = torch.tensor(boundary_probe(forward, documents, vocab_size, device, ranks, rank), device=device)
    if dist.is_initialized():
        rows = [torch.empty_like(values) for _ in range(dist.get_world_size())]
        dist.all_gather(rows, values)
        # The last token lives on the last rank of each group that shares a sample.
        values = torch.stack(rows[ranks - 1 :: ranks])
    gaps, boundaries = values.view(-1, 2).unbind(1)
    if not gaps.min() > 0:
        raise LongspanError(
            "attention probe: a token before a gap in the positions has no influence after it, so nothing long would be"
            " learned; the installed transformers does not honour attn_implementation='longspan'"
        )
    if boundaries.max() != 0:
        change = boundaries.max().item()
        raise LongspanError(
            f"attention probe: a token reaches into another document (change {change:.3g}); it must not"
        )
