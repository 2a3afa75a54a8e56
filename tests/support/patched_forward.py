"""An independent patched forward: a recursion over edge names, one head, example and position at a time.

Written from the definitions (Conmy et al. 2023, section 2; Su et al. 2021; Ainslie et al. 2023). It shares no code with
the package and reads of it only the model's tensors, so that the reference engine has something to be wrong against.
"""

from __future__ import annotations

import math

import torch

from support import turning


def circuit_logits(
    full,
    low,
    clean_tokens,
    corrupted_tokens,
    items,
    edges,
    *,
    ablation="corrupted",
    split_embed=False,
    direct_edges=True,
    position_order=None,
    focus=frozenset(),
):
    """[item, vocab] logits of the circuit that has the ``edges`` named.

    ``low`` is the network under test, ``full`` lends the weights of the (layer, key-value head) pairs in ``focus``.
    """
    rows = []
    means = _means(low, corrupted_tokens, split_embed, position_order) if ablation == "mean" else None
    runs = {}
    for example, position in items.tolist():
        if example not in runs:
            clean, corrupted = clean_tokens[example].tolist(), corrupted_tokens[example].tolist()
            runs[example] = _Example(
                full, low, clean, corrupted, edges, ablation, split_embed, direct_edges, position_order, focus, means
            )
        rows.append(runs[example].logits(position))
    return torch.stack(rows)


class _Example:
    def __init__(self, full, low, clean, corrupted, edges, ablation, split, direct_edges, position_order, focus, means):
        self.full, self.low, self.edges, self.focus = full, low, set(edges), focus
        self.direct_edges, self.split = direct_edges, split
        self.embedded = _embeddings(low, clean, split, None)
        self.cache = _Cache(low, corrupted, split, position_order)
        if ablation == "zero":
            self.cache.force({name: [torch.zeros_like(x) for x in value] for name, value in self.cache.out.items()})
        if ablation == "mean":
            self.cache.force(means)
        self.memo = {}

    def logits(self, position):
        config = self.low.config
        x = self.input("logits", config.layers, "logits")[position]
        out = _norm(config, x, self.low.ln_final_w, self.low.ln_final_b) @ self.low.W_U + self.low.b_U
        return bent(out, config.logit_cap)

    def input(self, receiver, layer, kind):
        """The residual stream that a receiver reads: its corrupted one plus what its present edges change."""
        stream = list(self.cache.residual(layer, kind))
        for sender in self.cache.upstream(layer, kind):
            if f"{sender}->{receiver}" in self.edges:
                online, corrupted = self.output(sender), self.cache.out[sender]
                stream = [x + a - b for x, a, b in zip(stream, online, corrupted, strict=True)]
        return stream

    def output(self, sender):
        if sender not in self.memo:
            self.memo[sender] = self._output(sender)
        return self.memo[sender]

    def _output(self, sender):
        if sender in ("embed", "pos"):
            return self.embedded[sender]
        if sender[0] == "m":
            layer = int(sender[1:])
            return [_mlp(self.low, layer, x) for x in self.input(sender, layer, "mlp")]
        layer, head = (int(part) for part in sender[1:].split(".h"))
        if self.low.config.post_norms:
            mine = self.raw(layer, head)
            every = [self.raw(layer, other) for other in range(self.low.config.heads)]
            return [
                share(self.low, layer, x, sum(sent)) for x, sent in zip(mine, zip(*every, strict=True), strict=True)
            ]
        return self.raw(layer, head)

    def raw(self, layer, head):
        """What a head sends before a norm behind it."""
        if (layer, head) in self.memo:
            return self.memo[layer, head]
        group = head // (self.low.config.heads // self.low.config.kv_heads)
        parts = parts_of(self.low, layer, head, group, lambda letter, index: self.projection(layer, letter, index))
        self.memo[layer, head] = _head(self._model(layer, group), layer, head, parts)
        return self.memo[layer, head]

    def _model(self, layer, group):
        return self.full if (layer, group) in self.focus else self.low

    def projection(self, layer, letter, index):
        receiver = f"a{layer}.h{index}<{letter}>"
        offline = self.direct_edges and receiver not in self.edges
        stream = self.cache.residual(layer, "head") if offline else self.input(receiver, layer, "head")
        group = index // (self.low.config.heads // self.low.config.kv_heads) if letter == "q" else index
        return _project(self._model(layer, group), layer, letter, index, stream)


class _Cache:
    """The run that absent edges take their values from: every sender's output by name, position by position."""

    def __init__(self, model, tokens, split, position_order):
        self.model, self.split = model, split
        self.out = dict(_embeddings(model, tokens, split, position_order))
        config = model.config
        for layer in range(config.layers):
            stream = self.residual(layer, "head")
            for head in range(config.heads):
                group = head // (config.heads // config.kv_heads)
                parts = parts_of(model, layer, head, group, lambda *at: _project(model, layer, *at, stream))  # noqa: B023
                self.out[f"a{layer}.h{head}"] = _head(model, layer, head, parts)
            if config.post_norms:
                names = [f"a{layer}.h{head}" for head in range(config.heads)]
                sums = [sum(sent) for sent in zip(*(self.out[name] for name in names), strict=True)]
                for name in names:
                    self.out[name] = [share(model, layer, x, s) for x, s in zip(self.out[name], sums, strict=True)]
            if config.d_mlp:
                self.out[f"m{layer}"] = [_mlp(model, layer, x) for x in self.residual(layer, "mlp")]

    def force(self, values):
        self.out = values

    def upstream(self, layer, kind):
        """Names of the senders that a node of a layer may read; of its own layer an MLP reads the heads, in a serial
        block."""
        names = ["embed", "pos"] if self.split else ["embed"]
        heads = [f"h{head}" for head in range(self.model.config.heads)]
        for below in range(layer):
            names += [f"a{below}.{head}" for head in heads] + ([f"m{below}"] if self.model.config.d_mlp else [])
        return names + ([f"a{layer}.{head}" for head in heads] if self.reads_own_heads(kind) else [])

    def reads_own_heads(self, kind):
        return kind == "mlp" and self.model.config.block == "serial"

    def residual(self, layer, kind):
        biases = [self.model.layers[below].b_O for below in range(layer + self.reads_own_heads(kind))]
        terms = [self.out[name] for name in self.upstream(layer, kind)]
        return [sum(values) + sum(biases) for values in zip(*terms, strict=True)]


def parts_of(model, layer, head, group, projected):
    """A head's q, k and v; a norm over the queries, or keys, of all heads is put in here."""
    parts = {letter: projected(letter, index) for letter, index in (("q", head), ("k", group), ("v", group))}
    if model.config.qk_joint:
        for letter, index, count in (("q", head, model.config.heads), ("k", group, model.config.kv_heads)):
            every = [torch.cat(values) for values in zip(*(projected(letter, i) for i in range(count)), strict=True)]
            squares = [(x * x).sum() / len(x) + model.config.eps for x in every]
            weight = (model.layers[layer].q_norm if letter == "q" else model.layers[layer].k_norm)[index]
            rope = turning.rope_of(model.config, layer)
            mine = zip(parts[letter], squares, strict=True)
            parts[letter] = [turning.turned(y / s.sqrt() * weight, p, rope) for p, (y, s) in enumerate(mine)]
    return parts


def share(model, layer, sent, together):
    """A head's share of the normed sum of its layer's heads."""
    rms = ((together * together).sum() / len(together) + model.config.eps).sqrt()
    return sent / rms * model.layers[layer].ln1_post


def bent(x, cap):
    return x if cap is None else cap * torch.tanh(x / cap)


def _means(model, corrupted_tokens, split, position_order):
    runs = [_Cache(model, row.tolist(), split, position_order).out for row in corrupted_tokens]
    return {
        name: [sum(run[name][p] for run in runs) / len(runs) for p in range(corrupted_tokens.shape[1])]
        for name in runs[0]
    }


def _embeddings(model, tokens, split, position_order):
    token = [model.W_E[t] * model.config.embed_scale for t in tokens]
    if model.W_pos is None or model.config.positions == "shortformer":
        return {"embed": token}
    order = range(len(tokens)) if position_order is None else position_order.tolist()
    position = [model.W_pos[p] for p in order]
    if split:
        return {"embed": token, "pos": position}
    return {"embed": [a + b for a, b in zip(token, position, strict=True)]}


def _norm(config, x, weight, bias):
    if config.norm == "none" or (weight is None and not config.pre_norms):
        return x
    if config.norm == "layer":
        centred = x - x.sum() / len(x)
        return centred / ((centred * centred).sum() / len(x) + config.eps).sqrt() * weight + bias
    return x / ((x * x).sum() / len(x) + config.eps).sqrt() * weight


def _project(model, layer, letter, index, stream):
    weights = model.layers[layer]
    matrix, bias = weights.weight(letter)[index], weights.bias(letter)[index]
    normed = read_by_heads(model, layer, letter, stream)
    return turned(model, layer, letter, [x @ matrix + bias for x in normed])


def read_by_heads(model, layer, letter, stream):
    config, weights = model.config, model.layers[layer]
    out = []
    for position, x in enumerate(stream):
        normed = _norm(config, x, weights.ln1_w, weights.ln1_b)
        if config.positions == "shortformer" and letter in "qk":  # Press et al. 2020
            normed = [a + b for a, b in zip(normed, model.W_pos[position], strict=True)]
            normed = torch.stack(normed)
        out.append(normed)
    return out


def turned(model, layer, letter, values):
    """Projections with their own norm and rotation."""
    config, weights, rope = model.config, model.layers[layer], turning.rope_of(model.config, layer)
    if config.qk_joint:
        return values
    out = []
    for position, y in enumerate(values):
        if config.qk_norm and letter != "v":
            scale = weights.q_norm if letter == "q" else weights.k_norm
            y = y / ((y * y).sum() / len(y) + config.eps).sqrt() * scale
        if config.positions == "rotary" and letter != "v":
            y = turning.turned(y, position, rope)
        out.append(y)
    return out


def _head(model, layer, head, parts):
    return [z @ model.layers[layer].W_O[head] + part_of_bias(model, layer) for z in mixed(model, parts)]


def part_of_bias(model, layer):
    """Each head's part of a bias that stands in front of the norm behind the heads."""
    bias = model.layers[layer].b_sum
    return 0 if bias is None else bias / model.config.heads


def mixed(model, parts):
    """What a head's pattern makes of its values, before W_O."""
    out = []
    for p, query in enumerate(parts["q"]):
        seen = range(p + 1) if model.config.causal else range(len(parts["k"]))
        scores = torch.stack([query @ parts["k"][other] for other in seen])
        scores = bent(
            scores * (model.config.attention_scale or 1 / math.sqrt(model.config.d_head)), model.config.score_cap
        )
        pattern = (scores - scores.max()).exp()
        pattern = pattern / pattern.sum()
        out.append(sum(pattern[i] * parts["v"][other] for i, other in enumerate(seen)))
    return out


def _mlp(model, layer, x):
    config, weights = model.config, model.layers[layer]
    normed = _norm(config, x, weights.ln2_w, weights.ln2_b)
    into = normed @ weights.W_in + weights.b_in
    gate = normed @ weights.W_gate if config.gated else into
    out = hidden(config, gate, into) @ weights.W_out + weights.b_out
    return _norm(config, out, weights.ln2_post, None) if config.post_norms else out


def hidden(config, gate, into):
    if config.activation == "relu":
        active = gate * (gate > 0)
    elif config.activation == "silu":
        active = gate / (1 + (-gate).exp())
    elif config.activation == "gelu":
        active = gate * (1 + torch.erf(gate / math.sqrt(2))) / 2
    else:
        active = 0.5 * gate * (1 + torch.tanh(math.sqrt(2 / math.pi) * (gate + 0.044715 * gate**3)))
    return active * into if config.gated else active
