"""Known public data sets, fetched from their own public address at a pinned commit and checked.

None of them is shipped: most state no licence, and all have authors to credit. A file is listed only when
the checksum of the original is known. What arrives is written beside its place, compared with the checksum,
and only then moved into it. Without a network the error says which file to put where.
"""

from __future__ import annotations

import difflib
import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isoflop.data.corpus import default_cache_dir
from isoflop.data.documents import DataError
from isoflop.store import replacing

TIMEOUT_S = 30.0
_CHUNK = 1 << 16
_RAW = "https://raw.githubusercontent.com"


@dataclass(frozen=True, kw_only=True)
class PublicData:
    """One public file."""

    name: str
    title: str
    url: str
    """Address of the file at one commit."""
    sha256: str
    """Of the whole original file."""
    num_bytes: int
    columns: str
    """What is in it, in words."""
    credit: str
    """Whom to cite."""
    licence: str
    """What the source says about its use."""

    @property
    def file_name(self) -> str:
        return self.url.rsplit("/", 1)[-1]


_CATALOGUE = (
    PublicData(
        name="chinchilla-points",
        title="245 training runs of the Chinchilla study, read off its Figure 4 by Epoch AI",
        url=f"{_RAW}/epoch-research/analyzing-chinchilla/92258837425e1b5f2851d624287f0120583a3d0e/data/svg_extracted_data.csv",
        sha256="193478df4e90f040016431996c45682659306840ecdadf83cfb9cd5ca0aa1b30",
        num_bytes=23_224,
        columns="position in the figure (x, y), colour, Model Size (N), Training FLOP (C), loss (nats/token)",
        credit="Hoffmann et al. 2022 (arXiv 2203.15556); Besiroglu et al. 2024 (arXiv 2404.10102)",
        licence="the repository states none",
    ),
    PublicData(
        name="observational-benchmarks",
        title="Base language models: standard benchmarks, sizes and training FLOPs",
        url=f"{_RAW}/ryoungj/ObsScaling/4d6e1e43fd2635d04654aa77d1df9d5266ea0382/eval_results/base_llm_benchmark_eval.csv",
        sha256="511996815735a4c46251dc585dcc525e370d148201f86561e6f927f9df2d0db8",
        num_bytes=28_155,
        columns="Model, Model Family, Model Size (B), Pretraining Data Size (T), FLOPs (1E21), scores in 0..1",
        credit="Ruan, Maddison and Hashimoto 2024 (arXiv 2405.10938)",
        licence="Apache-2.0",
    ),
    PublicData(
        name="learning-curves-language",
        title="Learning curves to extrapolate: translation, language modelling, BIG-bench",
        url=f"{_RAW}/DongWooLee-Eli/nslpfn/10a5a60911a2a22ef453d8b4ddf1408b6a6075d9/data/benchmark.lang.csv",
        sha256="63c346db00a66b692e1ea9a0f71a2f2b267e55f74be5b863a92e199dffbf0983",
        num_bytes=82_032,
        columns="Domain, Task, Model, Seen Examples, Loss, Training (1: fit on it, 0: extrapolate to it)",
        credit="Alabdulmohsin, Neyshabur and Zhai 2022 (arXiv 2209.06640)",
        licence="CC BY 4.0 (original), MIT (this copy)",
    ),
    PublicData(
        name="learning-curves-vision",
        title="Learning curves to extrapolate: image classification",
        url=f"{_RAW}/DongWooLee-Eli/nslpfn/10a5a60911a2a22ef453d8b4ddf1408b6a6075d9/data/benchmark.vision.csv",
        sha256="23b00692d71e58aa5a2a941e831d57688e0977fdcf5f5125ff7b64283b5d9e83",
        num_bytes=993_655,
        columns="Domain, Task, Model, Seen Examples, Loss, Training (1: fit on it, 0: extrapolate to it)",
        credit="Alabdulmohsin, Neyshabur and Zhai 2022 (arXiv 2209.06640)",
        licence="CC BY 4.0 (original), MIT (this copy)",
    ),
)


def catalogue() -> tuple[PublicData, ...]:
    """Every data set that `get` knows."""
    return _CATALOGUE


def find(name: str) -> PublicData:
    """The data set of that name. Raises ValueError that lists near names."""
    names = [item.name for item in _CATALOGUE]
    if name in names:
        return _CATALOGUE[names.index(name)]
    near = difflib.get_close_matches(name, names, n=2, cutoff=0.4) or names
    raise ValueError(f"unknown data set {name!r}; known: {', '.join(near)}")


def get(name: str, into: Path | None = None) -> Path:
    """The path of a public data set, fetched unless a copy with the right checksum is there.

    Args:
        name: as in `catalogue`.
        into: folder to put it in; a folder of the cache when left out.

    Raises:
        ValueError: unknown name.
        DataError: no network, a cut transfer or a wrong checksum; it says where to put the file by hand.
        StoreError: the folder cannot be written.
    """
    return fetch(find(name), into)


def local(name: str) -> Path | None:
    """The copy of a data set that is on this machine already, or None; nothing is fetched.

    Looked for in the cache under its name in the catalogue, and then as the file or folder of that name in
    the folder that the environment variable ISOFLOP_SHARED_DATA names.
    """
    for item in _CATALOGUE:
        path = default_cache_dir() / "public" / item.name / item.file_name
        if item.name == name and path.exists():
            return path
    shared = os.environ.get("ISOFLOP_SHARED_DATA")
    if not shared or not (Path(shared) / name).exists():
        return None
    return Path(shared) / name


def fetch(item: PublicData, into: Path | None = None, *, timeout_s: float = TIMEOUT_S) -> Path:
    """Fetch one file; see `get`."""
    path = (into or default_cache_dir() / "public" / item.name) / item.file_name
    if path.exists():
        found = _sha256(path)
        if found == item.sha256:
            return path
        raise DataError(
            f"{path} is not {item.name}: its sha256 is {found}, not {item.sha256}; move it away and try again"
        )
    digest = hashlib.sha256()
    with replacing(path) as file:
        for chunk in _download(item, timeout_s, path):
            file.write(chunk)
            digest.update(chunk)
        if digest.hexdigest() != item.sha256:
            raise DataError(
                f"what {item.url} holds has sha256 {digest.hexdigest()}, not {item.sha256}: it was cut short or "
                f"changed, and was not kept. {_by_hand(item, path)}"
            )
    return path


def _download(item: PublicData, timeout_s: float, path: Path) -> Iterator[bytes]:
    """The bytes at the address; more than twice what is expected is not read."""
    request = urllib.request.Request(item.url, headers={"User-Agent": "isoflop"})
    received = 0
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as answer:
            while received <= 2 * item.num_bytes and (chunk := answer.read(_CHUNK)):
                received += len(chunk)
                yield chunk
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it holds the connection
        raise DataError(
            f"cannot fetch {item.url} ({error}; {received:,} of {item.num_bytes:,} bytes came). "
            f"{_by_hand(item, path)}"
        ) from error


def _by_hand(item: PublicData, path: Path) -> str:
    return f"By hand: download {item.url} elsewhere and put it at {path} (sha256 {item.sha256})"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
