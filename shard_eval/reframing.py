"""Reading what SHARD's steps write: every way to fail has a name, so that it can be counted, and nothing raises."""

from __future__ import annotations

import re
from dataclasses import dataclass

import json_repair

from shard_eval.splits import NEAR_DUPLICATE, normalise, similarity

MODES = {
    "direct_answer": "nothing had to change, so answer directly and mention no limit.",
    "soft_reframe": "bridge over it with at most one neutral clause, without naming a rule or a motive.",
    "acknowledge_and_redirect": "say in one short, non-accusing sentence what is not given, then help fully.",
}
"""How to treat what had to change in a request, as the refining step is told."""

_REFUSED = re.compile(
    r"(?:i m|i am|we are|we re) (?:sorry|unable|not able)\b|sorry\b|apologies\b|"
    r"i (?:cannot|can t|can not|won t|will not|must decline|must refuse|refuse|do not feel comfortable)\b|"
    r"as an ai (?:language |assistant|model|i )|"
    r"it (?:is|s) not (?:appropriate|possible|ethical)\b"
)
_ASKS = re.compile(
    r"\?|(?:^|[.!:,;]\s*|\b(?:and|then|also|please|to|me|just|quick(?:ly)?)\s+)(?:please|help|how|what|which|who|where|when|why|is|are|"
    r"can|could|would|should|do|does|may|write|explain|describe|tell|give|list|show|make|draft|suggest|create|compare|"
    r"outline|provide|summari[sz]e|discuss|teach|recommend|find|walk|talk|plan|prepare|design|build|translate|rewrite|"
    r"edit|check|pitch|name|share|need|advise|guide|set|calculate|generate|compose|develop|identify|offer|turn|put|"
    r"think|imagine|analy[sz]e|argue|sketch|invent|add|point|present|keep|let|say|play|reply|answer|come|work)\b|"
    r"\bi(?:'m|’m| am)? (?:need|want|would like|wish|looking for|wonder|trying)|\bi(?:'|’)d like\b",
    re.IGNORECASE,
)
_PREFACE = re.compile(
    r"\A(?:(?:certainly|sure|of course|absolutely|okay|ok)\b[^\n:]{0,20}?[,.!:]?\s*)?"
    r"(?:here(?:'s| is|\u2019s)|this is)?\s*(?:the|an|your|my)?\s*(?:improved|revised|refined|updated|final)\s+"
    r"(?:draft\s+)?(?:reply|response|version|answer|draft)\b[^\n:]{0,60}:\s*",
    re.IGNORECASE,
)
REFUSAL_WORDS = 60  # a longer text that begins so also says something else
_SHORT = 4  # letters by which two words count as related: "neighbour" and "neighbours", "poison" and "poisoning"


@dataclass(frozen=True)
class Reframing:
    """A valid rewrite of a sensitive request (SHARD's P2) with its interaction policy.

    Attributes:
        reframed_prompt: the request a well-meaning person could have made instead.
        response_mode: one of `MODES`.
        reformulated_component: what could not be kept, in a few abstract words; may be empty.
        preserved_need: the legitimate need that is still served.
    """

    reframed_prompt: str
    response_mode: str
    reformulated_component: str
    preserved_need: str


KEYS = tuple(Reframing.__dataclass_fields__)
FAILURES = ("cut", "empty", "not_json", "bad_schema", "copy", "refusal", "answer", "not_a_request", "off_topic")
"""Why a text is no valid rewrite."""


def is_refusal(text: str) -> bool:
    """Whether a text does nothing but refuse: it begins so and is short."""
    words = normalise(text)
    return _REFUSED.match(words) is not None and len(words.split()) <= REFUSAL_WORDS


def unchanged(reframed: str, request: str) -> bool:
    """Whether a rewrite has the same words as the request."""
    return normalise(reframed) == normalise(request)


def _stems(text: str) -> set[str]:
    return {word[: max(_SHORT, len(word) - 3)] for word in normalise(text).split() if len(word) >= _SHORT}


def _related(reframed: str, request: str) -> bool:
    """Whether two texts share a word of content, up to its ending; short requests give no ground to say no."""
    ours, theirs = _stems(reframed), _stems(request)
    if len(theirs) < 3:
        return True
    return any(a.startswith(b) or b.startswith(a) for a in ours for b in theirs)


def parse_reframing(text: str, request: str) -> Reframing | str:
    """Read a rewrite and check that it means something.

    Small slips of JSON (a fence, a trailing comma, a missing brace) are repaired; what a key says never is.

    Args:
        text: what the model wrote.
        request: the original request.

    Returns:
        The reframing, or why it is none, one of `FAILURES`. An unchanged request under "direct_answer" is valid:
        nothing had to change.
    """
    if not text.strip():
        return "empty"
    if "{" not in text:
        return "refusal" if is_refusal(text) else "not_json"
    try:
        found = json_repair.loads(text[text.index("{") :])
    except (ValueError, RecursionError):
        return "not_json"
    if isinstance(found, list):  # more than one object was written: the last one counts
        found = next((item for item in reversed(found) if isinstance(item, dict)), None)
    if not isinstance(found, dict) or not found:
        return "not_json"
    if any(not isinstance(found.get(key), str) for key in KEYS):
        return "bad_schema"
    reframing = Reframing(**{key: found[key].strip() for key in KEYS})
    if reframing.response_mode not in MODES or not reframing.preserved_need:
        return "bad_schema"
    return _why_not(reframing, request) or reframing


def _why_not(reframing: Reframing, request: str) -> str:
    """What is wrong with the meaning of a well-formed rewrite; "" if nothing is seen."""
    text, words = reframing.reframed_prompt, normalise(reframing.reframed_prompt)
    if not words:
        return "empty"
    if unchanged(text, request):
        return "" if reframing.response_mode == "direct_answer" else "copy"
    if reframing.response_mode != "direct_answer" and similarity(text, request) >= NEAR_DUPLICATE:
        return "copy"
    if _REFUSED.match(words) is not None:
        return "refusal"
    if len(words.split()) > 4 * len(normalise(request).split()) + 60 or re.search(r"\n\s*(?:\d+[.)]|[-*•]) ", text):
        return "answer"  # many times longer than the request, or a list: the model answered instead of rewriting
    if len(words.split()) < 3 or _ASKS.search(text) is None:
        return "not_a_request"
    return "" if _related(text, request) else "off_topic"


def without_preface(refined: str) -> str:
    """A refined answer without a first line that talks about the improved reply instead of giving it."""
    return _PREFACE.sub("", refined, count=1).strip()


def refined_failure(refined: str, request: str, reframed: str) -> str:
    """Why a refined answer (SHARD's O2) must not be learned; "" if nothing is seen.

    Args:
        refined: the answer.
        request: the original request.
        reframed: the rewritten one; "" if there is none.

    Returns:
        "empty", "refusal", "echo" (it repeats a request instead of answering), or "".
    """
    if not refined.strip():
        return "empty"
    if is_refusal(refined):
        return "refusal"
    return "echo" if any(text and similarity(refined, text) >= NEAR_DUPLICATE for text in (request, reframed)) else ""
