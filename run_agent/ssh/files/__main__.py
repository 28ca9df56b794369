"""`python -I -m run_agent.ssh.files HOME sftp ORDER` or `… HOME scp COMMAND`."""

import os
import signal
import sys

from run_agent.ssh.files import DRAFT_ORDER, TELL, scp, scp_command, sftp
from run_agent.ssh.files.ledger import Ledger
from run_agent.ssh.files.sftp_client import Client
from run_agent.ssh.files.stream import Stream


def main(home: str, protocol: str, rest: str) -> int:
    """Serve until the client has gone; return the exit status for it."""
    # the end of its bytes ends us in order, with everything closed and told
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.set_inheritable(TELL, False)
    stream, ledger = Stream(0, 1), Ledger(TELL)
    folder, home_folder = os.getcwdb(), os.fsencode(home)
    try:
        if protocol == "sftp":
            client = Client(folder, home_folder, ledger, link_first=rest == DRAFT_ORDER)
            return sftp.serve(stream, client)
        command = scp_command.parse(rest)
        assert command is not None, "the daemon has parsed it before"
        return scp.serve(stream, command, folder, home_folder, ledger)
    finally:
        ledger.close()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
