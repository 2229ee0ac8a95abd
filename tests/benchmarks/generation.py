"""Making training targets: the whole set at once against the reference's pattern, on the same engine and model.

    python tests/benchmarks/generation.py [PROMPTS] [TOKENS]

The reference code sends one prompt per engine call for rewriting, generates drafts and refinements in batches of 32,
and judges in batches of 8 with two calls per row; a batch waits for its longest answer. Ours hands every prompt's chain
to the engine at once. Both do the same calls with the same lengths; prints both times and their ratio, ours first.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Awaitable, Sequence

from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, Model, get_model

from shard_eval import benchmarks, guidelines, prompts

RULES = prompts.load("shard_rewrite").fill(guidelines=guidelines.universal())
REFINE = prompts.load("shard_refine").fill(mode_instruction="answer directly.")
JUDGE = prompts.load("select_helpful").text


async def ask(model: Model, system: str, user: str, tokens: int) -> str:
    messages = [*([ChatMessageSystem(content=system)] if system else []), ChatMessageUser(content=user)]
    output = await model.generate(messages, config=GenerateConfig(max_tokens=tokens, temperature=0))
    return output.completion


async def chain(model: Model, request: str, tokens: int) -> None:
    """One prompt: draft, rewrite, refine, and two verdicts of a judge."""
    draft = await ask(model, "", request, tokens)
    rewritten = await ask(model, RULES, request, tokens)
    refined = await ask(model, REFINE, f"{request}\n\n{rewritten}\n\n{draft}", tokens)
    await judged(model, request, draft, refined)


async def judged(model: Model, request: str, draft: str, refined: str) -> None:
    await ask(model, JUDGE, f"{request}\n\n{draft}\n\n{refined}", 8)
    await ask(model, JUDGE, f"{request}\n\n{refined}\n\n{draft}", 8)


async def batches(work: Sequence[Awaitable[str | None]], size: int) -> list[str | None]:
    """Do the work so many at a time, each batch to its end."""
    found: list[str | None] = []
    for i in range(0, len(work), size):
        found += await asyncio.gather(*work[i : i + size])
    return found


async def reference(model: Model, requests: Sequence[str], tokens: int) -> None:
    """The same calls in the reference's order."""
    drafts = await batches([ask(model, "", r, tokens) for r in requests], 32)
    rewritten = [await ask(model, RULES, r, tokens) for r in requests]
    inputs = [f"{r}\n\n{w}\n\n{d}" for r, w, d in zip(requests, rewritten, drafts, strict=True)]
    refined = await batches([ask(model, REFINE, text, tokens) for text in inputs], 32)
    rows = zip(requests, drafts, refined, strict=True)
    await batches([judged(model, r, str(d), str(f)) for r, d, f in rows], 8)


async def measure(n: int, tokens: int) -> tuple[float, float]:
    model = get_model("llamacpp/embedded")
    requests = [r.prompt for r in benchmarks.load("mini").records][:n]
    await ask(model, "", "Warm up.", 4)
    start = time.perf_counter()
    await asyncio.gather(*(chain(model, r, tokens) for r in requests))
    middle = time.perf_counter()
    await reference(model, requests, tokens)
    return middle - start, time.perf_counter() - middle


def main() -> None:
    n, tokens = (int(a) for a in (*sys.argv[1:], *("48", "48")[len(sys.argv) - 1 :]))
    ours, theirs = asyncio.run(measure(n, tokens))
    print(f"{n} prompts, {tokens} tokens: whole set {ours:.1f} s, reference's pattern {theirs:.1f} s")
    print(f"ratio {theirs / ours:.2f}")


if __name__ == "__main__":
    main()
