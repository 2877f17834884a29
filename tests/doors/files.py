"""Files that are no recipe, and overrides that are none, and what is said about each."""

from longspan.config.load import MAX_CONFIG_BYTES
from tests.config.conftest import RECIPE

BOMB = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
FILES: list[tuple[str | bytes, str]] = [
    ("", "expected a mapping of sections at the top, found NoneType"),
    ("# nothing yet\n", "expected a mapping of sections at the top, found NoneType"),
    ("- a\n- b\n", "expected a mapping of sections at the top, found list"),
    ("only text\n", "expected a mapping of sections at the top, found str"),
    (RECIPE.replace("  manifest", "\tmanifest"), r"found character '\t' that cannot start any token"),
    (RECIPE + "name: again\n", "key 'name' is given twice (line 11)"),
    (RECIPE.replace("steps: 4", "steps: 4, steps: 5"), "key 'steps' is given twice (line 10)"),
    (BOMB, "alias at line 2: write the value out"),
    (RECIPE + "<<: {a: 1}\n", "not valid YAML"),
    (RECIPE + "positions: !!python/object:os.system {}\n", "could not determine a constructor for the tag"),
    (RECIPE + "1: 2\n", "key 1 at line 11 is not text"),
    (RECIPE + "? [a, b]\n: 3\n", "at line 11 is not text"),
    (RECIPE + "---\nname: second\n", "expected a single document"),
    (RECIPE + "seed: !!int x\n", "not valid YAML"),
    (RECIPE + "output: 2026-99-99\n", "not valid YAML"),
    (RECIPE + f"seed: {'9' * 5000}\n", "not valid YAML"),
    ("[" * 5000, "nested too deeply"),
    ("{a: " * 2000, "nested too deeply"),
    (RECIPE + "output: \x01\n", "special characters are not allowed"),
    (b"\xff\xfe\x00", "'utf-8' codec can't decode byte 0xff in position 0"),
    (RECIPE.encode("utf-16"), "not valid YAML"),
    (b"name: caf\xe9\n", "'utf-8' codec can't decode byte 0xe9 in position 9"),
    ("x" * (MAX_CONFIG_BYTES + 1), "1000001 bytes is no configuration; the limit is 1000000"),
    (RECIPE.replace("name: tiny\n", ""), "name: required, but not given"),
    (RECIPE.replace("path: models/tiny, ", ""), "model.path: required, but not given"),
    (RECIPE.replace("train:", "training:"), "train: required, but not given"),
    (RECIPE.replace("    - weights: {text: 1.0}", "    - {}"), "data.mix.0.weights: required, but not given"),
]

OVERRIDES = [
    ("steps", "--set steps: expected section.key=value, for example train.steps=100"),
    ("train.steps", "--set train.steps: expected section.key=value"),
    ("=3", "--set =3: expected section.key=value"),
    (" =3", "--set  =3: expected section.key=value"),
    ("train..steps=3", "--set train..steps=3: expected section.key=value"),
    ("train.=3", "--set train.=3: expected section.key=value"),
    ("train.steps.x=3", "'train.steps' is a value, not a section"),
    ("data.mix.1.from_step=3", "'1' is no item of the list (1 items, from 0)"),
    ("data.mix.-1.from_step=3", "'-1' is no item of the list"),
    ("data.mix.x=3", "'x' is no item of the list"),
    ("data.mix.\u00b2=3", "'\u00b2' is no item of the list"),
    ("train.steps=[", "'[' is not a YAML value"),
    ("train.steps=*a", "'*a' is not a YAML value"),
    ("train.steps={a: 1, a: 2}", "'{a: 1, a: 2}' is not a YAML value"),
    ("name=2026-99-99", "'2026-99-99' is not a YAML value"),
    ("train.steps=!!python/object/apply:os.system ['true']", "is not a YAML value"),
    (f"seed={'1' * 5000}", "is not a YAML value"),
    (f"seed={'[' * 3000}", "is not a YAML value"),
]
