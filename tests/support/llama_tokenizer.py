"""A tokenizer as Llama-2's folders have it (SentencePiece's BPE in the tokenizers library), of the words given.

Marks every text with a space before it, writes spaces as the mark, falls back to bytes, adds ``<s>`` where it is asked
for special tokens.
"""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

MARK = "\u2581"


def llama_tokenizer(words: Iterable[str], *, adds: bool = True, metaspace: bool = False) -> tuple[str, int]:
    """tokenizer.json and the number of tokens; ``metaspace``: the same by a pre-tokenizer, as newer folders have it.

    Every word is one token after a space; digits, and what is in no word, are tokens of their own.
    """
    vocabulary = {token: i for i, token in enumerate(["<unk>", "<s>", "</s>"])}
    vocabulary |= {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    merges: list[tuple[str, str]] = []
    letters = sorted({letter for word in words for letter in word} | set('0123456789.,:()"') | {MARK})
    for letter in letters:
        vocabulary.setdefault(letter, len(vocabulary))
    for word in words:
        left = MARK
        for letter in word:
            if left + letter not in vocabulary:
                vocabulary[left + letter] = len(vocabulary)
                merges.append((left, letter))
            left += letter
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=MARK, prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), normalizers.Replace(" ", MARK)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in ("<unk>", "<s>", "</s>")]
    )
    if adds:
        tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return str(tokenizer.to_str()), tokenizer.get_vocab_size()
