"""The demonstration: a tiny model extended from 128 to 1,024 tokens through the real parts, with honest controls."""

from longspan.demo.run import run_demo

__all__ = ["run_demo"]
