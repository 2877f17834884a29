"""longspan: extend the context window of open language models by training on transformed positions."""

__version__ = "0.1.0"
