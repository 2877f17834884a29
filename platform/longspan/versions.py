"""Versions of what a result depends on, for checkpoints and summaries."""

from importlib.metadata import version

import longspan

_PACKAGES = ("torch", "transformers", "deepspeed", "ray")


def versions() -> dict[str, str]:
    """Package name to installed version; longspan itself may have travelled with a job and not be installed."""
    return {"longspan": longspan.__version__, **{package: version(package) for package in _PACKAGES}}
