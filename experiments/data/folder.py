"""A folder of the user's own pictures; sub-folders, where there are any, are the classes.

Licence and source are the user's. Prepared pictures are keyed by the names, sizes and times of the files, so a changed
folder is read again; what was prepared before stays in the data directory until it is deleted.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.data.builder import Card, Example, load_card
from experiments.data.images import Images, Progress, silent
from experiments.data.pictures import cut_tiles, to_array
from experiments.errors import UserError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif"})

_FORMAT = 1  # raise it when the same files are to be read in another way
_TEST_SHARE = 0.1


@dataclass(frozen=True, kw_only=True)
class Folder:
    """Pictures of a folder (png, jpg, jpeg, webp, bmp, gif; of a moving gif the first), cut to a square and scaled, or
    cut to many small tiles.

    Pictures in sub-folders get the sub-folder's name as their class, whatever lies deeper; pictures without
    sub-folders have none. Files and folders that begin with a dot are left out. A tenth, at least one, is held out as
    the test split: those whose name has the smallest sha256, so that adding pictures hardly moves the others. The tiles
    of a picture are all in one split.
    """

    folder: str
    """The folder with the pictures, or with one sub-folder of pictures for each class."""
    size: int = 32
    """Pixels a side: the short side is scaled to this, antialiased, and the middle is cut out."""
    tile: int = 0
    """Pixels a side of tiles that are cut out at random, always the same ones, instead of the middle; 0 for none."""
    tiles: int = 64
    """Tiles of each picture."""
    channels: int = 3
    """3 for colour, 1 for gray."""
    data_dir: str | None = None
    """Where prepared data lies; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def __post_init__(self) -> None:
        if self.channels not in (1, 3):
            raise UserError(f"channels must be 1 (gray) or 3 (colour); got {self.channels}. Pass --data.channels 3.")
        if self.size < 1:
            raise UserError(f"size counts pixels a side; got {self.size}. Pass, for example, --data.size 32.")
        if not 0 <= self.tile <= self.size or self.tiles < 1:
            raise UserError(
                "tile must lie in 0..size, the short side that pictures are scaled to, and tiles be at least 1; got "
                f"tile {self.tile}, size {self.size} and tiles {self.tiles}. Pass, for example, --data.size 128 "
                "--data.tile 64."
            )

    def load(self, progress: Progress = silent) -> Images:
        """Prepares when the folder is new or has changed, and reads.

        Raises:
            UserError: the folder is missing, has fewer than two pictures, has pictures both with and without a class,
                or a picture cannot be read.
        """
        root = Path(self.folder).expanduser()
        files = _scan(root)
        classes = tuple(sorted({file.relative_to(root).parts[0] for file in files})) if _nested(root, files) else ()
        cut = (self.tile, self.tiles) if self.tile else ()
        key = _key(root, files, self.size, self.channels, *cut)
        side = self.tile or self.size
        card = Card(
            name=f"jaxdiff_folder_{key}",
            description=f"{len(files)} pictures of {root.name}, {side}x{side}x{self.channels}.",
            homepage=str(root.resolve()),
            licence="the user's own",
            shape=(side, side, self.channels),
            classes=classes,
        )

        def examples(part: list[Path]) -> Iterator[Example]:
            from PIL import Image

            for file in part:
                label = classes.index(file.relative_to(root).parts[0]) if classes else None
                for array in _read(file, self.size, self.channels, *cut):
                    yield Image.fromarray(array[..., 0] if self.channels == 1 else array), label

        def splits(dl_manager: Any) -> dict[str, Iterator[Example]]:
            train, test = _hold_out(root, files)
            return {"train": examples(train), "test": examples(test)}

        return load_card(card, splits, name=root.resolve().name, data_dir=self.data_dir, progress=progress)


def _scan(root: Path) -> list[Path]:
    if not root.is_dir():
        raise UserError(f"--data.folder must be a folder of pictures; {root} is not a folder. Check the path.")
    visible = [p for p in root.rglob("*") if not any(part.startswith(".") for part in p.relative_to(root).parts)]
    files = sorted(p for p in visible if p.suffix.lower() in SUFFIXES and p.is_file())
    if len(files) < 2:
        raise UserError(
            f"--data.folder needs at least two pictures, one to train and one to test; {root} has {len(files)} "
            f"({', '.join(sorted(SUFFIXES))}) among {len(visible)} entries. Check the path, or convert the pictures."
        )
    return files


def _nested(root: Path, files: list[Path]) -> bool:
    loose = [file for file in files if file.parent == root]
    if loose and len(loose) < len(files):
        raise UserError(
            f"Pictures must all lie in sub-folders (classes) or all directly in {root}; {len(loose)} of {len(files)} "
            f"lie directly in it, such as {loose[0].name}. Move them into a sub-folder."
        )
    return not loose


def _key(root: Path, files: list[Path], *options: int) -> str:
    digest = hashlib.sha256(repr((_FORMAT, *options)).encode())
    for file in files:
        stat = file.stat()
        digest.update(repr((file.relative_to(root).as_posix(), stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _hold_out(root: Path, files: list[Path]) -> tuple[list[Path], list[Path]]:
    by_hash = sorted(files, key=lambda file: hashlib.sha256(file.relative_to(root).as_posix().encode()).digest())
    test = set(by_hash[: max(1, round(_TEST_SHARE * len(files)))])
    return [file for file in files if file not in test], [file for file in files if file in test]


def _read(file: Path, size: int, channels: int, tile: int = 0, tiles: int = 0) -> list[np.ndarray]:
    """The picture's middle, or its tiles; uint8 (H, W, channels) each."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as picture:
            upright = ImageOps.exif_transpose(picture)  # photographs often lie on their side
            if tile:
                return cut_tiles(to_array(upright, channels=channels, short=size), tile, tiles, name=file.name)
            return [to_array(upright, channels=channels, size=size)]
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(
            f"Picture {file} could not be read: {error}. Repair it, save it again as an 8-bit PNG, or remove it."
        ) from error
