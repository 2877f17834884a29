"""What cannot fit a cluster is told, with what was needed and what there is; nodes that come in time are waited for."""

from typing import Any

import pytest

from longspan.errors import ConfigError
from longspan.slots import WAIT_VARIABLE, Need, lacking, require_slots

NODE = {"CPU": 4.0, "memory": 1e9}
GPU_NODE = {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("needs", "nodes"),
    [
        ([Need("workers", 2, 1), Need("feed", 1, 1)], [{"CPU": 3.0}]),
        ([Need("workers", 2, 0.5), Need("feed", 1, 1)], [{"CPU": 2.0}]),
        ([Need("workers", 30, 0.1)], [{"CPU": 3.0}]),
        ([Need("workers", 4, 2)], [NODE, NODE]),
        ([Need("workers", 4, 1, 1)], [GPU_NODE, GPU_NODE, {}]),
        ([Need("workers", 5, 0)], [{}]),
    ],
)
def test_what_fits_exactly_fits(needs: list[Need], nodes: list[dict[str, float]]) -> None:
    assert lacking(needs, nodes) is None


@pytest.mark.parametrize(
    ("needs", "nodes", "text"),
    [
        (
            [Need("workers", 2, 1), Need("tasks of the feed", 2, 1)],
            [{"CPU": 3.0}],
            "2 workers x 1 + 2 tasks of the feed x 1 = 4 CPU slots, the cluster has 3",
        ),
        ([Need("task", 1, 1)], [{}], "1 task x 1 = 1 CPU slots, the cluster has 0"),
        ([Need("task", 1, 1)], [], "1 task x 1 = 1 CPU slots, the cluster has 0"),
        ([Need("workers", 3, 1, 1)], [GPU_NODE], "3 workers x 1 = 3 GPUs, the cluster has 2"),
        ([Need("workers", 3, 2.5)], [NODE, NODE], "3 workers need 2.5 CPU each, on one node; the 2 nodes hold 2 such"),
        (
            [Need("workers", 2, 1, 1)],
            [NODE, {"GPU": 2.0}],
            "2 workers need 1 CPU and 1 GPU each, on one node; the 2 nodes hold 0 such",
        ),
    ],
)
def test_what_cannot_fit_is_told(needs: list[Need], nodes: list[dict[str, float]], text: str) -> None:
    assert lacking(needs, nodes) == text


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The CPU slots of the nodes at each look, the last for all further ones; and the requests to an autoscaler."""
    import ray
    import ray.autoscaler.sdk as sdk

    from longspan import slots

    looks: list[list[float]] = []

    def look() -> list[dict[str, Any]]:
        sizes = looks.pop(0) if len(looks) > 1 else looks[0]
        gone = {"Alive": False, "Resources": {"CPU": 64.0}}
        return [gone, *({"Alive": True, "Resources": {"CPU": size}} for size in sizes)]

    monkeypatch.setattr(ray, "nodes", look)
    monkeypatch.setattr(sdk, "request_resources", lambda bundles: looks.append([-float(len(bundles))]))
    monkeypatch.setattr(slots, "_POLL_S", 0.0)
    monkeypatch.delenv(WAIT_VARIABLE, raising=False)
    return looks


def test_too_few_slots_are_an_error_at_once(nodes: list[list[float]]) -> None:
    nodes.append([1.0, 1.0])
    message = (
        "parallel: 2 workers x 2 = 4 CPU slots, the cluster has 2; lower parallel.num_workers, or set"
        f" {WAIT_VARIABLE} where the cluster grows by itself"
    )
    with pytest.raises(ConfigError) as raised:
        require_slots("parallel", [Need("workers", 2, 2)], "lower parallel.num_workers")
    assert str(raised.value) == message
    assert nodes == [[1.0, 1.0]], "nothing was requested"


def test_nodes_that_come_are_waited_for_and_the_request_is_taken_back(
    nodes: list[list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(WAIT_VARIABLE, "60")
    nodes += [[1.0], [2.0, 2.0]]
    require_slots("parallel", [Need("workers", 2, 2)], "lower parallel.num_workers")
    assert nodes == [[-2.0], [-0.0]], "first the two bundles, then none"


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf", ""])
def test_a_wrong_time_to_wait_is_named(nodes: list[list[float]], monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv(WAIT_VARIABLE, text)
    nodes.append([1.0])
    with pytest.raises(ConfigError, match=f"^{WAIT_VARIABLE}={text}: must be seconds, 0 or more"):
        require_slots("parallel", [Need("workers", 2, 2)], "lower parallel.num_workers")
