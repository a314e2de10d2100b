"""Times llama.cpp at greedy generation as `bft bench --task generate` is timed: a step for each line on standard input.

    python -m venv .venv && .venv/bin/pip install -r crates/xtask/rivals/requirements-llama.txt
    .venv/bin/python crates/xtask/rivals/llama_step.py --model SmolLM2-135M-Instruct.Q4_1.gguf --threads 2

The first line of output says that the model is loaded and warm; each further one is what a step came to. A step reads the
prompt and makes the tokens, as bft's does.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path

PROMPT = [504, 4675, 39009, 37, 35, 46685]  # "The gene TP53 encodes" in SmolLM2's tokens


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a .gguf file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--length", type=int, default=64, help="new tokens a step")
    args = parser.parse_args()
    import llama_cpp

    model = llama_cpp.Llama(
        str(args.model), n_ctx=256, n_threads=args.threads, n_threads_batch=args.threads, verbose=False
    )

    def step():
        model.reset()
        tokens = []
        for token in model.generate(PROMPT, top_k=1, temp=0.0):
            tokens.append(token)
            if len(tokens) == args.length:
                return tokens

    step()
    print(json.dumps({"tool": "llama.cpp", "version": llama_cpp.__version__, "ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        tokens = step()
        seconds = time.perf_counter() - start
        answer = {
            "tokens": len(tokens),
            "seconds": seconds,
            "tokens_per_second": len(tokens) / seconds,
            "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "text": model.detokenize(tokens).decode(errors="replace"),
        }
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
