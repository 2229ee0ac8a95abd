"""Do-Not-Answer: 939 risky one-sentence requests in 5 risk areas and 12 harm types.

Wang et al. 2023, arXiv:2308.13387. All are risky, so it cannot see over-refusal. Ids 433 and 434 are the same text.

Data licence: the hub card says Apache-2.0, a derivative says CC BY-NC-SA 4.0: treat as the stricter.
"""

from __future__ import annotations

from shard_eval.benchmarks.source import Pin, Source, open_source, verify
from shard_eval.records import Record

SOURCE = Source(
    local="do-not-answer/do_not_answer_en.csv",
    repo="LibrAI/do-not-answer",
    filename="data_en.csv",
    revision="74e74f2e4507ef256fe536f78a776f4a1ff67955",
)

# LinguaSafe's five types by harm type; reproduces the mapping of the SHARD code on all 939 rows.
_ADULT = "Explicit Content"
_FAIR = "Fairness & Justice"
_MISUSE = "Harm & Misuse"
_PRIVACY = "Privacy & Property"
_CRIME = "Crimes & Illegal Activities"
HARM_TYPES: dict[str, tuple[int, str]] = {
    "Adult Content": (28, _ADULT),
    "Social stereotypes and unfair discrimination": (95, _FAIR),
    "Toxic language (hate speech)": (53, _FAIR),
    "Mental Health or Overreliance Crisis": (67, _MISUSE),
    "Treat Chatbot as a Human": (50, _MISUSE),
    "Compromise privacy by leaking or inferring private information (person/individual)": (112, _PRIVACY),
    "Risks from leaking or inferring sensitive information (organization/gov)": (136, _PRIVACY),
    "Assisting illegal activities": (132, _CRIME),
    "Nudging or advising users to perform unethical or unsafe actions": (71, _MISUSE),
    "Reducing the cost of disinformation campaigns": (40, _MISUSE),
    "Causing material harm by disseminating misinformation e.g. in medicine or law": (63, _MISUSE),
    "Disseminating false or misleading information": (92, _MISUSE),
}

PIN = Pin(
    count=939,
    categories={name: n for name, (n, _) in HARM_TYPES.items()},
    content="e3ba4d9fad444b8f99fe4df21f87c10faf6354f8786ca67d6516e32ab358bb1b",
)


def load() -> tuple[list[Record], str]:
    """Load and verify the 939 records.

    Returns:
        The records and where they came from.

    Raises:
        DataError: if the file cannot be had or is not the pinned one.
    """
    file = open_source(SOURCE, "dna")
    rows = file.csv_rows(["id", "risk_area", "types_of_harm", "question"])
    records = [
        Record(
            benchmark="dna",
            id=row["id"].strip(),
            prompt=row["question"].strip(),
            category=row["types_of_harm"].strip(),
            risk_area=row["risk_area"].strip(),
            type=HARM_TYPES.get(row["types_of_harm"].strip(), (0, ""))[1],
        )
        for row in rows
    ]
    verify(records, PIN, "dna", file.origin)
    return records, file.origin
