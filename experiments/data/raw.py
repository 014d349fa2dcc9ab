"""Published files as they were published: taken from a folder, or downloaded by TFDS from the first mirror that works.

Every file is checked against its sha256 before it is read. Offline TFDS retries one download for minutes, so a mirror
must first answer within seconds.
"""

import hashlib
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.data.images import Progress
from experiments.errors import UserError

_TIMEOUT = 5.0  # seconds for a mirror's first word


def find(
    title: str,
    files: Mapping[str, str],
    *,
    raw_dir: str | None,
    mirrors: Sequence[str],
    dl_manager: Any,
    progress: Progress,
) -> dict[str, Path]:
    """The path of each file.

    Args:
        title: the data set, for messages.
        files: sha256 of each file name.
        raw_dir: folder with files that were downloaded already; then no network is used.
        mirrors: URLs ending in "/", tried in order.
        dl_manager: a `tfds.download.DownloadManager`.
        progress: told what is being downloaded.

    Raises:
        UserError: a file is missing or differs from the published one, or no mirror could be reached.
    """
    if raw_dir is not None:
        return _in_folder(title, files, Path(raw_dir).expanduser(), mirrors)
    tried = []
    for mirror in mirrors:
        try:
            _answers(mirror + next(iter(files)))
            progress(f"{title}: downloading {len(files)} file(s) from {mirror}")
            urls = {name: mirror + name for name in files}
            found = {name: Path(path) for name, path in dl_manager.download(urls).items()}
        except Exception as error:  # whatever a network, a proxy or TFDS may raise: the next mirror may do better
            tried.append(f"{mirror} ({type(error).__name__}: {str(error)[:120]})")
            continue
        wrong = _wrong(files, found)
        if not wrong:
            return found
        for name in wrong:
            found[name].unlink(missing_ok=True)
        tried.append(f"{mirror} ({', '.join(wrong)}: not the published sha256)")
    raise UserError(
        f"{title} needs {_list(files)}. No --data.raw-dir was given, and no mirror worked: {'; '.join(tried)}. "
        f"Download the file(s) elsewhere, for example from {mirrors[0]}, and pass their folder as --data.raw-dir."
    )


def _in_folder(title: str, files: Mapping[str, str], folder: Path, mirrors: Sequence[str]) -> dict[str, Path]:
    found = {name: folder / name for name in files}
    missing = [name for name, path in found.items() if not path.is_file()]
    if missing:
        raise UserError(
            f"{title} needs {_list(files)} in --data.raw-dir; {folder} lacks {_list(missing)}. "
            f"Download them from {mirrors[0]}, and leave them packed."
        )
    if wrong := _wrong(files, found):
        raise UserError(
            f"{title} needs the files as published; {_list(wrong)} in {folder} has another sha256. "
            f"Download again from {mirrors[0]}: the download may have been cut short."
        )
    return found


def _answers(url: str) -> None:
    with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=_TIMEOUT):
        pass


def _wrong(files: Mapping[str, str], found: Mapping[str, Path]) -> list[str]:
    wrong = []
    for name, expected in files.items():
        with found[name].open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected:
                wrong.append(name)
    return wrong


def _list(names: Any) -> str:
    return ", ".join(names)
