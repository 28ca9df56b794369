"""The words of the design as frozen values. No I/O, no clock, no environment."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


class Secret:
    """A value that may be used but never shown: `str()` and `repr()` give `[redacted]`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """Return the value itself, for the one place that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "[redacted]"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything of a replica lies below its root; outside it nothing is written."""

    root: Path

    @property
    def app(self) -> Path:
        """The app folder that users know: a link to `current`, or a real release in an image."""
        return self.root / "app"

    @property
    def run(self) -> Path:
        """State of this run only, for a tmpfs: sockets, the environment, rendered vm.args."""
        return self.root / "run" / "run-agent"

    @property
    def volume(self) -> Path:
        """What outlives a restart: deploys, host keys, generated secrets."""
        return self.root / "var" / "lib" / "run-agent"

    @property
    def deploys(self) -> Path:
        """One tree per slug, named by its digest, with a record `DIGEST.json` beside it."""
        return self.volume / "deploys"

    @property
    def current(self) -> Path:
        """The link to the deploy that a start boots."""
        return self.volume / "current"

    @property
    def bin(self) -> Path:
        """Commands that go on the PATH of everything we start (epmd of the slug's own ERTS)."""
        return self.run / "bin"

    @property
    def control_socket(self) -> Path:
        """Where the verbs reach the agent."""
        return self.run / "control.sock"

    @property
    def sshd_socket(self) -> Path:
        """Where the agent hands connections to the SSH daemon; who connects has PID 1 start it."""
        return self.run / "sshd.sock"

    @property
    def ssh_keys(self) -> Path:
        """The last good list of SSH keys and when it was fetched, mode 0600."""
        return self.volume / "ssh_keys.json"

    @property
    def host_key(self) -> Path:
        """The host key that was generated where none is mounted, mode 0600."""
        return self.volume / "ssh_host_ed25519_key"

    @property
    def service_account(self) -> Path:
        """What the kubelet mounts of our service account: `token`, `ca.crt`, `namespace`."""
        return self.root / "var" / "run" / "secrets" / "kubernetes.io" / "serviceaccount"

    @property
    def environment(self) -> Path:
        """The release's environment as it was started with, mode 0600."""
        return self.run / "environment.json"

    @property
    def vm_args(self) -> Path:
        """The rendered vm.args (it names the cookie), mode 0600."""
        return self.run / "vm.args"


@dataclass(frozen=True, slots=True)
class Deploy:
    """What the controller wants to run: a version, a slug and a configuration."""

    slug_url: str = field(repr=False)  # a signed URL is a credential
    app_name: str
    version: str | None = None
    config: Mapping[str, str] = field(default_factory=dict, repr=False)
    cloud: str | None = None
    distillery_eval: str | None = None
    distillery_remote_command: str | None = None
    slug_sha256: str | None = None
    sha: str | None = None
    summary: str | None = None
    created_at: str | None = None

    @property
    def label(self) -> str:
        """How messages name this deploy: its version, or its slug where it has none."""
        return self.version or self.slug_url.partition("?")[0].rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Slug:
    """An unpacked slug on the volume."""

    digest: str
    path: Path
    source: str  # the URL without its query, which may carry a signature
    etag: str | None = None
    goog_hash: str | None = None
    packed_bytes: int = 0
    unpacked_bytes: int = 0
    members: int = 0


@dataclass(frozen=True, slots=True)
class Launch:
    """How a child is started: argv, environment and folder, and how it is stopped.

    `stop_group` sends TERM to the whole process group instead of to its leader: right for a
    Procfile line or a given command, wrong for a release, whose VM stops its own ports in order.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    cwd: Path
    stop_group: bool = False
