"""A cluster that is not there is said at once; Ray would try for minutes."""

import pytest

from longspan.errors import ConfigError
from longspan.launch.cluster import refuse_unreachable


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "no-such-host.invalid:6379"])
def test_an_unreachable_cluster_is_one_error(address: str) -> None:
    with pytest.raises(ConfigError, match=rf"^parallel.address: no Ray cluster at '{address}'"):
        refuse_unreachable(address, "parallel.address")


def test_one_that_answers_or_has_no_port_is_left_to_ray(moto_server: str) -> None:
    refuse_unreachable(moto_server.removeprefix("http://"), "parallel.address")
    refuse_unreachable("auto", "parallel.address")
