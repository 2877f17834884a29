"""A cluster that is not there is said at once; Ray would try for minutes."""

import pytest

from longspan.errors import LaunchError
from longspan.launch.cluster import join_cluster


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_unreachable_cluster_is_one_error(address: str) -> None:
    with pytest.raises(LaunchError, match=rf"^parallel.address: no Ray cluster at '{address}'"):
        join_cluster(address, 1, "parallel.address")
