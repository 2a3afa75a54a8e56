"""The functional forward against an independent float64 one, a recorded run, and its own parts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.places import GOLDEN
from support.plain_forward import logits as ORACLE
from torch import Tensor

from pahq.errors import PahqError
from pahq.model.attention import attend
from pahq.model.block import after_attention
from pahq.model.forward import embeddings, head_outputs, logits, project, unembed
from pahq.model.rotary import rotate
from pahq.model.run import Fixed, Run, run_senders, sender_outputs, streams
from pahq.model.sources.assembly import model_from_tensors, tensor_shapes
from pahq.model.weights import Model, ModelConfig

TOKENS = torch.tensor([[3, 7, 4, 0, 10, 1], [8, 8, 5, 2, 9, 1]])

_SIZES: dict[str, Any] = {
    "layers": 2,
    "heads": 3,
    "kv_heads": 3,
    "d_model": 15,
    "d_head": 4,
    "d_vocab": 11,
    "d_vocab_out": 11,
    "context": 8,
}
LEARNED = {
    "gpt2": {"d_mlp": 7, "norm": "layer", "eps": 1e-3, "tied_embedding": True},
    "attention-only": {"d_mlp": 0, "norm": "layer"},
    "shortformer": {"d_mlp": 0, "norm": "layer", "positions": "shortformer"},
    "shortformer-mlp": {"d_mlp": 7, "norm": "layer", "positions": "shortformer"},
    "tracr": {"d_mlp": 7, "norm": "none", "activation": "relu", "causal": False, "d_vocab_out": 5},
    "parallel": {"d_mlp": 7, "norm": "layer", "block": "parallel"},
    "tracr-one-head": {
        "d_mlp": 7,
        "norm": "none",
        "activation": "relu",
        "causal": False,
        "heads": 1,
        "kv_heads": 1,
    },
}
LLAMA = {
    "d_mlp": 7,
    "norm": "rms",
    "activation": "silu",
    "gated": True,
    "positions": "rotary",
    "heads": 6,
    "rotary_base": 30.0,
}
ALL = LEARNED | {"llama": LLAMA, "qwen3": LLAMA | {"qk_norm": True}}


def random_model(change: dict[str, Any]) -> Model:
    """Every tensor random, in float64: norms, and biases that random initialisation would leave at zero."""
    config = ModelConfig(**_SIZES | change)
    generator = torch.Generator().manual_seed(1)
    shapes = tensor_shapes(config)
    return model_from_tensors(
        config,
        {name: 0.5 * torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()},
    )


@pytest.fixture(params=ALL)
def model(request: pytest.FixtureRequest) -> Model:
    return random_model(ALL[request.param])


@pytest.mark.parametrize("name", LEARNED)
def test_logits_equal_an_independent_forward(name: str) -> None:
    model = random_model(LEARNED[name])
    config = model.config
    expected = ORACLE(
        model.tensors(),
        TOKENS,
        causal=config.causal,
        activation=config.activation,
        eps=config.eps,
        shortformer=config.positions == "shortformer",
        parallel=config.block == "parallel",
    )
    assert expected.std() > 0.3
    assert (logits(model, TOKENS) - expected).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["tracr_reverse", "tracr_proportion"])
def test_compiled_programs_equal_an_independent_forward(name: str) -> None:
    from pahq.verify.recorded import read_recorded

    run = read_recorded(GOLDEN / name)[0]
    model, tokens = run.model.to(dtype=torch.float64), run.prompts.clean[:6]
    expected = ORACLE(model.tensors(), tokens, causal=False, activation="relu", eps=1e-5)
    assert (logits(model, tokens) - expected).abs().max() < 1e-10


def test_recorded_log_probabilities_are_met() -> None:
    from pahq.verify.recorded import read_recorded

    run = read_recorded(GOLDEN / "attn2l_t0.008")[0]
    recorded = load_file(GOLDEN / "attn2l_t0.008" / "reference.safetensors")["base_logprobs_last"]
    ours = logits(run.model, run.prompts.clean)[:, -1].log_softmax(-1)
    assert (ours - recorded).abs().max() < 1e-5


def test_senders_and_biases_add_up_to_the_final_residual(model: Model) -> None:
    run = run_senders(model, embeddings(model, TOKENS, split=False))
    senders = sender_outputs(model, run)
    biases = torch.stack([layer.b_O for layer in model.layers]).sum(0)
    assert len(senders) == 1 + 2 * (model.config.heads + (model.config.d_mlp > 0))
    assert (senders.sum(0) + biases - run.final).abs().max() < 1e-12
    assert (unembed(model, run.final) - logits(model, TOKENS)).abs().max() < 1e-12


def test_a_run_keeps_what_each_receiver_reads(model: Model) -> None:
    run = run_senders(model, embeddings(model, TOKENS, split=False))
    senders, heads = sender_outputs(model, run), model.config.heads
    attention = senders[1 : 1 + heads].sum(0) + model.layers[0].b_O
    (pre, above), by_mlps = streams(model, run)
    assert torch.equal(pre, senders[0])
    after = pre + attention + senders[1 + heads] if model.config.d_mlp else pre + attention
    assert (above - after).abs().max() < 1e-12
    top = after_attention(model.layers[1], above, run.z[1])
    assert torch.equal(top + run.mlp[1] if run.mlp else top, run.final)
    assert len(by_mlps) == len(run.mlp)
    if model.config.block == "parallel":
        assert torch.equal(by_mlps[0], pre)
        assert torch.equal(by_mlps[1], above)
    elif by_mlps:
        assert (by_mlps[0] - pre - attention).abs().max() < 1e-12
        assert torch.equal(by_mlps[1], top)
    assert run.z[1].shape == (heads, 2, 6, model.config.d_head)


def test_a_split_embedding_is_one_more_sender_and_the_same_model() -> None:
    model = random_model(LEARNED["gpt2"])
    whole = run_senders(model, embeddings(model, TOKENS, split=False))
    split = run_senders(model, embeddings(model, TOKENS, split=True))
    assert len(sender_outputs(model, split)) == len(sender_outputs(model, whole)) + 1
    assert (split.start[0] + split.start[1] - whole.start[0]).abs().max() < 1e-12
    assert (split.final - whole.final).abs().max() < 1e-12


def fixed(run: Run) -> Fixed:
    return Fixed(run.start, run.z, run.mlp)


def test_shortformer_positions_reach_queries_and_keys_alone() -> None:
    model = random_model(LEARNED["shortformer"])
    config, layer = model.config, model.layers[1]
    (start,) = embeddings(model, TOKENS, split=True)
    assert torch.equal(start, model.W_E[TOKENS])
    assert layer.W_pos is model.W_pos
    for letter in "qkv":
        same = start[:, :1].expand_as(start)  # one token everywhere: only its place can tell one from another
        out = project(config, layer, letter, same[None])
        moved = (out[:, :, 1:] - out[:, :, :1]).abs().max()
        assert moved < 1e-12 if letter == "v" else moved > 1e-2
    with pytest.raises(PahqError, match="no position embedding"):
        config.shape(split_embed=True)


def test_shortformer_positions_stay_one_tensor_and_are_stored_once() -> None:
    model = random_model(LEARNED["shortformer"]).to(dtype=torch.float32)
    assert model.W_pos is not None
    assert all(layer.W_pos is model.W_pos for layer in model.layers)
    assert model.W_pos.dtype == torch.float32
    assert [name for name in model.tensors() if "pos" in name] == ["pos_embed.W_pos"]


def test_zero_ablation_leaves_biases_alone(model: Model) -> None:
    """With every sender at zero the residual stream holds biases, not zeros."""
    start = embeddings(model, TOKENS, split=False)
    clean = run_senders(model, start)
    zeros = [tuple(map(torch.zeros_like, values)) for values in (clean.start, clean.z, clean.mlp)]
    run = run_senders(model, start, fixed=Fixed(*zeros))
    b_O = [layer.b_O for layer in model.layers]
    assert not sender_outputs(model, run).any()
    (first, second), _ = streams(model, run)
    assert torch.equal(first, torch.zeros_like(start[0]))
    assert (second - b_O[0]).abs().max() < 1e-12
    assert (run.final - b_O[0] - b_O[1]).abs().max() < 1e-12


def test_fixing_the_clean_values_changes_nothing(model: Model) -> None:
    start = embeddings(model, TOKENS, split=False)
    clean = run_senders(model, start)
    again = run_senders(model, start, fixed=fixed(clean))
    assert torch.equal(again.final, clean.final)


def test_fixing_one_sender_reaches_all_below_it_alone(model: Model) -> None:
    start = embeddings(model, TOKENS, split=False)
    clean = run_senders(model, start)
    gone = clean.z[1].clone()
    gone[0] = 0
    run = run_senders(model, start, fixed=Fixed(clean.start, (clean.z[0], gone), clean.mlp))
    first = 1 + model.config.heads + (model.config.d_mlp > 0)  # the first head of layer 1
    ((_, ours), _), ((_, theirs), _) = streams(model, run), streams(model, clean)
    assert torch.equal(ours, theirs)
    assert (clean.final - run.final - sender_outputs(model, clean)[first]).abs().max() < 1e-12


def test_every_head_reads_its_own_input(model: Model) -> None:
    """A change to head 2's input moves head 2's projection and no other's."""
    config, layer = model.config, model.layers[0]
    x = torch.randn(config.heads, 2, 6, config.d_model, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    patched = x.clone()
    patched[-1] += 1 + torch.arange(config.d_model)  # no constant, which LayerNorm would remove
    before, after = project(config, layer, "q", x), project(config, layer, "q", patched)
    assert torch.equal(before[:-1], after[:-1])
    assert (before[-1] - after[-1]).abs().max() > 1e-3


def test_fewer_queries_are_the_last_ones(model: Model) -> None:
    config, layer = model.config, model.layers[0]
    resid = embeddings(model, TOKENS, split=False)[0]
    q, k, v = (project(config, layer, letter, resid[None]) for letter in "qkv")
    full = attend(config, q, k, v)
    for queries in (1, 3):
        late = project(config, layer, "q", resid[None, :, -queries:], first=resid.shape[1] - queries)
        assert (late - q[:, :, -queries:]).abs().max() < 1e-12
        assert (attend(config, late, k, v) - full[:, :, -queries:]).abs().max() < 1e-12


def test_causal_models_do_not_look_ahead(model: Model) -> None:
    changed = TOKENS.clone()
    changed[:, -1] = 6
    difference = (logits(model, changed) - logits(model, TOKENS))[:, :-1].abs().max()
    assert difference < 1e-12 if model.config.causal else difference > 1e-3


def test_rotation_counts_from_first_and_only_differences_matter() -> None:
    config = ModelConfig(**_SIZES | LLAMA)
    x = torch.randn(5, config.d_head, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.equal(rotate(config, x, 0)[0], x[0])
    assert (rotate(config, x, 0)[3:] - rotate(config, x[3:], 3)).abs().max() < 1e-12
    near, far = rotate(config, x, 0), rotate(config, x, 1000)
    assert (near @ near.T - far @ far.T).abs().max() < 1e-10
    assert (near - far).abs().max() > 0.1
    # By hand: pair (0, 2) of position 2 turns by 2 radians, pair (1, 3) by 2 / base^(1/2).
    turned = torch.polar(torch.ones(2, dtype=torch.float64), torch.tensor([2.0, 2.0 / 30.0**0.5], dtype=torch.float64))
    by_hand = torch.complex(x[2, :2], x[2, 2:]) * turned
    assert (near[2] - torch.cat((by_hand.real, by_hand.imag))).abs().max() < 1e-12


def test_a_group_of_heads_shares_its_keys_and_values() -> None:
    config = ModelConfig(**_SIZES | LLAMA)
    generator = torch.Generator().manual_seed(4)

    def draw(heads: int) -> Tensor:
        return torch.randn(heads, 2, 6, config.d_head, generator=generator, dtype=torch.float64)

    q, k, v = draw(6), draw(3), draw(3)
    grouped = attend(config, q, k, v)
    single = config.model_copy(update={"heads": 1, "kv_heads": 1})
    for head in range(6):
        kv = head // 2
        alone = attend(single, q[head : head + 1], k[kv : kv + 1], v[kv : kv + 1])
        assert (grouped[head] - alone[0]).abs().max() < 1e-12


def test_prompts_beyond_the_context_are_refused(model: Model) -> None:
    with pytest.raises(PahqError, match="prompts have 9 tokens; model 'custom' has 8 positions"):
        logits(model, torch.zeros(1, 9, dtype=torch.long))


def test_the_stream_behind_attention_is_the_sum_of_the_heads_outputs(model: Model) -> None:
    config, layer = model.config, model.layers[0]
    generator = torch.Generator().manual_seed(1)
    z = torch.randn((config.heads, 2, 6, config.d_head), generator=generator, dtype=model.W_E.dtype)
    resid = torch.randn((2, 6, config.d_model), generator=generator, dtype=model.W_E.dtype)
    wanted = resid + head_outputs(layer, z).sum(0) + layer.b_O
    torch.testing.assert_close(after_attention(layer, resid, z), wanted)
