"""One thread: on models this small two are slower, and far slower where the cores are busy."""

import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
