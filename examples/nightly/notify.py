"""Tell a chat or a web hook when a screen fails or its process dies: a Prefect automation.

    python examples/nightly/notify.py https://hooks.example.org/...

Sends one POST with the run's name and state, once for each run. Made again, it replaces itself.
"""

import sys
from contextlib import suppress

from prefect.automations import Automation
from prefect.blocks.notifications import CustomWebhookNotificationBlock
from prefect.events.actions import SendNotification
from prefect.events.schemas.automations import EventTrigger
from prefect.events.schemas.events import ResourceSpecification

NAME = "mlff-screen-failures"


def notify(url: str) -> Automation:
    """Register the automation with the server that PREFECT_API_URL names."""
    block = CustomWebhookNotificationBlock(
        name=NAME, url=url, json_data={"text": "{{subject}}: {{body}}"}
    )
    block_id = block.save(NAME, overwrite=True)
    with suppress(ValueError):  # there is none yet
        Automation.read(name=NAME).delete()
    automation = Automation(
        name=NAME,
        description="A screen failed, or its process died.",
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match_related=ResourceSpecification(
                {"prefect.resource.role": "flow", "prefect.resource.name": "screen"}
            ),
            for_each={"prefect.resource.id"},
            posture="Reactive",
            threshold=1,
        ),
        actions=[
            SendNotification(
                block_document_id=block_id,
                subject="{{ flow_run.name }}: {{ flow_run.state.name }}",
                body="{{ flow_run|ui_url }}",
            )
        ],
    )
    return automation.create()


if __name__ == "__main__":
    print(f"automation {notify(sys.argv[1]).name!r}")
