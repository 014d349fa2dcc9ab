"""Trained judges on disk, one `.npz` file each: plain arrays, no pickle.

A file is named by a hash of all that its judge follows from: the version of its settings, seed, pixels and labels. A
checksum inside covers that hash and every number, so a damaged, renamed or foreign file is refused with a line in the
log, and its judge is trained again. Files appear whole or not at all.
"""

import hashlib
import io
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util


def name(version: str, images: np.ndarray, labels: np.ndarray | None, classes: int, seed: int) -> str:
    """The hash, 64 hexadecimal digits, of all that a judge follows from; `labels` are int32, or None."""
    digest = hashlib.sha256(repr((version, images.shape, classes, seed, labels is not None)).encode())
    digest.update(np.ascontiguousarray(images).data)
    if labels is not None:
        digest.update(labels.data)
    return digest.hexdigest()


def _checksum(name: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(name.encode())
    for key, array in sorted(arrays.items()):
        digest.update(f"{key} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def load(path: Path, name: str, specs: Any) -> Any | None:
    """Parameters of the judge `name`, shaped as `specs`; None where there is no file or it cannot be trusted."""
    if not path.exists():
        return None
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        flat: dict[str, Any] = dict(traverse_util.flatten_dict(specs, sep="/"))
        if str(arrays.pop("checksum")) != _checksum(name, arrays):
            raise ValueError("its checksum does not match")
        if jax.tree.map(np.shape, arrays) != {key: spec.shape for key, spec in flat.items()}:
            raise ValueError("it holds another network")
    except Exception as error:  # a damaged zip raises nearly anything, and none of it may reach a score
        logging.getLogger(__name__).warning("%s is damaged (%s); the judge is trained again", path, error)
        return None
    return traverse_util.unflatten_dict({key: jnp.asarray(array) for key, array in arrays.items()}, sep="/")


def save(path: Path, name: str, params: Any) -> None:
    """Write `params`, a nested dict of arrays, whole or not at all."""
    arrays = {key: np.asarray(array) for key, array in traverse_util.flatten_dict(params, sep="/").items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, allow_pickle=False, checksum=np.array(_checksum(name, arrays)), **arrays)
        os.replace(temporary, path)  # atomic: a reader sees the whole file or none
    except BaseException:
        os.unlink(temporary)
        raise
