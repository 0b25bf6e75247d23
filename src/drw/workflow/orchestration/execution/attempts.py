"""One call of an activity: completes its arguments with secrets, and redacts them in what it returns and raises."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from drw.kernel.errors import DrwError, InternalError
from drw.workflow.orchestration.activities import ACTIVITIES, Services, StepContext
from drw.workflow.orchestration.activities.activity import Activity, Effect, Transactional
from drw.workflow.orchestration.execution.dependency_graph import Step
from drw.workflow.orchestration.execution.journal.run_journal import Run
from drw.workflow.orchestration.execution.step_arguments import StepArguments
from drw.workflow.orchestration.secrets.redaction import Secrets


class Result(NamedTuple):
    """The output of an activity, and the effect that the transaction of the step's end writes."""

    output: Any
    effect: Effect | None = None


async def perform(services: Services, run: Run, step: Step, arguments: StepArguments, seconds: float) -> Result:
    """Call the activity of a step once.

    Raises:
        DrwError: the call failed, or the desk of the run has no such secret.
    """
    activity = ACTIVITIES[step.node.uses]
    names = arguments.secret_names
    step_context = StepContext(
        run.id, step.id, seconds, arguments.key, run.template.name, run.template.version, secret_names=names
    )
    if not names:
        return _result(await activity.perform(services, step_context, activity.validate(arguments.values)))
    secrets = await services.secrets.read(run.caller, names)
    return await _with_secrets(activity, services, step_context, arguments, secrets)


async def _with_secrets(
    activity: Activity, services: Services, step_context: StepContext, arguments: StepArguments, secrets: Secrets
) -> Result:
    failure: DrwError
    try:
        values = activity.validate(arguments.resolved(secrets))
        result = _result(await activity.perform(services, step_context, values))
        return Result(await asyncio.to_thread(secrets.redacted, result.output), result.effect)
    except TimeoutError:
        raise
    except DrwError as error:
        failure = secrets.redacted_error(error)
    except Exception as error:  # noqa: BLE001 - its message or traceback could have a secret
        failure = InternalError(f"unexpected {type(error).__name__} in a step with secrets")
    raise failure  # outside of the handlers, so that it has no context


def _result(output: Any) -> Result:
    return Result(output.output, output.effect) if isinstance(output, Transactional) else Result(output)
