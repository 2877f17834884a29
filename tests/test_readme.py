"""What the README shows can be done: its YAML is valid, its commands can be given, what it names is there."""

import re
import shlex
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup

from longspan.cli import app
from longspan.config.compare import Comparison
from longspan.config.corpus import Corpus
from longspan.config.load import apply_overrides, parse
from longspan.config.pipeline import Pipeline, load_pipeline
from longspan.config.recipe import Recipe
from tests.tiny import tiny_recipe

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "cluster" / "README.md", ROOT / "docs" / "corpora.md")
USAGE_ERROR = typer.BadParameter.__mro__[1]
"""The base of all that a wrong command line raises; typer, which has its own click now, does not name it."""
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TOKENIZER = {"path": "tokenizer"}
TEXTS = [{"type": "text", "name": "books", "paths": ["books"]}]


def blocks(page: Path, *languages: str) -> list[str]:
    """Fenced blocks of these languages, "" for those that name none."""
    return [body for language, body in FENCED.findall(page.read_text(encoding="utf-8")) if language in languages]


def inline(page: Path) -> list[str]:
    """What stands between single backticks."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def validated(text: str, folder: Path) -> Any:
    """What a YAML block says, as the type that it is; parts are put where they belong, the rest of it filled in.

    Raises ConfigError where it is not valid, AssertionError where it is none of the known kinds.
    """
    values = yaml.safe_load(text)
    if isinstance(values, list):
        known = {source.get("name") for source in values}
        texts = [source for source in TEXTS if source["name"] not in known]
        return parse(Corpus, {"output": "out", "tokenizer": TOKENIZER, "sources": [*texts, *values]}, "README.md")
    assert isinstance(values, dict)
    if "sources" in values:
        return parse(Corpus, values, "README.md")
    if "methods" in values:
        return parse(Comparison, values, "README.md")
    if "stages" in values:
        (folder / "pipeline.yaml").write_text(text)
        return load_pipeline(folder / "pipeline.yaml")
    if "name" in values:
        return parse(Recipe, values, "README.md")
    if set(values) <= set(Recipe.model_fields):
        return tiny_recipe("model", train={"steps": 200, **values.pop("train", {})}, **values)
    return tiny_recipe("model", data=values, train={"steps": 200})


def parsed(line: str) -> tuple[str, dict[str, Any]]:
    """Name and parameters of a `longspan` command line, which is not run. Raises USAGE_ERROR."""
    words = shlex.split(line, comments=True)
    assert words[0] == "longspan"
    command: Any = typer.main.get_command(app)
    names: list[str] = []
    while isinstance(command, TyperGroup):
        names.append(words[len(names) + 1])
        if names[-1] not in command.commands:
            raise USAGE_ERROR(f"no command {names[-1]}")
        command = command.commands[names[-1]]
    return " ".join(names), command.make_context(names[-1], words[len(names) + 1 :]).params


def command_lines(page: Path) -> Iterator[str]:
    """All that begin with `longspan`, of blocks (a backslash goes on with the line) and of the text."""
    for body in blocks(page, "", "bash", "sh"):
        for line in body.replace("\\\n", " ").splitlines():
            if line.startswith("longspan "):
                yield line
    yield from (code for code in inline(page) if code.startswith("longspan ") and " " in code[9:].strip())


def all_of(kind: Any, *arguments: Any) -> list[Any]:
    return [pytest.param(page, found, id=f"{page.parent.name}-{found[:40]}") for page in PAGES for found in kind(page)]


def test_the_readme_shows_a_recipe_a_corpus_and_commands(tmp_path: Path) -> None:
    kinds = {type(validated(text, tmp_path)) for text in blocks(PAGES[0], "yaml")}
    assert {Recipe, Corpus} <= kinds
    assert len(list(command_lines(PAGES[0]))) >= 10


@pytest.mark.parametrize(("page", "text"), all_of(lambda page: blocks(page, "yaml")))
def test_yaml_is_valid(page: Path, text: str, tmp_path: Path) -> None:
    assert isinstance(validated(text, tmp_path), Recipe | Corpus | Comparison | Pipeline)


def test_every_block_is_of_a_language_that_is_checked() -> None:
    for page in PAGES:
        assert {language for language, _ in FENCED.findall(page.read_text(encoding="utf-8"))} <= {"", "yaml"}


@pytest.mark.parametrize(("page", "line"), all_of(command_lines))
def test_a_command_can_be_given(page: Path, line: str) -> None:
    name, parameters = parsed(line)
    for override in parameters.get("overrides") or []:
        apply_overrides(tiny_recipe("model").model_dump(mode="json"), [override])
    if name in ("train", "plan") and parameters["overrides"]:
        values = tiny_recipe("model").model_dump(mode="json", exclude_none=True)
        parse(Recipe, apply_overrides(values, parameters["overrides"]), line)
    for value in parameters.values():
        if isinstance(value, str) and value.startswith(("jobs/", "sweeps/")):
            assert (ROOT / value).is_file(), value


@pytest.mark.parametrize("line", ["longspan teach RECIPE.yaml", "longspan train R.yaml --outptu X", "longspan merge A"])
def test_a_wrong_command_would_be_seen(line: str) -> None:
    with pytest.raises(USAGE_ERROR):
        parsed(line)


@pytest.mark.parametrize("text", ["packing: bestfit\n", "rope: {type: yarnn}\n", "- {type: synl, name: x}\n"])
def test_wrong_yaml_would_be_seen(text: str, tmp_path: Path) -> None:
    from longspan.errors import ConfigError

    with pytest.raises(ConfigError):
        validated(text, tmp_path)


def test_commands_named_in_the_text_are_there() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    named = {code.split()[1] for page in PAGES for code in inline(page) if code.startswith("longspan ")}
    assert named
    assert named <= set(group.commands)


def test_programs_and_files_named_are_there() -> None:
    modules, files = set(), set()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        modules |= set(re.findall(r"python -m (tests\.[\w.]+)", text))
        files |= {ROOT / name for name in re.findall(r"python ((?:tests|jobs)/[\w/]+\.py)", text)}
        files |= {page.parent / name for name in re.findall(r"\]\(([^)#:]+)\)", text)}
        for code in inline(page):
            if re.fullmatch(r"(platform|jobs|cluster|sweeps|tests|docs)/[\w./-]*", code):
                files.add(ROOT / code)
    assert len(modules) >= 4
    assert [name for name in sorted(modules) if find_spec(name) is None] == []
    assert len(files) >= 8
    assert [str(path) for path in sorted(files) if not path.exists()] == []


def test_targets_of_make_that_are_named_are_there() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = PAGES[0].read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^|`)make (\w+)", text, re.MULTILINE))
    assert {"demo", "test"} <= named
    assert named <= targets


def test_extras_that_are_named_are_there() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    sources = [*PAGES, *(ROOT / "platform").rglob("*.py"), *(ROOT / "jobs").rglob("*.yaml")]
    named = {extra for path in sources for extra in re.findall(r"longspan\[(\w+)\]", path.read_text(encoding="utf-8"))}
    assert {"qlora", "spacy", "nltk"} <= named
    assert named <= set(extras)
