"""A small GGUF file of a Llama-like model, its blocks packed here by hand, and the tensors it must convert to.

Q4_1 (llama.cpp): 32 values of a row are a scale and a minimum in float16 and 32 four-bit numbers, the first sixteen
in the low halves of sixteen bytes, the others in the high halves; a value is scale * number + minimum.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import torch

LAYERS, HEADS, KV_HEADS, WIDTH, HEAD, MLP = 2, 4, 2, 32, 8, 64
SPECIAL = ["<|endoftext|>", "<|im_start|>"]


def alphabet() -> list[str]:
    """GPT-2's printable character for every byte, in the order of its vocabulary."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in plain] + [chr(256 + i) for i in range(256 - len(plain))]


TOKENS = [*SPECIAL, *alphabet(), "Ġa", "in", "Ġain", "11"]
MERGES = ["Ġ a", "i n", "Ġa in", "1 1"]


def packed(generator: np.random.Generator, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Random Q4_1 bytes [rows, bytes], and the matrix [rows, columns] they stand for."""
    blocks = columns // 32
    scale = (2.0 ** generator.integers(-7, -4, (rows, blocks))).astype(np.float16)
    least = (-scale * generator.integers(4, 12, (rows, blocks))).astype(np.float16)
    numbers = generator.integers(0, 16, (rows, blocks, 32)).astype(np.uint8)
    halves = numbers[..., :16] | (numbers[..., 16:] << 4)
    parts = [scale[..., None].view(np.uint8), least[..., None].view(np.uint8), halves]
    values = scale[..., None].astype(np.float32) * numbers + least[..., None].astype(np.float32)
    return np.concatenate(parts, axis=-1).reshape(rows, -1), values.reshape(rows, columns)


def interleaved(heads: int) -> list[int]:
    """Where llama.cpp's row i of a q or k projection comes from in the half-split order."""
    half = HEAD // 2
    return [head * HEAD + part * half + pair for head in range(heads) for pair in range(half) for part in range(2)]


def write_gguf(path: Path, *, architecture: str = "llama", extra: str | None = None) -> dict[str, torch.Tensor]:
    """Write the file and return the expected tensors; ``extra`` names one more, which no model has."""
    generator = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(MLP)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(50000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(HEAD)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3] * len(SPECIAL) + [1] * (len(TOKENS) - len(SPECIAL)))
    writer.add_token_merges(MERGES)
    expected: dict[str, np.ndarray] = {}

    def plain(name: str, ours: str, *shape: int) -> None:
        expected[ours] = generator.standard_normal(shape).astype(np.float32)
        writer.add_tensor(name, expected[ours])

    def matrix(name: str, rows: int, columns: int) -> np.ndarray:
        data, values = packed(generator, rows, columns)
        writer.add_tensor(name, data, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
        return values

    plain("token_embd.weight", "embed.W_E", len(TOKENS), WIDTH)
    for i in range(LAYERS):
        block, ours = f"blk.{i}.", f"blocks.{i}."
        plain(block + "attn_norm.weight", ours + "ln1.w", WIDTH)
        plain(block + "ffn_norm.weight", ours + "ln2.w", WIDTH)
        for letter, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            stored = matrix(f"{block}attn_{letter}.weight", heads * HEAD, WIDTH)
            right = np.empty_like(stored)
            right[interleaved(heads) if letter != "v" else slice(None)] = stored
            by_head = [right[head * HEAD : (head + 1) * HEAD].T for head in range(heads)]
            expected[f"{ours}attn.W_{letter.upper()}"] = np.stack(by_head)
        output = matrix(block + "attn_output.weight", WIDTH, HEADS * HEAD)
        expected[ours + "attn.W_O"] = np.stack([output[:, h * HEAD : (h + 1) * HEAD].T for h in range(HEADS)])
        expected[ours + "mlp.W_gate"] = matrix(block + "ffn_gate.weight", MLP, WIDTH).T
        expected[ours + "mlp.W_in"] = matrix(block + "ffn_up.weight", MLP, WIDTH).T
        expected[ours + "mlp.W_out"] = matrix(block + "ffn_down.weight", WIDTH, MLP).T
    plain("output_norm.weight", "ln_final.w", WIDTH)
    if extra is not None:
        writer.add_tensor(extra, np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {name: torch.from_numpy(np.ascontiguousarray(values)) for name, values in expected.items()}
