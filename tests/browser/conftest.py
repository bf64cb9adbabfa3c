"""The servers of one machine, really started, and a real Chromium in front of them."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from deployments.settings import Settings
from deployments.stack import recorded
from tests.deployments.serving import command, free_ports

# Where pictures for the docs go (`make screenshots`); else they end with the test.
SCREENSHOTS = os.environ.get("S2D_SCREENSHOTS")

PATIENCE = 240.0  # seconds; a page takes two, and what it waits for is a run of the smoke recipe

Photograph = Callable[[str], None]


@pytest.fixture(scope="module")
def stack() -> Iterator[Settings]:
    with tempfile.TemporaryDirectory(prefix="s2d-", ignore_cleanup_errors=True) as folder:
        data = Path(folder)
        try:
            done = command(data, "start", *free_ports())
            assert done.returncode == 0, done.stderr
            yield recorded(data)
        finally:
            command(data, "stop")


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of the system's Chromium: Playwright's own would be a download of another version on every machine."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium on this machine: make chromium")
    with sync_playwright() as playwright:
        # Neither root nor a container with a small /dev/shm is anything unusual where tests run.
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        # Pages must not wait for anything beyond this machine, nor Chromium ask for it.
        arguments.append("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        page = browser.new_page(viewport={"width": 1440, "height": 900}, locale="en-GB", timezone_id="UTC")
        page.set_default_timeout(60_000)
        page.set_default_navigation_timeout(PATIENCE * 1000)
        yield page
        browser.close()


@pytest.fixture
def photograph(page: Page, tmp_path: Path) -> Photograph:
    """Take the picture ``name``, of what is in sight."""
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path

    def take(name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(1000)  # pages fade in
        page.screenshot(path=folder / f"{name}.png")

    return take
