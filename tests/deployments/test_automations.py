"""Automations on a real server: all there, once, however often they are registered; what is switched off stays off."""

from collections.abc import Iterator

import pytest
from prefect.client.orchestration import SyncPrefectClient, get_client

from deployments.automations import HEARTBEAT, NOTIFY, SILENCE, register_automations
from s2d_core.errors import ConfigError

pytestmark = pytest.mark.slow


@pytest.fixture
def client(prefect_server: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[SyncPrefectClient]:
    monkeypatch.delenv(NOTIFY, raising=False)
    with get_client(sync_client=True) as client:
        yield client


def test_registering_twice_leaves_each_once_and_what_was_switched_off_off(client: SyncPrefectClient) -> None:
    names = register_automations(client)
    (late,) = client.read_automations_by_name("s2d: schedule missed")
    client.pause_automation(late.id)
    assert register_automations(client) == names
    found = {each.name: each for each in client.read_automations()}
    assert sorted(found) == sorted(names)
    assert [name for name, each in found.items() if not each.enabled] == ["s2d: schedule missed"]


def test_a_run_is_called_crashed_after_more_than_three_heartbeats_of_silence(client: SyncPrefectClient) -> None:
    from prefect.settings.models.flows import FlowsSettings

    register_automations(client)
    (silence,) = client.read_automations_by_name("s2d: run without a heartbeat")
    frequency = FlowsSettings.model_fields["heartbeat_frequency"].default
    assert SILENCE.total_seconds() > 3 * frequency
    assert silence.trigger.within == SILENCE and silence.trigger.after == {HEARTBEAT}
    assert [action.state.value for action in silence.actions] == ["CRASHED"]


def test_notifications_go_to_the_block_that_is_named_and_one_that_is_not_there_is_refused(
    client: SyncPrefectClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefect.blocks.notifications import CustomWebhookNotificationBlock

    monkeypatch.setenv(NOTIFY, "custom-webhook/team")
    with pytest.raises(ConfigError, match=r"S2D_NOTIFY = 'custom-webhook/team'.*prefect block ls"):
        register_automations(client)
    block = CustomWebhookNotificationBlock(name="team", url="http://127.0.0.1:9", json_data={"text": "{{body}}"})
    document = block.save("team")
    register_automations(client)
    (failed,) = client.read_automations_by_name("s2d: run failed")
    assert [action.block_document_id for action in failed.actions] == [document]
