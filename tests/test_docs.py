"""The pages under docs/ say what the code does: every environment variable, every field that may change at a resume."""

import re
from pathlib import Path

from longspan.config.recipe import Recipe
from longspan.config.resume import free_values
from longspan.storage.cache import DEFAULT_BYTES
from longspan.storage.lease import EXPIRY_S
from longspan.storage.retry import RetryPolicy
from tests.tiny import tiny_recipe

ROOT = Path(__file__).parents[1]
NAME = re.compile(r"LONGSPAN_[A-Z0-9_]*[A-Z0-9]")


def named(path: Path) -> set[str]:
    return set(NAME.findall(path.read_text(encoding="utf-8")))


def test_every_environment_variable_of_the_code_is_on_its_page_and_no_other() -> None:
    files = [*(ROOT / "platform").rglob("*.py"), *(ROOT / "jobs").rglob("*.py"), *(ROOT / "cluster").rglob("*")]
    used = set().union(*(named(path) for path in files if path.is_file()))
    page = (ROOT / "docs" / "environment.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(LONGSPAN_\w+)` \| ([^|]+) \|", page, re.MULTILINE)
    assert {name for name, _ in rows} == used
    assert len(used) >= 7
    policy, defaults = RetryPolicy(), {name: text.split()[0] for name, text in rows}
    assert defaults["LONGSPAN_CACHE_BYTES"] == str(DEFAULT_BYTES)
    assert float(defaults["LONGSPAN_LEASE_EXPIRY_S"]) == EXPIRY_S
    assert float(defaults["LONGSPAN_RETRY_BUDGET_S"]) == policy.budget_s
    assert float(defaults["LONGSPAN_CONNECT_TIMEOUT_S"]) == policy.connect_timeout_s
    assert float(defaults["LONGSPAN_READ_TIMEOUT_S"]) == policy.read_timeout_s


def test_what_may_change_at_a_resume_is_on_its_page() -> None:
    page = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([^`]+)`", page))
    said = {word.removeprefix("train.").removeprefix("model.") for word in words}
    recipe: Recipe = tiny_recipe("model")
    free = {field for field in free_values(recipe) if field.split(".")[0] not in ("parallel", "evaluate", "tracking")}
    fork_only = {f"train.{name}" for name in ("global_batch_size", "weight_decay", "beta1", "beta2", "eps")}
    assert {field.split(".")[1] for field in free - fork_only} <= said
    assert {"parallel", "evaluate", "tracking", "global_batch_size"} <= said


def test_every_page_is_linked_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    pages = [path.name for path in (ROOT / "docs").glob("*.md")]
    assert pages
    assert [name for name in pages if f"docs/{name}" not in readme] == []
