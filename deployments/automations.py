"""``python -m deployments.automations``: what Prefect does by itself when a run fails, a gate fails, a schedule is
missed or a run's machine dies. Doing it again changes nothing but what has changed.

Notifications go where the block that S2D_NOTIFY names sends them (TYPE/NAME, for example slack-webhook/team). Without
one, an automation that fires is seen in the server's event feed only.
"""

import os
import sys
from datetime import timedelta

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.events.actions import ChangeFlowRunState, DoNothing, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_API_URL
from prefect.states import StateType

from s2d_core.errors import ConfigError, S2DError
from tasks.report import GATE_FAILED

NOTIFY = "S2D_NOTIFY"
RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
OURS = {"prefect.resource.role": "tag", "prefect.resource.id": "prefect.tag.s2d"}
HEARTBEAT = "prefect.flow-run.heartbeat"
SILENCE = timedelta(minutes=10)  # more than three of Prefect's heartbeats, which are 180 s apart
ENDED = ("Completed", "Failed", "Cancelled", "Crashed")


def register_automations(client: SyncPrefectClient) -> list[str]:
    """Create or update every automation; returns their names. One that somebody has switched off stays off.

    Raises ConfigError when the block for notifications is not there.
    """
    wanted = automations(_notification(client))
    for automation in wanted:
        if there := client.read_automations_by_name(automation.name):
            enabled = there[0].enabled
            client.update_automation(there[0].id, automation.model_copy(update={"enabled": enabled}))
        else:
            client.create_automation(automation)
    return [automation.name for automation in wanted]


def automations(notification: SendNotification | DoNothing) -> list[AutomationCore]:
    """All of them. Runs are told by the tag ``s2d`` that every deployment has."""
    return [
        AutomationCore(
            name="s2d: run failed",
            description="A run failed or crashed, a finding other than expected included.",
            trigger=_when("prefect.flow-run.Failed", "prefect.flow-run.Crashed"),
            actions=[notification],
        ),
        AutomationCore(
            name="s2d: gate failed",
            description="A finished run has a bridge whose conditions (C1, C2) do not hold.",
            trigger=_when(GATE_FAILED),
            actions=[notification],
        ),
        AutomationCore(
            name="s2d: schedule missed",
            description="A run was due and has not started: no worker serves its pool, or all are busy.",
            trigger=_when("prefect.flow-run.Late"),
            actions=[notification],
        ),
        AutomationCore(
            name="s2d: run without a heartbeat",
            description="The machine of a run died with its worker: nobody else would say that the run has ended.",
            trigger=EventTrigger(
                match=RUNS,
                match_related=OURS,
                for_each={"prefect.resource.id"},
                after={HEARTBEAT},
                expect={HEARTBEAT, *(f"prefect.flow-run.{state}" for state in ENDED)},
                posture=Posture.Proactive,
                within=SILENCE,
            ),
            actions=[
                ChangeFlowRunState(
                    state=StateType.CRASHED,
                    message=f"no heartbeat for {SILENCE.seconds // 60} minutes: its worker or machine is gone; "
                    "trigger the run again, it goes on from the last checkpoints",
                )
            ],
        ),
    ]


def _when(*events: str) -> EventTrigger:
    return EventTrigger(match=RUNS, match_related=OURS, expect=set(events), posture=Posture.Reactive, threshold=1)


def _notification(client: SyncPrefectClient) -> SendNotification | DoNothing:
    if not (given := os.environ.get(NOTIFY)):
        return DoNothing()
    type_, _, name = given.partition("/")
    try:
        block = client.read_block_document_by_name(name, type_)
    except ObjectNotFound as error:
        raise ConfigError(
            f"{NOTIFY} = {given!r}: no such block; it must read TYPE/NAME, for example slack-webhook/team: prefect "
            "block ls shows those there are"
        ) from error
    return SendNotification(
        block_document_id=block.id,
        subject="{{ automation.name }}: {{ flow_run.name }}",
        body="{{ flow.name }} / {{ flow_run.name }}: {{ flow_run.state.message }}\n{{ flow_run|ui_url }}",
    )


def main() -> int:
    api = PREFECT_API_URL.value()
    try:
        if not api:
            raise ConfigError("PREFECT_API_URL is not set: give the address of the server, http://HOST:4200/api")
        with get_client(sync_client=True) as client:
            print("\n".join(f"registered {name}" for name in register_automations(client)))
    except httpx.TransportError as error:
        print(f"error: PREFECT_API_URL = {api}: no Prefect server answers ({error})", file=sys.stderr)
        return 1
    except S2DError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
