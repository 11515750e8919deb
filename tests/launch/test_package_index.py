"""What an index says of a package's releases: by pip, and by the index's own JSON in both of its forms."""

from __future__ import annotations

import json

import pytest
from wheels import only_from, write_wheel

from harness.errors import UsageError
from harness.launch import package_index as index

FILES = {
    "1.0": ("2023-01-05", False),
    "1.1": ("2023-03-01", True),
    "1.2rc1": ("2023-04-01", False),
    "2.0": ("2023-05-01", False),
}


@pytest.fixture(params=["standard", "older"])
def offered(request, tmp_path, monkeypatch):
    """An index on disk with `wobble`, whose days stand in the one or the other JSON."""
    only_from(monkeypatch, tmp_path, tmp_path / "cache")
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    root = tmp_path / "simple"
    monkeypatch.setenv("PIP_INDEX_URL", root.as_uri())
    wheels = {version: write_wheel(root / "wobble", "wobble", version) for version in FILES}
    (root / "wobble" / "index.html").write_text(
        "".join(f'<a href="{w.name}">{w.name}</a>' for w in wheels.values())
    )
    times = {version: (f"{day}T10:00:00Z", yanked) for version, (day, yanked) in FILES.items()}
    standard = {
        "files": [
            {"filename": wheels[v].name, "upload-time": t, "yanked": y}
            for v, (t, y) in times.items()
        ]
    }
    older = {"releases": {v: [{"upload_time": t, "yanked": y}] for v, (t, y) in times.items()}}
    pages = (
        {"simple/wobble/": standard} if request.param == "standard" else {"pypi/wobble/json": older}
    )
    address = tmp_path.as_uri()
    monkeypatch.setattr(
        index,
        "_json",
        lambda asked: json.loads(json.dumps(pages.get(asked.removeprefix(f"{address}/")))),
    )
    index.releases.cache_clear()
    yield root
    index.releases.cache_clear()


def test_releases_come_with_their_days_oldest_first(offered):
    """pip names them; the index's JSON dates them."""
    assert {str(r.version): (r.day, r.yanked) for r in index.releases("wobble")} == FILES
    assert [str(r.version) for r in index.releases("wobble")] == list(FILES)


def test_yanked_and_pre_releases_are_left_out_unless_asked_for(offered):
    """An end that was named is asked for."""
    assert index.between("wobble", "1.0", "2.0") == ["1.0", "2.0"]
    assert index.between("wobble", "1.0", "2.0", withdrawn=True) == ["1.0", "1.1", "1.2rc1", "2.0"]
    assert index.between("wobble", "1.1", "2.0") == ["1.1", "2.0"]


def test_the_newest_release_of_a_day_is_the_last_one_by_then(offered):
    """The day itself counts."""
    assert str(index.newest("wobble", "2023-04-30").version) == "1.0"
    assert str(index.newest("wobble", "2023-05-01").version) == "2.0"
    assert index.newest("wobble", "2022-12-31") is None


@pytest.mark.parametrize(
    ("good", "bad", "message"),
    [
        ("1.5", "2.0", "wobble 1.5 is no release that installs here; there are: 1.0, 1.1, 1.2rc1"),
        ("2.0", "1.0", "--good 2.0 must be older than --bad 1.0"),
        ("latest", "2.0", "expected versions of wobble, found .*latest"),
    ],
)
def test_ends_that_make_no_sense_are_refused(offered, good, bad, message):
    """With what there is instead."""
    with pytest.raises(UsageError, match=message):
        index.between("wobble", good, bad)


def test_an_index_without_days_still_names_releases(tmp_path, monkeypatch):
    """A folder of wheels has none."""
    only_from(monkeypatch, tmp_path, tmp_path / "cache")
    write_wheel(tmp_path, "wobble", "1.0")
    index.releases.cache_clear()
    assert [(str(r.version), r.day) for r in index.releases("wobble")] == [("1.0", "")]
    assert index.newest("wobble", "2030-01-01") is None
    with pytest.raises(UsageError, match="no releases of `wabble` in the package index"):
        index.releases("wabble")
    index.releases.cache_clear()


@pytest.mark.parametrize(
    ("variables", "for_pip"),
    [
        ({}, False),
        ({"PIP_INDEX_URL": "https://here/simple"}, True),
        (
            {"PIP_INDEX_URL": "https://here/simple", "UV_DEFAULT_INDEX": "https://here/simple"},
            False,
        ),
    ],
)
def test_an_index_that_only_pip_knows_is_noticed(monkeypatch, variables, for_pip):
    """uv reads no settings of pip's."""
    for name in (
        "PIP_INDEX_URL",
        "PIP_EXTRA_INDEX_URL",
        "PIP_FIND_LINKS",
        "PIP_NO_INDEX",
        "UV_DEFAULT_INDEX",
        "UV_INDEX_URL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(index, "_pip_settings", list)
    assert index.set_for_pip() is for_pip
