"""Small chat templates, each with the rules of a family that refuses or drops some histories."""

MISTRAL = """\
{{- bos_token }}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content %}{% set messages = messages[1:] %}
{%- endif %}
{%- set ns = namespace(index=0) %}
{%- for m in messages %}
    {%- if m.role != 'tool' and m.tool_calls is not defined %}
        {%- if (m.role == 'user') != (ns.index % 2 == 0) %}
            {{- raise_exception('roles must alternate user/assistant/user/assistant/...') }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- if m.role == 'user' %}
        {%- if tools and loop.last %}{{- '[TOOLS]' ~ (tools | tojson) ~ '[/TOOLS]' }}{% endif %}
        {{- '[INST] ' }}
        {%- if loop.first and system is defined %}{{- system + '\\n\\n' }}{% endif %}
        {{- m.content + '[/INST]' }}
    {%- elif m.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in m.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}
                {{- raise_exception('Ids of calls must have 9 characters!') }}
            {%- endif %}
            {{- (call.function | tojson)[:-1] ~ ', "id": "' ~ call.id ~ '"}' }}
            {{- ']' if loop.last else ', ' }}
        {%- endfor %}
        {{- eos_token }}
    {%- elif m.role == 'tool' %}
        {%- if m.tool_call_id is not defined or m.tool_call_id | length != 9 %}
            {{- raise_exception('Ids of calls must have 9 characters!') }}
        {%- endif %}
        {{- '[TOOL_RESULTS] {"content": ' ~ m.content ~ ', "call_id": "' ~ m.tool_call_id }}
        {{- '"}[/TOOL_RESULTS]' }}
    {%- else %}{{- ' ' ~ m.content ~ eos_token }}
    {%- endif %}
{%- endfor %}"""

ONE_CALL = """\
{%- if tools %}{{- tools | tojson }}{% endif %}
{%- for m in messages %}
    {{- '<|im_start|>' ~ m.role ~ '\\n' }}
    {%- if 'tool_calls' in m %}
        {%- if m.tool_calls | length != 1 %}{{- raise_exception('One call at once!') }}{% endif %}
        {%- set call = m.tool_calls[0].function %}
        {{- '{"name": "' ~ call.name ~ '", "parameters": ' ~ (call.arguments | tojson) ~ '}' }}
    {%- else %}{{- m.content }}
    {%- endif %}
    {{- '<|im_end|>' }}
{%- endfor %}"""

GPT_OSS = """\
{%- if tools %}{{- tools | tojson }}{% endif %}
{%- set head = '' %}
{%- if messages[0].role in ['system', 'developer'] %}
    {%- set head = messages[0].content %}{% set messages = messages[1:] %}
{%- endif %}
{{- '<|im_start|>developer ' ~ head ~ 'Reasoning: ' ~ (reasoning_effort or 'medium') }}
{%- set last = namespace(name=none) %}
{%- for m in messages %}
    {%- if m.role == 'assistant' %}
        {%- if 'tool_calls' in m %}
            {%- set final = namespace(found=false) %}
            {%- for later in messages[loop.index:] %}
                {%- if later.role == 'assistant' and 'tool_calls' not in later %}
                    {%- set final.found = true %}
                {%- endif %}
            {%- endfor %}
            {%- set call = m.tool_calls[0].function %}
            {%- if m.content and m.thinking %}
                {{- raise_exception('Cannot pass both content and thinking!') }}
            {%- elif (m.content or m.thinking) and not final.found %}
                {{- '<|im_start|>analysis ' ~ (m.content or m.thinking) ~ '<|im_end|>' }}
            {%- endif %}
            {%- set last.name = call.name %}
            {{- '<|im_start|>to=functions.' ~ call.name ~ ' ' ~ (call.arguments | tojson) }}
        {%- else %}
            {{- '<|im_start|>final ' ~ m.content ~ '<|im_end|>' }}
            {%- set last.name = none %}
        {%- endif %}
    {%- elif m.role == 'tool' %}
        {%- if last.name is none %}{{- raise_exception('There was no call before it!') }}{% endif %}
        {{- '<|im_start|>functions.' ~ last.name ~ ' ' ~ (m.content | tojson) ~ '<|im_end|>' }}
    {%- elif m.role == 'user' %}{{- '<|im_start|>user ' ~ m.content ~ '<|im_end|>' }}
    {%- endif %}
{%- endfor %}"""

KIMI = """\
{%- if tools %}{{- tools | tojson }}{% endif %}
{%- for m in messages %}
    {{- '<|im_start|>' ~ m.role ~ '\\n' }}
    {%- if m.role == 'tool' %}{{- '## Return of ' ~ m.tool_call_id ~ '\\n' }}{% endif %}
    {{- m.content or '' }}
    {%- for call in m.tool_calls or [] %}
        {%- set arguments = call.function.arguments %}
        {{- '<call>' ~ call.id ~ '<arguments>' }}
        {{- (arguments if arguments is string else arguments | tojson) ~ '</call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}"""

GEMMA3 = """\
{%- if messages[0].role == 'system' %}
    {%- set first = messages[0].content ~ '\\n\\n' %}{% set messages = messages[1:] %}
{%- endif %}
{%- for m in messages %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate user/assistant') }}
    {%- endif %}
    {{- '<|im_start|>' ~ m.role ~ '\\n' ~ (first if loop.first and first is defined else '') }}
    {{- m.content | trim ~ '<|im_end|>\\n' }}
{%- endfor %}"""

MAGISTRAL = """\
{%- if tools %}{{- tools | tojson }}{% endif %}
{%- for m in messages %}
    {{- '[' ~ m.role ~ ']' }}
    {%- if m.content is string %}{{- m.content }}
    {%- else %}
        {%- for part in m.content %}
            {%- if part.type == 'text' %}{{- part.text }}
            {%- elif part.type == 'thinking' %}{{- '[THINK]' ~ part.thinking ~ '[/THINK]' }}
            {%- else %}{{- raise_exception('Only text and thinking are supported.') }}
            {%- endif %}
        {%- endfor %}
    {%- endif %}
    {%- for call in m.tool_calls or [] %}
        {{- '[TOOL_CALLS]' ~ call.function.name ~ '[ARGS]' ~ (call.function.arguments | tojson) }}
    {%- endfor %}
{%- endfor %}"""

REASONING_KEY = """\
{%- for m in messages %}
    {{- '<|im_start|>' ~ m.role ~ '\\n' }}
    {%- if m.reasoning %}{{- '<think>' ~ m.reasoning ~ '</think>' }}{% endif %}
    {{- m.content ~ '<|im_end|>\\n' }}
{%- endfor %}"""

LEVELS = """\
{%- set level = reasoning_effort | default('xhigh') %}
{%- if level not in ('xhigh', 'medium', 'low') %}
    {{- raise_exception('Unexpected reasoning effort.') }}
{%- endif %}
{{- 'effort=' ~ level }}
{%- for m in messages %}{{- m.content }}{% endfor %}"""

NO_SYSTEM = """\
{%- for m in messages %}
    {%- if m.role == 'system' %}{{- raise_exception('System role not supported') }}{% endif %}
    {{- m.role ~ ':' ~ m.content ~ '<|im_end|>\\n' }}
{%- endfor %}"""

STRICT_TEMPLATES = {
    "mistral": MISTRAL,
    "one_call": ONE_CALL,
    "gpt_oss": GPT_OSS,
    "kimi": KIMI,
    "gemma3": GEMMA3,
    "magistral": MAGISTRAL,
    "reasoning_key": REASONING_KEY,
    "levels": LEVELS,
    "no_system": NO_SYSTEM,
}
