"""Prefect's and MLflow's pages as a person sees them. One stack for the module, in this order: a form is refused, a
wrong setting fails a run, a run is triggered, watched to its end, and looked at from all sides."""

import re
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from playwright.sync_api import Locator, Page, TimeoutError, expect

from deployments import processes
from deployments.definitions import load_definitions
from deployments.services import services
from deployments.settings import Settings
from flows.sparse_to_dense import sparse_to_dense
from tests.browser.conftest import PATIENCE, Photograph

pytestmark = [pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(3 * PATIENCE)]
expect.set_options(timeout=60_000)
STEPS = 20_000  # minutes of training


@pytest.fixture(scope="module")
def deployment(stack: Settings, page: Page) -> str:
    """Address of the page of deployment ``smoke``, reached as a person does."""
    page.goto(f"{stack.url('prefect')}/deployments")
    page.get_by_role("link", name="smoke", exact=True).click()
    page.wait_for_url("**/deployments/deployment/**")
    return page.url.split("?")[0]


def form(page: Page, deployment: str) -> Locator:
    """Open the run form and wait for its defaults; the box with the run's name."""
    page.goto(f"{deployment}/run")
    page.get_by_text("dry_run").wait_for()
    expect(page.get_by_role("textbox").nth(1)).to_have_value("smoke")
    return page.get_by_role("textbox").first


def submit(page: Page) -> None:
    page.get_by_role("button", name="Submit").click()


def trigger(page: Page, deployment: str, run: str, *overrides: str) -> None:
    """Fill in the form and submit it; ends on the deployment's page."""
    form(page, deployment).fill(run)
    for override in overrides:
        boxes = page.get_by_role("textbox")
        before = boxes.count()
        page.get_by_role("button", name="Add item").nth(1).click()
        expect(boxes).to_have_count(before + 1)
        boxes.nth(2).fill(override)  # after the run's name and the recipe
    for _ in range(4):  # a busy server may refuse, which the page says for a moment only: a person tries again
        submit(page)
        with suppress(TimeoutError):
            page.wait_for_url(re.compile(r"/deployments/deployment/[^/]+$"), timeout=60_000)
            return
    raise AssertionError(f"{run} was not submitted; the page says: {page.inner_text('main')}")


def open_run(page: Page, deployment: str, run: str) -> None:
    page.goto(f"{deployment}?tab=Runs")
    page.get_by_role("link", name=run, exact=True).first.click()
    page.wait_for_url("**/runs/flow-run/**")


def await_state(page: Page, deployment: str, run: str, *states: str) -> None:
    """Watch the deployment's list of runs, which is kept up to date, until ``run`` is in one of the states."""
    page.goto(f"{deployment}?tab=Runs")
    badges = page.locator(".state-list-item").filter(has_text=run).locator(".state-badge")  # two while one is replaced
    expect(badges.filter(has_text=re.compile("|".join(states))).first).to_be_visible(timeout=PATIENCE * 1000)


def tab(page: Page, name: str) -> None:
    page.get_by_role("listitem").filter(has_text=re.compile(f"^{name}$")).click()


def open_artifact(page: Page, deployment: str, key: str) -> None:
    """From the run's page, by its tab."""
    open_run(page, deployment, "first-run")
    tab(page, "Artifacts")
    page.get_by_role("link", name=re.compile(rf"\b{key} Created")).click()
    page.get_by_role("button", name="Show raw data").wait_for()


def test_the_deployments_are_there_with_their_schedules(page: Page, stack: Settings, photograph: Photograph) -> None:
    page.goto(f"{stack.url('prefect')}/deployments")
    for found in load_definitions().deployments:
        expect(page.get_by_role("link", name=found.name, exact=True).first).to_be_visible()
    expect(page.get_by_text("At 02:00 AM every day")).to_be_attached()  # folded away where the column is narrow
    photograph("deployments")


def test_the_run_form_shows_each_parameter_with_its_help_and_default(
    page: Page, deployment: str, photograph: Photograph
) -> None:
    form(page, deployment)
    for parameter in sparse_to_dense.parameters.properties.values():
        expect(page.get_by_text(parameter["description"])).to_be_visible()
    expect(page.get_by_role("spinbutton")).to_have_value("0")
    photograph("run-form")


def test_the_form_refuses_a_seed_that_is_no_number(page: Page, deployment: str, photograph: Photograph) -> None:
    form(page, deployment)
    page.get_by_role("spinbutton").fill("")
    submit(page)
    refusal = page.get_by_text("None is not of type 'integer'")
    expect(refusal).to_be_visible()
    assert page.url.endswith("/run")  # nothing was submitted
    photograph("run-form-refused")


def test_a_wrong_setting_fails_the_run_with_the_configurations_message(
    page: Page, deployment: str, photograph: Photograph
) -> None:
    trigger(page, deployment, "wrong-setting", "stages.opd.steps=0")
    await_state(page, deployment, "wrong-setting", "Failed")
    open_run(page, deployment, "wrong-setting")
    tab(page, "Details")
    expect(page.get_by_text("stages.opd.steps = 0:").locator("visible=true").first).to_be_visible()
    photograph("run-failed")


def test_a_run_is_cancelled_and_its_workers_are_gone_within_15_seconds(
    page: Page, deployment: str, stack: Settings, photograph: Photograph
) -> None:
    trigger(page, deployment, "too-long", f"stages.pretrain_student.steps={STEPS}")
    deadline = time.monotonic() + PATIENCE
    while not (training(stack) and kept(stack)):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    open_run(page, deployment, "too-long")
    page.get_by_role("button", name="Cancel").first.click()
    photograph("run-cancel")
    page.get_by_role("button", name="Confirm").click()
    began = time.monotonic()
    while training(stack):
        assert time.monotonic() - began < 15
        time.sleep(0.2)
    await_state(page, deployment, "too-long", "Cancelled")
    assert kept(stack)


def kept(stack: Settings) -> list[Path]:
    """Checkpoints of the student's pretraining."""
    return list(stack.data.glob("store/stages/pretrain_student-*/checkpoints/step_*"))


def training(stack: Settings) -> list[psutil.Process]:
    """Processes of the Ray head that train the student: Ray names them by their stage."""
    (ray,) = [service for service in services(stack) if service.name == "ray"]
    found = []
    for process in processes.members(ray.mark):
        with suppress(psutil.NoSuchProcess):
            if "pretrain_student" in " ".join(process.cmdline()):
                found.append(process)
    return found


def test_a_run_is_triggered_and_watched_to_its_end(page: Page, deployment: str, photograph: Photograph) -> None:
    trigger(page, deployment, "first-run")
    await_state(page, deployment, "first-run", "Running", "Completed")
    open_run(page, deployment, "first-run")
    expect(page.get_by_text("plan: smoke, 2 arms").first).to_be_visible()  # the log, while it grows
    await_state(page, deployment, "first-run", "Completed")
    photograph("runs")
    open_run(page, deployment, "first-run")
    expect(page.get_by_text(re.compile(r"[1-9]\d* Task runs")).locator("visible=true").first).to_be_visible()
    page.wait_for_timeout(3000)  # the graph is drawn after everything else, and says nothing when it is
    photograph("run")


def test_the_accuracy_of_each_arm_is_a_table(page: Page, deployment: str, photograph: Photograph) -> None:
    open_artifact(page, deployment, "accuracy")
    for arm in ("full", "direct_grpo"):
        expect(page.get_by_role("table").get_by_text(arm, exact=True)).to_be_visible()
    expect(page.get_by_role("columnheader", name="avg@k %")).to_be_visible()
    photograph("artifact-accuracy")


def test_the_contrast_has_an_interval_and_a_verdict(page: Page, deployment: str) -> None:
    open_artifact(page, deployment, "contrasts")
    table = page.get_by_role("table")
    expect(table.get_by_text("full > direct_grpo", exact=True)).to_be_visible()
    expect(table.get_by_text(re.compile("^(holds|does not hold|undecided)$"))).to_be_visible()


def test_the_report_has_pictures(page: Page, deployment: str, photograph: Photograph) -> None:
    open_artifact(page, deployment, "report")
    picture = page.get_by_role("img", name="accuracy", exact=True)
    expect(picture).to_be_visible()
    assert picture.evaluate("picture => picture.naturalWidth") > 100  # drawn, not a broken link
    photograph("artifact-report")


def test_a_link_leads_to_the_mlflow_run_and_its_metrics(
    page: Page, deployment: str, stack: Settings, photograph: Photograph
) -> None:
    open_artifact(page, deployment, "links")
    address = page.get_by_role("link", name=re.compile("^run of ")).get_attribute("href")
    assert address and address.startswith(stack.url("mlflow"))
    page.goto(address)
    expect(page.get_by_role("heading", name="smoke")).to_be_visible()
    page.get_by_role("link", name=re.compile("^opd-")).first.click()
    expect(page.get_by_role("heading", name=re.compile(r"^Metrics \([1-9]"))).to_be_visible()
    photograph("mlflow-run")
