"""What a line of authorized_keys lets in, and what keeps it from letting in anybody."""

import base64
import dataclasses
import datetime as dt
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from run_agent.ssh import authorized_keys
from run_agent.ssh.authorized_keys import KeyList, LineError, parse, read

NOW = 1_700_000_000.0


def string(value):
    return len(value).to_bytes(4, "big") + value


def encoded(*parts):
    return base64.b64encode(b"".join(map(string, parts))).decode()


def mpint(number):
    return number.to_bytes(number.bit_length() // 8 + 1, "big")


def rsa(bits, exponent=65537):
    return encoded(b"ssh-rsa", mpint(exponent), mpint((1 << bits - 1) | 1))


def point(size):
    return b"\x04" + bytes(size - 1)


def ecdsa(curve, size):
    return encoded(f"ecdsa-sha2-{curve}".encode(), curve.encode(), point(size))


ED25519 = encoded(b"ssh-ed25519", bytes(range(32)))
OTHER = encoded(b"ssh-ed25519", bytes(32))
KEY = f"ssh-ed25519 {ED25519} me@home"
NEGATIVE = b"\xff" * 256
BLOB = base64.b64decode(ED25519)


def key(options):
    found = parse(f"{options} {KEY}")
    assert found is not None
    return found


def reason(line):
    with pytest.raises(LineError) as caught:
        parse(line)
    return str(caught.value)


# -- the key itself


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("ssh-ed25519", ED25519),
        ("ssh-rsa", rsa(2048)),
        ("ssh-rsa", rsa(16384, exponent=3)),
        *(
            (f"ecdsa-sha2-{curve}", ecdsa(curve, size))
            for curve, size in {"nistp256": 65, "nistp384": 97, "nistp521": 133}.items()
        ),
        (
            "sk-ssh-ed25519@openssh.com",
            encoded(b"sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:"),
        ),
        (
            "sk-ecdsa-sha2-nistp256@openssh.com",
            encoded(b"sk-ecdsa-sha2-nistp256@openssh.com", b"nistp256", point(65), b"ssh:"),
        ),
    ],
)  # fmt: skip
def test_a_sound_key_of_each_type_is_taken(kind, text):
    found = parse(f"{kind} {text} a comment")
    assert (found.kind, found.blob, found.comment) == (kind, base64.b64decode(text), "a comment")


def test_a_line_without_options_leaves_everything():
    assert parse(f"  ssh-ed25519\t{ED25519}  ") == authorized_keys.AuthorizedKey(
        "ssh-ed25519",
        BLOB,
        fingerprint="SHA256:ZkAslGjFiUHdGf/WUL8rQvkib4PTvQatUV0OUQSncCA",
    )


@pytest.mark.parametrize("line", ["", "   ", "# a comment", "  #ssh-ed25519 AAAA", "\t"])
def test_comments_and_blank_lines_are_nothing(line):
    assert parse(line) is None


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (f"ssh-rsa {rsa(1024)}", "1024 bits; 2048 at least"),
        (f"ssh-rsa {rsa(2047)}", "2047 bits; 2048 at least"),
        (f"ssh-rsa {rsa(16400)}", "16400 bits; 16384 at most"),
        (f"ssh-rsa {rsa(2048, exponent=1)}", "no ssh-rsa key"),
        (f"ssh-rsa {encoded(b'ssh-rsa', mpint(65537))}", "parts are missing"),
        (f"ssh-rsa {encoded(b'ssh-rsa', mpint(3), NEGATIVE)}", "no ssh-rsa key"),
        (f"ssh-rsa {encoded(b'ssh-rsa', mpint(3), bytes(9) + NEGATIVE)}", "no ssh-rsa key"),
        (f"ssh-dss {encoded(b'ssh-dss', mpint(3))}", "DSA"),
        ("ssh-ed25519-cert-v01@openssh.com AAAAIHNzaC1lZDI1", "certificates"),
        ("ssh-mldsa-99 AAAADHNzaC1tbGRzYS05OQ==", "unknown key type 'ssh-mldsa-99'"),
        (f"ssh-rsa {ED25519}", "not of the type ssh-rsa"),
        (f"ecdsa-sha2-nistp256 {encoded(b'ecdsa-sha2-nistp256', b'nistp384', point(97))}", "size"),
        (f"ecdsa-sha2-nistp256 {encoded(b'ecdsa-sha2-nistp256', b'nistp256', point(64))}", "size"),
        (f"ssh-ed25519 {encoded(b'ssh-ed25519', bytes(31))}", "size"),
        (f"ssh-ed25519 {encoded(b'ssh-ed25519', bytes(32), b'')}", "size"),  # bytes behind it
        (f"ssh-ed25519 {base64.b64encode(BLOB + b'x').decode()}", "cut"),
        (f"ssh-ed25519 {base64.b64encode(BLOB[:-1]).decode()}", "cut"),
        (f"ssh-ed25519 {ED25519[:-3]}", "base64"),
        (f"ssh-ed25519 {ED25519[:-2]}!=", "base64"),
        (f"ssh-ed25519 {ED25519}====", "base64"),
        (f"ssh-rsa {rsa(2048)[:-2]}B=", "base64"),  # stray bits behind the last byte
        ("ssh-ed25519", "it is no key"),
        ("ssh-ed25519 # not today", "base64"),
        ("hello world and all", "it is no key"),
        (f"{KEY}\x00", "control character"),
        (f"{KEY} {'x' * 9000}", "longer than 8192"),
    ],
)
def test_a_key_that_is_weak_unknown_or_not_whole_is_rejected(line, why):
    assert why in reason(line)


# -- options


@pytest.mark.parametrize(
    ("options", "terminal", "forwards", "start_up_files"),
    [
        ("restrict", False, False, False),
        ("restrict,pty", True, False, False),
        ("restrict,port-forwarding", False, True, False),
        ("restrict,user-rc", False, False, True),
        ("pty,restrict", False, False, False),  # the later one wins, as in sshd
        ("no-pty", False, True, True),
        ("no-pty,pty", True, True, True),
        ("no-port-forwarding", True, False, True),
        ("no-user-rc", True, True, False),
        ("RESTRICT,Pty", True, False, False),
        ("no-agent-forwarding,no-X11-forwarding,agent-forwarding,X11-forwarding", True, True, True),
    ],
)
def test_flags_take_and_give_back(options, terminal, forwards, start_up_files):
    found = key(options)
    assert found.allows_terminal is terminal
    assert found.allows_forwards is forwards
    assert found.allows_start_up_files is start_up_files


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ('"date"', "date"),
        ('"sh -c \\"a, b\\" ssh-rsa AAAA"', 'sh -c "a, b" ssh-rsa AAAA'),
        ('"a\\\\b"', "a\\\\b"),  # only a quote is escaped
        ('"a\\\\\\"b"', 'a\\\\"b'),
    ],
)
def test_a_command_is_what_stands_between_the_quotes(written, means):
    found = key(f"command={written},no-pty")
    assert found.command == means
    assert not found.allows_terminal


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ("no-such-option", "unknown option 'no-such-option'"),
        ('frob="x"', "unknown option 'frob'"),
        ("cert-authority", "cert-authority is not supported"),
        ('principals="me"', "principals is not supported"),
        ('environment="A=b"', "environment is not supported"),
        ('tunnel="0"', "tunnel is not supported"),
        ("verify-required", "verify-required is not supported"),
        ('command="a",command="a"', "command is there twice"),
        ('from="1.2.3.4",from="1.2.3.4"', "from is there twice"),
        ('command=""', "command is empty"),
        ("command=date", "cannot be read"),
        ("command", "command takes a value"),
        ('no-pty="yes"', "no-pty takes no value"),
        ("no-pty,", "cannot be read"),
        ("no-pty,,pty", "cannot be read"),
        (",no-pty", "cannot be read"),
        ('"no-pty"', "cannot be read"),
        ('command="a"b', "cannot be read"),
        ('command="date', "a quote in its options is not closed"),
        ('command="date\\"', "a quote in its options is not closed"),
        ('expiry-time="tomorrow"', "expiry-time is no time"),
        ('expiry-time="20251301"', "expiry-time is no time"),
        ('expiry-time="00010101"', "expiry-time is no time"),
        ('expiry-time="2025010112"', "expiry-time is no time"),
        ('permitopen="localhost"', "permitopen is no host:port"),
        ('permitopen="::1:80"', "permitopen is no host:port"),
        ('permitopen="localhost:0"', "permitopen is no host:port"),
        ('permitopen="localhost:65536"', "permitopen is no host:port"),
        ('permitlisten="x"', "permitlisten is no host:port"),
        ('from=""', "from"),
        ('from="1.2.3.4,"', "from"),
    ],
)
def test_what_is_not_understood_rejects_the_line(options, why):
    assert why in reason(f"{options} {KEY}")


def test_forwards_may_be_limited_to_some_destinations():
    found = key('permitopen="LOCALHOST:80",permitopen="[::1]:*",permitlisten="8080"')
    assert found.permitted_forwards == (("localhost", 80), ("::1", None))
    assert key("no-pty").permitted_forwards == ()


def test_a_touch_is_required_unless_the_line_says_otherwise():
    assert key("no-pty").requires_touch
    assert not key("no-touch-required").requires_touch


# -- when and from where


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("20300102Z", dt.datetime(2030, 1, 2, tzinfo=dt.UTC)),
        ("203001021504Z", dt.datetime(2030, 1, 2, 15, 4, tzinfo=dt.UTC)),
        ("20300102z", dt.datetime(2030, 1, 2, tzinfo=dt.UTC)),
        ("20300102UTC", dt.datetime(2030, 1, 2, tzinfo=dt.UTC)),  # not in sshd(8), but taken there
        ("20300102150405Z", dt.datetime(2030, 1, 2, 15, 4, 5, tzinfo=dt.UTC)),
    ],
)
def test_a_key_works_until_it_expires(written, moment):
    found = key(f'expiry-time="{written}"')
    assert found.expires_at == moment.timestamp()
    assert found.refusal("192.0.2.1", moment.timestamp() - 1) is None
    assert (
        found.refusal("192.0.2.1", moment.timestamp()) == f"expired at {moment:%Y-%m-%dT%H:%M:%SZ}"
    )


def test_without_a_z_the_time_is_local(monkeypatch):
    monkeypatch.setenv("TZ", "XST-5:30")
    time.tzset()
    try:
        local = key('expiry-time="20300102"').expires_at
    finally:
        monkeypatch.undo()
        time.tzset()
    assert local == dt.datetime(2030, 1, 1, 18, 30, tzinfo=dt.UTC).timestamp()


def test_of_several_times_the_earliest_counts():
    for times in ("20300101Z", "20310101Z"), ("20310101Z", "20300101Z"):
        found = key(",".join(f'expiry-time="{at}"' for at in times))
        assert found.expires_at == dt.datetime(2030, 1, 1, tzinfo=dt.UTC).timestamp()


@pytest.mark.parametrize(
    ("patterns", "inside", "outside"),
    [
        ("192.0.2.1", ["192.0.2.1", "::ffff:192.0.2.1"], ["192.0.2.10", "::192.0.2.1", "", "x"]),
        ("192.0.2.0/24", ["192.0.2.255", "::ffff:192.0.2.9"], ["192.0.3.0", "2001:db8::1"]),
        ("192.0.2.*", ["192.0.2.7", "::ffff:192.0.2.7"], ["192.0.20.7", "2001:db8::2"]),
        ("192.0.2.?", ["192.0.2.7"], ["192.0.2.17"]),
        ("*,!192.0.2.0/24", ["198.51.100.1", "2001:db8::1"], ["192.0.2.1", "::ffff:192.0.2.1"]),
        ("!192.0.2.66,192.0.2.0/24", ["192.0.2.65"], ["192.0.2.66", "198.51.100.1"]),
        ("2001:DB8::1", ["2001:db8::1", "2001:db8:0:0:0:0:0:1"], ["2001:db8::10"]),
        ("2001:db8::/32", ["2001:db8:ffff::1"], ["2001:db9::1", "192.0.2.1"]),
        ("2001:db8:*", ["2001:db8::5"], ["2001:db9::5"]),
        ("fe80::/10", ["fe80::1%eth0"], ["::1"]),
        ("10.0.0.1,192.0.2.1", ["192.0.2.1", "10.0.0.1"], ["192.0.2.2"]),
        ("::/0", ["2001:db8::1"], ["192.0.2.1"]),
        ("*", ["192.0.2.1", "::1"], ["somewhere"]),
    ],
)
def test_a_key_works_from_where_it_may(patterns, inside, outside):
    found = key(f'from="{patterns}"')
    for address in inside:
        assert found.refusal(address, NOW) is None, address
    for address in outside:
        assert found.refusal(address, NOW) == "not from this address", address


@pytest.mark.parametrize(
    ("patterns", "why"),
    [
        ("home.example.org", "names cannot be checked"),
        ("*.example.org", "only addresses can be checked"),
        ("192.0.2.1,*.example.org", "only addresses can be checked"),  # not in part either
        ("*,!evil.example.org", "names cannot be checked"),
        ("192.0.2.300", "no address"),
        ("192.0.2.1, 192.0.2.2", "no address"),  # sshd passes over the second one
        ("::ffff:192.0.2.1", "write IPv4"),  # so it does here
        ("::ffff:192.0.2.0/120", "write IPv4"),
        ("010.0.0.1", "no address"),
        ("192.0.2.1/24", "has host bits set"),  # bits behind the mask: sshd refuses that as well
        ("192.0.2.0/33", "or network"),
        ("192.0.2.[12]*", "only addresses can be checked"),
        ("!192.0.2.1", "lets nobody in"),
    ],
)
def test_a_pattern_that_cannot_be_checked_rejects_the_line(patterns, why):
    assert why in reason(f'from="{patterns}" {KEY}')


# -- the list


def test_a_bad_line_is_rejected_by_name_and_the_others_work():
    keys = read([KEY, "# ours", f"frob ssh-ed25519 {OTHER} you", f"ssh-dss {rsa(2048)}", "AAAA"])
    assert [found.comment for found in keys.keys] == ["me@home"]
    assert str(keys.rejected[0]) == "line 3 (you): unknown option 'frob'"
    assert [line.number for line in keys.rejected] == [3, 4, 5]
    assert keys.rejected[1].name.startswith("SHA256:")


@pytest.mark.parametrize(
    "line",
    [
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        "b3BlbnNzaC1rZXktdjEAAAAABG5vbmUAAAAEbm9uZQAAAAAAAAABAAAAMwAAAAtzc2gtZWQyNTUxOQ",
        'command="curl -u me:s3cr3t-password',
        f'command="curl -u me:s3cr3t-password ssh-rsa {rsa(2048)} hush" ssh-rsa {rsa(1024)}',
        f"frob ssh-ed25519 {ED25519}",
        f"ssh-ed25519 {ED25519}?",
        "x" * 9000,
    ],
)
def test_the_name_of_a_line_gives_nothing_away(line):
    (rejected,) = read([line]).rejected
    assert "s3cr3t" not in str(rejected)
    assert len(rejected.name) <= 64
    assert ED25519[-20:] not in rejected.name
    assert rejected.name.isprintable()


def test_find_takes_the_first_line_that_lets_in():
    keys = read(
        [
            f"ssh-ed25519 {OTHER} you",
            f'expiry-time="20200101Z" {KEY} old',
            f'from="192.0.2.1",no-pty {KEY} office',
            f"restrict {KEY} anywhere",
        ]
    )
    assert keys.find(BLOB, "192.0.2.1", NOW).comment == "me@home office"
    assert keys.find(BLOB, "192.0.2.2", NOW).comment == "me@home anywhere"


def test_find_says_why_not():
    keys = read([f'expiry-time="20200101Z" {KEY}', f'from="192.0.2.1" ssh-ed25519 {OTHER}'])
    assert keys.find(BLOB, "192.0.2.1", NOW) == "expired at 2020-01-01T00:00:00Z"
    assert keys.find(base64.b64decode(OTHER), "192.0.2.2", NOW) == "not from this address"
    assert keys.find(BLOB[:-1] + b"x", "192.0.2.1", NOW) == "unknown key"
    assert KeyList().find(BLOB, "192.0.2.1", NOW) == "unknown key"


def test_next_expiry_is_the_first_one_to_come():
    lines = [KEY, *(f'expiry-time="{at}Z" {KEY}' for at in (20200101, 20300101, 20290101))]
    soon = dt.datetime(2029, 1, 1, tzinfo=dt.UTC).timestamp()
    assert read(lines).next_expiry(NOW) == soon
    assert read(lines[:2]).next_expiry(NOW) is None


def test_another_comment_permits_the_same_and_another_option_does_not():
    found = key("no-pty")
    assert found.permits_same_as(dataclasses.replace(found, comment="somebody else"))
    assert not found.permits_same_as(key("restrict"))
    assert not found.permits_same_as(key('no-pty,expiry-time="20300101Z"'))


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["# nobody"],
        [KEY],
        ["junk", f"no-pty {KEY}"],
        [f"ssh-rsa {rsa(1024)} weak"],
        ["ssh-newer-99 AAAADHNzaC1uZXdlci05OQ== later"],
        [f'command="never closed {KEY}'],
    ],
)
def test_a_list_of_keys_is_known_by_its_form(lines):
    assert authorized_keys.look_like_keys(lines)


@pytest.mark.parametrize(
    "lines",
    [
        ["<!DOCTYPE html>", "<html><body>please log in</body></html>"],
        ["not found"],
        ["# a comment", "nothing of use"],
        ["me", "you"],
        ["ssh-ed25519"],
        ["-----BEGIN OPENSSH PRIVATE KEY-----", "b3BlbnNzaC1rZXktdjEAAAAABG5vbmU"],
    ],
)
def test_anything_else_is_no_list_of_keys(lines):
    assert not authorized_keys.look_like_keys(lines)


# -- whatever comes


def words():
    options = [
        "restrict",
        "no-pty",
        'command="',
        'from="',
        'from="*"',
        'expiry-time="2',
        'permitopen="[',
        "Z",
    ]
    keys = ["ssh-ed25519", "ssh-rsa", ED25519, rsa(1024), "AAAA", *options, *' ",\\\t=!*?/:%[]\0\n']
    return st.lists(st.one_of(st.sampled_from(keys), st.text(max_size=5))).map("".join)


@given(st.one_of(st.text(), words()))
@example('from="::ffff:1.2.3.4/96" ' + KEY)
@example('expiry-time="99991231" ' + KEY)
def test_no_line_does_more_than_be_rejected(line):
    keys = read([line])
    assert len(keys.keys) + len(keys.rejected) <= 1
    authorized_keys.look_like_keys([line])
    for found in keys.keys:
        found.refusal("192.0.2.1", NOW)
        assert parse(f"{found.kind} {base64.b64encode(found.blob).decode()}").blob == found.blob


@given(st.text(alphabet=st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200))
def test_a_command_survives_its_quoting(command):
    if command.strip() and not command.endswith("\\") and '\\"' not in command:
        quoted = command.replace('"', '\\"')
        assert key(f'command="{quoted}"').command == command


@given(st.data())
def test_a_damaged_key_is_never_taken_for_another(data):
    line = bytearray(f"ssh-ed25519 {ED25519}".encode())
    at = data.draw(st.integers(0, len(line) - 1))
    line[at] = data.draw(st.integers(0x20, 0x7E))
    found = read([line.decode()]).keys
    assert all(key.kind == "ssh-ed25519" and len(key.blob) == len(BLOB) for key in found)


@given(st.text(max_size=60), st.ip_addresses().map(str))
def test_a_from_list_admits_or_rejects_but_never_breaks(patterns, address):
    quoted = patterns.replace("\\", "").replace('"', "")
    for found in read([f'from="{quoted}" {KEY}']).keys:
        assert found.refusal(address, NOW) in {None, "not from this address"}
