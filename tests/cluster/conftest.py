"""One Ray cluster of this machine for all tests of this folder, started after the object store so that workers inherit
its address.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from longspan import storage
from longspan.config.corpus import Corpus
from longspan.config.load import parse
from longspan.corpus.prepare import prepare
from tests.s3 import FaultProxy
from tests.tiny import tiny_model_directory


@pytest.fixture(scope="session")
def ray_cluster(idle_proxy: FaultProxy) -> Iterator[None]:
    """Its workers reach the object store through the proxy, so that a test can put faults between the two."""
    import ray

    from longspan.launch.cluster import start_cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", idle_proxy.url)
        patch.setenv("LONGSPAN_READ_TIMEOUT_S", "2")
        start_cluster(6, quiet=True)
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model` (tiny Llama, GQA) and `data` (prepared corpus with the sources text and other)."""
    folder = tmp_path_factory.mktemp("material")
    for name in ("text", "other"):
        for number in range(6):
            words = [
                f"{name} {number} line {line}: the {line * 7 % 13} grey geese.\n" for line in range(40 + 9 * number)
            ]
            Path(folder, name).mkdir(exist_ok=True)
            Path(folder, name, f"{number}.txt").write_text("".join(words))
    values = {
        "output": str(folder / "data"),
        "tokenizer": {"train_vocab_size": 300},
        "sources": [{"type": "text", "name": name, "paths": [str(folder / name)]} for name in ("text", "other")],
        "shard_tokens": 4000,
    }
    prepare(parse(Corpus, values, "test corpus"))
    tiny_model_directory(folder / "model", vocab_size=320)
    return folder


@pytest.fixture
def s3_material(material: Path, s3_bucket: str) -> str:
    """The same under an s3:// URI."""
    for name in ("model", "data"):
        storage.upload_tree(str(material / name), storage.join(s3_bucket, name))
    return s3_bucket
