"""What a method's positions teach: which relative distances are seen, how often, and how far up the window they reach.

Reads finished samples and feeds `planner` (before a run), `observe` (during it) and the tests. RoPE sees differences
only, so coverage is counted over pairs of tokens of one document. Fractional positions (E2-LLM) are counted rounded
down; multiply them by `coverage_unit` first to lay them beside other methods.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from longspan.errors import DataError
from longspan.positions.methods import IntArray, PositionArray, check_target_length


@dataclass(frozen=True)
class Coverage:
    """Measures over all documents of the samples given to `measure_coverage`; lengths and distances in tokens.

    Attributes:
        target_length: the window that was to be covered.
        num_documents: documents measured.
        largest_position: largest position of any token (-1 when there were none).
        mean_last_position: mean over documents of the last position.
        mean_token_distance: mean |p_i - p_j| over all pairs of two tokens of one document ("mean token distance" of
            LongRecipe's Fig. 3: a third of the window when it is filled evenly).
        mean_segment_length: mean length of the runs in which each position is the one before plus 1 (or plus the
            document's smallest step, if most are that one).
        share_of_distances_seen: share of the distances 1..target_length-1 that some pair has.
        distance_counts: int64 [target_length], number of pairs at each distance; entry 0 is 0 for whole positions.
    """

    target_length: int
    num_documents: int
    largest_position: int
    mean_last_position: float
    mean_token_distance: float
    mean_segment_length: float
    share_of_distances_seen: float
    distance_counts: npt.NDArray[np.int64]


def measure_coverage(samples: Iterable[tuple[PositionArray, IntArray]], target_length: int) -> Coverage:
    """Coverage over many samples, exact, one document in memory at a time.

    Distances are counted from the autocorrelation of the occupied positions, by FFT: time O(target_length *
    log target_length) a document, memory O(target_length); documents with few pairs are counted directly.

    Args:
        samples: pairs of (positions float32 [n], cu_seqlens [num_documents + 1] with cu_seqlens[-1] == n).
        target_length: the window that is to be covered.

    Raises:
        ConfigError: target_length below 1 or above 2**24.
        DataError: a position outside [0, target_length), or not above the one before it.
    """
    check_target_length(target_length)
    fft_length = 1 << (2 * target_length - 1).bit_length()
    power = np.zeros(fft_length // 2 + 1)
    counts = np.zeros(target_length, dtype=np.int64)
    num_documents = num_runs = num_tokens = num_from_fft = sum_of_last = 0
    largest = -1
    for positions, cu_seqlens in samples:
        for begin, end in pairwise(cu_seqlens.tolist()):
            num_runs += _count_runs(positions[begin:end], target_length)
            # A quarter for what rounding to float32 has taken from a scaled position.
            occupied = np.minimum((positions[begin:end] + 0.25).astype(np.int64), target_length - 1)
            if len(occupied) * len(occupied) <= 2 * fft_length:
                counts += _counts_by_pairs(occupied, target_length)
            else:
                power += _power_spectrum(occupied, fft_length)
                num_from_fft += len(occupied)
            num_documents += 1
            num_tokens += len(occupied)
            sum_of_last += int(occupied[-1])
            largest = max(largest, int(occupied[-1]))
    from_fft = np.rint(np.fft.irfft(power, fft_length)[:target_length]).astype(np.int64)
    # Lag 0 pairs every token with itself once, and with each other one at its place twice.
    from_fft[0] = (from_fft[0] - num_from_fft) // 2
    counts += from_fft
    num_pairs = int(counts.sum())
    return Coverage(
        target_length=target_length,
        num_documents=num_documents,
        largest_position=largest,
        mean_last_position=sum_of_last / max(num_documents, 1),
        mean_token_distance=float(np.arange(target_length, dtype=np.float64) @ counts) / max(num_pairs, 1),
        mean_segment_length=num_tokens / max(num_runs, 1),
        share_of_distances_seen=int(np.count_nonzero(counts[1:])) / max(target_length - 1, 1),
        distance_counts=counts,
    )


def distance_histogram(coverage: Coverage, num_bins: int) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Share of the pairs in `num_bins` equal bins of distance, for a plot.

    Returns:
        edges float64 [num_bins + 1] from 0 to target_length, and shares float64 [num_bins] with sum 1 (0 if no pair).
    """
    edges = np.linspace(0, coverage.target_length, num_bins + 1)
    distances = np.arange(coverage.target_length)
    pairs, _ = np.histogram(distances, bins=edges, weights=coverage.distance_counts.astype(np.float64))
    return edges, pairs / max(float(pairs.sum()), 1.0)


def _count_runs(positions: PositionArray, target_length: int) -> int:
    """Runs of neighbouring positions of a document, after checking that they are positions."""
    if len(positions) == 0:
        raise DataError("coverage was given a document without tokens; cu_seqlens must be strictly increasing")
    steps = np.diff(positions)
    if positions[0] < 0 or positions[-1] >= target_length or not bool(np.all(steps > 0)):
        raise DataError(
            f"positions of a document must increase strictly within [0, {target_length}), "
            f"got {positions[0]:g} to {positions[-1]:g}"
        )
    # Half a step more than a step: scaled positions are not exactly alike in float32.
    smallest = float(steps.min(initial=np.inf))
    is_smallest = steps < 1.5 * smallest
    # Scaled positions: all steps but a few are the smallest. Those of any other method are 1 or they are gaps.
    step_is_scaled = 2 * int(np.count_nonzero(is_smallest)) > max(2, len(steps))
    return 1 + int(np.count_nonzero(~is_smallest if step_is_scaled else steps > 1))


def _counts_by_pairs(occupied: npt.NDArray[np.int64], target_length: int) -> npt.NDArray[np.int64]:
    earlier, later = np.triu_indices(len(occupied), k=1)
    return np.bincount(occupied[later] - occupied[earlier], minlength=target_length)


def _power_spectrum(occupied: npt.NDArray[np.int64], fft_length: int) -> npt.NDArray[np.float64]:
    spectrum = np.fft.rfft(np.bincount(occupied, minlength=fft_length).astype(np.float64))
    return np.asarray(spectrum.real**2 + spectrum.imag**2, dtype=np.float64)
