"""The README's installation in a clean environment: a wheel, pip, `ois demo`, a click on its page.

    OIS_TEST_CLEAN_INSTALL=1 pytest tests/scenarios/commands/test_clean_install.py

On request, because it downloads a gigabyte and exports engines: two to four minutes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ois_cli.demo.samples import PHOTOGRAPHS
from support.demo.page import DemoPage, chromium, open_browser
from support.documents import ROOT, blocks

pytestmark = pytest.mark.skipif(
    not os.environ.get("OIS_TEST_CLEAN_INSTALL"),
    reason="downloads a gigabyte; OIS_TEST_CLEAN_INSTALL=1 runs it",
)
PATIENCE_S = 1500


def lines_of_the_readme() -> list[str]:
    """From a checkout to the running demo, as the README has them."""
    [install] = [block for block in blocks(ROOT / "README.md") if "pip wheel" in block.text]
    lines = [
        line.partition("  #")[0].removeprefix("$ ").strip() for line in install.text.splitlines()
    ]
    wheel, pip = (next(line for line in lines if word in line) for word in ("wheel", "*.whl"))
    assert lines[-1] == "ois demo"
    return [wheel, pip]


def test_a_wheel_in_a_clean_environment_runs_the_demo(tmp_path: Path) -> None:
    program = chromium()
    if program is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    home = tmp_path / "home"
    home.mkdir()
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "clean"], check=True)
    binaries = tmp_path / "clean" / "bin"
    given = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    clean = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(home), **given}
    wheel, pip = lines_of_the_readme()
    for line, place in ((wheel.replace("dist", str(tmp_path / "dist")), ROOT), (pip, tmp_path)):
        ran = subprocess.run(
            line, shell=True, cwd=place, env=clean, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr[-3000:]

    log = tmp_path / "demo.log"
    with log.open("w") as output:
        demo = subprocess.Popen(
            [binaries / "ois", "demo", "--no-browser"], cwd=home, env=clean, stdout=output,
            stderr=output,
        )  # fmt: skip
    try:
        until = time.monotonic() + PATIENCE_S
        while "ready" not in (said := log.read_text()):
            assert demo.poll() is None, said
            assert time.monotonic() < until, said
            time.sleep(0.5)
        address = re.search(r"page: +(http://\S+?)/?\s", said)
        assert address is not None, said
        assert "Triton on this machine" in said
        with open_browser(program) as browser:
            page = DemoPage(browser.new_page(), address[1]).load()
            page.open(PHOTOGRAPHS[0].path)
            page.click(page.size[0] / 2, page.size[1] / 2)
            page.expect_clicks("Object 1", 1)
            assert page.mask().any()
            assert page.complaints == []
    finally:
        demo.send_signal(signal.SIGINT)
        assert demo.wait(timeout=60) == 0
    assert (home / "engines" / "ois-photo-cpu" / "manifest.json").exists()
