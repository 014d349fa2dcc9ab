"""The 27 symbols of text8 (Wikipedia without capitals, digits and punctuation) by masked diffusion.

python -m experiments.train text8 --data.raw-dir DIR    # text8 or its beginning, or nothing to download it
python -m experiments.evaluate runs/text8
python -m experiments.sample runs/text8 --prompt "the ___ of the" --gap 12

Expected, on the first six million characters: at most 2.77 bits a character; a trigram has 2.89 in the same windows.
"""

import dataclasses

from experiments.recipe import Recipe
from experiments.recipes import text_char
from experiments.text import Text8


def recipe() -> Recipe:
    return dataclasses.replace(text_char.recipe(), data=Text8(length=128))
