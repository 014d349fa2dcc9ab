"""The ChatterBot corpus: questions and answers without acts, about many things.

https://github.com/gunthercox/chatterbot-corpus, licence BSD-3-Clause.
"""

from dataclasses import dataclass
from typing import Any

from experiments.data.images import Progress, silent
from experiments.errors import UserError
from experiments.text import published
from experiments.text.dialogues.dialogue import Dialogues, Exchange, split
from experiments.text.papers.scitldr import clean

_FILES = {
    "english/ai.yml": "620a65787a56641db4a03e1419a7578e813967218cf6721e3ea4ef90844916aa",
    "english/botprofile.yml": "1a694c5288f3f8f87d027d2f98dae71d02efa88e28853a6e5d27e6dbce907294",
    "english/coding.yml": "0de8d7d7e6095164c59d7b0ef97c402c770c2d7982f485ab372dc6736c1a4e79",
    "english/computers.yml": "a222c5a432efe4289e6c5edf1c3d99fd26c48df99db0ff893d1d5ab569f5b750",
    "english/conversations.yml": "1cf105b5802f377b2dc145f741f7df85629c9ca27e450538165286a75b5e3416",
    "english/emotion.yml": "510a018938c1880dd0f67e1ae458e26878c91a570daef5a84fb83713c89f0989",
    "english/food.yml": "68eab2497721d03044d520b70c27d8a0d8ba8e505b3265fb3a1ff3e1a64c7124",
    "english/gossip.yml": "d6f1b1613ed70821fc1c427bdd00395f58b77ff57d76fbe4ab8cb2038cf15c9b",
    "english/greetings.yml": "0dd7eb8dcee8e2a38cd1a137bcfbd7f3eb732cddfa1bd396fac5a24b063a4d55",
    "english/health.yml": "eb88edc5302d688ca096374c7e3f5b9d7cd821f053a17d80204c4acdc20ea4f5",
    "english/history.yml": "0ff4beeb6ef9b641dc12e1039a149c6a03eb8f2e183702fad2b0997fcc1d63e3",
    "english/humor.yml": "d2aa03a63f0e8e054589f642788afbc41b8c76f5d734c50901a9a63b359ea06b",
    "english/literature.yml": "9361ff1478273d811259ca307a1e6be23a5e08e776a5bc5d9524fb13deb886f1",
    "english/money.yml": "2911d9766625ff5c2feb3d784f2951b2ebd5e9658547efce7568d0282c49274b",
    "english/movies.yml": "075ca9d91a527206c635c88bf0353323826a25a6f2057be1bc71888af389f842",
    "english/politics.yml": "c436d5efedea6f715a8a811423a8edf396097771eb11e43b1f0a43a6aee7c2f0",
    "english/psychology.yml": "5047c211d35f715af4fbc3398f111135e99d34afcd0905a661c40bdeb1413a58",
    "english/science.yml": "3c259799bba36c67a1601fc264ec01ab051e9e63950734ce1ef644e022081fe7",
    "english/sports.yml": "8d1bcc632cad4058e3b8490daa15dcd7c2a51790a7b9140b252600b794590403",
    "english/tech_support.yml": "8a87cdf32579c8efdd9c5f3ef166ae9fb76dcf271b958f5e2265b9246b430655",
    "english/trivia.yml": "3a9de77e6d82803d1ea3eba48cf6543c884908f4c4f50501fed69f88112994dc",
}
_MIRRORS = ("https://raw.githubusercontent.com/gunthercox/chatterbot-corpus/master/chatterbot_corpus/data/",)


@dataclass(frozen=True, kw_only=True)
class ChatterBot:
    """2,026 short conversations in English, most of them a question and an answer.

    Conversations that begin alike are one dialogue to the split: else most test questions would stand in the training
    part too.
    """

    raw_dir: str | None = None
    """Folder with english/ai.yml and so on; None to download."""
    data_dir: str | None = None
    """Where downloads lie; None for TFDS's default (TFDS_DATA_DIR, or ~/tensorflow_datasets)."""

    def load(self, progress: Progress = silent) -> Dialogues:
        """Reads the files, in about a second. Raises `UserError` if they cannot be had."""
        try:
            import yaml
        except ImportError as error:
            raise UserError(
                "ChatterBot needs the package pyyaml; it is not installed. Run pip install -e '.[experiments]'."
            ) from error
        options: dict[str, Any] = {"raw_dir": self.raw_dir, "data_dir": self.data_dir, "mirrors": _MIRRORS}
        files = published.read("chatterbot", _FILES, **options, progress=progress)
        found = []
        for name, content in files.items():
            # The C loader, where there is one, reads ten times as fast.
            talks = yaml.load(content, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["conversations"]
            for i, talk in enumerate(talks):
                lines = [line for line in map(clean, talk) if line]
                for k in range(1, len(lines)):
                    exchange = Exchange(dialogue=f"{name}/{i}", context=tuple(lines[:k]), acts=(), reply=lines[k])
                    found.append((lines[0].casefold(), exchange))
        return split("chatterbot", found, "https://github.com/gunthercox/chatterbot-corpus (BSD-3-Clause), English")
