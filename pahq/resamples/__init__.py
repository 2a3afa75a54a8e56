"""How stable a circuit is: the whole search again, on resampled prompts, in other orders, on prompts of other seeds.

``variants`` says what is changed, ``resample`` draws prompts with replacement, ``measures`` compares the circuits (sets
of edges, no tensors), ``library`` is the Python call, ``cells`` and ``command`` do it for stored cells.
"""
