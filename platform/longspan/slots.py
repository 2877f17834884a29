"""Slots that a cluster must have: what cannot fit is an error at once, where Ray would wait for it for ever."""

import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from longspan.errors import ConfigError

WAIT_VARIABLE = "LONGSPAN_WAIT_FOR_SLOTS_S"
"""Seconds to wait for nodes; 0 when left out. For clusters that add nodes as they are asked for."""
_POLL_S = 1.0
_ROUNDING = 1e-6
"""Ray counts in ten-thousandths."""


@dataclass(frozen=True)
class Need:
    """`count` times `cpus` CPU slots and `gpus` GPUs, each time on one node."""

    what: str
    count: int
    cpus: float
    gpus: float = 0

    @property
    def slots(self) -> dict[str, float]:
        """What one of them takes, in Ray's names."""
        return {name: size for name, size in (("CPU", self.cpus), ("GPU", self.gpus)) if size}

    def times(self, node: Mapping[str, float]) -> float:
        """How many a node can hold."""
        fits = [math.floor(node.get(name, 0) / size + _ROUNDING) for name, size in self.slots.items()]
        return min(fits, default=math.inf)


def lacking(needs: Sequence[Need], nodes: Sequence[Mapping[str, float]]) -> str | None:
    """What cannot be, all slots of the nodes being free; None where all needs fit.

    A text is proof; None is not, where needs of several sizes have to share nodes.

    Args:
        nodes: the resources of each, in Ray's names.
    """
    for name, unit in (("CPU", "CPU slots"), ("GPU", "GPUs")):
        parts = [(need, need.slots[name]) for need in needs if name in need.slots]
        wanted, there = sum(need.count * size for need, size in parts), sum(node.get(name, 0) for node in nodes)
        if wanted > there + _ROUNDING:
            sizes = " + ".join(f"{need.count} {need.what} x {size:g}" for need, size in parts)
            return f"{sizes} = {wanted:g} {unit}, the cluster has {there:g}"
    for need in needs:
        fit = sum(need.times(node) for node in nodes)
        if need.count > fit:
            size = " and ".join(f"{size:g} {name}" for name, size in need.slots.items())
            return f"{need.count} {need.what} need {size} each, on one node; the {len(nodes)} nodes hold {fit:g} such"
    return None


def require_slots(field: str, needs: Sequence[Need], mend: str) -> None:
    """Return once the cluster that was joined can hold all needs at a time.

    Args:
        field: that asked for them, for messages.
        mend: what the user can do.

    Raises:
        ConfigError: it cannot, after LONGSPAN_WAIT_FOR_SLOTS_S seconds; tells what was needed and what there is.
    """
    import ray

    deadline = time.monotonic() + _wait_s()
    waited = False
    try:
        while (lack := lacking(needs, [node["Resources"] for node in ray.nodes() if node["Alive"]])) is not None:
            if time.monotonic() >= deadline:
                raise ConfigError(f"{field}: {lack}; {mend}, or set {WAIT_VARIABLE} where the cluster grows by itself")
            waited = True
            _ask_for([need.slots for need in needs for _ in range(need.count)])
            time.sleep(_POLL_S)
    finally:
        if waited:
            _ask_for([])


def _ask_for(slots: list[dict[str, float]]) -> None:
    """An autoscaler adds nodes for what it is told of; without one nothing happens."""
    from ray.autoscaler.sdk import request_resources

    request_resources(bundles=slots)


def _wait_s() -> float:
    text = os.environ.get(WAIT_VARIABLE, "0")
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ConfigError(f"{WAIT_VARIABLE}={text}: must be seconds, 0 or more")
    return seconds
