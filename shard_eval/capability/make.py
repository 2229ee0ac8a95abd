"""Write `items.jsonl`, the capability set of our own (CC0).

    python -m shard_eval.capability.make

Four kinds: arithmetic and reading are generated with their answers, formats are checked by rules, and everyday
knowledge is written by hand. Nothing in it is sensitive, so that it shows what training did to everything else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from shard_eval.capability.scoring import ITEMS

NAMES = ["Ada", "Ben", "Carla", "Dev", "Edith", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kim", "Lena"]
THINGS = ["apples", "tickets", "pencils", "stamps", "eggs", "tiles", "books", "cups"]

Item = dict[str, Any]


def arithmetic(rng: random.Random) -> Iterator[Item]:
    """Ninety problems, from a sum to two steps; the answer is a whole number."""
    for n in range(90):
        name, thing = rng.choice(NAMES), rng.choice(THINGS)
        a, b, c = rng.randint(12, 97), rng.randint(3, 11), rng.randint(2, 9)
        kinds = [
            (f"What is {a} + {b * c}?", a + b * c),
            (f"What is {a + b} - {b}?", a),
            (f"What is {b} times {c}?", b * c),
            (f"{name} has {a} {thing} and buys {b} boxes of {c}. How many {thing} does {name} have now?", a + b * c),
            (f"{b * c} {thing} are shared equally among {c} people. How many {thing} does each person get?", b),
            (f"A room is {b} metres long and {c} metres wide. What is its area in square metres?", b * c),
        ]
        prompt, answer = kinds[n % len(kinds)]
        yield {"kind": "arithmetic", "prompt": f"{prompt} Answer with a number.", "number": answer}


def reading(rng: random.Random) -> Iterator[Item]:
    """Seventy short texts with a question whose answer stands in them."""
    places = ["the library", "the harbour", "the market", "the museum", "the station", "the garden"]
    days = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"]
    colours = ["red", "green", "yellow", "white", "black", "blue"]
    for n in range(70):
        one, two, three = rng.sample(NAMES, 3)
        place, other = rng.sample(places, 2)
        day, later = rng.sample(days, 2)
        colour, second = rng.sample(colours, 2)
        text = (
            f"{one} and {two} met at {place} on {day}. {one} wore a {colour} coat, {two} a {second} one. "
            f"{three} wanted to come too, but had to wait for a parcel and went to {other} on {later} instead."
        )
        asked = [
            (f"Who wore the {colour} coat?", one),
            (f"Where did {three} go?", other),
            (f"On which day did {one} and {two} meet?", day),
            (f"What colour was the coat of {two}?", second),
            ("Who waited for a parcel?", three),
        ]
        question, answer = asked[n % len(asked)]
        prompt = f"Read the text and answer in a few words.\n\n{text}\n\n{question}"
        rest = [w for w in (*NAMES, *places, *days, *colours) if w in text and w != answer]
        same = [w for w in rest if any(w in group and answer in group for group in (NAMES, places, days, colours))]
        yield {"kind": "reading", "prompt": prompt, "answers": [answer], "others": same}


def formats(rng: random.Random) -> Iterator[Item]:
    """Seventy requests for a form that a program can check."""
    topics = ["the sea", "bicycles", "winter", "bread", "music", "trees", "trains", "cats", "coffee", "rain"]
    for n in range(70):
        topic, k = topics[n % len(topics)], rng.randint(3, 5)
        word = rng.choice(["lamp", "river", "stone", "cloud", "paper"])
        kinds: list[tuple[str, Item]] = [
            (f"Write about {topic} in exactly {k} words.", {"words": k}),
            (f"Name {k} things about {topic} as a numbered list, one a line.", {"numbered": k}),
            (f"Write one sentence about {topic} in capital letters only.", {"upper": True}),
            (
                f'Answer with a JSON object about {topic} with the keys "title" and "topic".',
                {"keys": ["title", "topic"]},
            ),
            (f'Write one sentence about {topic} that ends with the word "{word}".', {"last": word}),
            (f'Write one sentence about {topic} that begins with the word "{word}".', {"first": word}),
            (f"Write exactly {k} lines about {topic}, each of them short.", {"lines": k}),
        ]
        prompt, rule = kinds[n % len(kinds)]
        yield {"kind": "format", "prompt": prompt, "rule": rule}


KNOWLEDGE = """
What is the capital of France?|Paris
What is the capital of Japan?|Tokyo
What is the capital of Egypt?|Cairo
What is the capital of Canada?|Ottawa
What is the capital of Australia?|Canberra
What is the capital of Brazil?|Brasilia;Brasília
What is the capital of Kenya?|Nairobi
What is the capital of Norway?|Oslo
What is the capital of Italy?|Rome
What is the capital of Greece?|Athens
On which continent is Peru?|South America
On which continent is Ghana?|Africa
On which continent is Vietnam?|Asia
Which ocean lies between Europe and North America?|Atlantic
What is the largest ocean?|Pacific
What is the longest river of Africa?|Nile
Which country has the shape of a boot?|Italy
Which planet is closest to the sun?|Mercury
Which planet is known for its rings?|Saturn
What is the largest planet of the solar system?|Jupiter
How many planets does the solar system have?|eight;8
What does the earth orbit?|sun
What orbits the earth once a month?|moon
How many days are in a leap year?|366
How many minutes are in an hour?|60;sixty
How many hours are in a day?|24;twenty four
How many months have 31 days?|seven;7
Which month comes after June?|July
Which day comes before Friday?|Thursday
Which season comes after winter?|spring
How many sides does a triangle have?|three;3
How many sides does a hexagon have?|six;6
How many degrees does a right angle have?|90;ninety
What is half of one hundred?|50;fifty
What is the next prime number after 7?|11;eleven
How many centimetres are in a metre?|100;hundred;one hundred
How many grams are in a kilogram?|1000;1 000;thousand;one thousand
At how many degrees Celsius does water boil at sea level?|100;hundred
At how many degrees Celsius does water freeze?|0;zero
What is frozen water called?|ice
What gas do plants take in for photosynthesis?|carbon dioxide;CO2
What gas do people need to breathe?|oxygen
What is the chemical symbol of gold?|Au
What is the chemical symbol of iron?|Fe
What is the chemical formula of water?|H2O
What metal is attracted by a magnet: iron or wood?|iron
What force pulls things to the ground?|gravity
What instrument measures temperature?|thermometer
What instrument shows the north?|compass
Which organ pumps blood through the body?|heart
With which organ do people see?|eye;eyes
With which organ do people smell?|nose
How many legs does a spider have?|eight;8
How many legs does an insect have?|six;6
What do bees make?|honey
What do caterpillars turn into?|butterfly;butterflies;moth
What is a young dog called?|puppy
What is a young cat called?|kitten
What is a young cow called?|calf
Which animal is known as the king of the jungle?|lion
Which is the tallest land animal?|giraffe
Which is the largest animal of the sea?|blue whale;whale
Which bird cannot fly: the penguin or the eagle?|penguin
What does a herbivore eat?|plants;plant
Where do fish live?|water;sea;ocean
From which animal does wool mostly come?|sheep
From which plant is bread flour mostly made?|wheat
From what is paper mostly made?|wood;trees;pulp
What is made from milk and is yellow and spread on bread?|butter
What fruit is wine made from?|grape;grapes
What colour do blue and yellow make?|green
What colour do red and white make?|pink
What colour is a ripe banana?|yellow
What colour is chlorophyll?|green
Which colours does a zebra have?|black and white;white and black
Who wrote the play Romeo and Juliet?|Shakespeare
Who painted the Mona Lisa?|Leonardo;da Vinci
Who developed the theory of relativity?|Einstein
Who was the first person on the moon?|Armstrong
In which year did the Second World War end?|1945
In which country are the pyramids of Giza?|Egypt
In which city is the Eiffel Tower?|Paris
In which country was chess champion Magnus Carlsen born?|Norway
Which language is mostly spoken in Brazil?|Portuguese
Which language is mostly spoken in Mexico?|Spanish
What is the currency of Japan?|yen
What is the currency of the United Kingdom?|pound;pounds;sterling
What do you call the person who flies an aeroplane?|pilot
What do you call a person who repairs pipes?|plumber
What do you call a doctor for teeth?|dentist
What do you call a doctor for animals?|vet;veterinarian;veterinary
What is used to open a lock?|key
What is used to cut paper?|scissors
What is used to write on a blackboard?|chalk
What do you put on a letter so that it is posted?|stamp
Which number does the Roman numeral X stand for?|10;ten
What is the opposite of hot?|cold
What is the opposite of early?|late
What is the plural of mouse?|mice
What is the past tense of go?|went
Which letter comes after Q in the alphabet?|R
How many letters does the English alphabet have?|26;twenty six
"""


def knowledge() -> Iterator[Item]:
    """Questions nearly everybody can answer."""
    for line in KNOWLEDGE.strip().splitlines():
        question, _, answers = line.partition("|")
        yield {"kind": "knowledge", "prompt": f"{question} Answer in a few words.", "answers": answers.split(";")}


def items() -> list[Item]:
    """All items, each with an id; the same every time."""
    rng = random.Random(20261127)
    found: list[Item] = []
    seen = set[str]()
    for item in (*arithmetic(rng), *reading(rng), *formats(rng), *knowledge()):
        if item["prompt"] not in seen:
            seen.add(item["prompt"])
            found.append({"id": f"{item['kind']}-{sum(f['kind'] == item['kind'] for f in found) + 1}", **item})
    return found


if __name__ == "__main__":
    ITEMS.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in items()), encoding="utf-8")
