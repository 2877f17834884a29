"""Pipelines run: stages in order, each a job of its own that can be stopped, gone on with and looked at."""
