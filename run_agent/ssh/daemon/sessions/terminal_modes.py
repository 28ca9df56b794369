"""A terminal's modes: from SSH's opcodes (RFC 4254, section 8) to termios(3). Pure."""

from __future__ import annotations

import re
import termios
from collections.abc import Mapping
from typing import Any

from asyncssh import constants

DISABLED = 255
"""RFC 4254, section 8: what says that a control character is not wanted."""

IUTF8 = 0o40000
"""termios(3): erasing erases a whole UTF-8 character. Python's module does not name it."""

IFLAG, OFLAG, CFLAG, LFLAG, ISPEED, OSPEED, CC = range(7)
"""Where tcgetattr() of Python's termios has what."""

CHARACTERS = {
    constants.PTY_VINTR: termios.VINTR,
    constants.PTY_VQUIT: termios.VQUIT,
    constants.PTY_VERASE: termios.VERASE,
    constants.PTY_VKILL: termios.VKILL,
    constants.PTY_VEOF: termios.VEOF,
    constants.PTY_VEOL: termios.VEOL,
    constants.PTY_VEOL2: termios.VEOL2,
    constants.PTY_VSTART: termios.VSTART,
    constants.PTY_VSTOP: termios.VSTOP,
    constants.PTY_VSUSP: termios.VSUSP,
    constants.PTY_VREPRINT: termios.VREPRINT,
    constants.PTY_WERASE: termios.VWERASE,
    constants.PTY_VLNEXT: termios.VLNEXT,
    constants.PTY_VDISCARD: termios.VDISCARD,
}

FLAGS = {
    constants.PTY_IGNPAR: (IFLAG, termios.IGNPAR),
    constants.PTY_PARMRK: (IFLAG, termios.PARMRK),
    constants.PTY_INPCK: (IFLAG, termios.INPCK),
    constants.PTY_ISTRIP: (IFLAG, termios.ISTRIP),
    constants.PTY_INLCR: (IFLAG, termios.INLCR),
    constants.PTY_IGNCR: (IFLAG, termios.IGNCR),
    constants.PTY_ICRNL: (IFLAG, termios.ICRNL),
    constants.PTY_IUCLC: (IFLAG, termios.IUCLC),
    constants.PTY_IXON: (IFLAG, termios.IXON),
    constants.PTY_IXANY: (IFLAG, termios.IXANY),
    constants.PTY_IXOFF: (IFLAG, termios.IXOFF),
    constants.PTY_IMAXBEL: (IFLAG, termios.IMAXBEL),
    constants.PTY_IUTF8: (IFLAG, IUTF8),
    constants.PTY_ISIG: (LFLAG, termios.ISIG),
    constants.PTY_ICANON: (LFLAG, termios.ICANON),
    constants.PTY_XCASE: (LFLAG, termios.XCASE),
    constants.PTY_ECHO: (LFLAG, termios.ECHO),
    constants.PTY_ECHOE: (LFLAG, termios.ECHOE),
    constants.PTY_ECHOK: (LFLAG, termios.ECHOK),
    constants.PTY_ECHONL: (LFLAG, termios.ECHONL),
    constants.PTY_NOFLSH: (LFLAG, termios.NOFLSH),
    constants.PTY_TOSTOP: (LFLAG, termios.TOSTOP),
    constants.PTY_IEXTEN: (LFLAG, termios.IEXTEN),
    constants.PTY_ECHOCTL: (LFLAG, termios.ECHOCTL),
    constants.PTY_ECHOKE: (LFLAG, termios.ECHOKE),
    constants.PTY_PENDIN: (LFLAG, termios.PENDIN),
    constants.PTY_OPOST: (OFLAG, termios.OPOST),
    constants.PTY_OLCUC: (OFLAG, termios.OLCUC),
    constants.PTY_ONLCR: (OFLAG, termios.ONLCR),
    constants.PTY_OCRNL: (OFLAG, termios.OCRNL),
    constants.PTY_ONOCR: (OFLAG, termios.ONOCR),
    constants.PTY_ONLRET: (OFLAG, termios.ONLRET),
    constants.PTY_PARENB: (CFLAG, termios.PARENB),
    constants.PTY_PARODD: (CFLAG, termios.PARODD),
}
"""RFC 4254, section 8 (and RFC 8160 for IUTF8): opcode → where in termios(3), and which bit."""

WIDTHS = {constants.PTY_CS7: termios.CS7, constants.PTY_CS8: termios.CS8}

SPEEDS = {
    int(name[1:]): getattr(termios, name)
    for name in dir(termios)
    if re.fullmatch(r"B[1-9]\d*", name)
}
"""Bits per second → termios's constant."""


def wanted(attributes: list[Any], modes: Mapping[int, int]) -> list[Any]:
    """Return termios attributes as the client's modes (RFC 4254, section 8) want them.

    Modes that Linux does not have are passed over, as the RFC says. IUTF8 is on where the client
    does not know it, for every locale that sessions get is UTF-8.
    """
    result = list(attributes)
    characters = list(attributes[CC])
    for mode, value in ({constants.PTY_IUTF8: 1} | dict(modes)).items():
        if mode in CHARACTERS:
            characters[CHARACTERS[mode]] = b"\0" if value >= DISABLED else bytes([value])
        elif mode in FLAGS:
            place, flag = FLAGS[mode]
            result[place] = result[place] | flag if value else result[place] & ~flag
        elif mode in WIDTHS and value:
            result[CFLAG] = result[CFLAG] & ~termios.CSIZE | WIDTHS[mode]
    for mode, place in ((constants.PTY_OP_ISPEED, ISPEED), (constants.PTY_OP_OSPEED, OSPEED)):
        result[place] = SPEEDS.get(modes.get(mode, 0), result[place])
    result[CC] = characters
    return result
