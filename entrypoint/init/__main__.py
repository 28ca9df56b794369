"""`python -I -m entrypoint.init OPTIONS`: what the container executes as PID 1."""

import sys

from entrypoint.init import supervisor

if __name__ == "__main__":
    sys.exit(supervisor.main(sys.argv))
