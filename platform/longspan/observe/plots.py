"""The door to all plots: each function takes plain data and a local path, and writes a PNG there.

Training, evaluation, comparison and sweeps call these with their results; the report embeds the files.
"""

from longspan.observe.plots_evaluation import accuracy_by_length, loss_by_position, needle_heatmaps
from longspan.observe.plots_plan import draw_plan, length_mix_by_source, mix_over_training, packing
from longspan.observe.plots_sweep import sweep_parallel_coordinates
from longspan.observe.plots_training import length_mix, position_coverage, training_curves

__all__ = [
    "accuracy_by_length",
    "draw_plan",
    "length_mix",
    "length_mix_by_source",
    "loss_by_position",
    "mix_over_training",
    "needle_heatmaps",
    "packing",
    "position_coverage",
    "sweep_parallel_coordinates",
    "training_curves",
]
