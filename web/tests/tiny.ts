/** The tiny Qwen2 of tests/fixtures, with room for longer texts: as a folder's files and as a GGUF file. */
import { readFileSync } from "node:fs";
import { join } from "node:path";

/** What Playwright puts into a file chooser. */
export interface Upload {
  name: string;
  mimeType: string;
  buffer: Buffer;
}

const FIXTURE = join(import.meta.dirname, "../../tests/fixtures/qwen2");
/** Bytes are tokens to it, nearly: a gene fact takes some hundred and fifty. */
const CONTEXT = 512;

const read = (name: string) => readFileSync(join(FIXTURE, name));
const json = (name: string) => JSON.parse(read(name).toString()) as Record<string, any>;
const upload = (name: string, buffer: Buffer): Upload => ({ name, mimeType: "application/octet-stream", buffer });

export function folder(): Upload[] {
  const config = { ...json("config.json"), max_position_embeddings: CONTEXT };
  return [
    upload("config.json", Buffer.from(JSON.stringify(config))),
    ...["model.safetensors", "tokenizer.json", "tokenizer_config.json"].map((name) => upload(name, read(name))),
  ];
}

export function gguf(name = "tiny.gguf"): Upload {
  const config = json("config.json");
  const tokenizer = json("tokenizer.json");
  const settings = json("tokenizer_config.json");
  const vocabulary = Object.entries(tokenizer["model"].vocab as Record<string, number>).sort((a, b) => a[1] - b[1]);
  const special = new Set((tokenizer["added_tokens"] as { content: string }[]).map(({ content }) => content));
  const names = [...vocabulary.map(([token]) => token)];
  // Rows of the embedding that the tokenizer leaves over.
  while (names.length < config["vocab_size"]) names.push(`[unused${names.length}]`);
  const tensors = safetensors();
  const metadata: [string, Buffer][] = [
    ["general.architecture", string("qwen2")],
    ["qwen2.context_length", u32(CONTEXT)],
    ["qwen2.embedding_length", u32(config["hidden_size"])],
    ["qwen2.block_count", u32(config["num_hidden_layers"])],
    ["qwen2.feed_forward_length", u32(config["intermediate_size"])],
    ["qwen2.attention.head_count", u32(config["num_attention_heads"])],
    ["qwen2.attention.head_count_kv", u32(config["num_key_value_heads"])],
    ["qwen2.attention.layer_norm_rms_epsilon", f32(config["rms_norm_eps"])],
    ["qwen2.rope.freq_base", f32(config["rope_theta"])],
    ["tokenizer.ggml.model", string("gpt2")],
    ["tokenizer.ggml.pre", string("qwen2")],
    ["tokenizer.ggml.tokens", list(8, names.map(text))],
    ["tokenizer.ggml.token_type", list(5, names.map((token) => int(special.has(token) ? 3 : token.startsWith("[unused") ? 5 : 1)))],
    ["tokenizer.ggml.merges", list(8, (tokenizer["model"].merges as [string, string][]).map((pair) => text(pair.join(" "))))],
    ["tokenizer.ggml.eos_token_id", u32(names.indexOf(settings["eos_token"]))],
    ["tokenizer.ggml.add_bos_token", Buffer.from([7, 0, 0, 0, 0])],
    ["tokenizer.chat_template", string(settings["chat_template"])],
  ];
  let offset = 0;
  const infos: Buffer[] = [];
  const data: Buffer[] = [];
  for (const { name, shape, bytes } of tensors) {
    // Norms and biases in F32, as llama.cpp writes them.
    const whole = shape.length === 1 ? widen(bytes) : bytes;
    infos.push(Buffer.concat([text(name), int(shape.length), ...shape.toReversed().map(long), int(shape.length === 1 ? 0 : 1), long(offset)]));
    const padded = pad(whole);
    data.push(padded);
    offset += padded.length;
  }
  const head = Buffer.concat([
    Buffer.from("GGUF"),
    int(3),
    long(tensors.length),
    long(metadata.length),
    ...metadata.flatMap(([key, value]) => [text(key), value]),
    ...infos,
  ]);
  return upload(name, Buffer.concat([pad(head), ...data]));
}

interface Tensor {
  name: string;
  shape: number[];
  bytes: Buffer;
}

function safetensors(): Tensor[] {
  const file = read("model.safetensors");
  const start = 8 + Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.subarray(8, start).toString()) as Record<string, { shape: number[]; data_offsets: [number, number] }>;
  delete header["__metadata__"];
  return Object.entries(header).map(([name, { shape, data_offsets: [from, to] }]) => ({ name: renamed(name), shape, bytes: file.subarray(start + from, start + to) }));
}

const PARTS: Record<string, string> = {
  input_layernorm: "attn_norm",
  post_attention_layernorm: "ffn_norm",
  "self_attn.q_proj": "attn_q",
  "self_attn.k_proj": "attn_k",
  "self_attn.v_proj": "attn_v",
  "self_attn.o_proj": "attn_output",
  "mlp.gate_proj": "ffn_gate",
  "mlp.up_proj": "ffn_up",
  "mlp.down_proj": "ffn_down",
};

function renamed(name: string): string {
  if (name === "model.embed_tokens.weight") return "token_embd.weight";
  if (name === "model.norm.weight") return "output_norm.weight";
  const [, layer, part, kind] = /^model\.layers\.(\d+)\.(.+)\.(weight|bias)$/.exec(name) ?? [];
  return `blk.${layer}.${PARTS[part ?? ""]}.${kind}`;
}

/** F16 to F32. */
function widen(bytes: Buffer): Buffer {
  const wide = Buffer.alloc(bytes.length * 2);
  for (let at = 0; at < bytes.length; at += 2) {
    const half = bytes.readUInt16LE(at);
    const [sign, exponent, fraction] = [half >> 15 ? -1 : 1, (half >> 10) & 31, half & 1023];
    const value = exponent === 0 ? fraction * 2 ** -24 : (1 + fraction / 1024) * 2 ** (exponent - 15);
    wide.writeFloatLE(sign * value, at * 2);
  }
  return wide;
}

function int(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeUInt32LE(value);
  return buffer;
}

function long(value: number): Buffer {
  const buffer = Buffer.alloc(8);
  buffer.writeBigUInt64LE(BigInt(value));
  return buffer;
}

const text = (value: string) => Buffer.concat([long(Buffer.byteLength(value)), Buffer.from(value)]);
const string = (value: string) => Buffer.concat([int(8), text(value)]);
const u32 = (value: number) => Buffer.concat([int(4), int(value)]);
const list = (kind: number, items: Buffer[]) => Buffer.concat([int(9), int(kind), long(items.length), ...items]);
const pad = (buffer: Buffer) => Buffer.concat([buffer, Buffer.alloc((32 - (buffer.length % 32)) % 32)]);

function f32(value: number): Buffer {
  const buffer = Buffer.alloc(4);
  buffer.writeFloatLE(value);
  return Buffer.concat([int(6), buffer]);
}
