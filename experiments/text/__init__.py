"""Text data: every source becomes three streams of tokens, and windows of a stream become batches.

```
source.load(progress) -> Texts         TinyShakespeare, Text8, TextFile
batches(Windows(tokens=texts.train, length=256), batch_size=64, seed=0) -> endless iterator of {x0, index}
```
`ngrams` is the language model to compare with, `metrics` says what samples are like. Importing this package imports
neither TensorFlow Datasets nor Grain nor tokenizers: they are imported on first use.
"""

from experiments.text.bpe import BPE
from experiments.text.corpora import Text8, TextFile, TinyShakespeare
from experiments.text.dialogues.replies import Replies
from experiments.text.papers.summarizing import KeptSentences, WrittenSummaries
from experiments.text.tasks import Task
from experiments.text.texts import Source, Texts
from experiments.text.tokenizers import Bytes, Characters, Tokenizer, from_json
from experiments.text.windows import Windows

__all__ = [
    "BPE",
    "Bytes",
    "Characters",
    "KeptSentences",
    "Replies",
    "Source",
    "Task",
    "Text8",
    "TextFile",
    "Texts",
    "TinyShakespeare",
    "Tokenizer",
    "Windows",
    "WrittenSummaries",
    "from_json",
]
