"""An independent trial of ``method.arithmetic=changes``: the recursion of ``patched_forward``, run twice side by side.

Written from the definition (docs/changes.md). Every product of the trial is that of the current state, in full
precision, plus low-precision weights times what the two read differently.
"""

from __future__ import annotations

import torch

from support import patched_forward as plain


def trial_logits(full, low, clean_tokens, corrupted_tokens, items, current, trial, *, focus=frozenset(), **settings):
    """[item, vocab] logits of a trial that keeps the edges ``trial``, from a state that has the edges ``current``.

    ``focus``: (layer, key-value head) pairs of which changes meet full-precision weights. ``settings``: see
    ``patched_forward``: ablation, split_embed, direct_edges.
    """
    ablation, split = settings.get("ablation", "corrupted"), settings.get("split_embed", False)
    direct = settings.get("direct_edges", True)
    means = plain._means(full, corrupted_tokens, split, None) if ablation == "mean" else None
    rows = []
    for example, position in items.tolist():
        tokens = clean_tokens[example].tolist(), corrupted_tokens[example].tolist()
        shared = (ablation, split, direct, None, frozenset(), means)
        state = plain._Example(full, full, *tokens, current, *shared)
        rows.append(_Changed(state, low, focus, full, full, *tokens, trial, *shared).logits(position))
    return torch.stack(rows)


class _Changed(plain._Example):
    def __init__(self, state, low, in_focus, *arguments):
        super().__init__(*arguments)
        self.state, self.changing, self.in_focus = state, low, in_focus

    def _output(self, sender):
        if sender in ("embed", "pos"):
            return self.embedded[sender]
        if sender[0] == "m":
            layer = int(sender[1:])
            both = zip(self.input(sender, layer, "mlp"), self.state.input(sender, layer, "mlp"), strict=True)
            return [self._mlp(layer, x, x0) for x, x0 in both]
        layer, head = (int(part) for part in sender[1:].split(".h"))
        exact, other = sends(self.full, layer, head), sends(self._low(layer, head, "q"), layer, head)
        z, z0 = self.mixed(layer, head)
        if not self.full.config.post_norms:
            return [b @ exact + (a - b) @ other for a, b in zip(z, z0, strict=True)]
        behind, out = self.full.layers[layer].ln1_post, []
        for a, b, (new, old) in zip(z, z0, self.sums(layer), strict=True):
            share, share0 = (
                x / ((y * y).sum() / len(y) + self.full.config.eps).sqrt() for x, y in ((a, new), (b, old))
            )
            out.append((share0 @ exact + (share - share0) @ other) * behind)
        return out

    def mixed(self, layer, head):
        """What a head's pattern makes of its values in the trial, and in the state."""
        if (layer, head, "z") not in self.memo:
            group = head // (self.full.config.heads // self.full.config.kv_heads)
            both = [
                plain.parts_of(self.full, layer, head, group, lambda *at, i=i: self.projection(layer, *at)[i])
                for i in range(2)
            ]
            self.memo[layer, head, "z"] = [
                [with_one(self.full, layer, z) for z in plain.mixed(self.full, parts)] for parts in both
            ]
        return self.memo[layer, head, "z"]

    def sums(self, layer):
        """By position what all heads send together before the norm behind them, in the trial and in the state."""
        out = []
        every = [(head, *self.mixed(layer, head)) for head in range(self.full.config.heads)]
        for p in range(len(every[0][1])):
            old = sum(z0[p] @ sends(self.full, layer, head) for head, _, z0 in every)
            more = [(z[p] - z0[p]) @ sends(self._low(layer, head, "q"), layer, head) for head, z, z0 in every]
            out.append((old + sum(more), old))
        return out

    def _low(self, layer, index, letter):
        """The network whose weights a head's changes meet."""
        group = index // (self.full.config.heads // self.full.config.kv_heads) if letter == "q" else index
        return self.full if (layer, group) in self.in_focus else self.changing

    def projection(self, layer, letter, index):
        """In the trial and in the state."""
        if (layer, letter, index) not in self.memo:
            self.memo[layer, letter, index] = self._projection(self._low(layer, index, letter), layer, letter, index)
        return self.memo[layer, letter, index]

    def _projection(self, low, layer, letter, index):
        receiver, weights = f"a{layer}.h{index}<{letter}>", self.full.layers[layer]
        ablated = plain._project(self.full, layer, letter, index, self.cache.residual(layer, "head"))
        now = plain.read_by_heads(self.full, layer, letter, self.state.input(receiver, layer, "head"))
        new = plain.read_by_heads(self.full, layer, letter, self.input(receiver, layer, "head"))
        exact, other = weights.weight(letter)[index], low.layers[layer].weight(letter)[index]
        raw = [x @ exact + weights.bias(letter)[index] for x in now]
        changed = [y + (a - b) @ other for y, a, b in zip(raw, new, now, strict=True)]
        made = [plain.turned(self.full, layer, letter, values) for values in (changed, raw)]
        offline = [self.direct_edges and receiver not in edges for edges in (self.edges, self.state.edges)]
        return [ablated if off else values for values, off in zip(made, offline, strict=True)]

    def _mlp(self, layer, x, x0):
        config, exact, other = self.full.config, self.full.layers[layer], self.changing.layers[layer]
        normed, before = (plain._norm(config, y, exact.ln2_w, exact.ln2_b) for y in (x, x0))
        into0 = before @ exact.W_in + exact.b_in
        into = into0 + (normed - before) @ other.W_in
        gate0 = before @ exact.W_gate if config.gated else into0
        gate = gate0 + (normed - before) @ other.W_gate if config.gated else into
        old, new = plain.hidden(config, gate0, into0), plain.hidden(config, gate, into)
        out = old @ exact.W_out + exact.b_out + (new - old) @ other.W_out
        return plain._norm(config, out, exact.ln2_post, None) if config.post_norms else out


def with_one(model, layer, z):
    """Where a bias stands in front of the norm behind the heads, z with a 1: the factor of the head's part of it."""
    return z if model.layers[layer].b_sum is None else torch.cat((z, z.new_ones(1)))


def sends(model, layer, head):
    """What z is multiplied with; a head's part of that bias is its last row."""
    weight, part = model.layers[layer].W_O[head], plain.part_of_bias(model, layer)
    return weight if isinstance(part, int) else torch.cat((weight, part[None]))
