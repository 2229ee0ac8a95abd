"""What STAR-DSS costs: a guard's pass that reads shared prefixes once, and a shaped step of training.

    python tests/benchmarks/star.py [--replies 64] [--naive 4] [--rounds 5]

Ratios within one run. The guard is SmolLM2-135M asked yes or no; replies of about 200 tokens, chunks of five words. Of
the naive reading only some replies are read, for it is slow; both are timed on the same ones. A shaped step is timed in
turn with a plain one, on the same rows and weights, and the memory each adds to the process is read in a process of its
own. Bars: tokens at most 1/6, time at most 1/3, step at most 1.5, memory at most 1.15.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

from shard_eval import engine
from shard_train import sft
from shard_train.convert import kept
from shard_train.recipe import Shaping, Training
from shard_train.sft import Encoded, Job
from shard_train.star.chunks import ends
from shard_train.star.guards import Exchange
from shard_train.star.reading import ModelGuard

TEXT = "the water in a river runs down from hills to the sea and people build towns where it is slow and wide"
WORDS = tuple(TEXT.split())
ASKED = ({"role": "user", "content": "Tell me about rivers, and what they mean for the people who live at them."},)
TRAINING = Training(epochs=1, batch=4, per_device=4, gradient_checkpointing=False, max_length=256)


def reply(number: int, words: int = 170) -> str:
    return " ".join(WORDS[(n * (number + 3) + number) % len(WORDS)] for n in range(words))


def guard_pass(base: str, replies: int, naive: int) -> dict[str, float]:
    """Tokens read and time, naive to shared."""
    guard = ModelGuard("yes_no", base)
    texts = [guard.texts(Exchange(ASKED, reply(n)), ends(reply(n), 5)) for n in range(replies)]
    guard.shared(texts[0])
    apart = together = 0.0
    worst = 0.0
    for each in texts[:naive]:
        guard.read, start = 0, time.perf_counter()
        one = guard.naive(each)
        apart += time.perf_counter() - start
        start = time.perf_counter()
        two = guard.shared(each)
        together += time.perf_counter() - start
        worst = max(worst, float(abs(one - two).max()))
    guard.read, start = 0, time.perf_counter()
    for each in texts:
        guard.shared(each)
    seconds = time.perf_counter() - start
    return {
        "replies": replies,
        "tokens per reply": statistics.fmean(len(max(each, key=len)) for each in texts),
        "chunks per reply": statistics.fmean(map(len, texts)),
        "tokens, shared / naive": guard.read / sum(len(ids) for each in texts for ids in each),
        "time, shared / naive": together / apart,
        "seconds for all": seconds,
        "largest difference of logits": worst,
    }


def trainer(base: str, rule: str, out: str) -> Any:
    tokenizer = sft.load_tokenizer(base)
    rows = []
    for n in range(16):
        ids = tokenizer(reply(n, 90))["input_ids"]
        rows.append(Encoded(ids, 20, 0, [0.5] * len(ids)))
    return sft.build(Job(base, "", out, TRAINING, Shaping(rule)), tokenizer, rows)


def steps(base: str, rounds: int) -> dict[str, float]:
    """Time of a shaped step to a plain one, in turn: forward and backward, without the optimizer, which is the same."""
    taken: dict[str, list[float]] = {"sft": [], "star_dss": []}
    with tempfile.TemporaryDirectory() as folder:
        made = {rule: trainer(base, rule, folder) for rule in taken}
        for _ in range(rounds + 1):
            for rule, one in made.items():
                batch = one._prepare_inputs(one.data_collator([one.train_dataset[i] for i in range(4)]))
                one.model.train()
                start = time.perf_counter()
                with one.compute_loss_context_manager():
                    loss = one.compute_loss(one.model, batch)
                loss.backward()
                taken[rule].append(time.perf_counter() - start)
                one.model.zero_grad()
    plain, shaped = (statistics.median(taken[rule][1:]) for rule in ("sft", "star_dss"))
    return {"step, shaped / plain": shaped / plain, "seconds of a plain step": plain}


def memory(base: str) -> dict[str, float]:
    """Peak memory of a process that takes steps, shaped to plain."""
    found = {
        rule: float(
            subprocess.run(
                [sys.executable, __file__, "--peak", rule, "--base", base], capture_output=True, text=True, check=True
            ).stdout.split()[-1]
        )
        for rule in ("sft", "star_dss")
    }
    return {"memory, shaped / plain": found["star_dss"] / found["sft"], "MB of a plain one": found["sft"]}


def peak(base: str, rule: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer(base, rule, folder).train()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--replies", type=int, default=64)
    parser.add_argument("--naive", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peak", choices=["sft", "star_dss"])
    parser.add_argument("--base", default="")
    args = parser.parse_args()
    if args.peak:
        peak(args.base, args.peak)
        return
    base = str(kept(engine.gguf_path("embedded")))
    for part in (
        lambda: guard_pass(base, args.replies, args.naive),
        lambda: steps(base, args.rounds),
        lambda: memory(base),
    ):
        print(json.dumps({name: round(value, 4) for name, value in part().items()}, indent=1), flush=True)


if __name__ == "__main__":
    main()
