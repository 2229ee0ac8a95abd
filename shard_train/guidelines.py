"""Write category guidelines for another taxonomy, by a model, from the universal principles: one file per category."""

from __future__ import annotations

import tomllib
from pathlib import Path

from inspect_ai import Task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log_samples
from inspect_ai.model import GenerateConfig
from inspect_ai.solver import generate, system_message
from rich.console import Console

from shard_eval import prompts, running
from shard_eval.errors import LogError, UsageError
from shard_eval.guidelines import slug
from shard_eval.logs import find_log
from shard_eval.reframing import is_refusal
from shard_eval.systems import System

RULES = (3, 12)  # fewer or more lines are not what was asked for


def read_taxonomy(path: Path) -> dict[str, str]:
    """Read a TOML file of categories and what each covers: `"Self-harm" = "requests about …"`.

    Raises:
        UsageError: if it is missing, no TOML, empty, or two names give the same file.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"taxonomy {str(path)!r} cannot be read: {error}.") from error
    if not found or any(not isinstance(v, str) or not v.strip() for v in found.values()):
        raise UsageError(f'taxonomy {str(path)!r}: give at least one line `"Category" = "what it covers"`.')
    names = [slug(name) for name in found]
    if "" in names or len(set(names)) != len(names):
        raise UsageError(f"taxonomy {str(path)!r}: every category needs a name of its own in letters or digits.")
    return found


def why_not(text: str) -> str:
    """Why a text is no set of guidelines; "" if it is one."""
    if is_refusal(text):
        return "it refuses"
    rules = [line for line in text.splitlines() if line.startswith("- ")]
    if not RULES[0] <= len(rules) <= RULES[1]:
        return f'it has {len(rules)} lines that begin with "- ", not {RULES[0]} to {RULES[1]}'
    return "" if len(rules) == len([line for line in text.splitlines() if line.strip()]) else "it is more than rules"


def write(taxonomy: dict[str, str], system: System, out: Path, root: str, console: Console) -> list[Path]:
    """Let a model write the guidelines of every category.

    Args:
        taxonomy: category and what it covers.
        system: the model.
        out: folder for the files; one that exists already is left alone.
        root: results folder, for the log.
        console: for the progress bar.

    Returns:
        The files written.

    Raises:
        UsageError: if what the model wrote for a category is no set of rules; the others are written.
        LogError: if the evaluation did not finish.
    """
    wanted = {name: text for name, text in taxonomy.items() if not (out / f"{slug(name)}.md").is_file()}
    if not wanted:
        return []
    frame, rules = prompts.load("guidelines_write_input"), prompts.load("guidelines_write")
    system_text = rules.fill(guidelines=prompts.load("guidelines_universal").text)
    samples = [Sample(id=slug(n), input=frame.fill(category=n, description=d)) for n, d in wanted.items()]
    config = system.config(cache=False)
    # Inspect fills placeholders of its own in a system message; ours has none left, but braces must stay as they are.
    task = Task(
        dataset=MemoryDataset(samples, name="taxonomy"),
        solver=[system_message(system_text.replace("{", "{{").replace("}", "}}")), generate()],
        config=GenerateConfig(temperature=0.2, max_tokens=800, seed=config.seed),
        name="shard_guidelines",
        version="1-A",
    )
    folder = f"{root.rstrip('/')}/guidelines/{out.resolve().name}-{system.id}"
    log_dir = running.evaluate(
        task, f"{system.name} writes guidelines", len(samples), folder, console, model=system.open()
    )
    bad, files = {}, []
    out.mkdir(parents=True, exist_ok=True)
    for sample in read_eval_log_samples(find_log(log_dir)):
        text = sample.output.completion.strip()
        if why := why_not(text):
            bad[str(sample.id)] = why
            continue
        files.append(out / f"{sample.id}.md")
        files[-1].write_text(text + "\n", encoding="utf-8")
    if bad and not files:
        raise UsageError(f"{system.name} wrote no guidelines: {bad}. Take a larger model.")
    if bad:
        raise UsageError(f"written: {len(files)}; not usable: {bad}. Run again with a larger model for these.")
    if len(files) != len(wanted):
        raise LogError(f"{log_dir} holds {len(files)} of {len(wanted)} categories. Move it away and run again.")
    return files
