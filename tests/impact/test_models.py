import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from longspan.corpus.impact.settings import Machine
from longspan.errors import ConfigError
from longspan.impact.models import check_models, model_fingerprint, open_pair
from tests.impact.conftest import Material
from tests.tiny import tiny_model_directory


def test_a_model_is_known_by_its_files_not_by_its_path(material: Material, tmp_path: Path) -> None:
    shutil.copytree(material.folder / "long", tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("a note")
    mark = model_fingerprint(str(material.folder / "long"))
    assert model_fingerprint(str(tmp_path / "copy")) == mark
    assert model_fingerprint(str(material.folder / "base")) != mark
    assert check_models(material.settings(), material.manifest) == {
        "model": mark,
        "base": model_fingerprint(str(material.folder / "base")),
    }
    config = (tmp_path / "copy" / "config.json").read_text()
    (tmp_path / "copy" / "config.json").write_text(config.replace("500.0", "5000.0"))
    assert model_fingerprint(str(tmp_path / "copy")) != mark


def test_models_that_cannot_do_it_are_refused_before_anything_starts(material: Material, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^impact\.model: '.*' has a window of 64 tokens, but is to read 65"):
        check_models(material.settings(window=65), material.manifest)
    short = str(tiny_model_directory(tmp_path / "short", max_position_embeddings=16))
    with pytest.raises(ConfigError, match=r"^impact\.base: .* window of 16 .* read 20; lower impact\.short_prefix"):
        check_models(material.settings(base=short, short_prefix=12, stride=8), material.manifest)
    # LongRecipe reads the base beyond its window: what it cannot do there is what is measured.
    assert set(check_models(material.settings(base=short), material.manifest)) == {"model", "base"}
    few = str(tiny_model_directory(tmp_path / "few", vocab_size=90))
    with pytest.raises(ConfigError, match=r"^impact\.base: '.*few' has 90 tokens, the corpus 96"):
        check_models(material.settings(base=few), material.manifest)


def test_one_model_is_opened_once(material: Material) -> None:
    pair = open_pair(material.settings(base=None, short_prefix=8, stride=8), Machine(device="cpu"))
    assert pair.base is None
    assert not pair.long.training


def test_a_base_with_another_rope_stands_in_for_a_longer_model(material: Material) -> None:
    model = str(material.folder / "long")
    settings = material.settings(rope="yarn", window=256, base=model)
    assert set(check_models(settings, material.manifest)) == {"model", "base"}
    pair = open_pair(settings, Machine(device="cpu"))
    assert pair.base is not None
    long, base = (cast("Any", network.get_submodule("model.rotary_emb")) for network in (pair.long, pair.base))
    assert long.attention_scaling > 1.0
    assert base.attention_scaling == 1.0
    assert bool(long.get_buffer("inv_freq")[-1] < base.get_buffer("inv_freq")[-1])
    with pytest.raises(ConfigError, match=r"impact\.rope: 'longrope'; must be one of ntk, "):
        material.settings(rope="longrope")


def test_a_rope_put_over_a_scaled_model_says_what_it_drops(
    material: Material, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scaled = tiny_model_directory(tmp_path, rope_parameters={"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0})
    check_models(material.settings(model=str(scaled), rope="ntk", window=256), material.manifest)
    (record,) = caplog.records
    assert record.getMessage().startswith("impact.rope: the model's own scaling (linear, factor 2) is dropped; in its")
