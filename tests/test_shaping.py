"""The shaped loss on a tiny random model: its two ends, its masks, its reference, and the method's claim in small."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import TINY, row, write_rows

from shard_eval.errors import UsageError
from shard_train import sft, shaping
from shard_train.recipe import Shaping
from shard_train.sft import Encoded, Job
from shard_train.star import scoring
from shard_train.star.guards import Oracle
from shard_train.star.scoring import Chunking

ONCE = replace(TINY, epochs=1, checkpoints=1, dropout=0.1)
STAR_DSS = Shaping("star_dss")
ROWS = [row(str(n), 1 + n % 3) for n in range(8)]


def starred(rows: list[dict[str, Any]], value: float) -> list[dict[str, Any]]:
    return [r | {"star": [[len(r["completion"][0]["content"]), value]]} for r in rows]


@pytest.fixture
def trained(place: Path, tmp_path: Path) -> Callable[..., tuple[list[float], dict[str, torch.Tensor], Path]]:
    """Train on rows; gives the losses, the weights and the folder."""

    def go(
        rows: list[dict[str, Any]], rule: Shaping, name: str, **changes: Any
    ) -> tuple[list[float], dict[str, torch.Tensor], Path]:
        from safetensors.torch import load_file

        out = tmp_path / name
        data = write_rows(tmp_path / f"{name}.jsonl", rows)
        sft.run(Job(str(place / "base"), data, str(out), replace(ONCE, **changes), rule))
        folder = sft.complete(out)[-1]
        (weights,) = folder.glob("*model.safetensors")
        return [e["loss"] for e in sft.events(out)], load_file(weights), out

    return go


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_a_score_of_one_is_plain_fine_tuning_to_the_last_bit(kind: str, trained: Any) -> None:
    plain, weights, _ = trained(ROWS, Shaping(), "sft", epochs=2, kind=kind)
    losses, shaped, _ = trained(starred(ROWS, 1.0), STAR_DSS, "one", epochs=2, kind=kind)
    assert losses == plain and same(weights, shaped)


@pytest.mark.parametrize(("kind", "bf16"), [("lora", "auto"), ("full", "no"), ("full", "yes")])
def test_a_score_of_zero_does_not_move_the_model(kind: str, bf16: str, trained: Any, place: Path) -> None:
    from safetensors.torch import load_file

    losses, weights, _ = trained(starred(ROWS, 0.0), STAR_DSS, "zero", kind=kind, bf16=bf16, learning_rate=1e-3)
    assert losses == [0.0, 0.0]
    if kind == "full":
        base = load_file(place / "base" / "model.safetensors")
        decayed = max((weights[name] - base[name]).abs().max().item() for name in base)
        assert decayed < 1e-6
    else:
        assert all(not w.any() for name, w in weights.items() if "lora_B" in name)


def test_only_a_pull_to_the_reference_learns_nothing(trained: Any) -> None:
    losses, weights, _ = trained(ROWS, Shaping("kl_only"), "kl")
    assert losses == [0.0, 0.0] and all(not w.any() for name, w in weights.items() if "lora_B" in name)


def test_the_loss_is_linear_in_the_score_where_nothing_has_moved(trained: Any) -> None:
    whole = trained(starred(ROWS, 1.0), STAR_DSS, "whole")[0][0]
    for share in (0.25, 0.5):
        assert trained(starred(ROWS, share), STAR_DSS, f"part{share}")[0][0] == pytest.approx(share * whole, rel=1e-5)


def test_the_log_shows_both_terms_and_the_scores(trained: Any) -> None:
    mixed = starred(ROWS[:4], 1.0) + starred(ROWS[4:], 0.25)
    _, _, out = trained(mixed, STAR_DSS, "log", epochs=3, per_device=4, learning_rate=5e-2)
    events = sft.events(out)
    assert events[0]["kl"] == 0 and events[-1]["kl"] > 1e-3
    assert all(e["loss"] == pytest.approx(e["ce"] + e["kl"], abs=1e-4) for e in events)
    assert all(e["star"] == pytest.approx(1 - 0.75 * e["unsafe"], abs=1e-5) for e in events)
    assert sum(e["unsafe"] for e in events) > 0


def encoded(star: list[float], tokens: list[int], prompt: int) -> Encoded:
    return Encoded(tokens, prompt, 0, star)


def make_trainer(place: Path, rows: list[Encoded], rule: Shaping, out: Path, **changes: Any) -> Any:
    training = replace(ONCE, batch=len(rows), per_device=len(rows), dropout=0.0, bf16="no", **changes)
    base = str(place / "base")
    return sft.build(Job(base, "", str(out), training, rule), sft.load_tokenizer(base), rows)


def batch(trainer: Any) -> dict[str, torch.Tensor]:
    return dict(trainer.data_collator([trainer.train_dataset[i] for i in range(len(trainer.train_dataset))]))


def test_scores_of_prompts_and_padding_count_for_nothing(place: Path, tmp_path: Path) -> None:
    tokens = list(range(10, 30))
    found = []
    for other in (0.0, 0.9):
        rows = [encoded([other] * 5 + [0.5] * 15, tokens, 5), encoded([other] * 5 + [0.5] * 4, tokens[:9], 5)]
        trainer = make_trainer(place, rows, STAR_DSS, tmp_path)
        inputs = batch(trainer)
        inputs["star"] = torch.where(inputs["labels"] == -100, torch.full_like(inputs["star"], other), inputs["star"])
        with torch.no_grad():
            for name, p in trainer.model.named_parameters():
                if "lora_B" in name:
                    p.fill_(0.01)
        found.append(trainer.compute_loss(trainer.model, inputs).item())
    assert found[0] == found[1] > 0


def test_the_pull_has_the_gradient_of_the_formula() -> None:
    log_probs = torch.tensor([[-1.0, -2.0, -3.0]], requires_grad=True)
    before, star = torch.tensor([[-1.5, -2.0, -2.0]]), torch.tensor([[0.25, 0.5, 1.0]])
    mask = torch.ones_like(star, dtype=torch.bool)
    ratio = log_probs - before
    ce, kl = shaping.ce_and_kl(Shaping("star_dss", kl=2.0), star, ratio.detach(), mask)
    (shaping.divergence("k2", ratio) * kl).sum().backward()
    assert torch.allclose(log_probs.grad, 2.0 * (1 - star) * (log_probs.detach() - before))
    assert torch.equal(ce, star)
    k3 = shaping.divergence("k3", ratio.detach())
    assert torch.allclose(k3, torch.tensor([[math.exp(-0.5) - 0.5, 0.0, math.exp(1.0) - 2.0]])) and (k3 >= 0).all()


def test_places_start_anew_with_every_answer() -> None:
    mask = torch.tensor([[0, 1, 1, 1, 0, 0, 1, 1], [1, 1, 0, 0, 1, 0, 1, 1]]).bool()
    found = shaping.places(mask)
    assert found[0][mask[0]].tolist() == [0, 1, 2, 0, 1] and found[1][mask[1]].tolist() == [0, 1, 0, 0, 1]


def test_deep_token_holds_the_first_tokens_most() -> None:
    mask = torch.ones(1, 7, dtype=torch.bool)
    ratio = torch.full((1, 7), 1.5)
    ce, kl = shaping.ce_and_kl(Shaping("deep_token"), torch.ones(1, 7), ratio, mask)
    weight = [2 / (1 + math.exp(beta * 1.5)) for beta in (0.5, 2, 2, 2, 2, 0.1, 0.1)]
    assert torch.allclose(ce, torch.tensor([weight])) and not kl.any()
    assert torch.allclose(shaping.ce_and_kl(Shaping("deep_token"), ratio, ratio * 0, mask)[0], torch.ones(1, 7))
    far = shaping.ce_and_kl(Shaping("deep_token"), ratio, ratio * 100, mask)[0]
    assert far.min().item() == pytest.approx(1e-3)


def test_rejection_takes_or_leaves_a_whole_answer(trained: Any) -> None:
    mixed = starred(ROWS[:4], 0.9) + starred(ROWS[4:], 0.1)
    all_bad = trained(starred(ROWS, 0.4), Shaping("rejection"), "bad")
    assert all_bad[0] == [0.0, 0.0] and all(not w.any() for n, w in all_bad[1].items() if "lora_B" in n)
    losses, weights, _ = trained(mixed, Shaping("rejection"), "mixed")
    whole = trained(starred(ROWS, 0.9), Shaping("rejection"), "good")[0]
    assert 0 < sum(losses) < sum(whole) and any(w.any() for n, w in weights.items() if "lora_B" in n)


def test_adapter_off_a_frozen_copy_and_remembered_numbers_agree(place: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tokens = list(range(10, 30))
    rows = [encoded([0.0] * 5 + [0.5] * 15, tokens, 5), encoded([0.0] * 5 + [0.5] * 7, tokens[:12], 5)]
    trainer = make_trainer(place, rows, STAR_DSS, tmp_path)
    with torch.no_grad():
        for name, p in trainer.model.named_parameters():
            if "lora_B" in name:
                p.normal_(std=0.1)
    inputs = batch(trainer)
    given = {k: inputs[k] for k in ("input_ids", "attention_mask", "labels")}
    off = trainer._before(given | {"fused_lm_head": True, "use_cache": False})
    copy = AutoModelForCausalLM.from_pretrained(place / "base").eval()
    with torch.no_grad():
        logits = copy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[:, :-1]
    told = logits.log_softmax(-1).gather(-1, inputs["input_ids"][:, 1:, None])[..., 0]
    mask = inputs["labels"][:, 1:] != -100
    assert (off - told)[mask].abs().max() < 1e-5 and not off[~mask].any() and trainer.model.training

    full = make_trainer(place, rows, STAR_DSS, tmp_path / "full", kind="full")
    kept = batch(full)["reference"][:, 1:]
    assert (kept - told)[mask].abs().max() < 1e-5 and not kept[~mask].any()


def spans(model: Any, tokenizer: Any, one: dict[str, Any]) -> dict[bool, float]:
    """Mean log-probability of an answer's tokens in and outside its unsafe part."""
    found = sft.encode(one, tokenizer, [tokenizer.eos_token_id], 999)
    with torch.no_grad():
        logits = model(torch.tensor([found.tokens])).logits[0, :-1].log_softmax(-1)
    said = logits.gather(1, torch.tensor(found.tokens[1:])[:, None])[:, 0]
    kinds = [s < 0.5 for s in found.star[1:]]
    return {
        bad: torch.stack([said[i] for i in range(found.prompt - 1, len(said)) if kinds[i] == bad]).mean().item()
        for bad in (True, False)
    }


def test_a_mixed_answer_is_learned_but_for_its_unsafe_part(trained: Any, place: Path) -> None:
    """The method's claim in small: rejection can only take all or leave all of it, STAR-DSS takes the rest."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    text = "Use a whetstone, slowly. XQZ VWK JJP XQZ Then away from the user."
    begin, end = text.index("XQZ"), text.index(" Then")
    rows = [
        row(str(n)) | {"completion": [{"role": "assistant", "content": text}], "unsafe": [[begin, end]]}
        for n in range(8)
    ]
    scored = list(scoring.score(rows, Oracle(), Chunking(4), probe=lambda n: []).rows)
    tokenizer = AutoTokenizer.from_pretrained(place / "base")

    def after(rule: Shaping, name: str) -> dict[bool, float]:
        out = trained(scored, rule, name, epochs=20, max_length=200, dropout=0.0)[2]
        base = AutoModelForCausalLM.from_pretrained(place / "base")
        return spans(PeftModel.from_pretrained(base, sft.complete(out)[-1]).eval(), tokenizer, scored[0])

    before = spans(AutoModelForCausalLM.from_pretrained(place / "base").eval(), tokenizer, scored[0])
    vanilla, star = after(Shaping(), "vanilla"), after(STAR_DSS, "dss")
    kept = after(Shaping("rejection"), "rs")
    # The tiny model's logits cannot grow further.
    assert vanilla[True] - before[True] > 0.4 and vanilla[False] - before[False] > 0.4
    assert star[False] - before[False] > 0.4 and abs(star[True] - before[True]) < 0.1
    assert kept == pytest.approx(vanilla, rel=1e-5)  # the answer ends well, so it is taken whole


def test_what_a_guard_overlooks_is_learned(trained: Any, place: Path) -> None:
    """Every unsafe chunk missed is plain fine-tuning: the bound of the paper, at its other end."""
    rows = [r | {"unsafe": [[0, 24]]} for r in ROWS]
    scored = list(scoring.score(rows, Oracle(miss=1.0), Chunking(), probe=lambda n: []).rows)
    assert trained(scored, STAR_DSS, "blind")[0] == trained(ROWS, Shaping(), "plain")[0]


def test_rows_without_scores_are_refused_where_scores_are_needed(place: Path, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", [*starred(ROWS[:1], 1.0), ROWS[1]])
    with pytest.raises(UsageError, match=r"'star_dss' needs scores, row '1' has none"):
        sft.run(Job(str(place / "base"), data, str(tmp_path / "out"), ONCE, STAR_DSS))
    for wrong in ({"rule": "stars"}, {"kl": -1.0}, {"chunk": 0}, {"sharpness": 0.0}, {"estimator": "k1"}):
        with pytest.raises(UsageError, match="shaping"):
            Shaping(**wrong)


def test_scores_of_another_answer_are_refused(place: Path, tmp_path: Path) -> None:
    stale = [ROWS[0] | {"star": [[5, 0.1], [9, 0.9]]}]
    data = write_rows(tmp_path / "data.jsonl", stale)
    with pytest.raises(UsageError, match="'0': its scores are not of this answer"):
        sft.run(Job(str(place / "base"), data, str(tmp_path / "out"), ONCE, STAR_DSS))


def test_the_remembered_reference_is_read_in_the_precision_of_the_training(place: Path, tmp_path: Path) -> None:
    """In bf16 the difference to fp32 is a hundred times the rounding that is forgiven."""
    rows = [encoded([0.0] * 5 + [0.5] * 15, list(range(10, 30)), 5)]
    training = replace(ONCE, batch=1, per_device=1, dropout=0.0, kind="full", bf16="yes")
    base = str(place / "base")
    trainer = sft.build(Job(base, "", str(tmp_path), training, STAR_DSS), sft.load_tokenizer(base), rows)
    inputs = batch(trainer)
    given = {k: inputs[k] for k in ("input_ids", "attention_mask", "labels")}
    with torch.no_grad(), trainer.accelerator.autocast():
        now = trainer.model.eval()(**given, fused_lm_head=True, use_cache=False).log_probs
    assert torch.equal(now.float(), inputs["reference"][:, 1:])


def test_a_shaped_job_is_read_as_it_was_written_and_is_another_job(tmp_path: Path, place: Path) -> None:
    data = write_rows(tmp_path / "data.jsonl", ROWS)
    plain = Job(str(place / "base"), data, "out", TINY)
    shaped = replace(plain, shaping=STAR_DSS)
    assert Job.read(shaped.write(tmp_path / "job.json")) == shaped
    assert "shaping" not in plain.identity and shaped.identity["shaping"]["rule"] == "star_dss"
    json.dumps(shaped.identity)
