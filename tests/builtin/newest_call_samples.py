"""Samples of the newest families, and all samples."""

from __future__ import annotations

from tests.builtin.call_samples import PARIS, both, none, one
from tests.builtin.call_samples import SAMPLES as OLDER

MUSE_CALL = (
    '<atem:function_calls>\n<atem:invoke name="get_weather">\n'
    '<atem:parameter name="city">Paris</atem:parameter>\n'
    '<atem:parameter name="days">2</atem:parameter>\n</atem:invoke>\n</atem:function_calls>'
)
MUSE_TIME = (
    '<atem:function_calls>\n<atem:invoke name="get_time">\n</atem:invoke>\n</atem:function_calls>'
)
MUSE = [
    both("muse", f"{MUSE_CALL}\n{MUSE_TIME}"),
    both(
        "muse",
        f" to=get_weather<|message|>{MUSE_CALL}<|eom|><|start|>assistant to=get_time<|message|>"
        f"{MUSE_TIME}<|eot|>",
    ),
    one("muse", f"I look.\n{MUSE_CALL}", "I look."),
    one(
        "muse",
        MUSE_CALL.replace("Paris", " an </atem:parameter> "),
        "",
        '{"city": " an </atem:parameter> ", "days": 2}',
    ),
    none("muse", " to=user<|message|>Hello"),
    none("muse", "to= or not to="),
    none("muse", MUSE_CALL[:90]),
]
MINICPM_CALL = (
    '<function name="get_weather"><param name="city">Paris</param>'
    '<param name="days">2</param></function>'
)
MINICPM = [
    both("minicpm5", f'So.\n{MINICPM_CALL}\n<function name="get_time"></function>', "So."),
    one(
        "minicpm5",
        MINICPM_CALL.replace("Paris", "<![CDATA[<b> & </param>\n]]>"),
        "",
        '{"city": "<b> & </param>\\n", "days": 2}',
    ),
    one(
        "minicpm5",
        MINICPM_CALL.replace("Paris", "<![CDATA[a]]]]><![CDATA[>b]]>"),
        "",
        '{"city": "a]]>b", "days": 2}',
    ),
    none("minicpm5", MINICPM_CALL[:-3]),
    none("minicpm5", '<function name="get_weather">oops</function>'),
]
K3_CALL = (
    '<|open|>call tool="get_weather" index="1"<|sep|>'
    '<|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|>'
    '<|open|>argument key="days" type="number"<|sep|>2<|close|>argument<|sep|><|close|>call<|sep|>'
)
K3_JSON = (
    '<|open|>call tool="get_weather" index="1"<|sep|>'
    f'<|open|>json type="object"<|sep|>{PARIS}<|close|>json<|sep|><|close|>call<|sep|>'
)
K3_TIME = K3_JSON.replace("weather", "time").replace(PARIS, "{}")
K3, K3_END = "<|open|>tools<|sep|>", "<|close|>tools<|sep|>"
KIMI_K3 = [
    both("kimi-k3", f"{K3}{K3_CALL}{K3_TIME}{K3_END}"),
    both("kimi-k3", f"So.\n{K3}\n{K3_JSON}\n{K3_TIME}\n{K3_END}\n", "So."),
    one(
        "kimi-k3",
        f"{K3}{K3_CALL}{K3_END}".replace('key="city"', 'key="a&quot;&amp;"').replace("Paris", "5"),
        "",
        '{"a\\"&": "5", "days": 2}',
    ),
    none("kimi-k3", f"{K3}{K3_CALL[:-3]}"),
    none("kimi-k3", f"{K3}{K3_JSON.replace(PARIS, '[1]')}"),
    none("kimi-k3", f"{K3}oops{K3_END}"),
]

SAMPLES = [*OLDER, *MUSE, *MINICPM, *KIMI_K3]
