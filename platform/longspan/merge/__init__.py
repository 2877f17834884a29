"""Averages two checkpoints of one architecture: LongRecipe's last stage (2409.00509, section 4)."""

from longspan.merge.merge import merge_checkpoints

__all__ = ["merge_checkpoints"]
