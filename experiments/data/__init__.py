"""Image data: every source becomes a TensorFlow Datasets builder in array_record form, read without TensorFlow.

```
source.load(progress) -> Images        Digits, Mnist, FashionMnist, Cifar10, Tfds, Folder
batches(images.train, batch_size=128, seed=0) -> endless, checkpointable iterator of {x0, cond, index}
```
Importing this package imports neither TensorFlow Datasets nor Grain: they are imported on first use.
"""

from experiments.data.cifar import Cifar10
from experiments.data.digits import Digits
from experiments.data.folder import Folder
from experiments.data.idx import FashionMnist, Mnist
from experiments.data.images import Images, Progress, Source, Split, from_pixels, silent, to_pixels
from experiments.data.pipeline import Batches, batches
from experiments.data.tfds_images import Tfds

__all__ = [
    "Batches",
    "Cifar10",
    "Digits",
    "FashionMnist",
    "Folder",
    "Images",
    "Mnist",
    "Progress",
    "Source",
    "Split",
    "Tfds",
    "batches",
    "from_pixels",
    "silent",
    "to_pixels",
]
