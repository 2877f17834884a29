"""What a finished analysis holds: the manifest, which `run` writes last and every reader of scores begins with."""

import json
from dataclasses import asdict, dataclass
from typing import ClassVar

from pydantic import ConfigDict

from longspan import storage
from longspan.corpus.impact.parts import PartInfo
from longspan.corpus.impact.settings import ScoreSettings
from longspan.corpus.manifest_file import check_names, read_manifest
from longspan.errors import DataError

MANIFEST_FILE = "impact.json"
VERSION = 1


@dataclass(frozen=True)
class ImpactManifest:
    """A finished analysis.

    Attributes:
        version: layout of the analysis; this code reads and writes `VERSION`.
        fingerprint: of all that decides the scores (`settings.score_fingerprint`).
        corpus: fingerprint of the corpus's manifest.
        settings: as given; the paths of the models are for the reader, `models` is what counts.
        models: fingerprint of `model`, and of `base` where there is one.
        parts: in the order of the corpus.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")
    version: int
    fingerprint: str
    corpus: str
    settings: ScoreSettings
    models: dict[str, str]
    parts: tuple[PartInfo, ...]

    @property
    def documents(self) -> int:
        return sum(part.documents for part in self.parts)

    @property
    def tokens(self) -> int:
        return sum(part.tokens for part in self.parts)


def write_manifest(uri: str, manifest: ImpactManifest) -> None:
    storage.write_text(storage.join(uri, MANIFEST_FILE), json.dumps(asdict(manifest), indent=1) + "\n")


def load_impact(uri: str) -> ImpactManifest:
    """The manifest of the analysis at `uri` (local or s3://).

    Raises:
        DataError: there is none, or it is damaged or of another version.
        StorageError: the store could not be read.
    """
    where = storage.join(uri, MANIFEST_FILE)
    absent = "no finished analysis here; score the corpus first"
    manifest = read_manifest(ImpactManifest, where, VERSION, absent=absent, again="score the corpus again")
    _check_parts(manifest, where)
    return manifest


def _check_parts(manifest: ImpactManifest, where: str) -> None:
    check_names(where, [part.file for part in manifest.parts])
    document = offset = 0
    for part in manifest.parts:
        if part.first_document < document or part.offset < offset:
            raise DataError(f"{where}: {part.file}: parts overlap or are out of order; score the corpus again")
        document, offset = part.first_document + part.documents, part.offset + part.tokens
