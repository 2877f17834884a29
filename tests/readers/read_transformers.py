"""transformers (5 or 4) and peft as readers of exports; run by `matrix` under a Python of their own.

    python read_transformers.py JOBS.json RESULTS.jsonl

Imports nothing of longspan. A job: {"name", "model", "prompts": [[id, ...], ...]} and, for peft, {"adapter", "base"}:
the base's weights under the adapter's config.json, then the adapter. A result: {"name", "window", "logprobs"} with the
log-probability of each token of a prompt but its first, or {"name", "error"}.
"""

import json
import sys
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

ROWS = 1024


def opened(job: dict[str, Any]) -> Any:
    if "adapter" not in job:
        return AutoModelForCausalLM.from_pretrained(job["model"])
    from peft import PeftModel

    config = AutoConfig.from_pretrained(job["adapter"])
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(job["base"], config=config), job["adapter"])


@torch.no_grad()
def logprobs(network: Any, prompt: list[int]) -> list[float]:
    ids = torch.tensor([prompt])
    rows = network(input_ids=ids).logits[0, :-1].split(ROWS)
    pairs = zip(rows, ids[0, 1:, None].split(ROWS), strict=True)
    return [value for row, targets in pairs for value in row.log_softmax(-1).gather(1, targets)[:, 0].tolist()]


def answer(job: dict[str, Any]) -> dict[str, Any]:
    try:
        network = opened(job).float().eval()
        found = [logprobs(network, prompt) for prompt in job["prompts"]]
    except Exception as error:
        return {"name": job["name"], "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {"name": job["name"], "window": network.config.max_position_embeddings, "logprobs": found}


if __name__ == "__main__":
    with open(sys.argv[1]) as jobs, open(sys.argv[2], "w") as results:
        names = [name for name in ("transformers", "peft", "torch") if find_spec(name)]
        print(json.dumps({"versions": {name: version(name) for name in names}}), file=results)
        for job in json.load(jobs):
            print(json.dumps(answer(job)), file=results, flush=True)
