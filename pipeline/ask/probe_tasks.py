"""What the probe of a model asks: 12 small tasks for a REPL, and 10 questions over a small repository.

Everything is made here, the same each time, so that two models, or two depths of one, can be compared.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

VERSION = 2  # raise it with every change below: what was probed before says nothing then
_NUM_LINES = 400
_SEED = 20261122


@dataclass(frozen=True, slots=True)
class ReplTask:
    """A question over a text that is longer than anybody shows a model, and its exact answer."""

    question: str
    text: str
    answer: str


def repl_tasks() -> tuple[ReplTask, ...]:
    """Return the 12 tasks."""
    choice = random.Random(_SEED)  # noqa: S311 - no secret
    levels, cities = ("INFO", "WARN", "ERROR"), ("Oslo", "Lima", "Cairo", "Perth", "Turin")
    log = [
        f"{n} {choice.choice(levels)} worker-{choice.randrange(9)} did something" for n in range(_NUM_LINES)
    ]
    numbers = [choice.randrange(10_000) for _ in range(_NUM_LINES)]
    rows = [f"{choice.choice(cities)},{choice.randrange(100)}" for _ in range(_NUM_LINES)]
    config = [f"option_{n} = {choice.randrange(1000)}" for n in range(_NUM_LINES)]
    odd = [*log[:250], "the vault opens with 7319", *log[250:]]
    twice = [*map(str, range(1000, 1000 + _NUM_LINES)), "1234"]

    def told(lines: list[str], question: str, answer: object) -> ReplTask:
        return ReplTask(f"{question} Answer with it alone.", "\n".join(lines), str(answer))

    def count(test: Callable[[str], bool], lines: list[str]) -> int:
        return sum(map(test, lines))

    return (
        told(log, "How many lines of the context contain ERROR?", count(lambda s: "ERROR" in s, log)),
        told(log, "How many lines does the context have?", len(log)),
        told(log, "How many lines contain worker-3?", count(lambda s: "worker-3" in s, log)),
        told(odd, "One line says with which number the vault opens. Which number?", 7319),
        told(odd, "Which line of the context, counted from 1, speaks of a vault?", 251),
        told([*map(str, numbers)], "Each line is a number. What is their sum?", sum(numbers)),
        told([*map(str, numbers)], "Each line is a number. What is the largest?", max(numbers)),
        told(
            rows, "Each line is city,amount. What is the sum of the amounts of Lima?", _sum_of(rows, "Lima")
        ),
        told(rows, "Each line is city,amount. How many different cities are there?", len(cities)),
        told(config, "What is the value of option_217?", config[217].rpartition(" ")[2]),
        told(twice, "Each line is a number. Which one stands there twice?", 1234),
        told(log, "What is the first word of the last line?", log[-1].split()[0]),
    )


def _sum_of(rows: list[str], city: str) -> int:
    return sum(int(row.rpartition(",")[2]) for row in rows if row.startswith(city))


# A shop, so small that anybody sees which function is meant. None of the questions names one.
FILES = {
    "shop/stock.py": '''\
def reserve(shelf, item):
    """Take one piece off the shelf for an order."""
    shelf[item] -= 1


def is_running_out(shelf, item):
    return shelf[item] < 3


def restock(shelf, delivery):
    for item, number in delivery.items():
        shelf[item] = shelf.get(item, 0) + number
''',
    "shop/prices.py": """\
def with_tax(price, rate):
    return round(price * (1 + rate), 2)


def discounted(price, percent):
    return price - price * percent / 100


def cheapest(offers):
    return min(offers, key=lambda offer: offer.price)
""",
    "shop/mail.py": """\
def greeting(customer):
    return f"Dear {customer.first_name},"


def remind(customer, bill):
    send(customer.address, f"Your bill {bill.number} is not paid yet.")
""",
    "shop/text.py": """\
def initials(name):
    return "".join(part[0] for part in name.split())


def shortened(text, limit):
    return text if len(text) <= limit else text[: limit - 3] + "..."
""",
}


@dataclass(frozen=True, slots=True)
class Judgement:
    """A question about the shop, and the one function that it is about."""

    question: str
    right: str  # path::qualname


JUDGEMENTS = (
    Judgement("What adds the value added tax?", "shop/prices.py::with_tax"),
    Judgement("Who warns when few pieces are left?", "shop/stock.py::is_running_out"),
    Judgement("Where is a customer told to pay?", "shop/mail.py::remind"),
    Judgement("What makes a long text fit?", "shop/text.py::shortened"),
    Judgement("Where do new goods arrive?", "shop/stock.py::restock"),
    Judgement("Which code finds the lowest price?", "shop/prices.py::cheapest"),
    Judgement("How does a letter begin?", "shop/mail.py::greeting"),
    Judgement("Where is a price reduced?", "shop/prices.py::discounted"),
    Judgement("What makes J. S. out of a name?", "shop/text.py::initials"),
    Judgement("What happens when something is ordered?", "shop/stock.py::reserve"),
)
