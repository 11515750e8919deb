"""Measures the HTML report: seconds to write it, its size, and seconds until a browser shows it.

The runs are made by hand, with images of 512 x 512 pixels: no worker starts. The browser is
measured where the extra `browser` and a Chromium are installed.

    python benchmarks/html_report.py --cases 200
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from made_runs import Made, made_run, run_in

from harness.report.html.report import write_report

SIDE = 512
SHARES = (0.0, 0.1, 0.36, 1.0)  # of the cases that drifted
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")


def image() -> np.ndarray:
    """Return a smooth picture with some noise, which compresses as a photograph does."""
    rows, columns = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    channels = (rows * columns, np.sin(9 * columns) ** 2, np.cos(7 * rows) ** 2)
    smooth = np.stack(channels, axis=-1)
    noise = np.random.default_rng(0).normal(0, 0.02, smooth.shape)
    return np.clip(smooth + noise, 0, 1).astype(np.float32)[None]


def drifted(expected: np.ndarray, index: int) -> np.ndarray:
    """Return the image with noise everywhere and a patch that differs from case to case."""
    noise = np.random.default_rng(index).normal(0, 1e-3, expected.shape)
    moved = expected + noise.astype(np.float32)
    at = 2 * index % (SIDE - 32)
    moved[0, at : at + 16, at : at + 16] += 0.1
    return np.clip(moved, 0, 1).astype(np.float32)


def measured(folder: Path, cases: int, share: float) -> tuple[float, float, float | None]:
    """Return the seconds to write a report, its size in MiB, and the seconds of a browser."""
    expected = image()
    made = [
        Made(
            f"case-{index:03}",
            {"image": drifted(expected, index) if index < share * cases else expected},
            {"image": expected},
        )
        for index in range(cases)
    ]
    run = run_in(made_run(folder / "run", made))
    path = folder / "report.html"
    begun = time.perf_counter()
    write_report([run], path)
    written = time.perf_counter() - begun
    return written, path.stat().st_size / 2**20, loaded(path)


def loaded(path: Path) -> float | None:
    """Return the seconds until Chromium has loaded and laid out a page; None without one."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    if chromium is None:
        return None
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        page = browser.new_page()
        begun = time.perf_counter()
        page.goto(path.as_uri())
        page.evaluate("document.body.getBoundingClientRect().height")
        seconds = time.perf_counter() - begun
        browser.close()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200)
    cases = parser.parse_args().cases
    print("| cases | drifted | seconds to write | MiB | seconds to load |")
    print("|---|---|---|---|---|")
    for share in SHARES:
        with tempfile.TemporaryDirectory() as folder:
            written, size, seconds = measured(Path(folder), cases, share)
        shown = "not measured" if seconds is None else f"{seconds:.2f}"
        print(
            f"| {cases} | {round(share * cases)} | {written:.1f} | {size:.1f} | {shown} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
