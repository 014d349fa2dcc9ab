"""The CRC-32 sums of a directory's files, in a file of its own beside them: whether each is as it was written."""

import json
import zlib
from collections.abc import Collection

from etils import epath

NAME = "checksums.json"


def write(folder: epath.Path, ignored: Collection[str] = ()) -> None:
    """Note the sums of all files below `folder` but those `ignored`, by their paths in it."""
    sums = {name: _sum(path) for name, path in _files(folder).items() if name not in ignored}
    (folder / NAME).write_text(json.dumps(sums))


def changed(folder: epath.Path) -> str:
    """What is not as it was written below `folder`: empty if nothing is, or if no sums were noted.

    Files that came later are nobody's concern.
    """
    try:
        if not folder.exists():
            return "its directory is gone"
        if not (folder / NAME).exists():
            return ""
        try:
            written = dict(json.loads((folder / NAME).read_text()))
        except (ValueError, TypeError):
            return f"{NAME}, its list of checksums, cannot be read (delete that file to do without it)"
        found = _files(folder)
        for name, sum_ in written.items():
            if name not in found:
                return f"{name} is missing"
            if _sum(found[name]) != sum_:
                return f"{name} is not as it was written"
    except OSError as error:
        return str(error)
    return ""


def _files(folder: epath.Path) -> dict[str, epath.Path]:
    files, waiting = {}, [folder]
    while waiting:
        for path in waiting.pop().iterdir():
            if path.is_dir():
                waiting.append(path)
            else:
                files[str(path.relative_to(folder))] = path
    return dict(sorted(files.items()))


def _sum(path: epath.Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while part := file.read(1 << 24):
            crc = zlib.crc32(part, crc)
    return crc
