"""What is known of the data of a run, without the data: what a network needs, and the names of classes."""

import dataclasses
from typing import Any

from experiments.data import Images
from experiments.errors import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataInfo:
    """What a network needs to know of its data.

    Attributes:
        shape: (H, W, C) of pictures, (L,) of tokens.
        classes: the name of each label; empty without labels.
        name, checksum: which data these are.
        tokens: values that a token can have; 0 for data that are real numbers.
        tokenizer: what the tokens say; None for data that are not text.
        features: numbers that are known of each token; 0 for none.
        embedding: shape of the vector or sequence that comes with each example; () for none.
        prompt_length: places at the beginning of a window for a prompt and, behind them, one for a separator; 0 where
            a prompt may stand anywhere.
        latents: `experiments.latents.Latents`, of which autoencoder and in which units; None for the data themselves.
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...] = ()
    name: str = ""
    checksum: str = ""
    tokens: int = 0
    tokenizer: Any = None
    features: int = 0
    embedding: tuple[int, ...] = ()
    prompt_length: int = 0
    latents: Any = None

    @classmethod
    def of(cls, images: Images) -> "DataInfo":
        return cls(shape=images.shape, classes=images.classes, name=images.name, checksum=images.checksum)


def class_labels(info: DataInfo, names: tuple[str, ...]) -> list[int]:
    """The labels of classes given by name or number.

    Raises:
        UserError: a class that the data do not have.
    """
    if names and not info.classes:
        raise UserError(
            f"classes {', '.join(names)} were asked for, but {info.name or 'the data'} has none; leave --classes out"
        )
    labels = []
    for name in names:
        if name in info.classes:
            labels.append(info.classes.index(name))
        elif name.isdigit() and int(name) < len(info.classes):
            labels.append(int(name))
        else:
            raise UserError(
                f"unknown class {name!r}; the classes are {', '.join(info.classes)} (or 0 to {len(info.classes) - 1})"
            )
    return labels
