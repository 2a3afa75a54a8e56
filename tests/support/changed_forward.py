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
        config = self.full.config
        group = head // (config.heads // config.kv_heads)
        low = self.full if (layer, group) in self.in_focus else self.changing
        parts, before = {}, {}
        for letter, index in (("q", head), ("k", group), ("v", group)):
            parts[letter], before[letter] = self._projection(low, layer, letter, index)
        z, z0 = plain.mixed(self.full, parts), plain.mixed(self.full, before)
        exact, other = self.full.layers[layer].W_O[head], low.layers[layer].W_O[head]
        return [b @ exact + (a - b) @ other for a, b in zip(z, z0, strict=True)]

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
        return old @ exact.W_out + exact.b_out + (new - old) @ other.W_out
