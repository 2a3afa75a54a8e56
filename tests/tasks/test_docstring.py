"""Docstring: the next undocumented argument is the answer; the corrupted twin leaves no trace of it."""

from __future__ import annotations

from random import Random

from pahq.config.cell import TaskConfig
from pahq.tasks import docstring
from pahq.tasks.words import ARGUMENTS


def test_the_sentence():
    words = docstring.sentence("merge", ["path", "limit"], ["raw", "bytes"], [("path", ["upper", "bound"])])
    assert " ".join(words) == 'def merge ( self , path , limit ) : """ raw bytes . :param path : upper bound :param'


def arguments(words: tuple[str, ...]) -> list[str]:
    return [words[at] for at in range(5, 17, 2)]


def documented(words: tuple[str, ...]) -> list[str]:
    return [words[at + 1] for at, word in enumerate(words[:-1]) if word == ":param"]


def test_clean_documents_the_first_two_middle_arguments_and_asks_for_the_third():
    rng = Random(0)
    for _ in range(200):
        example = docstring.draw(rng)
        names = arguments(example.clean)
        assert len(set(names)) == 6
        assert documented(example.clean) == names[1:3]
        assert example.answer == names[3]
        assert example.clean[-1] == ":param"


def test_corrupted_keeps_length_and_all_but_five_names_new_to_both_prompts():
    rng = Random(1)
    for _ in range(200):
        example = docstring.draw(rng)
        assert len(example.clean) == len(example.corrupted) == 34
        clean, new = arguments(example.clean), arguments(example.corrupted)
        assert (new[0], new[4:]) == (clean[0], clean[4:])
        fresh = new[1:4] + documented(example.corrupted)
        assert len({*fresh, *clean}) == 11
        assert example.answer not in example.corrupted
        changed = [at for at in range(34) if example.clean[at] != example.corrupted[at]]
        # The documented names occur in the signature too, so five of the six places differ twice over.
        assert [example.corrupted[at] for at in changed] == fresh
        assert set(fresh) <= set(ARGUMENTS)


def test_choices_are_all_other_names_of_both_prompts(model):
    rng = Random(2)
    example = docstring.draw(rng)
    others = set(arguments(example.clean) + arguments(example.corrupted) + documented(example.corrupted))
    assert set(example.choices) == others - {example.answer}
    assert len(example.choices) == 10
    task = docstring.build(TaskConfig(name="d", kind="docstring", examples=4, metric="margin"), model, 0)
    assert task.search.targets["choices"].shape == (4, 10)
    assert (task.search.targets["answer"] == task.search.clean[:, 11]).all()
    assert task.search.last_only
