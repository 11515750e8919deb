"""How commands end: exit codes, errors, signals."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import builders
import pytest
from printed import verdicts
from processes import SECONDS, is_running, start, wait_until

from harness import __version__
from harness.commands.main import HOMES, commands_for, main
from harness.launch import availability
from harness.store.run_folder import read_results


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fly"], "invalid choice: 'fly'"),
        (["run", "nowhere"], "nowhere: no such file or folder"),
        (["run", "-k", "sd"], "none of 1 cases fits -k 'sd'"),
        (["run", "-k", "digits and"], "expected a word, found the end"),
        (
            ["run", "--device", "tpu"],
            "invalid choice: 'tpu' (choose from cpu, cuda, ascend, endpoint)",
        ),
        (["run", "--jobs", "many"], "expected a whole number >= 1, found 'many'"),
        (["run", "--on", "slurm"], "expected ray://HOST:PORT, ray or ray-local, found 'slurm'"),
        (["run", "--accelerator", "H100"], "name the cluster with --on"),
        (["run", "--jobs", "0"], "expected a whole number >= 1, found '0'"),
        (["record", "-j", "-3"], "expected a whole number >= 1, found '-3'"),
        (["run", "--env", "diffusers"], "expected a package with its version"),
        (["explain", "nowhere", "--root-causes", "0"], "expected a whole number >= 1, found '0'"),
        (["explain", "nowhere"], "nowhere: does not exist"),
        (["report", "nowhere"], "nowhere: does not exist"),
        (["accept", "nowhere", "--reason", "x"], "nowhere: does not exist"),
        (["gate", "nowhere", "--policy", "nowhere"], "nowhere: does not exist"),
        (["env", "--device", "cuda"], "no CUDA device on this machine"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_code_2_and_says_what_is_wrong(arguments: list[str], said: str, shop):
    """Nothing runs, nothing is written, nothing is printed to standard output."""
    shop.scenario()
    done = shop.harness(*arguments)
    assert done.code == 2
    assert said in done.err
    assert done.out == ""
    assert [path.name for path in shop.root.iterdir()] == ["scenarios"]


@pytest.mark.parametrize(
    "command",
    [
        *("list", "run", "record", "accept", "env", "report", "gate"),
        *("explain", "bisect", "calibrate", "forecast", "challenge", "cost"),
    ],
)
def test_every_command_has_help_with_an_example_and_the_exit_codes(command: str, shop):
    """Whoever sees it first learns how it is called and what its code means."""
    done = shop.harness(command, "--help")
    assert done.code == 0
    assert f"example:\n  harness {command} " in done.out
    assert "exit codes:\n  0  " in done.out


def test_a_mistake_in_a_scenario_is_exit_code_2_with_its_line(shop):
    """It is told before anything runs; the scenarios that are right run all the same."""
    shop.scenario()
    shop.scenario("wrong", seed="one")
    done = shop.harness("run")
    assert done.code == 2
    assert done.err.startswith(
        "harness: scenarios/wrong.yaml:5: `seed`\n"
        "  expected: a whole number >= 0\n"
        "  found:    'one' (a string)\n"
        "[1/1] missing "
    )


def test_results_of_another_format_are_exit_code_2(shop):
    """A file that cannot be trusted is named, with what to do; it is no defect of the harness."""
    (shop.root / "results.json").write_text('{"format": "harness-results/9"}', encoding="utf-8")
    done = shop.harness("report", ".")
    assert done.code == 2
    assert "results.json: has format 'harness-results/9'" in done.err
    assert "\n  do: " in done.err


def test_a_defect_of_the_harness_is_exit_code_4_with_its_traceback(
    shop, monkeypatch: pytest.MonkeyPatch
):
    """It is never mistaken for a finding about the pipeline."""
    shop.scenario()
    monkeypatch.setattr(availability, "availability", lambda case: 1 // 0)
    done = shop.harness("list")
    assert done.code == 4
    assert "ZeroDivisionError" in done.err
    assert "this is a defect of the harness" in done.err


# Signals. One case ends at once and says which process ran it; the next one takes too long.


def start_two_cases(
    folder: Path, script: Path, *, seconds: float = 600.0, nohup: bool = False
) -> subprocess.Popen[str]:
    """Start `harness run`, and return when its second case is running."""
    scenarios = folder / "scenarios"
    scenarios.mkdir()
    calls = {"a": "{}", "b": f"{{seconds: {seconds}, last_words: begun}}"}
    for name, call in calls.items():
        text = builders.scenario_text(call=call)
        (scenarios / f"{name}.yaml").write_text(text, encoding="utf-8")
    process = start(folder, "run", "--out", "run", worker=script, nohup=nohup)
    log = folder / "run" / "logs" / "worker-0.log"
    wait_until(lambda: log.exists() and "begun" in log.read_text(encoding="utf-8"))
    return process


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGINT, 130, "harness: interrupted; what had finished is kept\n"),
        (signal.SIGTERM, 143, "harness: ended by SIGTERM; what had finished is kept\n"),
        (signal.SIGHUP, 129, "harness: ended by SIGHUP; what had finished is kept\n"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_signal_ends_the_workers_and_keeps_what_had_finished(
    number: signal.Signals, code: int, said: str, tmp_path: Path, script: Path
):
    """Whoever ends a run, by Ctrl-C, by a service or by closing the terminal."""
    process = start_two_cases(tmp_path, script)
    process.send_signal(number)
    out, errors = process.communicate(timeout=SECONDS)
    ended, *others = errors.splitlines(keepends=True)
    assert (process.returncode, out, others) == (code, "", [said])
    assert ended.startswith("[1/2] unverified   a[cpu-float32]")
    assert verdicts(tmp_path / "run") == {"a[cpu-float32]": "unverified"}
    results = read_results(tmp_path / "run")
    assert results.scope.not_run == ("b[cpu-float32]",)
    (outcome,) = results.outcomes
    assert not is_running(int(outcome.message.removeprefix("process ")))


def test_a_run_that_is_already_ending_is_not_cut_short(tmp_path: Path, script: Path):
    """A service manager sends SIGHUP right after SIGTERM; the results are whole all the same."""
    process = start_two_cases(tmp_path, script)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.1)
    _, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 143
    assert errors.splitlines()[1:] == ["harness: ended by SIGTERM; what had finished is kept"]
    assert verdicts(tmp_path / "run") == {"a[cpu-float32]": "unverified"}


def test_a_run_under_nohup_goes_on_when_the_terminal_closes(tmp_path: Path, script: Path):
    """A signal that the caller ignores stays ignored."""
    process = start_two_cases(tmp_path, script, seconds=0.5, nohup=True)
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=SECONDS)
    assert process.returncode == 3
    assert list(verdicts(tmp_path / "run")) == ["a[cpu-float32]", "b[cpu-float32]"]


def test_the_caller_s_signal_handlers_come_back(shop):
    """A program that calls `main` keeps its own."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    shop.scenario()
    assert shop.harness("list").code == 0
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["rnu"], "did you mean `run`?"),
        (["run", "--devise", "cpu"], "did you mean `--device`?"),
        (["list", "--jsno"], "did you mean `--json`?"),
    ],
)
def test_a_mistyped_command_or_option_is_answered_with_the_nearest(
    arguments: list[str], hint: str, capsys: pytest.CaptureFixture[str]
):
    """As git does."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert hint in capsys.readouterr().err


def test_a_word_that_is_nothing_like_a_command_gets_no_hint(capsys: pytest.CaptureFixture[str]):
    """A wrong guess is worse than none."""
    with pytest.raises(SystemExit):
        main(["xylophone"])
    assert "did you mean" not in capsys.readouterr().err


def test_the_command_alone_shows_its_help(capsys: pytest.CaptureFixture[str]):
    """Nothing was asked for, which is no success."""
    assert main([]) == 2
    shown = capsys.readouterr().out
    assert "usage: harness" in shown
    assert "exit codes:" in shown


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]):
    """For whoever reports a defect."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"harness {__version__}\n"


def test_the_table_of_commands_names_each_command_of_each_module():
    """The help has them all, in that order, and one that is asked for loads its module alone."""
    named = [name for names in HOMES.values() for name in names]
    assert [command.name for command in commands_for()] == named
    for home, names in HOMES.items():
        for name in names:
            assert [command.name for command in commands_for([name, "x"])] == list(names), home


def test_listing_loads_the_commands_of_no_other_module():
    """Each of them takes time that whoever lists does not have."""
    code = (
        "import sys\nfrom harness.commands.main import build_parser\nbuild_parser(['list'])\n"
        "print([name for name in sys.modules if name.startswith('harness.commands.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "harness.commands.cases" in done.stdout
    assert "harness.commands.studies" not in done.stdout
    assert "harness.commands.accept" not in done.stdout
