"""Small chat templates in the manner of those that models bring, with tools and reasoning."""

from typing import Any

_ASKS = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
_CALLS = (
    "{% for c in m.tool_calls or [] %}{% set f = c.function or c %}"
    '{{ \'\\n<tool_call>\\n{"name": "\' + f.name + \'", "arguments": \' }}{{ f.arguments | tojson }}'
    "{{ '}\n</tool_call>' }}{% endfor %}"
)
_TOOLS = (
    "{% if tools %}{{ '<|im_start|>system\nCall these:' }}{% for t in tools %}{{ '\n' }}{{ t | tojson }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endif %}"
)
_RESULT = "{{ '<|im_start|>user\n<tool_response>\n' + m.content + '\n</tool_response><|im_end|>\n' }}"
CHATML_TOOLS = (
    _TOOLS + "{% for m in messages %}{% if m.role == 'tool' %}" + _RESULT + "{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content }}" + _CALLS + "{{ '<|im_end|>\n' }}{% endif %}{% endfor %}" + _ASKS
)
"""Tools and calls, no reasoning: the kind of Qwen 2.5 and Hermes."""
THINKS = (
    _TOOLS + "{% set ns = namespace(asked=-1) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.asked = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% if m.role == 'tool' %}" + _RESULT + "{% elif m.role == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.asked and (loop.last or m.reasoning_content) %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content }}" + _CALLS + "{{ '<|im_end|>\n' }}"
    "{% else %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}" + _ASKS
)
"""Reasoning of the answers to the last question only: the kind of Qwen 3."""
THINKS_MARKED = THINKS.replace(
    "{{ '<|im_start|>assistant\n' }}{% if loop.index0 > ns.asked and (loop.last or m.reasoning_content) %}",
    "{{ '<|im_start|>assistant\n' }}{% generation %}{% if m.reasoning_content %}",
).replace(
    "{{ m.content }}" + _CALLS + "{{ '<|im_end|>\n' }}{% else %}",
    "{{ m.content }}" + _CALLS + "{{ '<|im_end|>\n' }}{% endgeneration %}{% else %}",
)
"""Its training template: all reasoning, and marks around the answers."""
LLAMA_TOOLS = (
    "{{ bos_token }}{% if tools %}{{ '<|start_header_id|>system<|end_header_id|>\n\n' }}"
    "{% for t in tools %}{{ t | tojson }}{% endfor %}{{ '<|eot_id|>' }}{% endif %}{% for m in messages %}"
    "{% if m.tool_calls %}{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at a time') }}{% endif %}"
    "{% set f = m.tool_calls[0].function %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{{ '{\"name\": \"' + f.name + '\", \"parameters\": ' }}{{ f.arguments | tojson }}{{ '}<|eot_id|>' }}"
    "{% elif m.role in ('tool', 'ipython') %}{{ '<|start_header_id|>ipython<|end_header_id|>\n\n' }}"
    "{{ m.content | tojson }}{{ '<|eot_id|>' }}{% else %}"
    "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
"""The kind of Llama 3.1."""
MARKS = ("<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TOOL = {"type": "function", "function": {"name": "count", "parameters": {"properties": {"bird": {"type": "string"}}}}}


def call(arguments: Any, name: str = "count") -> dict[str, Any]:
    """A message of the assistant that calls the tool and says nothing."""
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}


TOOL_TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "How many geese?"},
    call({"bird": "goose"}),
    {"role": "tool", "name": "count", "tool_call_id": "1", "content": '{"geese": 4}'},
    {"role": "assistant", "content": "Four grey geese."},
]
