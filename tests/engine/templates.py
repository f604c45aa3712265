"""Small chat templates of the kinds that models bring."""

CHATML = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

LLAMA3 = """\
{% for message in messages %}
{% set content = '<|im_start|>' + message['role'] + '[INST]\\n\\n' + message['content'] | trim %}
{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}
{{ content + '<|im_end|>' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant[INST]\\n\\n' }}{% endif %}"""

STRICT = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content + '\\n\\n' %}
    {%- set messages = messages[1:] %}
{%- endif %}
{%- for message in messages %}
    {%- if (message.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate.') }}
    {%- endif %}
    {%- if message.role == 'user' %}
        {{- '[INST] ' + (system if loop.last and system is defined else '') + message.content }}
        {{- ' [/INST]' }}
    {%- else %}
        {{- ' ' + message.content.strip() + eos_token }}
    {%- endif %}
{%- endfor %}"""

PARTS = """\
{%- macro show(content) %}
    {%- if content is string %}{{- '(' + content + ')' }}
    {%- else %}
        {%- for part in content if part.type == 'text' %}{{- '(' + part.text + ')' }}{% endfor %}
    {%- endif %}
{%- endmacro %}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- show(message.content) + eos_token }}{%- endgeneration %}
    {%- else %}
        {{- '<|im_start|>' ~ message.role ~ '|' ~ show(message.content) ~ '<|im_end|>' }}
    {%- endif %}
{%- endfor %}"""

ONLY_PARTS = """\
{%- for message in messages %}
    {%- for part in message.content %}{{- '[' + part['text'] + ']' }}{% endfor %}
{%- endfor %}"""

REASONING = """\
{%- for message in messages %}
    {%- set content = message.content %}
    {%- set reasoning = '' %}
    {%- if message.reasoning_content is string %}
        {%- set reasoning = message.reasoning_content %}
    {%- elif '</think>' in content and message.role == 'assistant' %}
        {%- set reasoning = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1] %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- if reasoning %}
        {{- '<think>\\n' + reasoning.strip('\\n') + '\\n</think>\\n\\n' }}
    {%- endif %}
    {{- content + '<|im_end|>\\n' }}
{%- endfor %}
{{- '<|im_start|>assistant\\n<think>\\n' }}"""

STRIPPING = """\
{{- bos_token }}
{%- for message in messages %}
    {%- set content = message['content'] %}
    {%- if message['role'] == 'assistant' and '</think>' in content %}
        {%- set content = content.split('</think>')[-1] %}
    {%- endif %}
    {{- '<|im_start|>' ~ message['role'] ~ ' ' ~ content ~ '<|im_end|>' }}
{%- endfor %}"""

SWITCH = """\
{%- for message in messages %}
    {{- '<|im_start|>' + message.content | replace('/no_think', '') + '<|im_end|>' }}
{%- endfor %}
{%- if '/no_think' in messages[-1].content %}{{- 'quick' }}{%- else %}{{- '<think>' }}{% endif %}"""

TOOLS = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- for tool in tools %}{{- tool | tojson ~ '\\n' }}{% endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ ' ' ~ message.name | default('') ~ '\\n' }}
    {{- message.content | default('', true) | trim }}
    {%- for call in message.tool_calls | default([]) %}
        {{- '<tool_call>' ~ call.function.name ~ call.id }}
        {%- for key, value in call.function.arguments | items %}
            {{- key ~ '=' ~ (value if value is string else value | tojson(indent=2)) }}
        {%- endfor %}
        {{- '</tool_call>' ~ (call | tojson) }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}"""

CALLS = """\
{%- for message in messages %}
    {{- message.content }}
    {%- for call in message.tool_calls %}{{- '(' ~ SHOWN ~ ')' }}{% endfor %}
{%- endfor %}"""

DEVELOPER = """\
{%- for message in messages %}
    {%- if message.role in ['system', 'developer'] %}{{- 'dev: ' }}{% endif %}
    {{- message.content }}
{%- endfor %}"""

VARIABLES = """\
{%- set inner = bos_token %}
{{- '<|im_start|>' + inner + 'style=' + style | default('none') + messages[0].content }}"""

POLITE = """\
{%- if messages[0].content == 'a' %}{{ raise_exception("No 'please' was said.") }}{% endif %}
{{- messages[0].content }}"""

FAILING = """\
{%- set text = messages[-1].content %}
{%- macro deep(n) %}{{ deep(n + 1) }}{% endmacro %}
{%- if text == 'undefined' %}{{ messages[9].content.nothing }}
{%- elif text == 'type' %}{{ 'a' + 1 }}
{%- elif text == 'zero' %}{{ 1 / 0 }}
{%- elif text == 'sandbox' %}{{ text.__class__.__mro__ }}
{%- elif text == 'deep' %}{{ deep(0) }}
{%- endif %}"""

TEMPLATES = {
    "chatml": CHATML,
    "llama3": LLAMA3,
    "strict": STRICT,
    "parts": PARTS,
    "only_parts": ONLY_PARTS,
    "reasoning": REASONING,
    "stripping": STRIPPING,
    "switch": SWITCH,
    "tools": TOOLS,
    "objects": CALLS.replace("SHOWN", "call.function.arguments"),
    "json_text": CALLS.replace("SHOWN", "('' + call.function.arguments)"),
    "developer": DEVELOPER,
    "variables": VARIABLES,
    "failing": FAILING,
    "polite": POLITE,
}
