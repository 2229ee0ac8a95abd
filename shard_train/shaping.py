"""A trainer whose loss says of every token how much it is learned, and how much it is held where it was.

    L = 1/N sum_t [ w_t CE_t + h_t KL_t ],   CE_t = -log p(y_t),   KL_t = 1/2 (log p(y_t) - log p_ref(y_t))^2

STAR-DSS (Peng et al. 2025, arXiv:2505.17196, and its released code): w = V, h = (1 - V) lambda, with V the score of the
token's chunk. The same class with other weights is plain fine-tuning, its sanity check, and two static baselines. The
second term needs two numbers per token, so no tensor of the size of the vocabulary is made for it.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import torch
from trl import SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling
from trl.trainer.utils import pad

from shard_train.recipe import Shaping

STAR, REFERENCE = "star", "reference"
"""Columns beside TRL's: per token its score, and its log-probability by the model before the training."""

ROUNDING = {False: 1e-5, True: 2e-2}
"""In fp32 and in bf16, up to which difference a remembered log-probability counts as the present one.

The same text gets slightly other numbers in another batch, and Adam takes full steps on the smallest gradient.
"""


def ce_and_kl(
    rule: Shaping, star: torch.Tensor, log_ratio: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of the two terms of each token.

    Args:
        rule: which method, with its numbers.
        star: scores, rows x tokens.
        log_ratio: log p - log p_ref, detached, the same shape; zeros where the method has no reference.
        mask: whether a token is learned at all.

    Returns:
        Weights of cross-entropy and of the pull to the reference, the same shape; 0 outside the mask.
    """
    one = torch.ones_like(star)
    if rule.rule == "sft":
        ce, kl = one, one * 0
    elif rule.rule == "kl_only":
        ce, kl = one * 0, one * rule.kl
    elif rule.rule == "rejection":  # all tokens of an answer have one score
        ce, kl = (star >= 0.5).to(star.dtype), one * 0
    elif rule.rule == "deep_token":
        # Qi et al. 2025 (arXiv:2406.05946): how far a token may move is bounded, the first ones most tightly.
        beta = torch.full_like(star, rule.beta_later)
        place = places(mask)
        beta[(place >= 1) & (place <= 4)] = rule.beta_early
        beta[place == 0] = rule.beta_first
        ce, kl = (2 * torch.sigmoid(-beta * log_ratio)).clamp(min=1e-3), one * 0
    else:
        ce, kl = star, (1 - star) * rule.kl
    return ce * mask, kl * mask


def places(mask: torch.Tensor) -> torch.Tensor:
    """The place of each token in its run of learned ones, from 0; meaningless outside the mask."""
    count = mask.long().cumsum(1)
    before = (count * ~mask).cummax(1).values
    return count - before - 1


def divergence(estimator: str, log_ratio: torch.Tensor) -> torch.Tensor:
    """Estimates of the divergence from the reference, of the log-ratio of the learned token.

    Args:
        estimator: "k2", half the square, as published; or "k3", exp(-d) - 1 + d, never negative either.
        log_ratio: log p - log p_ref.
    """
    return 0.5 * log_ratio**2 if estimator == "k2" else torch.exp(-log_ratio) - 1 + log_ratio


class Collator(DataCollatorForLanguageModeling):  # type: ignore[misc]  # TRL is not followed by the type checker
    """TRL's, with the columns that shaping needs."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch; scores and log-probabilities are padded as the tokens are, with 0."""
        batch: dict[str, Any] = super().torch_call(examples)
        for name in (STAR, REFERENCE):
            if name in examples[0]:
                rows = [torch.tensor(e[name], dtype=torch.float32) for e in examples]
                rows = [torch.cat(rows)] if self.padding_free else rows
                batch[name] = pad(
                    rows, padding_value=0.0, padding_side="right", pad_to_multiple_of=self.pad_to_multiple_of
                )
        return batch


class ShapedTrainer(SFTTrainer):  # type: ignore[misc]  # TRL is not followed by the type checker
    """TRL's trainer of supervised fine-tuning with another loss per token.

    Normalisation, accumulation, processes and metrics stay TRL's: it is handed the model's own output with each
    token's loss in the place of its cross-entropy. With all weights 1 it is plain fine-tuning, to the last bit.

    Args:
        shaping: which method.
        arguments: TRL's.
    """

    data_collator: Any
    train_dataset: Any
    _signature_columns: Any

    def __init__(self, *, shaping: Shaping, **arguments: Any) -> None:
        self.shaping = shaping
        super().__init__(**arguments)
        own = Collator(pad_token_id=self.data_collator.pad_token_id, padding_free=self.data_collator.padding_free)
        own.pad_to_multiple_of = self.data_collator.pad_to_multiple_of
        self.data_collator = own
        self._adapter = hasattr(self.model, "disable_adapter")

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        self._signature_columns = list(dict.fromkeys([*self._signature_columns, STAR, REFERENCE]))

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """TRL's, of the shaped loss of each token."""
        star = inputs.pop(STAR)[:, 1:]
        kept = inputs.pop(REFERENCE, None)

        def shaped(**arguments: Any) -> Any:
            output = model(**arguments)
            if getattr(output, "log_probs", None) is None:
                return output  # of the logits alone
            before = self._before(arguments)
            if kept is not None:
                now = output.log_probs.detach()
                before = kept[:, 1:].to(now)
                before = torch.where((now - before).abs() < ROUNDING[self.args.bf16], now, before)
            output.log_probs = -self._per_token(output.log_probs, output.label_mask, star, before)
            return output

        return super().compute_loss(shaped, inputs, return_outputs, num_items_in_batch)

    def _before(self, arguments: dict[str, Any]) -> torch.Tensor | None:
        """What the model said before the training: the same model without its adapter, and without dropout."""
        if not (self.shaping.referred and self._adapter):
            return None
        model = self.accelerator.unwrap_model(self.model)
        training = model.training
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(model.disable_adapter())
            model.eval()
            try:
                found: torch.Tensor = model(**arguments).log_probs
            finally:
                model.train(training)
        return found

    def _per_token(
        self, log_probs: torch.Tensor, mask: torch.Tensor, star: torch.Tensor, before: torch.Tensor | None
    ) -> torch.Tensor:
        """Loss of each token, rows x tokens, and the parts of it, so that a run of all or nothing is seen."""
        star = star.to(log_probs)
        ratio = torch.zeros_like(log_probs) if before is None else log_probs - before.to(log_probs)
        ce, kl = ce_and_kl(self.shaping, star, ratio.detach(), mask)
        learned, held = -log_probs * ce, divergence(self.shaping.estimator, ratio) * kl
        count = mask.sum().clamp(min=1)
        mode = "train" if self.model.training else "eval"
        for name, value in (
            ("ce", learned.sum() / count),
            ("kl", held.sum() / count),
            ("star", (star * mask).sum() / count),
            ("unsafe", ((star < 0.5) & mask).sum() / count),
        ):
            self._metrics[mode][name].append(value.item())
        return learned + held

    def remember(self) -> None:
        """Write the log-probabilities of the model as it is now into the training data.

        For training of all weights, where there is no adapter to switch off: exact, for the data do not change, and
        cheaper than a frozen copy.
        """
        found = []
        model = self.model
        training = model.training
        model.eval()
        # TRL's own context computes in full precision; the training does not where it runs in bf16.
        with torch.no_grad(), self.accelerator.autocast():
            for row in self.train_dataset:
                batch = {k: v.to(model.device) for k, v in self.data_collator([row]).items() if hasattr(v, "to")}
                batch.pop(STAR, None)
                log_probs = model(**batch, fused_lm_head=True, use_cache=False).log_probs[0]
                found.append([0.0, *log_probs.float().tolist()])
        model.train(training)
        self.train_dataset = self.train_dataset.add_column(REFERENCE, found)
