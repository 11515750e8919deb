"""A file that is not what its package installed is named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")

from harness.worker.installed_code import edited_files


def test_an_edited_file_is_named_and_an_unedited_one_is_not(tmp_path: Path, monkeypatch):
    """By the digest that the package recorded; the copy on another path counts as the file."""
    import diffusers.image_processor as original

    assert edited_files() == []
    copy = tmp_path / "image_processor.py"
    copy.write_text(Path(original.__file__).read_text(encoding="utf-8") + "#\n", encoding="utf-8")
    folder = tmp_path / "diffusers"
    folder.mkdir()
    copy = copy.rename(folder / copy.name)
    module = ModuleType("diffusers.image_processor")
    module.__file__ = str(copy)
    monkeypatch.setitem(sys.modules, "diffusers.image_processor", module)
    assert edited_files() == ["diffusers/image_processor.py"]
