"""The one reader of the environment: every setting, its default, and why that default.

`load` reads and validates all of them at once, so that one message lists every problem.
`docs/settings.md` is generated from this table (`make docs`).
"""

import ipaddress
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from run_agent.errors import SettingsError
from run_agent.model import Layout, Secret

APP_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
"""An app's name becomes a node name and a path, so nothing else is let in."""

COOKIE = re.compile(r"[!-~]{1,255}")
"""The longest atom has 255 characters; white space would end it in vm.args and cookie files."""

HOST = re.compile(r"[A-Za-z0-9:][A-Za-z0-9.:_-]*")

NO_CONTROLLER = "none"

DRAIN_SHARE = 0.8
"""Most of the grace that a drain may take; what is left must do for TERM and the end."""


@dataclass(frozen=True, slots=True)
class ReadyCheck:
    """What makes the app ready: `kind` is port, http, node or none; `path` belongs to http."""

    kind: str
    path: str = "/"

    def __str__(self) -> str:
        return f"http:{self.path}" if self.kind == "http" else self.kind


@dataclass(frozen=True, slots=True)
class Startups:
    """How many may be about to log in at once (sshd_config(5), MaxStartups).

    From `begin` on, `rate` percent of new connections are dropped; at `full` all of them.
    """

    begin: int
    rate: int
    full: int

    def __str__(self) -> str:
        return f"{self.begin}:{self.rate}:{self.full}"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _text(value: str) -> str:
    return value


def _secret(value: str) -> Secret:
    return Secret(value)


def _cookie(value: str) -> Secret:
    if not COOKIE.fullmatch(value):
        raise ValueError("must be 1 to 255 printable ASCII characters without white space")
    return Secret(value)


def _host(value: str) -> str:
    if not HOST.fullmatch(value):
        raise ValueError("must be an address or a host name; leave it out for our own address")
    return value


def _folder(value: str) -> Path:
    if not value.startswith("/"):
        raise ValueError("must be an absolute path")
    return Path(os.path.normpath(value))


def _controller(value: str) -> str:
    if value == NO_CONTROLLER:
        return value
    parts = urlsplit(value)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return value
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must hold no user, query or fragment: the key belongs into APP_KEY")
    if parts.scheme in {"http", "https"} and parts.hostname:
        return value.rstrip("/")
    raise ValueError("must be https://HOST, http://HOST, file:///FOLDER or none")


def port_number(text: str) -> int | None:
    """Return the TCP port that `text` is, None for anything else."""
    try:
        port = int(text) if text.isdecimal() else 0
    except ValueError:  # thousands of digits
        port = 0
    return port if 1 <= port <= 65535 else None


def _port(value: str) -> int:
    port = port_number(value)
    if port is None:
        raise ValueError("must be a port, 1 to 65535")
    return port


def _port_or_none(value: str) -> int | None:
    return None if value == "none" else _port(value)


def _ssh_port(value: str) -> int | None:
    if value == "auto":
        return 22 if os.geteuid() == 0 else 2222
    return _port_or_none(value)


def _startups(value: str) -> Startups:
    match = re.fullmatch(r"(\d+):(\d+):(\d+)", value)
    startups = Startups(*map(int, match.groups())) if match else Startups(0, 0, 0)
    if not 0 < startups.begin <= startups.full or not 0 <= startups.rate <= 100:
        raise ValueError("must be BEGIN:RATE:FULL as in 10:30:100, BEGIN at most FULL")
    return startups


def _networks(value: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(part.strip()) for part in value.split(",") if part.strip())


def _seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86_400:
        raise ValueError("must be a number of seconds, 0 to 86400")
    return seconds


def _time_limit(value: str) -> float | None:
    try:
        return None if value == "none" else _seconds(value) or None
    except ValueError as problem:
        raise ValueError(f"{problem}, or none") from None


def _some_seconds(value: str) -> float:
    seconds = _seconds(value)
    if seconds < 1:
        raise ValueError("must be a number of seconds, 1 to 86400")
    return seconds


def _count(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise ValueError("must be a whole number, 1 or more")
    return int(value)


def _bytes(value: str) -> int:
    match = re.fullmatch(r"(\d+)(|Ki|Mi|Gi)", value)
    if match is None or int(match[1]) < 1:
        raise ValueError("must be a number of bytes; Ki, Mi and Gi may follow, as in 512Mi")
    return int(match[1]) << {"": 0, "Ki": 10, "Mi": 20, "Gi": 30}[match[2]]


def _ready_check(value: str) -> ReadyCheck:
    kind, _, path = value.partition(":")
    if kind == "http" and path.startswith("/"):
        return ReadyCheck("http", path)
    if value in {"port", "node", "none"}:
        return ReadyCheck(value)
    raise ValueError("must be port, http:/PATH, node or none")


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"must be {' or '.join(choices)}")
        return value

    return parse


def _setting(
    name: str, parse: Callable[[str], Any], default: str | None, doc: str, *, ours: bool = True
) -> Any:
    """One row of the table. `ours` is false where the release is to see the variable as well."""
    return field(
        metadata={"name": name, "parse": parse, "default": default, "doc": doc, "ours": ours}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that the environment tells the agent, parsed. Build it with `load`."""

    root: Path = _setting(
        "RUN_AGENT_ROOT",
        _folder,
        "/",
        "Folder below which everything lies; nothing outside it is written. The app folder is "
        "`ROOT/app`, the run folder `ROOT/run/run-agent`, the volume `ROOT/var/lib/run-agent`.",
        ours=False,
    )
    controller_url: str = _setting(
        "CONTROLLER_URL",
        _controller,
        "https://api.gigalixir.com",
        "Who tells the current deploy: an HTTP controller, a folder (`file:///some/dir`), or "
        "`none` to boot the release that the image itself holds at `ROOT/app`.",
    )
    slug_url: Secret | None = _setting(
        "SLUG_URL",
        _secret,
        None,
        "What `bootstrap` boots, set by its argument: a URL may hold a signature, which has no "
        "place in an argv.",
    )
    app_key: Secret | None = _setting(
        "APP_KEY",
        _secret,
        None,
        "The app's key for an HTTP controller (basic auth `APP:APP_KEY`). Cookie and key base "
        "are derived from it where they are not given.",
    )
    erlang_cookie: Secret | None = _setting(
        "ERLANG_COOKIE",
        _cookie,
        None,
        "The node's cookie. Default: derived from `APP_KEY`, so that all replicas agree; "
        "without that random, kept on the volume.",
        ours=False,
    )
    pod_ip: str | None = _setting(
        "MY_POD_IP",
        _host,
        None,
        "The replica's address in the node name `APP@MY_POD_IP`. Default: the address of the "
        "default route's interface.",
        ours=False,
    )
    secret_key_base: Secret | None = _setting(
        "SECRET_KEY_BASE",
        _secret,
        None,
        "Phoenix's key base. Default: like `ERLANG_COOKIE`.",
        ours=False,
    )
    port: int = _setting(
        "PORT", _port, "4000", "The port that the app is to listen on.", ours=False
    )
    hostname: str | None = _setting(
        "HOSTNAME",
        _text,
        None,
        "The replica's name, by which an HTTP controller assigns `HOST_INDEX`. Default: the "
        "kernel's host name.",
        ours=False,
    )
    logplex_token: Secret | None = _setting(
        "LOGPLEX_TOKEN", _secret, None, "Accepted for existing controllers; not used yet."
    )
    dist_port: int | None = _setting(
        "DIST_PORT",
        _port,
        None,
        "The one port on which the node takes other nodes and observer, for a NetworkPolicy. It "
        "goes into the vm.args that run-agent writes (relx, Distillery), or is added to those of a "
        "`mix release`. Where the app's configuration names a vm.args of its own, or a Procfile "
        "starts the node, set it there; `status` says if the node listens elsewhere. Default: any "
        "free port.",
    )
    health_port: int | None = _setting(
        "HEALTH_PORT",
        _port_or_none,
        "9000",
        "Where `/livez` and `/readyz` are answered; `none` turns them off.",
    )
    ready_check: ReadyCheck = _setting(
        "READY_CHECK",
        _ready_check,
        "port",
        "When the app counts as ready: `port` (it accepts on `PORT` as the release's environment "
        "has it), `http:/PATH` (a GET there answers 2xx or 3xx), `node` (the node answers and "
        "the release's application runs), or `none` (as soon as it has been started). "
        "`exec` defaults to `none`.",
    )
    ssh_port: int | None = _setting(
        "SSH_PORT",
        _ssh_port,
        "auto",
        "Where SSH is served, on all addresses; `auto` is 22 as root and 2222 otherwise, `none` "
        "turns SSH off. Without a source of keys (no controller and no `SSH_KEYS_FILE`) it is off "
        "as well.",
    )
    ssh_host_key: Path | None = _setting(
        "SSH_HOST_KEY",
        _folder,
        None,
        "The host key's private half, a file (a mounted secret). Default: an ed25519 key, made "
        "once and kept on the volume.",
    )
    ssh_keys_file: Path | None = _setting(
        "SSH_KEYS_FILE",
        _folder,
        None,
        "Take the SSH keys from this file (authorized_keys form) instead of from the controller: "
        "for a replica that has none.",
    )
    ssh_keys_seconds: float = _setting(
        "SSH_KEYS_SECONDS",
        _some_seconds,
        "60",
        "How often the SSH keys are fetched, give or take a tenth, so that replicas do not ask "
        "all at once. A key that was removed loses its sessions at the next fetch.",
    )
    ssh_idle_seconds: float = _setting(
        "SSH_IDLE_SECONDS",
        _seconds,
        "60",
        "How long the SSH daemon stays without a connection; then it ends and its memory goes "
        "back.",
    )
    ssh_max_startups: Startups = _setting(
        "SSH_MAX_STARTUPS",
        _startups,
        "10:30:100",
        "`BEGIN:RATE:FULL`: with BEGIN connections that have not logged in, RATE percent of new "
        "ones are dropped, rising to all at FULL. OpenSSH's own default.",
    )
    ssh_max_attempts: int = _setting(
        "SSH_MAX_ATTEMPTS",
        _count,
        "6",
        "How many keys a connection may try; then it is closed. OpenSSH's default.",
    )
    ssh_max_sessions: int = _setting(
        "SSH_MAX_SESSIONS",
        _count,
        "20",
        "How many sessions a connection may have at once: enough for tools that multiplex.",
    )
    ssh_login_grace_seconds: float = _setting(
        "SSH_LOGIN_GRACE_SECONDS",
        _some_seconds,
        "60",
        "How long a connection may take to log in.",
    )
    ssh_keepalive_seconds: float = _setting(
        "SSH_KEEPALIVE_SECONDS",
        _seconds,
        "15",
        "How often a silent client is asked for a sign of life; 0 never asks.",
    )
    ssh_keepalive_misses: int = _setting(
        "SSH_KEEPALIVE_MISSES",
        _count,
        "3",
        "After so many unanswered questions the client counts as gone.",
    )
    ssh_penalty_seconds: float = _setting(
        "SSH_PENALTY_SECONDS",
        _seconds,
        "5",
        "What a failed login adds to its source's penalty. Above 15 s the source is refused until "
        "the penalty has passed; a login with a right key ends it. 0 turns penalties off.",
    )
    ssh_penalty_max_seconds: float = _setting(
        "SSH_PENALTY_MAX_SECONDS",
        _seconds,
        "600",
        "The longest penalty.",
    )
    ssh_penalty_exempt: tuple[Network, ...] = _setting(
        "SSH_PENALTY_EXEMPT",
        _networks,
        "",
        "Networks whose addresses get no penalty, as in `10.0.0.0/8,fd00::/8`: for a proxy that "
        "many people share.",
    )
    drain_seconds: float = _setting(
        "DRAIN_SECONDS",
        _seconds,
        "5",
        "How long a stop keeps serving, not ready, before it asks the release to stop: time for "
        "load balancers to notice. A second TERM skips it.",
    )
    grace_seconds: float = _setting(
        "GRACE_SECONDS",
        _seconds,
        "25",
        "How long a whole stop may take, drain included; then everything is killed. Below "
        "Kubernetes' 30, so that we decide and not the kubelet.",
    )
    restart: str = _setting(
        "RESTART",
        _one_of("never", "on-failure"),
        "never",
        "`on-failure` starts a release that failed again in place, with back-off (1 s, doubled "
        "up to 30 s, reset after 30 s up). `never` ends the container with the release's code.",
    )
    boot_deadline_seconds: float = _setting(
        "BOOT_DEADLINE_SECONDS",
        _seconds,
        "300",
        "How long a boot may take until the release is started; then exit 75. Five minutes let "
        "a slow storage deliver a large slug, and still end a boot that hangs.",
    )
    job_timeout_seconds: float | None = _setting(
        "JOB_TIMEOUT_SECONDS",
        _time_limit,
        "300",
        "How long the command of a `job` may run, the boot not counted; then it is stopped, and "
        "the job ends with 124. `none` or 0 sets no limit. Five minutes are enough for most "
        "migrations and end what hangs.",
    )
    slug_max_members: int = _setting(
        "SLUG_MAX_MEMBERS",
        _count,
        "1000000",
        "Most entries a slug may have; a larger one is refused.",
    )
    slug_max_bytes: int = _setting(
        "SLUG_MAX_BYTES",
        _bytes,
        "16Gi",
        "Most bytes a slug may unpack to; a larger one is refused. Guards against a bomb, "
        "not a quota.",
    )
    cluster_min: int = _setting(
        "CLUSTER_MIN",
        _count,
        "1",
        "How many nodes, this one included, must be connected before the replica becomes ready "
        "for the first time. It waits for them for ever, and `/readyz` and `status` say how many "
        "are missing: so never more than there are replicas. Not asked again afterwards: a "
        "partition must not take every replica out of service. The peers must be found before they "
        "are ready: let the Service publish addresses that are not ready "
        "(`publishNotReadyAddresses`).",
    )
    kubernetes_reports: str = _setting(
        "KUBERNETES_REPORTS",
        _one_of("auto", "none"),
        "auto",
        "`auto` shows the replica's state on its own pod (labels, annotations, Events, the "
        "condition `run-agent.dev/release`) where a service account is mounted that may do so; "
        "`none` asks Kubernetes for nothing.",
    )
    kubernetes_host: str | None = _setting(
        "KUBERNETES_SERVICE_HOST",
        _host,
        None,
        "The address of the Kubernetes API, set by the kubelet. Without it there are no reports.",
        ours=False,
    )
    kubernetes_port: int = _setting(
        "KUBERNETES_SERVICE_PORT",
        _port,
        "443",
        "The port of the Kubernetes API, set by the kubelet.",
        ours=False,
    )
    pod_name: str | None = _setting(
        "POD_NAME",
        _text,
        None,
        "The name of our pod. Default: the host name, which is the pod's unless it shares its "
        "node's network.",
        ours=False,
    )
    pod_namespace: str | None = _setting(
        "POD_NAMESPACE",
        _text,
        None,
        "The namespace of our pod. Default: the service account's.",
        ours=False,
    )
    pod_uid: str | None = _setting(
        "POD_UID",
        _text,
        None,
        "The uid of our pod. Without it our Events name it only where the account may patch the "
        "pod, and `kubectl describe pod` may leave out those that do not.",
        ours=False,
    )
    follow: str = _setting(
        "FOLLOW",
        _one_of("none", "hot"),
        "none",
        "`hot` watches the controller's current deploy (every `SSH_KEYS_SECONDS`) and changes the "
        "running release in place when another slug or configuration is there. `none` changes "
        "nothing by itself.",
    )
    upgrade_verify_seconds: float = _setting(
        "UPGRADE_VERIFY_SECONDS",
        _some_seconds,
        "30",
        "How long a new version may take to be ready after a hot upgrade; then the old one is "
        "put back.",
    )
    upgrade_settle_seconds: float = _setting(
        "UPGRADE_SETTLE_SECONDS",
        _seconds,
        "5",
        "How long a new version must have been ready without a break before it becomes permanent: "
        "one that crashes within that time is put back. Part of `UPGRADE_VERIFY_SECONDS`.",
    )
    log_format: str = _setting(
        "LOG_FORMAT",
        _one_of("json", "text"),
        "json",
        "How our own log on stderr looks: one JSON object per line, or text for people. The "
        "app's output is never touched.",
    )

    @property
    def layout(self) -> Layout:
        """The paths below `root`."""
        return Layout(self.root)

    def serves_ssh(self, *, has_controller: bool) -> bool:
        """Whether SSH is on: wanted, and somebody tells who may log in."""
        follows = has_controller and self.controller_url != NO_CONTROLLER
        return self.ssh_port is not None and (follows or self.ssh_keys_file is not None)

    @property
    def follows_http_controller(self) -> bool:
        """Whether the controller is reached over HTTP (and wants `APP_KEY`)."""
        return self.controller_url.startswith("http")


OWN_NAMES = frozenset(f.metadata["name"] for f in fields(Settings) if f.metadata["ours"])
"""Variables that are the agent's business and are not passed on to the release."""


def load(
    environ: Mapping[str, str], *, app: str | None = None, needs_controller: bool = True
) -> Settings:
    """Parse `environ`; an empty variable counts as absent.

    Raises `SettingsError`, which lists everything that is missing or malformed. `app` is checked
    where given; `needs_controller` is false for the commands that never ask one.
    """
    problems: list[str] = []
    values: dict[str, Any] = {}
    for row in fields(Settings):
        raw = environ.get(row.metadata["name"]) or row.metadata["default"]
        try:
            values[row.name] = None if raw is None else row.metadata["parse"](raw)
        except ValueError as problem:
            problems.append(_problem(row.metadata, raw, problem))
    if app is not None and not APP_NAME.fullmatch(app):
        problems.append(f"the app's name {app!r} must be letters, digits, - and _ (63 at most)")
    problems += _contradictions(values, needs_controller=needs_controller)
    if problems:
        raise SettingsError(problems)
    return Settings(**values)


def layout_of(environ: Mapping[str, str]) -> Layout:
    """Return the paths alone, for a verb that needs nothing else. Raises `SettingsError`."""
    root = environ.get("RUN_AGENT_ROOT") or "/"
    try:
        return Layout(_folder(root))
    except ValueError as problem:
        raise SettingsError([f"RUN_AGENT_ROOT={root!r} {problem}"]) from None


def _problem(row: Mapping[str, Any], raw: str, problem: ValueError) -> str:
    # Neither a secret is echoed nor what may be one: a URL in the wrong place, or a mangled one.
    shown = "" if _is_secret(row) or "@" in raw or "?" in raw else f"={raw!r}"
    return f"{row['name']}{shown} {problem}"


def _is_secret(row: Mapping[str, Any]) -> bool:
    return row["parse"] in {_secret, _cookie}


def _contradictions(values: Mapping[str, Any], *, needs_controller: bool) -> list[str]:
    problems = []
    drain, grace = values.get("drain_seconds"), values.get("grace_seconds")
    if drain is not None and grace is not None and drain > grace * DRAIN_SHARE:
        problems.append(
            f"DRAIN_SECONDS={drain:g} must be at most {DRAIN_SHARE:.0%} of "
            f"GRACE_SECONDS={grace:g}: the release needs the rest to stop in order"
        )
    if values.get("health_port") is not None and values.get("health_port") == values.get("port"):
        problems.append(
            f"HEALTH_PORT={values['health_port']} is the app's PORT as well; set it to another one"
        )
    dist = values.get("dist_port")
    problems += [
        f"DIST_PORT={dist} is {name} as well; set it to another one"
        for name in ("PORT", "HEALTH_PORT", "SSH_PORT")
        if dist is not None and values.get(name.lower()) == dist
    ]
    controller = values.get("controller_url", "")
    if needs_controller and controller == NO_CONTROLLER and values.get("follow") == "hot":
        problems.append(
            "FOLLOW=hot has nobody to follow with CONTROLLER_URL=none; set CONTROLLER_URL to the "
            "controller, or FOLLOW to none"
        )
    if needs_controller and controller.startswith("http") and values.get("app_key") is None:
        problems.append(
            f"APP_KEY is missing: the controller at {controller} wants it; set it, or set "
            "CONTROLLER_URL to file:///FOLDER or none"
        )
    return problems


@dataclass(frozen=True, slots=True)
class Shown:
    """A setting as people are shown it: `value` is what `environ` gives, None where it does not."""

    name: str
    value: str | None
    default: str | None
    what: str
    passed_on: bool
    """Whether the release sees the variable as well."""


def shown(environ: Mapping[str, str]) -> list[Shown]:
    """Return every setting in the table's order; a value that may be secret is `***`."""
    return [_shown(row.metadata, environ.get(row.metadata["name"])) for row in fields(Settings)]


def _shown(row: Mapping[str, Any], raw: str | None) -> Shown:
    raw = raw or ""
    is_private = _is_secret(row) or ("://" in raw and ("@" in raw or "?" in raw))
    value = "***" if is_private and raw else raw or None
    return Shown(row["name"], value, row["default"], row["doc"], passed_on=not row["ours"])


def markdown() -> str:
    """Render `docs/settings.md`."""
    lines = [
        "# Settings",
        "",
        "Read once from the environment at start, all of them validated together. An empty",
        "variable counts as absent. `run-agent settings` shows the same with the values of the",
        "replica that runs. Generated from `run_agent/settings.py` by `make docs`; do not edit.",
        "",
        "| setting | default | what it does | the release sees it |",
        "|---|---|---|---|",
    ]
    for row in shown({}):
        default = f"`{row.default}`" if row.default else ""
        what = row.what.replace("|", "\\|")
        lines.append(f"| `{row.name}` | {default} | {what} | {'yes' if row.passed_on else ''} |")
    return "\n".join(lines) + "\n"
