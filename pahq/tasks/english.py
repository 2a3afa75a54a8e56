"""The words of the language tasks on models that read text.

Each is one token, a space before it included, of GPT-2's and of SmolLM2's tokenizer (a test says so).
Objects take ``a``.
"""

from __future__ import annotations

from pahq.tasks.encoder import Encoder
from pahq.tasks.words import NANO, Lexicon


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


ENGLISH = Lexicon(
    names=_words(
        "Adam Albert Alice Anna Arthur Barbara Benjamin Brian Bruce Carol Caroline Charlotte Claire Daniel David Diana "
        "Dorothy Edward Ellen Emma Eva Felix Frank Frederick George Gerald Gordon Hannah Harold Helen Henry Hugh Ian "
        "Isabel Ivan Jack Jacob Jennifer Joseph Julia Karen Kate Keith Kevin Laura Leon Leonard Linda Lucy Marcus "
        "Margaret Maria Martin Michael Nancy Nathan Neil Nina Oliver Olivia Oscar Patrick Paul Peter Philip Rachel "
        "Raymond Richard Robert Ruth Samuel Sandra Sarah Simon Susan Teresa Thomas Victor Vincent Walter Wayne Wendy "
        "William"
    ),
    places=_words(
        "market station library garden museum hospital beach theater restaurant office kitchen park church school farm "
        "castle harbor bakery village airport hotel bridge forest clinic studio gallery stadium temple"
    ),
    objects=_words(
        "book ring lamp ticket basket bottle camera letter guitar knife coat watch key candle map hat blanket drum cup "
        "pencil flag rope mirror wallet coin radio bag gift pen box cake"
    ),
    nouns=_words(
        "siege war voyage famine revolt reign strike embargo pilgrimage blockade festival expedition occupation "
        "alliance trial plague exile boom campaign winter dispute project journey conflict crisis drought contract "
        "rebellion treaty marriage friendship construction decline partnership experiment investigation tour peace "
        "debate protest migration restoration search ban monopoly tradition study empire dynasty"
    ),
    functions=_words(
        "load merge scan update filter parse render build check export split search reset connect process"
    ),
    arguments=_words(
        "path limit offset mask schema stride owner payload locale margin depth prefix socket handler ratio color "
        "column cursor vertex buffer origin weight alpha layout timeout size file name value index key user data count "
        "width height mode label format token port host queue scale step level text title image table date source "
        "target option cache theme style"
    ),
    descriptions=_words(
        "upper bound sorted rows optional hint raw bytes outer frame shared state final score inner loop first last "
        "main list current default local number given full set new extra short basic simple input output total part "
        "line page time"
    ),
)


def lexicon_of(encoder: Encoder) -> Lexicon:
    """The words that a model's prompts are filled with."""
    return ENGLISH if encoder.reads_text else NANO
