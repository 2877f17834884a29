"""What holds for every file: small modules and functions, no way to run a stranger's code, no second `platform`."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "platform" / "longspan"
MODULES = sorted([*PACKAGE.rglob("*.py"), *(ROOT / "jobs").rglob("*.py")])
LONGEST_MODULE = 400
LONGEST_FUNCTION = 60


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def dotted(node: ast.AST) -> str:
    """`yaml.load` of the expression yaml.load."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and kind of everything that can run code from data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            for module in modules:
                if module.split(".")[0] in ("pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"):
                    yield node.lineno, f"import {module}"
        if isinstance(node, ast.Call):
            yield from ((node.lineno, kind) for kind in _dangers_of_call(node))


def _dangers_of_call(call: ast.Call) -> Iterator[str]:
    name = dotted(call.func)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}

    def literal(key: str) -> object:
        value = keywords.get(key)
        return value.value if isinstance(value, ast.Constant) else None

    if name in ("eval", "exec", "os.system", "os.popen", "builtins.eval", "builtins.exec"):
        yield name
    if literal("shell") is True:
        yield "shell=True"
    if literal("trust_remote_code") is True:
        yield "trust_remote_code=True"
    if literal("allow_pickle") is True:
        yield "allow_pickle=True"
    if name == "torch.load" and literal("weights_only") is not True:
        yield "torch.load without weights_only=True"
    if name in ("yaml.unsafe_load", "yaml.full_load", "yaml.unsafe_load_all", "yaml.full_load_all", "yaml.load_all"):
        yield name
    if name == "yaml.load" and dotted(keywords.get("Loader", ast.Constant(None))) not in SAFE_LOADERS:
        yield "yaml.load with a loader that is not known to be safe"


SAFE_LOADERS = ("yaml.SafeLoader", "yaml.CSafeLoader", "_UniqueKeyLoader")


def test_the_walk_sees_the_package() -> None:
    assert len(MODULES) > 80


def test_the_source_root_is_no_package() -> None:
    """platform/__init__.py would hide Python's own `platform` from everything that runs in the repository."""
    assert not (ROOT / "platform" / "__init__.py").exists()
    assert {path.name for path in (ROOT / "platform").iterdir() if path.suffix == ".py"} == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_is_short_and_says_what_it_is(path: Path) -> None:
    tree = tree_of(path)
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_MODULE
    assert ast.get_docstring(tree), "no module docstring"
    assert path.name != "utils.py"
    too_long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert not too_long


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_module_runs_code_from_data(path: Path) -> None:
    assert list(dangers(tree_of(path))) == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "import cloudpickle as c",
        "eval('1')",
        "exec(text)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "np.load(x, allow_pickle=True)",
        "torch.load(x)",
        "torch.load(x, weights_only=False)",
        "yaml.load(x)",
        "yaml.load(x, Loader=yaml.Loader)",
        "yaml.load(x, Loader=yaml.FullLoader)",
        "yaml.unsafe_load(x)",
    ],
)
def test_the_search_finds_what_it_looks_for(code: str) -> None:
    assert len(list(dangers(ast.parse(f"def f():\n    return 1\nif 1:\n    {code}\n")))) == 1


@pytest.mark.parametrize(
    "code",
    ["model.eval()", "torch.load(x, weights_only=True)", "yaml.safe_load(x)", "f(trust_remote_code=False)"],
)
def test_the_search_passes_what_is_harmless(code: str) -> None:
    assert list(dangers(ast.parse(code))) == []


def test_the_loaders_named_safe_are() -> None:
    import yaml

    from longspan.config.load import _UniqueKeyLoader

    assert issubclass(_UniqueKeyLoader, yaml.SafeLoader)
    assert yaml.SafeLoader in _UniqueKeyLoader.__mro__
