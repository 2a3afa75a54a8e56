"""Words as text, text as tokens, and one sentence where they do not fit."""

from __future__ import annotations

import pytest

from pahq.errors import PahqError
from pahq.model.sources.tokenizer import byte_level_bpe
from pahq.tasks import docstring, greaterthan, ioi
from pahq.tasks.encoder import encoder_of, written
from pahq.tasks.task import encode_pairs


@pytest.fixture
def letters(make_text_model):
    """A model whose tokens are the bytes of a few letters, `` ab`` and ``ab``."""
    vocabulary = {token: i for i, token in enumerate(["a", "b", "c", "Ġ", "ab", "Ġab", "Ġabc", "<|endoftext|>", "1"])}
    text = byte_level_bpe(vocabulary, [("a", "b"), ("Ġ", "ab"), ("Ġab", "c")])
    return lambda size=9: make_text_model(text, size)


def test_sentences_are_written_as_a_person_would():
    words = ioi.sentence("Ann", "Bob", "Bob", "park", "book")
    assert written(words) == "Then, Ann and Bob went to the park. Bob gave a book to"
    assert written(greaterthan.sentence("war", 5)) == "The war lasted from the year 1705 to 17"
    assert written(greaterthan.digit_sentence("war", 41)) == "The war lasted from the year 1741 to the year 17"
    words = docstring.sentence("merge", ["path", "limit"], ["raw", "bytes"], [("path", ["upper", "bound"])])
    lines = ["def merge(self, path, limit):", '    """ raw bytes.', "    :param path: upper bound", "    :param"]
    assert written(words) == "\n".join(lines)
    assert written("as it  stands ,") == "as it  stands ,"


def test_text_and_words_meet_their_tokens(letters):
    encoder = encoder_of(letters(), "x")
    assert encoder.reads_text
    assert encoder.ids(("ab", "abc"), "x") == encoder.ids("ab abc", "x") == [4, 6]
    assert (encoder.token("ab", "x"), encoder.token(" ab", "x"), encoder.token("ab", "x", inside=True)) == (5, 5, 4)
    assert encoder.shown([4, 6]) == "ab| abc"
    assert encoder.words() == [6]  # " ab" is two letters
    assert encoder_of(letters(), "x", bos="<|endoftext|>").batch(["ab", "a"], "x").tolist() == [[7, 4], [7, 0]]


def test_words_of_a_word_level_model_take_a_first_token_too(model, words):
    encoder = encoder_of(model, "x", bos="Later")
    assert not encoder.reads_text
    assert words(encoder.batch(["Then ,", ("went", "to")], "x")) == [("Later", "Then", ","), ("Later", "went", "to")]
    assert encoder.token(" Then", "x", inside=True) == encoder.token("Then", "x")


def test_a_missing_word_is_named_with_its_prompt(model):
    with pytest.raises(PahqError, match=r"ioi prompt 1 \(Then zyzzyva\) has the word 'zyzzyva'.*'words'"):
        encoder_of(model, "ioi").batch([("Then", ","), ("Then", "zyzzyva")], "ioi")


def test_prompts_need_words_or_a_tokenizer_and_room(make_model, letters):
    with pytest.raises(PahqError, match="no word-level vocabulary and no tokenizer"):
        encoder_of(make_model(None), "ioi")
    with pytest.raises(PahqError, match="ioi prompts have 3 tokens; model 'words' has 2 positions"):
        encoder_of(make_model(context=2), "ioi").batch([("Then", ",", "a")], "ioi")
    with pytest.raises(PahqError, match="has no token '<s>' to begin"):
        encoder_of(letters(), "ioi", bos="<s>")
    with pytest.raises(PahqError, match="has no token '<s>' to begin"):
        encoder_of(make_model(), "ioi", bos="<s>")


def test_another_models_tokenizer_is_seen(letters):
    with pytest.raises(PahqError, match=r"x prompt 0 has token 6; model 'text' has 5: its tokenizer.json"):
        encoder_of(letters(size=5), "x").batch(["ab abc"], "x")


def test_a_prompt_of_another_length_is_named_with_its_tokens(letters):
    encoder = encoder_of(letters(), "x")
    with pytest.raises(
        PahqError, match=r"clean x prompt 1 has 3 tokens where prompt 0 has 2 \(ab\|a\|c and ab\| abc\)"
    ):
        encode_pairs(encoder, [("ab", "abc"), ("abac",)], [("ab", "ab"), ("ab", "ab")], "x")
    with pytest.raises(PahqError, match=r"clean x prompt 0 has 2 tokens \(ab\| abc\), the corrupted one 1 \(ab\)"):
        encode_pairs(encoder, [("ab", "abc")], [("ab",)], "x")


def test_a_changed_word_must_be_one_token(letters):
    encoder = encoder_of(letters(), "x")
    assert encode_pairs(encoder, [("ab", "ab")], [("ab", "abc")], "x")[1].tolist() == [[4, 6]]
    with pytest.raises(PahqError, match="x prompt 0 differs from the corrupted one in 1 words but in 2 tokens"):
        encode_pairs(encoder, [("ab", "ca")], [("ab", "bb")], "x")


def test_an_answer_of_several_tokens_is_shown_with_them(letters):
    with pytest.raises(PahqError, match=r"name ' ca' is 3 tokens of model 'text' \( \|c\|a\); one was expected"):
        encoder_of(letters(), "x").token("ca", "name")
