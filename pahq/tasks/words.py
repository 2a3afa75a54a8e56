"""The words of the language tasks, and with them the whole vocabulary of the embedded model nano.

Lists are disjoint, so a word belongs to one role. Changing them changes nano's vocabulary: train it again.
"""

from __future__ import annotations

NAMES: tuple[str, ...] = tuple(
    "Agnes Bruno Celia Dorian Edith Felix Greta Hugo Irma Jonas Klara Leon Mabel Nils Oona Petra Quentin Rosa Simon Tilda "
    "Ulf Vera Walter Xenia Yannick Zelda Astrid Boris Cosima Dexter Elvira Fabian Gwen Hector Ingrid Jasper Kira Lorenz "
    "Minna Noor Otto Pilar Rufus Selma Tomas Ursula Viktor Wanda".split()
)
PLACES: tuple[str, ...] = tuple("harbour bakery library stable chapel quarry orchard station theatre market".split())
OBJECTS: tuple[str, ...] = tuple("lantern basket violin compass ribbon kettle mitten candle ladder whistle".split())
NOUNS: tuple[str, ...] = tuple(
    "siege drought voyage truce famine revolt reign strike embargo pilgrimage blockade feud festival expedition "
    "occupation alliance trial plague exile boom campaign mutiny regency winter".split()
)
NUMBERS: tuple[str, ...] = tuple(f"{number:02d}" for number in range(100))
FUNCTIONS: tuple[str, ...] = tuple("resample flush_queue merge attach scan_tree rotate_log dispatch encode".split())
ARGUMENTS: tuple[str, ...] = tuple(
    "path limit offset mask schema verbose stride owner retries payload locale margin depth prefix batch_size socket "
    "handler ratio colour column cursor tags vertex buffer token_count origin weight alpha layout timeout".split()
)
DESCRIPTIONS: tuple[str, ...] = tuple(
    "upper bound sorted rows optional hint raw bytes outer frame shared state final score inner loop".split()
)
OPENINGS: tuple[str, ...] = tuple("Then Later Afterwards".split())
VERBS: tuple[str, ...] = tuple("gave handed lent".split())
TEMPLATE: tuple[str, ...] = tuple(', . : ( ) """ and went to the a The lasted from year def self :param'.split())

# What induction sequences are drawn from: every word that carries content.
CONTENT: tuple[str, ...] = NAMES + PLACES + OBJECTS + NOUNS + FUNCTIONS + ARGUMENTS + DESCRIPTIONS

VOCABULARY: tuple[str, ...] = TEMPLATE + OPENINGS + VERBS + CONTENT + NUMBERS
