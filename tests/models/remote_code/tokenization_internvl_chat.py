"""A tokenizer whose tokens are words; each line of its vocabulary file is one."""

import re
import shutil
from pathlib import Path

from transformers import PreTrainedTokenizer


class WordTokenizer(PreTrainedTokenizer):
    """A slow tokenizer, as these families bring one; what it does not know is ``<unk>``."""

    vocab_files_names = {"vocab_file": "vocab.txt"}  # noqa: RUF012
    model_input_names = ["input_ids", "attention_mask"]  # noqa: RUF012

    def __init__(self, vocab_file, **rest):
        """Read the words."""
        self.vocab_file = vocab_file
        self.words = Path(vocab_file).read_text(encoding="utf-8").split("\n")
        self.numbers = {word: number for number, word in enumerate(self.words)}
        super().__init__(**rest)

    @property
    def vocab_size(self):
        """The words of the file."""
        return len(self.words)

    def get_vocab(self):
        """Ids by word."""
        return {**self.numbers, **self.added_tokens_encoder}

    def _tokenize(self, text):
        return re.findall(r"\w+|[^\w\s]", text)

    def _convert_token_to_id(self, token):
        return self.numbers.get(token, self.numbers["<unk>"])

    def _convert_id_to_token(self, index):
        return self.words[index]

    def convert_tokens_to_string(self, tokens):
        """Words with spaces between them."""
        return " ".join(tokens)

    def save_vocabulary(self, save_directory, filename_prefix=None):
        """Copy the file."""
        file = Path(save_directory) / "vocab.txt"
        if file.absolute() != Path(self.vocab_file).absolute():
            shutil.copyfile(self.vocab_file, file)
        return (str(file),)
