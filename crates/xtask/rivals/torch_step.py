"""Times PyTorch + PEFT at what `bft bench` times bft at, and prints one line of JSON.

    python -m venv .venv && .venv/bin/pip install -r crates/xtask/rivals/requirements.txt
    .venv/bin/python crates/xtask/rivals/torch_step.py train --model SmolLM2-135M-Instruct.Q4_1.gguf --threads 2
    .venv/bin/python crates/xtask/rivals/torch_step.py embed --model … --dtype bf16      # or a sentence encoder's folder
    .venv/bin/python crates/xtask/rivals/torch_step.py train-ragged --model … --write-rows rows.jsonl    # the same rows for bft
    .venv/bin/python crates/xtask/rivals/torch_step.py train --model … --serve     # one step for each line on standard input

A GGUF file is dequantised once, by transformers, into a float32 folder under target/bench; later runs load that
folder, so that neither the time nor the peak memory of a run includes the conversion.

`tokens_per_second` counts real tokens, never padding: the median over the steps. For `generate` it counts new tokens.
`seconds` is wall-clock time; `cpu_seconds`, all threads together, tells how much else the machine was doing.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
REPOSITORY = Path(__file__).resolve().parents[3]
TEXT = REPOSITORY / "tests" / "fixtures" / "smollm2.json"
MASKED = -100


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=["train", "train-ragged", "embed", "generate"])
    parser.add_argument("--model", type=Path, required=True, help="a .gguf file, or a folder that transformers loads")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="f32")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--warmup", type=int, default=1, help="steps that are not timed")
    parser.add_argument("--batch-size", type=int, help="samples a step (train: 4, embed: 16)")
    parser.add_argument("--length", type=int, help="tokens a sample (train: 256, embed: 128, generate: 64 new ones)")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--loss", choices=["sft", "bft"], default="bft")
    parser.add_argument("--group-size", type=int, default=256)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=Path, help="JSONL with input_ids and labels instead of rows made here (train modes)")
    parser.add_argument("--write-rows", type=Path, help="write the rows of all steps there and stop")
    parser.add_argument("--serve", action="store_true", help="one step and one line of JSON for each line of input")
    args = parser.parse_args()
    args.batch_size = args.batch_size or {"embed": 16, "generate": 1}.get(args.mode, 4)
    args.length = args.length or {"embed": 128, "generate": 64}.get(args.mode, 256)
    if args.steps < 1:
        parser.error("--steps must be at least 1")
    return args


# ---------------------------------------------------------------------------------------------------- model


def model_folder(path):
    """The folder to load: `path`, or the float32 folder that a .gguf file was converted to."""
    if path.suffix != ".gguf":
        return path
    folder = REPOSITORY / "target" / "bench" / f"{path.stem}-f32"
    if not (folder / "config.json").exists():
        print(f"dequantising {path.name} into {folder}", file=sys.stderr)
        # In a process of its own, so that its memory is not counted.
        subprocess.run([sys.executable, __file__, "--convert", str(path), str(folder)], check=True)
    return folder


def convert(path, folder):
    import torch
    from transformers import AutoModelForCausalLM

    quantised = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    config = quantised.config
    del config.quantization_config  # transformers will not save a model that says it came from GGUF
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(quantised.state_dict())
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.tmp")
    plain.save_pretrained(partial)
    partial.rename(folder)


# ---------------------------------------------------------------------------------------------------- rows


def make_rows(args, vocab_size):
    """Rows for every step: SmolLM2's tokens of a real text from random places in it, round and round. (Random tokens
    would be so unlikely that squared gradients are denormal numbers, which are slow.)
    Ragged rows have 16 to 512 tokens, and the first two thirds are a masked prompt."""
    import numpy as np

    rng = np.random.default_rng(args.seed)
    text = np.array(json.loads(TEXT.read_text())["paragraph"]["tokens"]) % vocab_size
    rows = []
    for _ in range(args.batch_size * (args.steps + args.warmup)):
        length = int(rng.integers(16, 513)) if args.mode == "train-ragged" else args.length
        ids = np.resize(np.roll(text, int(rng.integers(len(text)))), length).tolist()
        masked = 2 * length // 3 if args.mode == "train-ragged" else 0
        rows.append({"input_ids": ids, "labels": [MASKED] * masked + ids[masked:]})
    return rows


def read_rows(path):
    with open(path) as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    for number, row in enumerate(rows, 1):
        if all(label == MASKED for label in row["labels"][1:]):
            sys.exit(f"{path}: row {number} has no token to train on")
    return rows


def pad(rows):
    """A batch as trainers make it: padded on the right to its longest row. Nothing is padded if all are as long."""
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full((len(rows), width), MASKED, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        n = len(row["input_ids"])
        ids[i, :n] = torch.tensor(row["input_ids"])
        labels[i, :n] = torch.tensor(row["labels"])
        mask[i, :n] = 1
    return ids, labels, None if bool(mask.all()) else mask


# ---------------------------------------------------------------------------------------------------- steps


def bft_loss(nll, trained, group_size):
    """The mean over samples of s_b times the mean of p * nll over its trained tokens. nll, trained: [B, T]."""
    import torch

    with torch.no_grad():
        log_p = -nll
        p = log_p.exp()
        sample_weights = []
        for row, keep in zip(log_p, trained):
            row = row[keep]
            windows = row.unfold(0, min(group_size, len(row)), 1).mean(-1)
            sample_weights.append(1.0 - windows.min().exp().clamp(0.0, 1.0))
        counts = trained.sum(1)
        weights = torch.stack(sample_weights)[:, None] * p / (len(nll) * counts[:, None])
    return (weights * nll)[trained].sum()


class Train:
    def __init__(self, args, folder, dtype):
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
        model.config.use_cache = False
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=args.rank, lora_alpha=2 * args.rank, lora_dropout=0.0, target_modules="all-linear"
        )
        self.model = get_peft_model(model, lora).train()
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=args.lr, weight_decay=0.01)
        self.rows = read_rows(args.rows) if args.rows else make_rows(args, model.config.vocab_size)
        self.args = args
        self.next = 0

    def step(self):
        import torch
        import torch.nn.functional as F

        size = self.args.batch_size
        rows = [self.rows[(self.next + i) % len(self.rows)] for i in range(size)]
        self.next += size
        ids, labels, mask = pad(rows)
        logits = self.model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        targets = labels[:, 1:]
        trained = targets != MASKED
        nll = F.cross_entropy(
            logits.reshape(-1, logits.shape[-1]).float(), targets.reshape(-1), ignore_index=MASKED, reduction="none"
        ).view(targets.shape)
        if self.args.loss == "bft":
            loss = bft_loss(nll, trained, self.args.group_size)
        else:
            loss = nll.sum() / trained.sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "tokens": sum(len(row["input_ids"]) for row in rows),
            "trained_tokens": int(trained.sum()),
            "loss": loss.item(),
        }


class Embed:
    def __init__(self, args, folder, dtype):
        import torch
        from transformers import AutoModel

        self.model = AutoModel.from_pretrained(folder, dtype=dtype).eval()
        # A sentence encoder has no cache of keys and values to leave out.
        self.plain = {} if self.model.config.model_type == "bert" else {"use_cache": False}
        rows = make_rows(args, self.model.config.vocab_size)[: args.batch_size]
        self.ids = torch.tensor([row["input_ids"] for row in rows])

    def step(self):
        import torch

        with torch.inference_mode():
            hidden = self.model(input_ids=self.ids, **self.plain).last_hidden_state
            hidden.float().mean(1)
        return {"tokens": self.ids.numel()}


class Generate:
    PROMPT = [504, 4675, 39009, 37, 35, 46685]  # "The gene TP53 encodes" in SmolLM2's tokens

    def __init__(self, args, folder, dtype):
        import torch
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.prompt = torch.tensor([self.PROMPT] * args.batch_size)
        self.new_tokens = args.length

    def step(self):
        import torch

        with torch.inference_mode():
            out = self.model.generate(
                self.prompt,
                attention_mask=torch.ones_like(self.prompt),
                do_sample=False,
                min_new_tokens=self.new_tokens,
                max_new_tokens=self.new_tokens,
                pad_token_id=0,
            )
        return {"tokens": out.numel() - self.prompt.numel()}


# ---------------------------------------------------------------------------------------------------- running


def peak_rss_bytes():
    """The largest resident set of this process so far, where the system says (Linux)."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return None


def timed(work):
    start, cpu_start = time.perf_counter(), time.process_time()
    facts = work.step()
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens_per_second": facts["tokens"] / seconds} | facts


def main():
    if sys.argv[1:2] == ["--convert"]:
        return convert(Path(sys.argv[2]), Path(sys.argv[3]))
    args = arguments()
    if not args.model.exists():
        sys.exit(f"--model {args.model}: no such file or folder")
    folder = model_folder(args.model)
    if args.write_rows:
        vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
        args.write_rows.write_text("".join(json.dumps(row) + "\n" for row in make_rows(args, vocab_size)))
        return None

    import peft
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    kind = {"embed": Embed, "generate": Generate}.get(args.mode, Train)
    work = kind(args, folder, {"f32": torch.float32, "bf16": torch.bfloat16}[args.dtype])
    about = {
        "tool": "pytorch",
        "mode": args.mode,
        "dtype": args.dtype,
        "threads": args.threads,
        "batch_size": args.batch_size,
        "length": None if args.mode == "train-ragged" or args.rows else args.length,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "peft": peft.__version__,
        },
    }
    if kind is Train:
        about |= {"rank": args.rank, "loss": args.loss, "group_size": args.group_size}
    for _ in range(args.warmup):
        work.step()
    if args.serve:
        print(json.dumps(about | {"ready": True}), flush=True)
        for _ in sys.stdin:
            print(json.dumps(timed(work) | {"peak_rss_bytes": peak_rss_bytes()}), flush=True)
        return None
    steps = [timed(work) for _ in range(args.steps)]
    result = about | {
        "steps": args.steps,
        "tokens_per_second": statistics.median(s["tokens_per_second"] for s in steps),
        "seconds": [round(s["seconds"], 4) for s in steps],
        "cpu_seconds": [round(s["cpu_seconds"], 4) for s in steps],
        "tokens": [s["tokens"] for s in steps],
        "peak_rss_bytes": peak_rss_bytes(),
    }
    if kind is Train:
        result["losses"] = [s["loss"] for s in steps]
    print(json.dumps(result))
    return None


if __name__ == "__main__":
    main()
