"""A slow, independent circuit search in float64: numpy and the standard library, nothing of the package, no torch.

It is written from the definitions (ACDC: Conmy et al. 2023, arXiv 2304.14997; PAHQ: arXiv 2510.23264; docs/formats.md),
one node at a time and one whole patched forward per test, so that the package has something to be wrong against. It
takes weights and tokens as numpy arrays. What each module answers: ``graph`` which edges there are and in which order
they are tested; ``network`` what a head, an MLP and the unembedding compute; ``circuit`` what the logits of a set of
edges are; ``losses`` what a metric makes of them; ``formats`` what a weight becomes in few bits; ``search`` which edges
stay.
"""
