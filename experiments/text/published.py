"""Published files of text, packed or not: a folder may hold them gzipped, or without the folders of their repository.

The sha256 is that of the unpacked content, so a file counts as published however it was packed.
"""

import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.data import raw
from experiments.data.builder import expand, quiet
from experiments.data.images import Progress
from experiments.errors import UserError


def read(
    title: str,
    files: Mapping[str, str],
    *,
    raw_dir: str | None,
    data_dir: str | None,
    mirrors: Sequence[str],
    progress: Progress,
) -> dict[str, bytes]:
    """The content of each file, unpacked.

    Args:
        title: the data set, for messages.
        files: sha256 of the unpacked content of each file; names are paths in the repository, such as "dev/a.json".
        raw_dir: folder that holds them as dev/a.json or dev_a.json, each also with .gz; then no network is used.
        data_dir: TFDS data directory, for downloads; None for TFDS's own. What was downloaded once stays there, and
            then no network is used.
        mirrors: URLs ending in "/", tried in order.
        progress: told what is being downloaded.

    Raises:
        UserError: a file is missing or differs from the published one, or no mirror could be reached.
    """
    if raw_dir is None:
        return _downloaded(title, files, data_dir, mirrors, progress)
    folder = Path(raw_dir).expanduser()
    found = {name: _path(folder, name) for name in files}
    if missing := [name for name, path in found.items() if path is None]:
        raise UserError(
            f"{title} needs {', '.join(files)} in --data.raw-dir, plain or gzipped (.gz); {folder} lacks "
            f"{', '.join(missing)}. Download them from {mirrors[0]}."
        )
    contents = {name: _unpacked(path) for name, path in found.items() if path is not None}
    if wrong := [name for name in files if not _same(contents[name], files[name])]:
        raise UserError(
            f"{title} needs the files as published; {', '.join(wrong)} in {folder} has another sha256. "
            f"Download again from {mirrors[0]}: the download may have been cut short."
        )
    return contents


def checksum(parts: Any) -> str:
    """sha256 (64 hex digits) of what was read: of anything that JSON holds."""
    return hashlib.sha256(json.dumps(parts, ensure_ascii=False).encode()).hexdigest()


def _path(folder: Path, name: str) -> Path | None:
    flat = name.replace("/", "_")
    return next((p for n in (name, flat) for p in (folder / n, folder / f"{n}.gz") if p.is_file()), None)


def _unpacked(path: Path) -> bytes:
    try:
        return gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError) as error:
        raise UserError(f"{path} must be a readable file; reading it gave: {error}. Download it again.") from error


def _same(content: bytes, expected: str) -> bool:
    return hashlib.sha256(content).hexdigest() == expected


def _downloaded(
    title: str, files: Mapping[str, str], data_dir: str | None, mirrors: Sequence[str], progress: Progress
) -> dict[str, bytes]:
    with quiet():
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import constants

        home = Path(expand(data_dir) or constants.DATA_DIR)
        kept = {name: home / f"jaxdiff_{title}" / name.replace("/", "_") for name in files}
        contents = {name: path.read_bytes() for name, path in kept.items() if path.is_file()}
        # Without this a second run would need the network too: `raw.find` asks a mirror first.
        if all(name in contents and _same(contents[name], files[name]) for name in files):
            return contents
        manager = tfds.download.DownloadManager(download_dir=str(home / "downloads"))
        paths = raw.find(title, files, raw_dir=None, mirrors=mirrors, dl_manager=manager, progress=progress)
    for name, path in kept.items():
        contents[name] = paths[name].read_bytes()
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}")
        part.write_bytes(contents[name])
        part.replace(path)  # at once: another process may read it
    return contents
