"""Times sentence-transformers and `bft embed` in turn on the same texts, and prints one line of JSON a round and a table.

    python -m venv .venv && .venv/bin/pip install -r tests/fixtures/requirements-encoders.txt
    cargo build --release -p bft-cli
    .venv/bin/python tests/bench/sentence_step.py --model MINILM_FOLDER --texts 2000 --rounds 5

Without --input the texts are "SYMBOL: name" lines of the demo's genes, round and round. Both sides sort or pack as they
like; tokens are counted once, by the tokenizer, special ones included and padding not. Times leave out loading the model and
contain everything from texts in memory (sentence-transformers) or a file (bft) to vectors. CPU seconds are those of all
threads together, of bft's whole process and of sentence-transformers' `encode`; on a busy machine they are the steadier measure,
though threads that wait for each other by spinning count too.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"
REPOSITORY = Path(__file__).resolve().parents[2]
GENES = REPOSITORY / "crates" / "xtask" / "data" / "genes" / "facts.tsv"


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a folder that sentence-transformers loads")
    parser.add_argument("--bft", type=Path, default=REPOSITORY / "target" / "release" / "bft")
    parser.add_argument("--input", type=Path, help="a text a line instead of the demo's genes")
    parser.add_argument("--texts", type=int, default=2000, help="texts a round, the input's round and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=64, help="of sentence-transformers (its own default is 32)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="of bft")
    return parser.parse_args()


def read_texts(args):
    if args.input:
        lines = [line for line in args.input.read_text().splitlines() if line.strip()]
    else:
        rows = [line.split("\t") for line in GENES.read_text().splitlines()[1:]]
        lines = [f"{row[2]}: {row[3]}" for row in rows if row[1] == "name"]
    return [lines[i % len(lines)] for i in range(args.texts)]


def bft(args, file, folder):
    out = folder / "vectors.npy"
    command = [args.bft, "embed", "--model", args.model, "--input", file, "--output", out, "--device", args.device, "--json"]
    environment = os.environ | {"RAYON_NUM_THREADS": str(args.threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout), out


def main():
    args = arguments()
    import numpy as np
    import sentence_transformers
    import torch

    torch.set_num_threads(args.threads)
    model = sentence_transformers.SentenceTransformer(str(args.model), device="cpu")
    texts = read_texts(args)
    ratios, theirs, ours = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.txt"
        file.write_text("".join(f"{text}\n" for text in texts))
        model.encode(texts[:64], batch_size=args.batch_size)
        for _ in range(args.rounds):
            start, cpu = time.perf_counter(), time.process_time()
            vectors = model.encode(texts, batch_size=args.batch_size)
            seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            answer, out = bft(args, file, Path(folder))
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            bft_cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            worst = float(np.abs(np.load(out) - vectors).max())
            assert worst < 1e-4, worst
            theirs.append(answer["tokens"] / seconds)
            ours.append(answer["tokens"] / answer["seconds"])
            ratios.append(ours[-1] / theirs[-1])
            row = {
                "tokens": answer["tokens"],
                "bft_tokens_per_second": round(ours[-1]),
                "sentence_transformers_tokens_per_second": round(theirs[-1]),
                "bft_cpu_seconds": round(bft_cpu, 2),
                "sentence_transformers_cpu_seconds": round(cpu_seconds, 2),
                "ratio": round(ratios[-1], 3),
                "largest_difference": worst,
            }
            print(json.dumps(row), flush=True)
    print(f"torch {torch.__version__}, sentence-transformers {sentence_transformers.__version__}, {args.threads} threads")
    print("| texts | tokens a text | bft tokens/s | sentence-transformers tokens/s | ratio |\n|---|---|---|---|---|")
    medians = [statistics.median(values) for values in (ours, theirs, ratios)]
    mean = row["tokens"] / len(texts)
    print(f"| {len(texts)} | {mean:.1f} | {medians[0]:.0f} | {medians[1]:.0f} | {medians[2]:.2f} |")


if __name__ == "__main__":
    main()
