"""How faithful circuits are: many circuits in one pass, curves over sizes, completeness, minimality, hypothesis tests.

``batch`` evaluates masks over edges; ``curve``, ``nodes`` and ``hypotheses`` are what papers define on such values;
``nulls`` draws random circuits; ``measure`` puts them together for one circuit and ``command`` for an experiment's
cells. All of it runs on fresh prompts and on the full-precision network.
"""
