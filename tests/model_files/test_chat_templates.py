"""Chat templates: rendered as Transformers does, and attacks that the sandbox stops."""

from __future__ import annotations

from dataclasses import replace

import pytest

from drw.model_files.chat_template import check, render
from drw.model_files.errors import ChatTemplateRejected
from drw.model_files.limits import Limits

CHATML = """\
{% for message in messages %}
    {% if loop.first and message.role != 'system' %}
<|im_start|>system
{{ system | default('You help.') }}<|im_end|>
    {% endif %}
<|im_start|>{{ message['role'] }}
{{ message['content'] | trim }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}
<|im_start|>assistant
{% endif %}"""

LIMITS = replace(Limits(), template_cpu_seconds=1)


def test_template_is_rendered_with_trimmed_blocks() -> None:
    assert check(CHATML) == (
        "<|im_start|>system\nYou help.<|im_end|>\n"
        "<|im_start|>user\nWhich limit applies?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_functions_and_tags_of_transformers_are_available() -> None:
    template = (
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'assistant' %}"
        "{% generation %}{{ m.content }}{% endgeneration %}{{ eos_token }}{% break %}{% endif %}"
        "{{ m | tojson }}{% endfor %}{{ strftime_now('%Y')[:2] }}"
    )
    messages = [{"role": "user", "content": "<é>"}, {"role": "assistant", "content": "yes"}, {"role": "user"}]
    assert render(template, messages) == '<s>{"role": "user", "content": "<é>"}yes</s>20'


def test_namespace_and_macros_are_available() -> None:
    template = (
        "{% set ns = namespace(n=0) %}{% macro show(m) %}[{{ m.content }}]{% endmacro %}"
        "{% for m in messages %}{% set ns.n = ns.n + 1 %}{{ show(m) }}{% endfor %}{{ ns.n }}"
    )
    assert render(template, [{"content": "a"}, {"content": "b"}]) == "[a][b]2"


def test_template_of_a_multimodal_model_may_need_a_list_of_parts() -> None:
    template = (
        "{% for m in messages %}{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}"
        "{% else %}{{ raise_exception('parts only') }}{% endif %}{% endfor %}{% endfor %}"
    )
    assert check(template) == "Which limit applies?"


def test_tools_and_documents_are_none_as_in_transformers() -> None:
    template = (
        "{% if tools is not none or documents is not none %}{{ tools | tojson }}{% endif %}{{ messages[0].content }}"
    )
    assert check(template) == "Which limit applies?"


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ ''.__class__ }}", "is unsafe: access to attribute '__class__'"),
        ("{{ ''['__class__']['__mro__'] }}", "is unsafe"),
        ("{{ ''|attr('__class__') }}", "is unsafe"),
        ("{{ messages.append(1) }}", "is unsafe"),
        ("{{ messages[0].update(a=1) }}", "is unsafe"),
        ("{{ raise_exception.__globals__ }}", "is unsafe"),
        ("{{ self.__init__.__globals__ }}", "is unsafe"),
        ("{{ cycler.__init__.__globals__.os.popen('id').read() }}", "is unsafe"),
        ("{{ '{0.__class__}'.format(1) }}", "is unsafe"),
        ("{% include '/etc/passwd' %}", "fails: TypeError: no loader"),
        ("{% for i in range(10**9) %}{% endfor %}", "fails: OverflowError: Range too big"),
        ("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than 1 s of CPU time"),
        ("{{ 2 ** (10 ** 9) }}", "CPU time|memory"),
        ("{{ ('a' * 10 ** 8) * 100 }}", "more memory"),
        ("{% set x = messages * 10 ** 9 %}{{ x }}", "more memory"),
        ("{% for i in range(99999) %}{{ 'a' * 100 }}{% endfor %}", "writes more than 1,048,576 characters"),
        ("{{ 'a' * 2 ** 21 }}", "writes more than 1,048,576 characters"),
        ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recurses without end"),
        ("{% for m in messages recursive %}{{ loop(messages) }}{% endfor %}", "recurses without end"),
        ("{" + "{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "recurses without end|ended its process"),
        ("{{ 'a'.ljust(10 ** 10) }}", "more memory"),
        ("{{ '%0999999999d' % 1 }}", "memory|writes more"),
        ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
        ("{{ missing.name }}", "fails: UndefinedError"),
        ("{% for %}", "is not valid Jinja: line 1"),
        ("{{ raise_exception('Only tools are supported') }}", "fails: TemplateError: Only tools are supported"),
        ("always the same", "leaves out the message of the user"),
    ],
    ids=lambda value: value[:40],
)
def test_attack_or_faulty_template_is_refused(template: str, reason: str) -> None:
    with pytest.raises(ChatTemplateRejected, match=reason):
        check(template, LIMITS)


def test_size_of_the_template_is_limited() -> None:
    with pytest.raises(ChatTemplateRejected, match="exceeds 262,144 bytes"):
        check("a" * 300_000)


def test_process_that_does_not_end_is_killed() -> None:
    with pytest.raises(ChatTemplateRejected, match="runs for more than 0 s"):
        check(CHATML, replace(Limits(), template_wall_seconds=0))


def test_environment_of_the_caller_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONSTARTUP", "/nothing")
    monkeypatch.setenv("PYTHONPATH", "/nothing")
    assert "Which limit applies?" in check("{{ messages[0].content }}")
