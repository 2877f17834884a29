"""Micro-batches compared field by field."""

import dataclasses
from collections.abc import Iterable

import numpy as np

from longspan.feed.batch import MicroBatch


def assert_same(found: MicroBatch, expected: MicroBatch) -> None:
    for field in dataclasses.fields(MicroBatch):
        np.testing.assert_array_equal(
            getattr(found, field.name), getattr(expected, field.name), err_msg=field.name, strict=True
        )


def assert_all_same(found: Iterable[MicroBatch], expected: Iterable[MicroBatch]) -> None:
    for left, right in zip(found, expected, strict=True):
        assert_same(left, right)
