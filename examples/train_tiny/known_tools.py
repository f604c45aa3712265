"""A few tools as applications really define them, with natural questions (training only)."""

from typing import Any

from tools import call
from words import Words

UNITS = ["celsius", "fahrenheit"]


def function(name: str, description: str, properties: dict[str, Any], need: list[str]) -> Any:
    parameters = {"type": "object", "properties": properties, "required": need}
    body = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": body}


def text(description: str = "") -> dict[str, str]:
    return {"type": "string", "description": description} if description else {"type": "string"}


def weather(words: Words) -> tuple[Any, str, Any]:
    rng = words.rng
    name = rng.choice(("get_weather", "get_weather", "get_weather", "get_current_weather"))
    field = rng.choice(("location", "location", "city"))
    properties: dict[str, Any] = {
        field: text(rng.choice(("City name", "City name", "The city", "")))
    }
    has_unit = rng.random() < 0.6
    if has_unit:
        properties["unit"] = {"type": "string", "enum": UNITS}
    about = rng.choice(("Get current weather for a location", "Get the current weather",
                        "Get the weather for a city"))  # fmt: skip
    place = words.place()
    form = rng.choice(
        ("What's the weather in {x}?", "What is the weather in {x}?", "How is the weather in {x}?",
         "Weather in {x}", "Is it raining in {x}?", "Tell me the weather in {x}.",
         "What's the weather like in {x}?", "What is the temperature in {x}?",
         "What's the weather in {x} today?", "How warm is it in {x}?")
    )  # fmt: skip
    arguments = {field: place}
    question = form.replace("{x}", place)
    if has_unit and rng.random() < 0.4:
        arguments["unit"] = rng.choice(UNITS)
        question = question.rstrip(".?") + f" in {arguments['unit']}?"
    return function(name, about, properties, [field]), question, call(name, arguments)


def simple(words: Words) -> tuple[Any, str, Any]:
    rng = words.rng
    integer = {"type": "integer"}
    number = {"type": "number"}
    place, name, word = words.place(), words.name(), words.phrase(1, 3).rstrip(".!?")
    amount = rng.randint(1, 500)
    rows = [
        ("get_time", "Get the time in a city", {"city": text()}, "What time is it in {0}?",
         [place]),
        ("search_web", "Search the web", {"query": text("What to search")},
         "Search the web for {0}", [word]),
        ("send_email", "Send an email", {"to": text(), "subject": text()},
         "Send an email to {0} with subject {1}", [name, word]),
        ("set_timer", "Set a timer", {"minutes": integer}, "Set a timer for {0} minutes.",
         [amount]),
        ("play_music", "Play a song", {"song": text()}, "Play the song {0}", [word]),
        ("get_stock_price", "Get a stock price", {"symbol": text("Ticker symbol")},
         "What is the stock price of {0}?", [name.upper()[:4]]),
        ("convert_currency", "Convert money", {"amount": number, "to": text()},
         "Convert {0} to {1}", [amount, rng.choice(("EUR", "USD", "GBP", "JPY"))]),
        ("translate", "Translate text", {"text": text(), "language": text()},
         'Translate "{0}" to {1}', [word, rng.choice(("French", "German", "Spanish", "Italian"))]),
        ("book_flight", "Book a flight", {"origin": text(), "destination": text()},
         "Book a flight from {0} to {1}", [place, words.place()]),
        ("add", "Add two numbers", {"a": integer, "b": integer}, "Add {0} and {1}",
         [amount, rng.randint(1, 500)]),
        ("set_brightness", "Set the brightness", {"room": text(), "level": integer},
         "Set the brightness in the {0} to {1}", [words.word(), amount]),
    ]  # fmt: skip
    tool, about, properties, form, values = rng.choice(rows)
    question = form.format(*values)
    arguments = dict(zip(properties, values, strict=True))
    return function(tool, about, properties, list(properties)), question, call(tool, arguments)


def known_question(words: Words) -> tuple[list[Any], str, list[Any]]:
    rng = words.rng
    tool, question, calls = (weather if rng.random() < 0.5 else simple)(words)
    tools = [tool]
    while rng.random() < 0.35 and len(tools) < 3:
        other = (weather if rng.random() < 0.3 else simple)(words)[0]
        # one weather tool at a time, so that the question has one right answer
        if not any(other["function"]["name"][:7] == t["function"]["name"][:7] for t in tools):
            tools.insert(rng.randint(0, len(tools)), other)
    return tools, question, [calls]
