"""The words of the language tasks, and with them the whole vocabulary of the embedded model nano.

Lists are disjoint, so a word belongs to one role. Changing them changes nano's vocabulary: train it again.
"""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES: tuple[str, ...] = _words(
    "Agnes Bruno Celia Dorian Edith Felix Greta Hugo Irma Jonas Klara Leon Mabel Nils Oona Petra Quentin Rosa Simon "
    "Tilda Ulf Vera Walter Xenia Yannick Zelda Astrid Boris Cosima Dexter Elvira Fabian Gwen Hector Ingrid Jasper Kira "
    "Lorenz Minna Noor Otto Pilar Rufus Selma Tomas Ursula Viktor Wanda"
)
PLACES: tuple[str, ...] = _words("harbour bakery library stable chapel quarry orchard station theatre market")
OBJECTS: tuple[str, ...] = _words("lantern basket violin compass ribbon kettle mitten candle ladder whistle")
NOUNS: tuple[str, ...] = _words(
    "siege drought voyage truce famine revolt reign strike embargo pilgrimage blockade feud festival expedition "
    "occupation alliance trial plague exile boom campaign mutiny regency winter"
)
NUMBERS: tuple[str, ...] = tuple(f"{number:02d}" for number in range(100))
FUNCTIONS: tuple[str, ...] = _words("resample flush_queue merge attach scan_tree rotate_log dispatch encode")
ARGUMENTS: tuple[str, ...] = _words(
    "path limit offset mask schema verbose stride owner retries payload locale margin depth prefix batch_size socket "
    "handler ratio colour column cursor tags vertex buffer token_count origin weight alpha layout timeout"
)
DESCRIPTIONS: tuple[str, ...] = _words(
    "upper bound sorted rows optional hint raw bytes outer frame shared state final score inner loop"
)
OPENINGS: tuple[str, ...] = _words("Then Later Afterwards")
VERBS: tuple[str, ...] = _words("gave handed lent")
TEMPLATE: tuple[str, ...] = _words(', . : ( ) """ and went to the a The lasted from year def self :param')

# What induction sequences are drawn from: every word that carries content.
CONTENT: tuple[str, ...] = NAMES + PLACES + OBJECTS + NOUNS + FUNCTIONS + ARGUMENTS + DESCRIPTIONS

VOCABULARY: tuple[str, ...] = TEMPLATE + OPENINGS + VERBS + CONTENT + NUMBERS


@dataclass(frozen=True)
class Lexicon:
    """What the prompts of a task are filled with; every word is one token of the models it is for."""

    names: tuple[str, ...]
    places: tuple[str, ...]
    objects: tuple[str, ...]
    nouns: tuple[str, ...]
    functions: tuple[str, ...]
    arguments: tuple[str, ...]
    descriptions: tuple[str, ...]


NANO = Lexicon(NAMES, PLACES, OBJECTS, NOUNS, FUNCTIONS, ARGUMENTS, DESCRIPTIONS)
