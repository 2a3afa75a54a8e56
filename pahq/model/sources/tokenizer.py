"""The tokenizer of a model's folder as the text of a tokenizer.json: read and checked, never fetched, no code is run.

Folders without a tokenizer.json may hold GPT-2's older pair, vocab.json (a mapping) and merges.txt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pahq.errors import PahqError
from pahq.files.text import read_json

TOKENIZER, VOCABULARY, MERGES = "tokenizer.json", "vocab.json", "merges.txt"
SETTINGS = "tokenizer_config.json"
END_OF_TEXT = "<|endoftext|>"


def read_tokenizer(folder: Path, *, gpt2: bool = True) -> str | None:
    """The text of tokenizer.json, or of what vocab.json and merges.txt amount to; None where there is neither.

    ``gpt2`` says whether the older pair may be read as GPT-2's byte-level BPE: other families split text otherwise.
    Raises PahqError for a file that is no tokenizer.
    """
    path = folder / TOKENIZER
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PahqError(f"{path} is not readable: {error}") from None
        return _with_own_bos(check_tokenizer(text, str(path)), folder / SETTINGS)
    if gpt2 and (folder / MERGES).is_file() and (folder / VOCABULARY).is_file():
        return _older(folder)
    return None


def check_tokenizer(text: str, place: str) -> str:
    """The text itself if the library ``tokenizers`` understands it; PahqError naming ``place`` otherwise."""
    from tokenizers import Tokenizer

    try:
        Tokenizer.from_str(text)
    except Exception as error:  # the library raises plain Exception
        raise PahqError(f"{place} is no tokenizer that the tokenizers library reads: {error}") from None
    return text


def _with_own_bos(text: str, settings: Path) -> str:
    """The tokenizer as ``add_bos_token`` of tokenizer_config.json has it, which outweighs tokenizer.json.

    That is, beginning every text with ``bos_token`` (where special tokens are added) or leaving it out.
    """
    values = read_json(settings) if settings.is_file() else {}
    wanted, bos = (
        (values.get(key) for key in ("add_bos_token", "bos_token")) if isinstance(values, dict) else (None, "")
    )
    bos = bos.get("content") if isinstance(bos, dict) else bos
    if not isinstance(wanted, bool) or not isinstance(bos, str):
        return text
    from tokenizers import Tokenizer, processors

    tokenizer = Tokenizer.from_str(text)
    token = tokenizer.token_to_id(bos)
    if token is None or wanted == (token in tokenizer.encode("a", add_special_tokens=True).ids[:1]):
        return text
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A" if wanted else "$A", pair=None, special_tokens=[(bos, token)] if wanted else []
    )
    return str(tokenizer.to_str())


def byte_level_bpe(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> str:
    """GPT-2's byte-level byte-pair encoding (Radford et al. 2019) of a vocabulary and its merges, as tokenizer.json."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE(vocab=dict(vocabulary), merges=list(merges)))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if END_OF_TEXT in vocabulary:
        tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True, normalized=False)])
    return str(tokenizer.to_str())


def _older(folder: Path) -> str:
    vocabulary = read_json(folder / VOCABULARY)
    if not isinstance(vocabulary, dict) or not all(type(number) is int for number in vocabulary.values()):
        raise PahqError(f"{folder / VOCABULARY} is no mapping from tokens to numbers, as {MERGES} beside it asks for")
    lines = (folder / MERGES).read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    if len(merges) != len(pairs):
        raise PahqError(f"{folder / MERGES} has a line that is not two tokens")
    try:
        return byte_level_bpe(vocabulary, merges)
    except Exception as error:  # the library raises plain Exception
        raise PahqError(f"{folder / VOCABULARY} and {MERGES} do not fit: {error}") from None
