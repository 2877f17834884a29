"""A room imports only rooms that the data passes before it; the pure core and the loop know no cluster."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = Path(__file__).parents[1] / "platform" / "longspan"
ORDER = (
    *("errors", "uri", "versions", "topology", "config", "positions", "rope", "sampling"),
    *("storage", "corpus", "planner", "observe", "feed", "model", "checkpoint", "train", "evaluate", "merge"),
    *("slots", "impact", "launch", "recipes", "compare", "sweep", "demo", "arguments", "inspections", "cli"),
)
PURE = ("errors", "config", "topology", "positions", "rope", "sampling")
HEAVY = {"torch", "ray", "transformers", "deepspeed", "pyarrow", "s3fs", "botocore", "aiohttp", "matplotlib", "wandb"}
NETWORK = {"socket", "http", "urllib", "requests", "ssl", "ftplib"}


class Import(NamedTuple):
    place: str
    room: str
    module: str

    @property
    def top(self) -> str:
        return self.module.split(".")[0]


def imported(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, f"line {node.lineno}: relative import"
        # `from longspan import storage` imports the room, not the package.
        names = [f"longspan.{alias.name}" for alias in node.names] if node.module == "longspan" else [node.module or ""]
        return [name for name in names if not name.startswith("longspan.__")]
    return []


def imports() -> Iterator[Import]:
    for path in sorted(PACKAGE.rglob("*.py")):
        name = path.relative_to(PACKAGE)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for module in imported(node):
                yield Import(f"{name}:{getattr(node, 'lineno', 0)}", name.parts[0].removesuffix(".py"), module)


IMPORTS = list(imports())


def test_the_walk_sees_the_house() -> None:
    """So that the other tests cannot pass for want of anything to look at."""
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__init__", "__pycache__", "typed"} >= set(ORDER)
    assert {i.room for i in IMPORTS} >= set(ORDER) - {"versions", "errors"}
    assert len(IMPORTS) > 300


def test_every_room_has_its_place_in_the_order() -> None:
    rooms = {i.room for i in IMPORTS} | {i.module.split(".")[1] for i in IMPORTS if i.module.startswith("longspan.")}
    assert rooms - {"__init__"} <= set(ORDER), "give the new room its place in ORDER"


def test_a_room_imports_only_the_rooms_before_it() -> None:
    wrong = [
        f"{i.place} imports {i.module}"
        for i in IMPORTS
        if i.module.startswith("longspan.") and ORDER.index(i.module.split(".")[1]) > ORDER.index(i.room)
    ]
    assert not wrong


def test_the_pure_core_knows_no_device_no_cluster_no_network() -> None:
    assert not [f"{i.place} imports {i.module}" for i in IMPORTS if i.room in PURE and i.top in HEAVY | NETWORK]


@pytest.mark.parametrize(
    ("place", "unwanted"),
    [
        ("train/", {"ray"}),
        ("model/", {"ray"}),
        ("checkpoint/", {"ray"}),
        ("feed/batch.py", {"ray", "torch"}),
        ("feed/source.py", {"ray", "torch"}),
        ("feed/local.py", {"ray", "torch"}),
        ("launch/local.py", {"ray"}),
        ("storage/", {"ray", "torch"}),
        ("corpus/", {"ray", "torch"}),
    ],
)
def test_what_stays_without(place: str, unwanted: set[str]) -> None:
    there = [i for i in IMPORTS if i.place.startswith(place)]
    assert there
    assert not [f"{i.place} imports {i.module}" for i in there if i.top in unwanted]


def test_importing_the_pure_core_loads_nothing_heavy() -> None:
    """What the imports of imports bring along counts too; seen in a process of its own."""
    names = [f"longspan.{room}" for room in PURE] + ["longspan.config.load", "longspan.config.corpus", "longspan.cli"]
    code = f"import sys, {', '.join(names)}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert found.stdout.split() == []
