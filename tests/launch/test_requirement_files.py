"""Requirements files: what they ask for, on which line, and every mistake with its place."""

from __future__ import annotations

import pytest

from harness.errors import FileError, UsageError
from harness.launch.requirement_files import read_requirements


@pytest.fixture
def written(tmp_path):
    """Write a requirements file, and return its path."""

    def write(text, name="requirements.txt"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def asked_by(path):
    return [
        (str(each.requirement), each.where.rpartition(":")[2]) for each in read_requirements(path)
    ]


def test_a_lock_file_as_installers_write_it_is_read(written):
    """Comments, blank lines, hashes over several lines, extras and markers."""
    path = written(
        "# by pip-compile\n"
        "\n"
        "numpy==2.4.6 \\\n"
        "    --hash=sha256:00 \\\n"
        "    --hash=sha256:01\n"
        "fsspec[http]>=2023.5,<2027  # via huggingface-hub\n"
        "tqdm==4.70.1 ; python_version >= '3.9'\n"
        "colorama==0.4.6 ; sys_platform == 'no-such-system'\n"
    )
    assert asked_by(path) == [
        ("numpy==2.4.6", "3"),
        ("fsspec[http]<2027,>=2023.5", "6"),
        ('tqdm==4.70.1; python_version >= "3.9"', "7"),
    ]


def test_a_name_is_known_by_its_canonical_form(written):
    """As package indexes do."""
    (found,) = read_requirements(written("Huggingface_Hub==2.4.0\n"))
    assert found.name == "huggingface-hub"


def test_an_included_file_is_read_in_its_place(written, tmp_path):
    """Its path is relative to the file that includes it."""
    written("numpy==2.4.6\n", "base.txt")
    path = written("-r base.txt\ndiffusers==0.42.1\n")
    found = read_requirements(path)
    assert [each.where for each in found] == [f"{tmp_path / 'base.txt'}:1", f"{path}:2"]


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("numpy==2\nnot a package\n", ":2", "found `not a package`"),
        ("--index-url https://example.org/simple\n", ":1", "found the option `--index-url"),
        ("-e .\n", ":1", "leave editable installs out"),
        ("torch @ https://example.org/torch.whl\n", ":1", "found the address of torch"),
        ("numpy==2 ; os_name ~= 'posix'\n", ":1", "its marker cannot be evaluated"),
        ("numpy==2\n\nnumpy==2 \\\n", ":3", "expected another line"),
    ],
)
def test_a_line_that_is_no_package_is_refused_with_its_place(written, text, place, words):
    """The message says what to write in its stead."""
    path = written(text)
    with pytest.raises(UsageError) as caught:
        read_requirements(path)
    assert str(caught.value).startswith(f"{path}{place}: ")
    assert words in str(caught.value)


def test_a_file_that_cannot_be_used_is_refused(written, tmp_path):
    """It is not there, says nothing, is no text, or leads back to itself."""
    bad = tmp_path / "bad.txt"
    bad.write_bytes(b"numpy\xff")
    for path, words in (
        (tmp_path / "missing.txt", "does not exist"),
        (tmp_path, "is no file"),
        (written("# nothing\n", "empty.txt"), "asks for no package"),
        (bad, "cannot be read"),
        (written("-r round.txt\n", "round.txt"), "includes itself"),
    ):
        with pytest.raises(FileError, match=words):
            read_requirements(path)
