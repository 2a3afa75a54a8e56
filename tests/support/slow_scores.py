"""Scores from gradients by an independent loop: a leaf of its own at every receiver of a recursive patched forward.

It shares with the package the metric and the names of edges, and nothing else: the forward is ``patched_forward``'s,
one head, example and position at a time, and the runs that a method averages over are spelt out here from formulas.
"""

from __future__ import annotations

import torch

from support.patched_forward import _Example, _means, _project


class _Nudged(_Example):
    """The whole graph on one example, with a leaf of zeros added to what every receiver reads, and to projections.

    ``held``: values (by sender, or by receiver for its projection) that take the place of what would be computed.
    """

    def __init__(self, model, clean, corrupted, names, ablation, split, direct, order, means, held):
        super().__init__(model, model, clean, corrupted, names, ablation, split, direct, order, frozenset(), means)
        self.held, self.leaves, self.projected = held, {}, {}

    def input(self, receiver, layer, kind):
        if receiver not in self.leaves:
            stream = super().input(receiver, layer, kind)
            self.leaves[receiver] = [torch.zeros_like(x).requires_grad_() for x in stream]
            self.memo[receiver] = [x + leaf for x, leaf in zip(stream, self.leaves[receiver], strict=True)]
        return self.memo[receiver]

    def _output(self, sender):
        return self.held[sender] if sender in self.held else super()._output(sender)

    def projection(self, layer, letter, index):
        name = f"a{layer}.h{index}<{letter}>"
        if name not in self.projected:
            values = self.held.get(name + "!")
            if values is None:
                values = _project(self.low, layer, letter, index, self.input(name, layer, "head"))
            leaves = self.leaves[name + "!"] = [torch.zeros_like(x).requires_grad_() for x in values]
            self.projected[name] = [x + leaf for x, leaf in zip(values, leaves, strict=True)]
        return self.projected[name]

    def ablated_projection(self, name):
        layer, index, letter = int(name[1:].split(".")[0]), int(name.split(".h")[1].split("<")[0]), name[-2]
        return _project(self.low, layer, letter, index, self.cache.residual(layer, "head"))


def slow_scores(model, prompts, objective, graph, method, *, steps, convention, ablation="corrupted"):
    """The score of every edge by its name; ``graph`` says whether embeddings are split and Direct edges wanted."""
    loop = _Loop(model, prompts, objective, graph, ablation)
    senders, receivers = [str(node) for node in graph.senders], [str(receiver) for receiver in graph.head_inputs]
    starts = [name for name in senders if name in ("embed", "pos")]
    theirs = convention == "eap-ig"
    even = [k / steps for k in range(steps + 1)]
    nodes = {1: [0.5], 2: [0.5 - 0.5 / 3**0.5, 0.5 + 0.5 / 3**0.5]}.get(steps)  # Gauss and Legendre's
    if method in ("eap", "clean-corrupted"):
        shares = [1.0] if method == "eap" else [0.0, 1.0]
        return loop.mean([loop.gradients(starts, share) for share in shares], theirs)
    if method == "eap-ig":
        return loop.mean([loop.gradients(starts, share) for share in (even[:-1] if theirs else nodes)], theirs)
    layers = range(graph.shape.layers)
    units = [starts] + [[f"a{layer}.h{head}" for head in range(graph.shape.heads)] for layer in layers]
    units += [[f"m{layer}"] for layer in layers if graph.shape.mlp]
    if theirs:
        deaf = model.config.positions != "learned"
        runs = [loop.gradients(unit, share, deaf=deaf and unit == starts) for unit in units for share in even[1:]]
        return loop.mean(runs, theirs)
    if graph.n_direct:
        inputs = [[name for name in receivers if name.startswith(f"a{layer}.")] for layer in layers]
        units += [[f"{name}!" for name in names if f"<{letter}>" in name] for names in inputs for letter in "qkv"]
    found = {}
    for unit in units:
        scores = loop.mean([loop.gradients(unit, share) for share in nodes], theirs)
        found |= {name: value for name, value in scores.items() if source_of(name) in unit}
    return found


def source_of(name):
    """What an edge carries: its sender's output, or (a Direct edge) the projection itself."""
    return name.split("->")[0] if "->" in name else f"{name}!"


class _Loop:
    def __init__(self, model, prompts, objective, graph, ablation):
        self.model, self.prompts, self.objective, self.graph = model, prompts, objective, graph
        self.names = [str(edge) for edge in graph.edges]
        split = graph.shape.split_embed
        order = prompts.position_order
        means = _means(model, prompts.corrupted, split, order) if ablation == "mean" else None
        self.asked = (self.names, ablation, split, graph.n_direct > 0, order, means)
        runs = self.runs([{} for _ in prompts.clean])
        self.logits(runs)
        self.clean, self.ablated = [], []
        for run in runs:
            values = {str(node): run.output(str(node)) for node in graph.senders}
            values |= {f"{name}!": values for name, values in run.projected.items()}
            self.clean.append({name: [x.detach() for x in xs] for name, xs in values.items()})
            self.ablated.append(run.cache.out | {f"{name}!": run.ablated_projection(name) for name in run.projected})

    def runs(self, held):
        pairs = zip(self.prompts.clean.tolist(), self.prompts.corrupted.tolist(), held, strict=True)
        return [_Nudged(self.model, clean, corrupted, *self.asked, values) for clean, corrupted, values in pairs]

    def logits(self, runs):
        return torch.stack([runs[example].logits(position) for example, position in self.prompts.items.tolist()])

    def gradients(self, unit, share, *, deaf=False):
        """By edge, what its sender's (or projection's) difference makes of the gradient where the unit is between."""
        pairs = list(zip(self.clean, self.ablated, strict=True))
        runs = self.runs(
            [{name: _between(clean[name], ablated[name], share) for name in unit} for clean, ablated in pairs]
        )
        loss = self.objective.loss(self.logits(runs))
        found = dict.fromkeys(self.names, 0.0)
        for run, (clean, ablated) in zip(runs, pairs, strict=True):
            flat = [leaf for leaves in run.leaves.values() for leaf in leaves]
            made = iter(torch.autograd.grad(loss, flat, retain_graph=True, allow_unused=True))
            at = {name: [next(made) for _ in leaves] for name, leaves in run.leaves.items()}
            for name in self.names:
                source, receiver = source_of(name), name.rpartition("->")[2]
                if deaf and sum(other.endswith(f"->{receiver}") for other in self.names) == 1:
                    continue
                gradients = at.get(receiver if "->" in name else source, [])  # none where a constant is in its place
                for c, a, g in zip(clean[source], ablated[source], gradients, strict=False):
                    found[name] += 0.0 if g is None else float((a - c) @ g)
        return found

    def mean(self, runs, theirs):
        scale = len(runs) * (len(self.prompts.clean) if theirs else 1)
        return {name: sum(run[name] for run in runs) / scale for name in self.names}


def _between(clean, ablated, share):
    return [share * c + (1 - share) * a for c, a in zip(clean, ablated, strict=True)]
