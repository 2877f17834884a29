"""The other side of the feed benchmarks: MosaicML Streaming, driven over pipes by `peer`.

Runs under a Python of its own, because its requirements exclude ours, and imports nothing of longspan. A request is a
line of JSON on standard input, its answer a line of JSON on standard output.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def import_streaming() -> tuple[Any, Any]:
    """The package, and what has to live as long as it.

    It imports torchvision, whose binary needs CUDA: beside a torch for CPUs two names are missing, and get defined.
    """
    library = None
    try:
        import streaming
    except RuntimeError:
        import torch

        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import streaming
    return streaming, library


def write(samples: str, out: str, size_limit: int) -> dict[str, Any]:
    """The samples of a .npy file, uint32 [num_samples, sample_length], as MDS shards, uncompressed."""
    rows = np.load(samples)
    shutil.rmtree(out, ignore_errors=True)
    with STREAMING.MDSWriter(
        out=out, columns={"tokens": f"ndarray:uint32:{rows.shape[1]}"}, size_limit=size_limit
    ) as writer:
        for row in rows:
            writer.write({"tokens": row})
    return {"samples": len(rows)}


def _dataset(local: str, remote: str | None, predownload: int | None) -> Any:
    from streaming.base.util import clean_stale_shared_memory

    clean_stale_shared_memory()
    if remote is not None:
        shutil.rmtree(local, ignore_errors=True)
    return STREAMING.StreamingDataset(
        local=local,
        remote=remote,
        shuffle=True,
        shuffle_algo="py1e",
        shuffle_seed=0,
        batch_size=1,
        num_canonical_nodes=1,
        predownload=predownload,
    )


def read(local: str, remote: str | None, arrays: bool, check: bool) -> dict[str, Any]:
    """One shuffled epoch in this process; with `remote`, everything is fetched. `arrays`: see `add_arrays`."""
    dataset = _dataset(local, remote, 1024)  # far more than its default, which would wait for the store
    cpu, started = time.process_time(), time.perf_counter()
    tokens = total = 0
    for sample in dataset:
        tokens += sample["tokens"].size
        if arrays:
            add_arrays(sample["tokens"])
        if check:
            total += int(sample["tokens"].sum(dtype=np.int64))
    return {
        "tokens": tokens,
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "token_sum": total if check else -1,
    }


def add_arrays(tokens: Any) -> tuple[Any, ...]:
    """What our feed delivers beside the tokens of a sample, in the least work: ordinary positions, one document."""
    ids = tokens.astype(np.int32)
    labels = np.empty_like(ids)
    labels[:-1], labels[-1] = ids[1:], -100
    weight = np.ones(ids.size, np.float32)
    weight[-1] = 0
    return ids, labels, weight, np.arange(ids.size, dtype=np.float32), np.array([0, ids.size], np.int32)


def resume(local: str, remote: str | None, sample: int) -> dict[str, Any]:
    """Seconds from nothing to the first sample, from a saved position in the epoch."""
    started = time.perf_counter()
    dataset = _dataset(local, remote, None)
    dataset.load_state_dict(
        {
            "epoch": 0,
            "sample_in_epoch": sample,
            "num_canonical_nodes": 1,
            "shuffle_seed": 0,
            "initial_physical_nodes": 1,
        }
    )
    iterator = iter(dataset)
    first = next(iterator)["tokens"]
    seconds = time.perf_counter() - started
    iterator.close()
    return {"seconds": seconds, "token_sum": int(first.sum(dtype=np.int64))}


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the package prints must not mix with the answers
    print(json.dumps({"version": STREAMING.__version__}), file=answers, flush=True)
    work: dict[str, Callable[..., dict[str, Any]]] = {"write": write, "read": read, "resume": resume}
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(work[request.pop("do")](**request)), file=answers, flush=True)


STREAMING, _LIBRARY = import_streaming()

if __name__ == "__main__":
    main()
