"""Makes a model of Qwen2.5-0.5B's shape with random weights, for figures of its size: speed does not depend on values.

    .venv/bin/python crates/xtask/rivals/half_billion.py FOLDER

writes FOLDER/bf16 (config.json, model.safetensors; transformers and bft load it) and FOLDER/half-billion.Q4_K_M.gguf, by
llama.cpp's own quantiser, which gives rows of 896, no multiple of 256, to Q5_0 and Q8_0 as it does for the real model.
Needs requirements.txt and requirements-llama.txt. Its vocabulary is bytes, one merge and unused entries: it is not for
reading.
"""

import ctypes
import sys
from pathlib import Path

import gguf
import llama_cpp
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

SHAPE = {
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
    "rms_norm_eps": 1e-6,
    "use_sliding_window": False,
}
PARTS = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    """llama.cpp's name of a tensor of transformers'; Qwen2's rows need no other order there."""
    if not name.startswith("model.layers."):
        return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
    number, rest = name.removeprefix("model.layers.").split(".", 1)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{number}.{PARTS[part]}.{kind}"


def write_gguf(model, path):
    config = model.config
    writer = gguf.GGUFWriter(path, "qwen2")
    writer.add_name("half a billion, random")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(SHAPE["rope_parameters"]["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    # The bytes in the alphabet of GPT-2, then entries that no text becomes.
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + i) for i in range(len(rest))]
    normal = [*alphabet, "th"]  # one merge: readers want a list of them that is not empty
    tokens = normal + [f"<unused{i}>" for i in range(config.vocab_size - len(normal))]
    unused = [gguf.TokenType.CONTROL] * (len(tokens) - len(normal))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * len(normal) + unused)
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(config.vocab_size - 1)
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":
            # Vectors stay in f32, as llama.cpp's own converter has them.
            value = value.to(torch.float32 if value.ndim == 1 else torch.float16)
            writer.add_tensor(gguf_name(name), value.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(**SHAPE)).to(torch.bfloat16)
    model.save_pretrained(folder / "bf16")
    half, quantised = folder / "half-billion.F16.gguf", folder / "half-billion.Q4_K_M.gguf"
    write_gguf(model, half)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M
    parameters.nthread = 2
    status = llama_cpp.llama_model_quantize(str(half).encode(), str(quantised).encode(), ctypes.byref(parameters))
    half.unlink()
    if status:
        sys.exit(f"llama.cpp could not quantise {half}: status {status}")


if __name__ == "__main__":
    main()
