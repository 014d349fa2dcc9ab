"""A text of your own by masked diffusion; the figures depend on it.

python -m experiments.train text_file --data.path FILE
python -m experiments.sample runs/text_file --prompt "Once ___ a time"
"""

import dataclasses

from experiments.recipe import Recipe
from experiments.recipes import text_char
from experiments.text import TextFile


def recipe() -> Recipe:
    return dataclasses.replace(text_char.recipe(), data=TextFile(path="text.txt"))
