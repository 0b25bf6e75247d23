"""Chat templates (Jinja): rendered in a child process with limits of memory, CPU time and output."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from drw.model_files.errors import ChatTemplateRejected, TemplateFailed
from drw.model_files.limits import DEFAULT, Limits

Message = dict[str, Any]
PROCESS = "drw.model_files.template_process"
CPU_SIGNALS = (-signal.SIGXCPU, -signal.SIGKILL)
"""Exit status at the soft or hard limit of CPU time."""
SAMPLE = "Which limit applies?"


def check(template: str, limits: Limits = DEFAULT) -> str:
    """Render a template with one message of a user, which every chat model accepts; return the prompt.

    The content of the message is a text, or a list of parts for templates of multimodal models that need one.

    Raises:
        ChatTemplateRejected: the template fails, or its prompt lacks the message. See `render`.
    """
    try:
        return _check(template, SAMPLE, limits)
    except TemplateFailed as error:
        try:
            return _check(template, [{"type": "text", "text": SAMPLE}], limits)
        except TemplateFailed:
            raise error from None


def _check(template: str, content: str | list[Message], limits: Limits) -> str:
    prompt = render(template, [{"role": "user", "content": content}], limits)
    if SAMPLE not in prompt:
        raise TemplateFailed("the chat template leaves out the message of the user")
    return prompt


def render(
    template: str,
    messages: Sequence[Message],
    limits: Limits = DEFAULT,
    *,
    add_generation_prompt: bool = True,
    bos_token: str = "<s>",
    eos_token: str = "</s>",
) -> str:
    """Return the prompt of a conversation. Blocks for up to `template_wall_seconds`: call it in a thread.

    The environment is Jinja's `ImmutableSandboxedEnvironment`, configured as in Transformers.

    Raises:
        ChatTemplateRejected: the template is invalid, uses a forbidden attribute, or exceeds a limit.
        TemplateFailed: the template does not accept these messages.
    """
    if len(template.encode(errors="replace")) > limits.template_bytes:
        raise ChatTemplateRejected(f"the chat template exceeds {limits.template_bytes:,} bytes")
    variables = {
        "messages": list(messages),
        "tools": None,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        "bos_token": bos_token,
        "eos_token": eos_token,
    }
    request = {"template": template, "variables": variables, "characters": limits.rendered_characters}
    answer = _answer(json.dumps(request).encode(), limits)
    if "failure" in answer:
        raise TemplateFailed(f"the chat template fails: {answer['failure']}")
    if "prompt" not in answer:
        raise ChatTemplateRejected(f"the chat template {answer.get('error', 'failed')}")
    return str(answer["prompt"])


def _answer(request: bytes, limits: Limits) -> dict[str, Any]:
    """Return the answer of the child process. It writes to a file, whose size its limits bound."""
    bounds = (limits.template_memory_bytes, limits.template_cpu_seconds, limits.rendered_characters * 8 + 4096)
    command = [sys.executable, "-I", "-m", PROCESS, *map(str, bounds)]
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                command,
                input=request,
                stdout=output,
                stderr=subprocess.DEVNULL,
                timeout=limits.template_wall_seconds,
                env={},
                cwd="/",
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"error": f"runs for more than {limits.template_wall_seconds} s"}
        output.seek(0)
        answer = output.read()
    if done.returncode in CPU_SIGNALS:
        return {"error": f"takes more than {limits.template_cpu_seconds} s of CPU time"}
    if done.returncode:
        return {"error": f"ended its process with status {done.returncode}"}
    value: dict[str, Any] = json.loads(answer)
    return value
