"""What models of all families write, and the calls and the content it stands for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from budmlx.plugins.parsing import Call, Tool

WEATHER = Tool(
    "get_weather",
    "Weather of a city",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "units": {"enum": ["c", "f"]},
            "exact": {"type": ["boolean", "null"]},
            "near": {"$ref": "#/$defs/place"},
        },
        "required": ["city"],
        "$defs": {"place": {"type": "object", "properties": {"lat": {"type": "number"}}}},
    },
)
TIME = Tool("get_time", "The time", {"type": "object", "properties": {}})
TOOLS = (WEATHER, TIME)

PARIS = '{"city": "Paris", "days": 2}'
WEATHER_CALL = Call("get_weather", PARIS)
TIME_CALL = Call("get_time", "{}")


def deep(text: str) -> str:
    return f"<\uff5c{text.replace(' ', chr(0x2581))}\uff5c>"


@dataclass(frozen=True)
class Sample:
    family: str
    text: str
    calls: tuple[Call, ...] = ()
    content: str = ""


def both(family: str, text: str, content: str = "") -> Sample:
    return Sample(family, text, (WEATHER_CALL, TIME_CALL), content)


def one(family: str, text: str, content: str = "", arguments: str = PARIS) -> Sample:
    return Sample(family, text, (Call("get_weather", arguments),), content)


def identified(family: str, text: str, *ids: str | None, content: str = "") -> Sample:
    """As many of the two calls as there are ids."""
    made = (replace(call, id=i) for call, i in zip((WEATHER_CALL, TIME_CALL), ids, strict=False))
    return Sample(family, text, tuple(made), content)


def none(family: str, text: str) -> Sample:
    """Text without a call comes back as it is."""
    return Sample(family, text, (), text)


def hermes(name: str, arguments: str, space: str = "\n") -> str:
    call = f'{{"name": "{name}", "arguments": {arguments}}}'
    return f"<tool_call>{space}{call}{space}</tool_call>"


HERMES = [
    both("hermes", hermes("get_weather", PARIS) + "\n" + hermes("get_time", "{}")),
    both("hermes", hermes("get_weather", PARIS, "") + hermes("get_time", "{}", "")),
    both(
        "hermes",
        f"I look.\n\n{hermes('get_weather', PARIS)} \n{hermes('get_time', 'null')}\n",
        "I look.",
    ),
    both(
        "hermes",
        f"  {hermes('get_weather', PARIS)} and then {hermes('get_time', '{}')}\nDone. ",
        " and then\nDone. ",
    ),
    one("hermes", '<tool_call>{"arguments": {"a": 1}, "name": "get_weather"}', "", '{"a": 1}'),
    one("hermes", f'<tool_call>{{"name": "get_weather", "parameters": {PARIS}}}\n</tool_'),
    one("hermes", hermes("get_weather", '"{\\"city\\": \\"Paris\\"}"'), "", '{"city": "Paris"}'),
    one(
        "hermes",
        hermes("get_weather", '{"city":"</tool_call>\\"{"}'),
        "",
        '{"city":"</tool_call>\\"{"}',
    ),
    one("hermes", hermes("get_weather", '{"\\u00e9": "é😀"}'), "", '{"\\u00e9": "é😀"}'),
    one(
        "hermes",
        hermes("get_weather", '{\n "a":[{},[1.5e3,null]]}'),
        "",
        '{\n "a":[{},[1.5e3,null]]}',
    ),
    Sample("hermes", '<tool_call>{"name": "other"}</tool_call>', (Call("other", "{}"),)),
    Sample(
        "hermes",
        f'<tool_call>{{"name": <tool_call>{hermes("get_time", "{}")}',
        (TIME_CALL,),
        '<tool_call>{"name": <tool_call>',
    ),
    none("hermes", "1 < 2 <tool_cal and <b>bold</b> <tool"),
    none("hermes", " \n just space \n\n"),
    none("hermes", "\n"),
    none("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par'),
    none("hermes", hermes("get_weather", "[1]")),
    none("hermes", hermes("get_weather", '{"city": Paris}')),
    none("hermes", hermes("get_weather", '{"city": "a\nb"}')),
    none("hermes", hermes("get_weather", '{"city": ["a"}')),
    none("hermes", hermes("get_weather", '{"city": "a" "b"}')),
    none("hermes", hermes("get_weather", '{"a": NaN}')),
    none("hermes", hermes("get_weather", '"{"')),
    none("hermes", hermes("", "{}")),
    none("hermes", '<tool_call>{"name": "f", "arguments": {}, "city": "Paris"}</tool_call>'),
    none("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    none("hermes", "<tool_call> get_weather</tool_call>"),
    none("hermes", "<tool_call></tool_call>"),
    none("hermes", hermes("get_weather", "{}").replace("}\n", "} so\n")),
]

LLAMA_CALL = f'{{"name": "get_weather", "parameters": {PARIS}}}'
LLAMA = [
    one("llama", LLAMA_CALL),
    one("llama", f"\n{LLAMA_CALL}\n"),
    one("llama", f"<|python_tag|>{LLAMA_CALL}"),
    one("llama", f"I look. <|python_tag|> {LLAMA_CALL}", "I look."),
    one("llama", LLAMA_CALL.replace('{"name"', '{"type": "function", "name"')),
    one("llama", LLAMA_CALL.replace("parameters", "arguments").replace('"name"', '"function"')),
    both("llama", f'{LLAMA_CALL}; {{"name": "get_time", "parameters": {{}}}}'),
    both("llama", f'{LLAMA_CALL}\n{{"name": "get_time", "parameters": {{}}}}'),
    one("llama", f"{LLAMA_CALL}; so", "; so"),
    one("llama", f"{LLAMA_CALL} {{}}", " {}"),
    none("llama", '{"answer": 42}'),
    none("llama", '{"name": "Paris", "population": 2}'),
    none("llama", '{"name": "Paris"}'),
    none("llama", f"So: {LLAMA_CALL}"),
    none("llama", "<|python_tag|>print(1)"),
    none("llama", "{"),
]

MISTRAL_LIST = f'[{{"name": "get_weather", "arguments": {PARIS}, "id": "abcdef123"}}'
MISTRAL = [
    identified(
        "mistral",
        f'[TOOL_CALLS] {MISTRAL_LIST}, {{"id": "x", "name": "get_time", "arguments": {{}}}}]',
        "abcdef123",
        "x",
    ),
    identified(
        "mistral", f'[TOOL_CALLS] [{{"id": "", "name": "get_weather", "arguments": {PARIS}}}]', None
    ),
    identified(
        "mistral",
        f"[TOOL_CALLS]get_weather[CALL_ID]a1[ARGS]{PARIS}[TOOL_CALLS]get_time[ARGS]{{}}",
        "a1",
        None,
    ),
    both("mistral", f"[TOOL_CALLS]get_weather[ARGS]{PARIS}[TOOL_CALLS]get_time[ARGS]{{}}"),
    identified(
        "mistral",
        f"I look.[TOOL_CALLS]get_weather[CALL_ID]abcdef123[ARGS]{PARIS}",
        "abcdef123",
        content="I look.",
    ),
    one("mistral", f"[TOOL_CALLS]get_weather{PARIS}"),
    identified("mistral", f"[TOOL_CALLS]{MISTRAL_LIST}", "abcdef123"),
    identified("mistral", f"[TOOL_CALLS]{MISTRAL_LIST}, oops]", "abcdef123", content=", oops]"),
    none("mistral", "[TOOL_CALLS]"),
    none("mistral", "[TOOL_CALLS]get_weather[ARGS]"),
    none("mistral", "[TOOL_CALLS]get_weather so"),
    none("mistral", "[TOOL_CALLS][]"),
    none("mistral", "[1] and [TOOL"),
]

KIMI_WEATHER = (
    f"<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{PARIS}"
    "<|tool_call_end|>"
)
KIMI_TIME = KIMI_WEATHER.replace("weather:0", "time:12").replace(PARIS, " {} ")
KIMI_IDS = ("functions.get_weather:0", "functions.get_time:12")
SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
KIMI = [
    identified("kimi-k2", f"{SECTION}{KIMI_WEATHER}{KIMI_TIME}{SECTION_END}", *KIMI_IDS),
    identified(
        "kimi-k2",
        f"So.\n{SECTION}\n{KIMI_WEATHER}\n{KIMI_TIME}\n{SECTION_END}\n",
        *KIMI_IDS,
        content="So.",
    ),
    identified("kimi-k2", KIMI_WEATHER, KIMI_IDS[0]),
    identified(
        "kimi-k2",
        f"{SECTION}{KIMI_WEATHER.replace('functions.', '')}{SECTION_END} Done",
        "get_weather:0",
        content=" Done",
    ),
    identified(
        "kimi-k2",
        f"{SECTION}{KIMI_WEATHER}<|tool_call_begin|>oops{SECTION_END}",
        KIMI_IDS[0],
        content="<|tool_call_begin|>oops",
    ),
    none("kimi-k2", f"{SECTION}{KIMI_WEATHER[:-22]}"),
    none("kimi-k2", f"{SECTION} nothing {SECTION_END}"),
]

DEEP, DEEP_END = deep("tool calls begin"), deep("tool calls end")
DEEP_V3 = (
    f"{deep('tool call begin')}function{deep('tool sep')}get_weather\n```json\n{PARIS}\n```"
    f"{deep('tool call end')}"
)
DEEP_V31 = f"{deep('tool call begin')}get_weather{deep('tool sep')}{PARIS}{deep('tool call end')}"
DEEPSEEK = [
    both(
        "deepseek",
        f"{DEEP}{DEEP_V3}\n{DEEP_V3.replace('weather', 'time').replace(PARIS, '{}')}{DEEP_END}",
    ),
    both(
        "deepseek",
        f"{DEEP}{DEEP_V31}{DEEP_V31.replace('weather', 'time').replace(PARIS, '{}')}{DEEP_END}",
    ),
    one("deepseek", f"I look.{DEEP}{DEEP_V31}", "I look."),
    one("deepseek", f"{DEEP}{DEEP_V3[:-18]}"),
    none("deepseek", f"{DEEP}{deep('tool call begin')}get_weather so"),
]

HARMONY_HEAD = "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
HARMONY = [
    one("harmony", f"{HARMONY_HEAD}{PARIS}<|call|>"),
    one("harmony", f"{HARMONY_HEAD}{PARIS}"),
    one("harmony", f"I look.<|start|>assistant{HARMONY_HEAD}{PARIS}<|call|>", "I look."),
    one(
        "harmony", f" to=functions.get_weather<|channel|>commentary json<|message|>{PARIS}<|call|>"
    ),
    both(
        "harmony",
        f"{HARMONY_HEAD}{PARIS}<|call|><|start|>assistant to=functions.get_time"
        "<|channel|>commentary json<|message|>{}<|call|>",
    ),
    none("harmony", "<|channel|>final<|message|>Hello"),
    none("harmony", f"{HARMONY_HEAD}print(1)<|call|>"),
    none("harmony", "to= or not to="),
    none("harmony", "<|channel|>comm"),
]


def qwen(name: str, **arguments: str) -> str:
    inner = "".join(f"<parameter={k}>\n{v}\n</parameter>\n" for k, v in arguments.items())
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


QWEN_CALL = qwen("get_weather", city="Paris", days="2")
QWEN = [
    both("qwen3-coder", f"{QWEN_CALL}\n{qwen('get_time')}"),
    both("qwen3-coder", f"I look.\n\n{QWEN_CALL}\n{qwen('get_time')}\nSo", "I look.\nSo"),
    one("qwen3-coder", QWEN_CALL[len("<tool_call>\n") :]),
    one(
        "qwen3-coder",
        qwen("get_weather", city="\n if a < b:\n  </parameter </function>\n"),
        "",
        r'{"city": "\n if a < b:\n  </parameter </function>\n"}',
    ),
    one(
        "qwen3-coder",
        qwen("get_weather", city="7", days="many", exact="True", units="c", near='{"lat": 1.50}'),
        "",
        '{"city": "7", "days": "many", "exact": true, "units": "c", "near": {"lat": 1.50}}',
    ),
    one(
        "qwen3-coder",
        qwen("get_weather", city="null", days="2.0", exact="null", other="[1]", more="x"),
        "",
        '{"city": "null", "days": 2, "exact": null, "other": [1], "more": "x"}',
    ),
    none("qwen3-coder", QWEN_CALL[:-24]),
    none("qwen3-coder", "<tool_call>\n<function=get_weather>oops</function></tool_call>"),
    none("qwen3-coder", "<tool_call>{}</tool_call> and <function"),
]

GLM_CALL = (
    "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>"
)
GLM = [
    both("glm", f"{GLM_CALL}\n<tool_call>get_time\n</tool_call>"),
    both("glm", f"\n{GLM_CALL}\n<tool_call>get_time</tool_call>So", "So"),
    one("glm", GLM_CALL.replace("\n", "")),
    one("glm", GLM_CALL.replace("Paris", " a\n"), "", r'{"city": " a\n", "days": 2}'),
    none("glm", GLM_CALL[:-13]),
    none("glm", "<tool_call>not a call</tool_call>"),
    both(
        "longcat",
        f"{GLM_CALL}<tool_call>get_time</tool_call>".replace("<", "<longcat_").replace(
            "<longcat_/", "</longcat_"
        ),
    ),
]

MINIMAX_CALL = (
    '<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n'
    '<parameter name="days">2</parameter>\n</invoke>\n'
)
MINIMAX_TIME = '<invoke name="get_time">\n</invoke>\n'
MINIMAX_TEXT = f"<minimax:tool_call>\n{MINIMAX_CALL}{MINIMAX_TIME}</minimax:tool_call>"
MINIMAX = [
    both("minimax-m2", MINIMAX_TEXT),
    both("minimax-m2", f"So.\n{MINIMAX_TEXT}\n", "So."),
    one("minimax-m2", MINIMAX_CALL),
    none("minimax-m2", MINIMAX_TEXT[:60]),
    none("minimax-m2", "<minimax:tool_call>oops</minimax:tool_call>"),
]

PYTHONIC_CALL = 'get_weather(city="Paris", days=2)'
PYTHON_LITERALS = [
    ('a="""x"y]\nz""", b=\'\', c=""', '{"a": "x\\"y]\\nz", "b": "", "c": ""}'),
    ("a='''it's'''", '{"a": "it\'s"}'),
    (r"a=r'C:\new', b='C:\\new'", r'{"a": "C:\\new", "b": "C:\\new"}'),
    (
        "a=.5, b=0x1F, c=1_000, d=-.5e3, e=+1, f=5.",
        '{"a": 0.5, "b": 31, "c": 1000, "d": -500.0, "e": 1, "f": 5.0}',
    ),
    ("a='b' \"c\", d=('e'), f=('g',), h=[1,]", '{"a": "bc", "d": "e", "f": ["g"], "h": [1]}'),
]
PYTHONIC = [
    both("pythonic", f"[{PYTHONIC_CALL}, get_time()]"),
    one("pythonic", f"<|python_start|>[{PYTHONIC_CALL}]<|python_end|>"),
    one("pythonic", f"\n[ {PYTHONIC_CALL} ] "),
    one(
        "pythonic",
        """[get_weather(a='it\\'s "]"\\n\n', b=[True, {"x": None}, (1, -2.5)], c=false)]""",
        "",
        r"""{"a": "it's \"]\"\n\n", "b": [true, {"x": null}, [1, -2.5]], "c": false}""",
    ),
    one(
        "pythonic",
        r'[get_weather(a="\u00e9\x41\d\ud83d\ude00")]',
        "",
        r'{"a": "\u00e9A\\d\ud83d\ude00"}',
    ),
    none("pythonic", '[get_weather(a="""x]""]'),
    none("pythonic", "[get_weather(a=nan)]"),
    none("pythonic", "[1] is a reference"),
    none("pythonic", "[get_weather(1)]"),
    none("pythonic", "[get_weather(a=b)]"),
    none("pythonic", "[get_weather(a=1), 2]"),
    none("pythonic", '[get_weather(a="1'),
    none("pythonic", f"So: [{PYTHONIC_CALL}]"),
    both("lfm2", f"<|tool_call_start|>[{PYTHONIC_CALL}, get_time()]<|tool_call_end|>"),
    one("lfm2", f"So <|tool_call_start|>[{PYTHONIC_CALL}]<|tool_call_end|> then", "So then"),
    none("lfm2", "<|tool_call_start|>oops<|tool_call_end|>"),
    *(
        one(family, begin + text + end, "", wanted)
        for family, begin, end in (
            ("pythonic", "[get_weather(", ")]"),
            ("lfm2", "<|tool_call_start|>[get_weather(", ")]<|tool_call_end|>"),
        )
        for text, wanted in PYTHON_LITERALS
    ),
]

GEMMA_CALL = '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,days:2}<tool_call|>'
# What stands in the braces, with ~ for the family's own quote.
GEMMA_QUOTES = [
    ('city:"hello world out there"', '{"city": "hello world out there"}'),
    ("city:'hello world out there'", '{"city": "hello world out there"}'),
    ('"city":"ab"', '{"city": "ab"}'),
    ("'city':~ab~", '{"city": "ab"}'),
    ('a:{"b": ["c", \'d, e\', ~f~]}', '{"a": {"b": ["c", "d, e", "f"]}}'),
    ('a:["x", ~y~],city:~say "x"~', '{"a": ["x", "y"], "city": "say \\"x\\""}'),
    ('city:"say "hi", now",days:2', '{"city": "say \\"hi\\", now", "days": 2}'),
    (r'city:"a\nb\u00e9"', '{"city": "a\\nbé"}'),
    (r"city:'it\'s \"x\"'", '{"city": "it\'s \\"x\\""}'),
    (r"city:~C:\new~", r'{"city": "C:\\new"}'),
    ('city:"",near:~~', '{"city": "", "near": ""}'),
    ("city:Paris", '{"city": "Paris"}'),
    ("city:New York, NY,days:2", '{"city": "New York, NY", "days": 2}'),
    ("a:[x, y z],exact:True,b:None", '{"a": ["x", "y z"], "exact": true, "b": null}'),
    ("city:it's,days:-1.5e3", '{"city": "it\'s", "days": -1.5e3}'),
    ("city:http://a.b/?c=1,zip:01234", '{"city": "http://a.b/?c=1", "zip": "01234"}'),
    ("~x:y~:1,city:{a:{}}", '{"x:y": 1, "city": {"a": {}}}'),
]
FUNCTION_GEMMA_CALL = (
    "<start_function_call>call:get_weather{city:<escape>Paris<escape>,days:2}<end_function_call>"
)
GEMMA = [
    both("gemma4", f"{GEMMA_CALL}<|tool_call>call:get_time{{}}<tool_call|>"),
    one(
        "gemma4",
        'So\n<|tool_call>call:get_weather{a:[<|"|>}"x<|"|>,true],b:{c:null,<|"|>d<|"|>:1}}<tool_call|>',
        "So",
        r'{"a": ["}\"x", true], "b": {"c": null, "d": 1}}',
    ),
    none("gemma4", GEMMA_CALL[:-13]),
    none("gemma4", "<|tool_call>call:get_weather{city:<tool_call|>"),
    one("function-gemma", FUNCTION_GEMMA_CALL),
    *(
        one(family, begin + inner.replace("~", quote) + end, "", wanted)
        for family, begin, quote, end in (
            ("gemma4", "<|tool_call>call:get_weather{", '<|"|>', "}<tool_call|>"),
            (
                "function-gemma",
                "<start_function_call>call:get_weather{",
                "<escape>",
                "}<end_function_call>",
            ),
        )
        for inner, wanted in GEMMA_QUOTES
    ),
    Sample(
        "gemma4",
        "<|tool_call>call:server:tool.x/y-z {a: 1} <tool_call|>",
        (Call("server:tool.x/y-z", '{"a": 1}'),),
    ),
    one("gemma4", GEMMA_CALL[:-12]),
    one("gemma4", GEMMA_CALL[:-5]),
    Sample(
        "gemma4",
        '<|tool_call>call:f{a:<|"|>x<tool_call|> and <|tool_call>call:get_time{}<tool_call|>',
        (TIME_CALL,),
        '<|tool_call>call:f{a:<|"|>x<tool_call|> and',
    ),
    none("gemma4", '<|tool_call>call:get_weather{city:"Paris}<tool_call|>'),
    none("gemma4", '<|tool_call>call:get_weather{city:<|"|>Paris}<tool_call|>'),
    none("gemma4", "<|tool_call>call:get_weather{city:}<tool_call|>"),
    none("gemma4", "<|tool_call>call:get_weather{city:Paris} so<tool_call|>"),
    none("function-gemma", FUNCTION_GEMMA_CALL[:50]),
]

OTHERS = [
    identified(
        "cohere",
        '<|START_ACTION|>[\n    {"tool_call_id": "0", "tool_name": "get_weather", '
        f'"parameters": {PARIS}}},\n    {{"tool_call_id": "1", "tool_name": "get_time", '
        '"parameters": {}}\n]<|END_ACTION|>',
        "0",
        "1",
    ),
    both(
        "granite",
        f'<|tool_call|>[{{"name": "get_weather", "arguments": {PARIS}}}, '
        '{"name": "get_time", "arguments": {}}]',
    ),
]

SAMPLES = [
    *HERMES,
    *LLAMA,
    *MISTRAL,
    *KIMI,
    *DEEPSEEK,
    *HARMONY,
    *QWEN,
    *GLM,
    *MINIMAX,
    *PYTHONIC,
    *GEMMA,
    *OTHERS,
]
