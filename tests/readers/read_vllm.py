"""vLLM as a reader of exports; run by `matrix` under a Python of its own.

    python read_vllm.py JOBS.json RESULTS.jsonl

Imports nothing of longspan. A job: {"name", "model", "prompts": [[id, ...], ...]} and, where they are given,
{"max_model_len", "overrides", "adapter"}. A result: {"name", "window", "logprobs"} with the log-probability of each
token of a prompt but its first, null for a prompt beyond the window, or {"name", "error"}. One engine after the other
in one process, without a process of the engine's own.
"""

import gc
import json
import os
import sys
from typing import Any

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}


def opened(job: dict[str, Any]) -> Any:
    from vllm import LLM
    from vllm.model_executor.layers import rotary_embedding

    # Kept for the process, by the config but not by the window that is served, on which "longrope" depends.
    rotary_embedding._ROPE_DICT.clear()
    return LLM(
        model=job["model"],
        dtype="float32",
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_num_seqs=1,
        max_num_batched_tokens=1024,
        max_model_len=job.get("max_model_len"),
        hf_overrides=job.get("overrides") or {},
        enable_lora="adapter" in job,
    )


def logprobs(engine: Any, job: dict[str, Any], window: int) -> list[list[float] | None]:
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    adapter = LoRARequest("adapter", 1, job["adapter"]) if "adapter" in job else None
    wanted = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    found: list[list[float] | None] = []
    for prompt in job["prompts"]:
        if len(prompt) >= window:
            found.append(None)
            continue
        answer = engine.generate([{"prompt_token_ids": prompt}], wanted, lora_request=adapter, use_tqdm=False)[0]
        tokens = zip(prompt[1:], answer.prompt_logprobs[1:], strict=True)
        found.append([entry[token].logprob for token, entry in tokens])
    return found


def answer(job: dict[str, Any]) -> dict[str, Any]:
    from vllm.distributed import cleanup_dist_env_and_memory

    engine = None
    try:
        engine = opened(job)
        window = engine.llm_engine.model_config.max_model_len
        return {"name": job["name"], "window": window, "logprobs": logprobs(engine, job, window)}
    except Exception as error:
        return {"name": job["name"], "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    finally:
        del engine
        gc.collect()
        cleanup_dist_env_and_memory()


if __name__ == "__main__":
    import vllm

    with open(sys.argv[1]) as jobs, open(sys.argv[2], "w") as results:
        print(json.dumps({"versions": {"vllm": vllm.__version__}}), file=results)
        for job in json.load(jobs):
            print(json.dumps(answer(job)), file=results, flush=True)
