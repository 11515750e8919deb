"""Owns the command `copy`: runs and baselines between folders and URLs."""

from __future__ import annotations

import argparse

from harness.commands.output import complain, say
from harness.commands.parser import Command


def copy(arguments: argparse.Namespace) -> int:
    """Copy a run, or a store of baselines, between folders and fsspec URLs.

    What the target holds already is not sent again, so that an interrupted copy goes on where it
    stopped. A baseline that the target holds otherwise is left as it is and named, and the exit
    code is then 1.
    """
    from harness.store.copying import copy as do

    found = do(arguments.source, arguments.target, replace=arguments.replace, again=arguments.again)
    for name in found.differing:
        complain(f"left as it is in {arguments.target}: {name}; --replace replaces it")
    say(
        f"{found.kind}: {len(found.written)} copied to {arguments.target}, {len(found.same)} were "
        f"there already, {len(found.differing)} differ"
    )
    return 1 if found.differing else 0


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="FROM", help="a run or a store: a folder, or a URL")
    parser.add_argument("target", metavar="TO", help="a folder, or a URL")
    parser.add_argument(
        "--replace", action="store_true", help="replace other baselines of the same cases in TO"
    )
    parser.add_argument(
        "--again", action="store_true", help="send what is there too, because it may be damaged"
    )


COMMANDS = (
    Command(
        "copy",
        "copy a run or a store of baselines to another folder or URL",
        "baselines s3://bucket/harness/baselines",
        copy,
        _options,
    ),
)
