"""How all verbs parse: one look for `--help`, one exit code (64) for wrong usage."""

import argparse
import os
import textwrap
from typing import NoReturn

COLUMNS = 100
"""To which a description is wrapped: the examples below it are as wide, at most."""


class Parser(argparse.ArgumentParser):
    """An argument parser that keeps the examples' line breaks and ends with EX_USAGE."""

    def __init__(self, verb: str, *, description: str, examples: str) -> None:
        super().__init__(
            f"run-agent {verb}",
            description=textwrap.fill(description, COLUMNS),
            epilog=examples,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_start_command(self) -> None:
        """Take the rest of the arguments, if any, as what is started in the release's place."""
        command = self.add_argument(
            "command",
            metavar="CMD",
            nargs=argparse.REMAINDER,
            help="start this in the app folder instead of the release",
        )
        command.required = False  # or an error that names what is missing would name it as well

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and how it is right."""
        self.exit(os.EX_USAGE, f"{self.format_usage()}run-agent: cannot read the arguments: "
                  f"{message}; see {self.prog} --help\n")  # fmt: skip


def split_at_dashes(arguments: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """Part our own options from the command, which begins after `--` or at the first word."""
    for index, argument in enumerate(arguments):
        if argument == "--":
            return arguments[:index], tuple(arguments[index + 1 :])
        if not argument.startswith("-"):
            return arguments[:index], tuple(arguments[index:])
    return arguments, ()
