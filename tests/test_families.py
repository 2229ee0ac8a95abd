"""Whose relatives judges are: names, local weights, guards, what is refused and what is footnoted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from rich.console import Console
from safetensors.numpy import save_file

from shard_eval import cli, compare, families, score
from shard_eval.errors import UsageError
from shard_eval.families import STEMS, own_family_line
from shard_eval.judges.guards import GUARDS as PARSERS
from shard_eval.logs import read_folder, read_run
from shard_eval.report import Entry, headline
from shard_eval.score import Judging
from shard_eval.systems import System, resolve

QUIET = Console(quiet=True)

NAMES = {
    "OpenAI GPT": "openai/gpt-5-mini openai/o3-mini openai/ft:gpt-4o-mini:me::1 together/openai/gpt-oss-20b "
    "hf/openai/gpt-oss-safeguard-20b openrouter/openai/chatgpt-4o-latest openai/whatever-comes GPT4 o1-preview",
    "Anthropic Claude": "anthropic/claude-opus-4 bedrock/us.anthropic.claude-3-5-sonnet-v2:0",
    "Google Gemini": "google/gemini-2.5-pro hf/google/gemma-3-27b-it hf/google/shieldgemma-9b ollama/codegemma",
    "Meta Llama": "together/meta-llama/Llama-3.3-70B-Instruct-Turbo hf/meta-llama/Llama-Guard-3-8B "
    "hf/meta-llama/LlamaGuard-7b ollama/llama3.2 hf/CodeLlama-7b hf/lmsys/vicuna-7b llama2-7b-chat",
    "Alibaba Qwen": "hf/Qwen/Qwen2.5-0.5B-Instruct ollama/qwen3 openrouter/qwen/qwq-32b hf/Qwen/Qwen3Guard-Gen-0.6B",
    "Mistral": "mistral/mistral-large-latest hf/mistralai/Mixtral-8x7B hf/mistralai/Ministral-8B hf/x/Codestral-22B "
    "hf/allenai/wildguard mistral/open-mixtral-8x22b hf/ToxicityPrompts/PolyGuard-Ministral",
    "DeepSeek": "deepseek/deepseek-chat together/deepseek-ai/DeepSeek-V3",
    "Microsoft Phi": "hf/microsoft/phi-4 ollama/phi3",
    "Hugging Face SmolLM": "SmolLM2-135M-Instruct hf/HuggingFaceTB/SmolLM3-3B",
    "Zhipu GLM": "hf/THUDM/glm-4-9b hf/THUDM/chatglm3-6b",
    "Cohere Command": "openrouter/cohere/command-a hf/CohereForAI/c4ai-command-r-plus",
    "01.AI Yi": "hf/01-ai/Yi-34B-Chat",
    "AI2 OLMo": "hf/allenai/OLMo-2-1124-7B",
    "IBM Granite": "hf/ibm-granite/granite-guardian-3.3-8b",
    "xAI Grok": "grok/grok-4 grok/next",
    "Amazon Nova": "bedrock/amazon.nova-pro-v1:0",
}


@pytest.mark.parametrize(("family", "name"), [(f, n) for f, names in NAMES.items() for n in names.split()])
def test_a_name_tells_its_family(family, name):
    assert family in STEMS
    assert families.families(name) == {family}


@pytest.mark.parametrize(
    "name",
    [
        "scripted/judge", "mockllm/model", "none/none", "hf/EleutherAI/gpt-neox-20b", "hf/EleutherAI/gpt-j-6b",
        "llama-cpp-python/mine", "llamacpp/embedded", "openai-api/here/mine", "hf/AIDC-AI/Marco-o1", "hf/me/yield",
        "hf/me/graphite", "hf/me/commander", "ollama/mine", "hf/me/innovation-pro",
    ],
)  # fmt: skip
def test_a_name_that_tells_nothing_has_no_family(name):
    assert families.families(name) == frozenset()


@pytest.mark.parametrize("name", ["openrouter/openai/gpt-4o", "azureai/gpt-4o-mini", "gpt-4o", "together/gpt-4.1"])
def test_openais_omni_models_are_openais_wherever_they_are_served(name):
    assert families.families(name) == {"OpenAI GPT"}


def test_a_distilled_model_is_a_relative_of_both():
    found = families.families("together/deepseek-ai/DeepSeek-R1-Distill-Llama-70B")
    assert found == {"DeepSeek", "Meta Llama"}


def test_every_guard_says_what_it_was_built_on():
    assert all(families.of_judge(f"guard:{guard}", resolve("hf/me/guard")) for guard in PARSERS)
    polyguard = families.of_judge("guard:polyguard", resolve("hf/me/guard"))
    assert polyguard == {"Alibaba Qwen", "Mistral"}
    assert families.of_judge("guard:polyguard", resolve("hf/x/PolyGuard-Qwen-Smol")) == {"Alibaba Qwen"}
    assert families.of_judge("rubric", resolve("hf/me/guard")) == set()


def checkpoint(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file({str(folder): np.zeros(1, dtype=np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("config", "family"),
    [
        ({"model_type": "qwen2"}, {"Alibaba Qwen"}),
        ({"model_type": "gpt_oss"}, {"OpenAI GPT"}),
        ({"model_type": "llama", "vocab_size": 128256}, {"Meta Llama"}),
        ({"model_type": "llama", "vocab_size": 49152}, set()),  # SmolLM2 has Llama's architecture and nothing else
        ({"model_type": "llama", "_name_or_path": "HuggingFaceTB/SmolLM2-135M"}, {"Hugging Face SmolLM"}),
        ({"model_type": "mine"}, set()),
    ],
)
def test_a_folder_is_told_by_its_configuration(tmp_path, config, family):
    system = resolve(str(checkpoint(tmp_path / "run-3", **config)))
    assert families.of_system(system) == family


def test_an_adapter_is_of_its_bases_family_and_the_bases_judge_is_refused(tmp_path):
    base = checkpoint(tmp_path / "start", model_type="qwen3")
    adapter = tmp_path / "checkpoint-20"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "elsewhere"}))
    save_file({"x": np.zeros(1, dtype=np.float32)}, adapter / "adapter_model.safetensors")
    trained = resolve(str(base), adapter=str(adapter))
    assert families.of_system(trained) == {"Alibaba Qwen"}
    judge = Judging("guard:qwen3guard", resolve("hf/me/guard"))
    assert families.own_family(trained, judge.judges) == {"guard:qwen3guard:hf/me/guard": "Alibaba Qwen"}
    itself = Judging("rubric", resolve(str(base)))
    assert families.own_family(trained, itself.judges) == {"rubric:start": "the same model"}


def test_two_unknown_folders_of_one_name_are_not_the_same_model(tmp_path):
    one, other = (resolve(str(checkpoint(tmp_path / n / "final", model_type="x"))) for n in ("a", "b"))
    assert one.label == other.label
    assert families.own_family(one, Judging("rubric", other).judges) == {}
    assert families.own_family(one, Judging("rubric", one).judges) == {"rubric:final": "the same model"}


def test_one_model_behind_two_providers_is_the_same():
    one, other = resolve("together/org/mine"), resolve("fireworks/org/mine")
    assert families.own_family(one, Judging("rubric", other).judges) == {"rubric:fireworks/org/mine": "the same model"}
    assert families.own_family(resolve("together/org/yours"), Judging("rubric", other).judges) == {}


def test_constants_and_the_embedded_judge_are_nobodys_relatives(script):
    judge = Judging("rubric", resolve("none/none"))
    assert families.own_family(resolve("always_refuse"), judge.judges) == {}
    assert families.own_family(resolve("embedded"), Judging("embedded").judges) == {}
    smollm = Judging("rubric", resolve("hf/HuggingFaceTB/SmolLM2-1.7B-Instruct"))
    assert set(families.own_family(resolve("embedded"), smollm.judges).values()) == {"Hugging Face SmolLM"}


@pytest.mark.parametrize(
    ("judging", "text"),
    [
        (Judging("rubric", resolve("openai/gpt-5-mini")), r"rubric:openai/gpt-5-mini.*OpenAI GPT.*--allow-own-family"),
        (Judging("rubric", resolve("openai/gpt-4o")), "is the tested model itself"),
    ],
)
def test_a_judge_of_the_models_family_is_refused_before_anything_is_asked(judging, text):
    with pytest.raises(UsageError, match=text):
        score.plans(resolve("openai/gpt-4o"), ["mini"], judging)


def test_in_a_panel_one_relative_is_enough_to_be_refused():
    judges = [Judging("rubric", resolve(n)) for n in ("anthropic/claude-haiku-4", "openai/gpt-5-mini")]
    with pytest.raises(UsageError, match="rubric:openai/gpt-5-mini"):
        score.plans(resolve("openai/gpt-4o"), ["mini"], score.panel("majority", judges))


def verdict(messages):
    return json.dumps({"reason": "so", "verdict": 1})


def test_a_relative_that_is_allowed_is_footnoted_wherever_the_run_is_shown(script, results):
    """The same scripted model answers and judges; the table, the folder and the log all say so."""
    system = resolve(script("self", verdict))
    judging = Judging("rubric", resolve("scripted/self"), allow_own_family=True)
    (plan,) = score.plans(system, ["mini"], judging, axes="harm", limit=3)
    found = score.run(plan, results, QUIET)
    line = "Judge rubric:scripted/self is the same model as the tested one: self-preference possible"
    folder = Path(results) / plan.folder
    for metadata in (
        found.metadata,
        read_run(folder).metadata,
        read_folder(folder).metadata,
        json.loads((folder / "manifest.json").read_text()),
    ):
        assert own_family_line(metadata).startswith(line)
    assert any(line[1:] in text for text in headline([Entry("self", found)]).foot)
    assert line in json.loads((folder / "summary.json").read_text())["own_family"]


def test_no_relative_leaves_no_trace(script, results):
    judging = Judging("rubric", resolve(script("judge", verdict)))
    (plan,) = score.plans(resolve(script("model", lambda m: "An answer.")), ["mini"], judging, axes="harm", limit=2)
    found = score.run(plan, results, QUIET)
    manifest = json.loads((Path(results) / plan.folder / "manifest.json").read_text())
    assert "own_family" not in manifest and own_family_line(manifest) == own_family_line(found.metadata) == ""


def stored(model: str, grader: str | dict | None, judge: str = "rubric") -> dict:
    told = {"model": grader} if isinstance(grader, str) else grader
    return {"system": {"model": model, "engine": "x"}, "run": {"judge": judge, "grader": told}}


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (stored("openai/gpt-4o", "openai/gpt-5"), "Judge rubric:openai/gpt-5 is of the tested model's family (OpenAI"),
        (stored("openai/gpt-4o", "openai/gpt-4o"), "the same model as the tested one"),
        (stored("openai/gpt-4o", "anthropic/claude-haiku-4"), ""),
        (stored("ollama/qwen3", "hf/me/guard", "guard:qwen3guard"), "guard:qwen3guard:hf/me/guard is of the tested"),
        (
            stored(
                "ollama/qwen3",
                {"grader": {"model": "openai/gpt-5"}, "grader2": {"model": "hf/me/guard"}},
                "panel:majority:rubric@grader,guard:qwen3guard@grader2,embedded",
            ),
            "Judge guard:qwen3guard:hf/me/guard is of the tested model's family (Alibaba Qwen): self",
        ),
        (stored("openai/gpt-4o", None, "embedded"), ""),
        ({"model": "openai/gpt-4o", "roles": {"grader": "openai/gpt-5"}}, "rubric:openai/gpt-5 is of"),
        ({"model": "scripted/a", "roles": {"grader": "scripted/b"}}, ""),
        ({}, ""),
    ],
)
def test_runs_stored_without_a_note_are_told_by_their_names(manifest, says):
    found = own_family_line(manifest)
    assert says in found and bool(says) == bool(found)


def test_what_was_stored_of_local_weights_counts_for_later_judges():
    """A checkpoint's folder is gone when two runs are compared; the log kept its family."""
    run = {"system": {"model": "run-3", "engine": "transformers", "weights_sha256": "1"}, "families": ["Alibaba Qwen"]}
    judge = [("pairwise:ollama/qwen3", "pairwise", resolve("ollama/qwen3"))]
    assert families.own_family_of_run(run, judge) == {"pairwise:ollama/qwen3": "Alibaba Qwen"}
    assert families.own_family_of_run({**run, "families": []}, judge) == {}


def test_the_family_of_a_checkpoint_whose_label_says_nothing_is_kept_in_the_log(tmp_path):
    system = resolve(str(checkpoint(tmp_path / "run-3", model_type="gemma3")))
    plan = score.Plan(system, Judging("embedded"), "mini", ("harm",))
    assert score.kinship(plan) == {"families": ["Google Gemini"]}
    named = System("gemma-mine", "hf/gemma-mine", engine="transformers", weights="1")
    assert score.kinship(score.Plan(named, Judging("embedded"), "mini", ("harm",))) == {}


def scored(script, results, name: str) -> str:
    judging = Judging("rubric", resolve(script("judge", verdict)))
    system = resolve(script(name, lambda m: '{"reason": "mine", "verdict": "tie"}'))
    (plan,) = score.plans(system, ["mini"], judging, axes="harm", limit=3)
    score.run(plan, results, QUIET)
    return str(Path(results) / plan.folder)


def test_compare_refuses_a_grader_that_is_one_of_the_two_and_names_it_if_it_is_allowed(script, results):
    ours, theirs = (scored(script, results, name) for name in ("ours", "theirs"))
    for name, arms in (("ours", (ours, theirs)), ("theirs", (ours, theirs))):
        args = ["compare", *arms, "--judge", f"scripted/{name}", "--axes", "harm", "--log-dir", results]
        done = CliRunner().invoke(cli.main, args)
        assert done.exit_code == 2 and "is the tested model itself" in done.output
        done = CliRunner().invoke(cli.main, [*args, "--allow-own-family"])
        assert f"scripted/{name}: judge pairwise:scripted/{name} is the same model as the tested one" in done.output
    stored = json.loads(next(Path(results).glob("comparisons/*/comparison.json")).read_text())
    assert any("pairwise:scripted/theirs" in line for line in stored["own_family"])


def test_a_comparison_by_a_stranger_says_nothing_of_families(script, results):
    (matched,) = compare.match(*(scored(script, results, name) for name in ("ours", "theirs")))
    judged = compare.judge(matched, resolve("scripted/judge"), "harm", results, QUIET)
    assert compare.own_family_lines([judged]) == []


def test_training_refuses_a_judge_of_the_trained_models_family_before_it_starts(tmp_path):
    judge = "hf/HuggingFaceTB/SmolLM2-1.7B-Instruct"
    args = ["train", "shard", "--embedded", "--plan", "--judge", judge, "--log-dir", str(tmp_path)]
    done = CliRunner().invoke(cli.main, args)
    assert done.exit_code == 2 and "Hugging Face SmolLM" in done.output and "--allow-own-family" in done.output
