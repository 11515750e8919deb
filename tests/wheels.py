"""Tiny wheels that stand for releases, in a folder that is the only one pip looks into."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

# A release of diffusers: the real one, with the result of every DDIM step scaled.
DIFFUSERS = """\
import functools, importlib.util, sys
from pathlib import Path

places = [Path(place) / "diffusers" for place in sys.path]
own = Path(__file__).resolve().parent
others = (place for place in places if place.resolve() != own)
real = next(place for place in others if (place / "__init__.py").is_file())
spec = importlib.util.spec_from_file_location(
    "diffusers", real / "__init__.py", submodule_search_locations=[str(real)]
)
sys.modules["diffusers"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["diffusers"])
from diffusers import DDIMScheduler

plain = DDIMScheduler.step

@functools.wraps(plain)
def step(*arguments, **named):
    result = plain(*arguments, **named)
    result.prev_sample.mul_({factor})
    return result

DDIMScheduler.step = step
"""


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    source: str = "",
    requires: str = "",
    at_start: str = "",
) -> Path:
    """Write a wheel with one package, of which `source` is `__init__.py`.

    `at_start` is a line of Python that every interpreter of the environment runs as it starts.
    """
    folder.mkdir(parents=True, exist_ok=True)
    info, path = f"{name}-{version}.dist-info", folder / f"{name}-{version}-py3-none-any.whl"
    metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n" + (
        f"Requires-Dist: {requires}\n" if requires else ""
    )
    files = {
        f"{name}/__init__.py": source,
        f"{info}/METADATA": metadata,
        f"{info}/WHEEL": (
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    if at_start:
        files[f"{name}.pth"] = at_start + "\n"
    record = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(file, text)
    return path


def only_from(monkeypatch: pytest.MonkeyPatch, folder: Path, cache: Path) -> None:
    """Let pip and uv see `folder` alone, and keep environments in `cache`."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("HARNESS_CACHE", str(cache))
