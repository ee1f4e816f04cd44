"""Mail against a real SMTP server that misbehaves, stage by stage."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections import Counter
from datetime import UTC, datetime

import pytest

from devstack.certificates import issue
from devstack.smtp_sink import DROP, SmtpSink
from devstack.waiting import until
from mail_worker import compose
from mail_worker.settings import SmtpSettings
from mail_worker.smtp import Sender
from offload_core.errors import TemporaryError

from .conftest import FAST, Offload

MAIL = {"to": "ann@example.com", "subject": "Hello", "text": "Hello."}


@pytest.fixture(scope="module")
def mailing(tmp_path_factory):
    with Offload(tmp_path_factory.mktemp("mailing"), FAST) as stack:
        stack.gateway()
        stack.worker("mail_worker")
        yield stack


@pytest.fixture
def ready(mailing):
    """What all tests share whose worker lives on: the mail server takes everything, and has taken nothing yet."""
    mailing.smtp.mails.clear()
    yield mailing
    mailing.smtp.script = lambda _stage, _envelope: None


def send(offload, **mail) -> dict:
    client = offload.client()
    response = client.post("/v1/emails", json=MAIL | mail)
    return offload.wait(client, response.json()["task_id"])


def once(stage: str, reply: str, times: int = 1):
    """A script that gives a reply at a stage so many times, and then takes the mail."""
    left = Counter({stage: times})

    def script(at: str, _envelope) -> str | None:
        key = next((name for name in left if at.startswith(name)), None)
        if key is None or not left[key]:
            return None
        left[key] -= 1
        return reply

    return script


@pytest.mark.parametrize("stage", ["RCPT", "DATA", "DOT"])
@pytest.mark.parametrize("reply", ["421 closing", "450 busy", "451 later", "452 full"])
def test_a_temporary_reply_is_tried_again(ready, stage, reply):
    ready.smtp.script = once(stage, reply, times=2)
    task = send(ready)
    assert (task["state"], task["steps"][0]["attempts"]) == ("SUCCESS", 3)
    assert len(ready.smtp.to("ann@example.com")) == 1


def test_552_to_a_recipient_is_temporary(ready):
    """Old servers mean "too many recipients in one mail" by it (RFC 5321, section 4.5.3.1.10)."""
    ready.smtp.script = once("RCPT", "552 too many recipients", times=2)
    task = send(ready)
    assert (task["state"], task["steps"][0]["attempts"]) == ("SUCCESS", 3)


@pytest.mark.parametrize(
    ("stage", "reply"),
    [
        *((stage, reply) for stage in ("RCPT", "DATA", "DOT") for reply in ("550 no such user", "554 no")),
        ("DATA", "552 too big"),
        ("DOT", "552 too big"),
    ],
)
def test_a_permanent_reply_is_final(ready, stage, reply):
    ready.smtp.script = once(stage, reply, times=9)
    task = send(ready)
    assert (task["state"], task["error"]["code"], task["steps"][0]["attempts"]) == ("FAILURE", "mail.refused", 1)
    assert reply.split()[0] in task["error"]["message"]
    assert ready.smtp.to("ann@example.com") == []


@pytest.mark.parametrize("stage", ["RCPT", "DATA"])
def test_a_drop_before_the_text_leaves_one_copy(ready, stage):
    ready.smtp.script = once(stage, DROP if stage == "DATA" else "421 bye")
    assert send(ready)["state"] == "SUCCESS"
    assert len(ready.smtp.to("ann@example.com")) == 1


def test_a_drop_in_the_middle_of_the_text_leaves_one_copy(ready):
    ready.smtp.script = once("TEXT", DROP)
    task = send(ready)
    assert (task["state"], task["steps"][0]["attempts"]) == ("SUCCESS", 2)
    assert len(ready.smtp.to("ann@example.com")) == 1


def test_a_drop_after_the_final_dot_is_sent_again_with_the_same_id(ready):
    ready.smtp.script = once("DOT", DROP)
    task = send(ready)
    assert (task["state"], task["steps"][0]["attempts"]) == ("SUCCESS", 2)
    copies = ready.smtp.to("ann@example.com")
    assert len(copies) == 2
    assert copies[0].data == copies[1].data, "to the byte"
    assert ready.redis.client().hget(f"offload:ledger:{task['task_id']}", "ambiguous") == b"1"


def test_at_most_once_gives_up_instead(ready):
    ready.smtp.script = once("DOT", DROP)
    task = send(ready, policy="at-most-once")
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "mail.outcome_unknown")
    assert len(ready.smtp.to("ann@example.com")) == 1


@pytest.mark.parametrize(
    ("policy", "copies", "state"), [("at-least-once", 2, "SUCCESS"), ("at-most-once", 1, "FAILURE")]
)
def test_a_worker_killed_between_the_dot_and_its_note(offload, policy, copies, state):
    """Killed with the mail taken and nothing noted: only the policy can say what is right."""
    offload.gateway()
    client = offload.client()
    victim = offload.worker("mail_worker")

    def kill_after_the_text(stage: str, _envelope) -> None:
        if stage == "DOT" and victim.exit_code is None:
            victim.kill()

    offload.smtp.script = kill_after_the_text
    task_id = client.post("/v1/emails", json=MAIL | {"policy": policy}).json()["task_id"]
    until(lambda: victim.exit_code is not None, "the kill")
    offload.worker("mail_worker")
    assert offload.wait(client, task_id)["state"] == state
    assert len(offload.smtp.to("ann@example.com")) == copies


def test_who_was_accepted_is_never_sent_to_again(ready):
    ready.smtp.script = once("RCPT bob@example.com", "451 greylisted")
    task = send(ready, to=["ann@example.com", "bob@example.com", "cat@example.com"])
    assert task["state"] == "SUCCESS"
    assert [len(ready.smtp.to(f"{name}@example.com")) for name in ("ann", "bob", "cat")] == [1, 1, 1]
    assert [mail.recipients for mail in ready.smtp.mails] == [
        ["ann@example.com", "cat@example.com"],
        ["bob@example.com"],
    ]


def test_who_is_refused_does_not_stop_the_others(ready):
    ready.smtp.script = once("RCPT bob@example.com", "550 no such user", times=9)
    task = send(ready, to=["ann@example.com", "bob@example.com"])
    assert task["state"] == "SUCCESS"
    assert (task["result"]["accepted"], task["result"]["refused"]) == (1, [550])
    assert len(ready.smtp.mails) == 1


def outcomes(of: dict) -> dict[str, object]:
    """Return what became of each recipient, by the part of its address that names it."""
    return {one["address"].partition("@")[0]: one.get("code", one["outcome"]) for one in of["recipients"]}


def test_the_api_tells_what_became_of_each_recipient(ready):
    """One is taken, one refused, one deferred to the end; then one whose outcome the server leaves open."""
    refuse, defer = once("RCPT bob@", "550 no such user", times=99), once("RCPT cat@", "451 greylisted", times=99)
    ready.smtp.script = lambda stage, envelope: refuse(stage, envelope) or defer(stage, envelope)
    three = [f"{name}@example.com" for name in ("ann", "bob", "cat")]
    task = send(ready, to=three)
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "mail.deferred")
    assert "1 of 3 recipients have the mail" in task["error"]["message"]
    assert outcomes(task["error"]["details"]) == {"ann": "sent", "bob": 550, "cat": "not_sent"}
    assert len(ready.smtp.to("ann@example.com")) == 1
    done = send(ready, to=three[:2])
    assert outcomes(done["result"]) == {"ann": "sent", "bob": 550}
    refused = send(ready, to=three[1])
    assert outcomes(refused["error"]["details"]) == {"bob": 550}


def test_at_most_once_goes_on_for_those_that_are_still_open(ready):
    """The server falls silent over Ann's copy; Bob, whom it had put off, gets his. Ann is never sent to again."""
    defer, drop = once("RCPT bob@", "451 greylisted"), once("DOT", DROP)
    ready.smtp.script = lambda stage, envelope: defer(stage, envelope) or drop(stage, envelope)
    task = send(ready, to=["ann@example.com", "bob@example.com"], policy="at-most-once")
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "mail.outcome_unknown")
    assert outcomes(task["error"]["details"]) == {"ann": "unknown", "bob": "sent"}
    assert [len(ready.smtp.to(f"{name}@example.com")) for name in ("ann", "bob")] == [1, 1]


def test_the_policy_of_the_notification_is_the_posts(offload):
    offload.gateway()
    offload.worker("mail_worker")
    offload.worker("image_worker")
    offload.smtp.script = once("DOT", DROP)
    client = offload.client()
    task = offload.wait(client, offload.post_photo(client, notify_policy="at-most-once"))
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "mail.outcome_unknown")
    assert len(task["links"]["outputs"]) == 2, "its outputs stay listed"
    assert len(offload.smtp.to("ann@example.com")) == 1


def test_connections_are_used_again(ready):
    before = ready.smtp.connections
    for _ in range(12):
        assert send(ready)["state"] == "SUCCESS"
    # One for each thread at most, and those of the health check.
    assert ready.smtp.connections - before <= 5


# aiosmtpd leaves a plain stream behind when it turns a connection to TLS.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_starttls_and_login(offload, tmp_path):
    issued = issue(tmp_path, "127.0.0.1")
    offload.smtp.stop()
    offload.smtp = SmtpSink(offload.smtp.port, login=("offload", "pass word"), starttls=issued.for_a_server()).start()
    offload.environment |= {
        "OFFLOAD_SMTP_SECURITY": "starttls",
        "OFFLOAD_SMTP_CA_FILE": str(issued.authority),
        "OFFLOAD_SMTP_USERNAME": "offload",
        "OFFLOAD_SMTP_PASSWORD": "pass word",
    }
    offload.gateway()
    worker = offload.worker("mail_worker")
    assert send(offload)["state"] == "SUCCESS"
    assert len(offload.smtp.to("ann@example.com")) == 1
    worker.stop()
    offload.worker("mail_worker", {"OFFLOAD_SMTP_PASSWORD": "wrong"})
    task = send(offload)
    assert (task["state"], task["error"]["code"]) == ("FAILURE", "mail.auth_failed")
    assert "pass word" not in worker.output()


def test_an_outage_of_redis_does_not_count_against_a_deadline(offload):
    offload.gateway()
    client = offload.client()
    worker = offload.worker("mail_worker", {"OFFLOAD_MAIL_DEADLINE_SECONDS": "4", "OFFLOAD_CONCURRENCY": "1"})

    def script(stage: str, _envelope) -> None:
        # The ledger cannot be closed then.
        if stage == "DATA":
            offload.redis.kill()

    offload.smtp.script = script
    task_id = client.post("/v1/emails", json=MAIL).json()["task_id"]
    until(lambda: offload.smtp.to("ann@example.com"), "the mail")
    time.sleep(8)  # the outage itself
    offload.redis.start()
    assert offload.wait(client, task_id, seconds=40)["state"] == "SUCCESS"
    assert len(offload.smtp.to("ann@example.com")) == 1
    assert worker.exit_code is None


def test_a_step_past_its_deadline_ends_the_worker_and_is_done_by_another(offload):
    """Threads cannot be ended: the worker hands back the rest and exits, and somebody else sends the mail."""
    offload.gateway()
    client = offload.client()
    slow = offload.worker("mail_worker", {"OFFLOAD_MAIL_DEADLINE_SECONDS": "2", "OFFLOAD_CONCURRENCY": "1"})
    silent = threading.Event()

    def script(stage: str, _envelope) -> None:
        if stage == "DATA" and not silent.is_set():
            silent.set()
            silent.wait()
            threading.Event().wait(8)

    offload.smtp.script = script
    task_id = client.post("/v1/emails", json=MAIL).json()["task_id"]
    until(lambda: slow.exit_code == 70, "the worker to end itself", seconds=40)
    assert "past the deadline" in slow.output()
    offload.worker("mail_worker")
    assert offload.wait(client, task_id, seconds=40)["state"] == "SUCCESS"
    assert len(offload.smtp.to("ann@example.com")) == 1


def test_after_the_last_retry_a_mail_is_a_dead_letter_and_can_be_redriven(ready):
    """Days later the server takes it: those who have it do not get it again."""
    ready.smtp.script = once("RCPT bob@example.com", "451 greylisted", times=99)
    task = send(ready, to=["ann@example.com", "bob@example.com"])
    assert (task["state"], task["error"]["code"], task["steps"][0]["attempts"]) == ("FAILURE", "mail.deferred", 4)
    client = ready.client()

    def letter_of_the_task() -> dict | None:
        letters = client.get("/v1/dead-letters").json()["dead_letters"]
        return next((letter for letter in letters if letter["task_id"] == task["task_id"]), None)

    letter = until(letter_of_the_task, "the dead letter")
    assert letter["reason"] == "mail.deferred"
    # Not at once, either: what is redriven has its retries again.
    ready.smtp.script = once("RCPT bob@example.com", "451 greylisted", times=2)
    until(lambda: client.post(f"/v1/dead-letters/{letter['id']}/redrive").status_code == 200, "the redrive")
    done = until(lambda: (found := ready.task(client, task["task_id"]))["state"] == "SUCCESS" and found, "the mail")
    assert outcomes(done["result"]) == {"ann": "sent", "bob": "sent"}
    assert [len(ready.smtp.to(f"{name}@example.com")) for name in ("ann", "bob")] == [1, 1]


def test_individually_nobody_sees_the_others(ready):
    refuse, defer = once("RCPT bob@", "550 no such user", times=99), once("RCPT cat@", "451 greylisted")
    ready.smtp.script = lambda stage, envelope: refuse(stage, envelope) or defer(stage, envelope)
    task = send(ready, to=[f"{name}@example.com" for name in ("ann", "bob", "cat", "dan")], individually=True)
    assert task["state"] == "SUCCESS"
    assert outcomes(task["result"]) == {"ann": "sent", "bob": 550, "cat": "sent", "dan": "sent"}
    for name in ("ann", "cat", "dan"):
        (mail,) = ready.smtp.to(f"{name}@example.com")
        assert (mail.recipients, str(mail.parsed["To"])) == ([f"{name}@example.com"], f"{name}@example.com")
    assert len({str(mail.parsed["Message-ID"]) for mail in ready.smtp.mails}) == 3


def test_the_sender_has_a_name(offload):
    offload.gateway()
    offload.worker("mail_worker", {"OFFLOAD_MAIL_FROM_NAME": 'Müller & "Söhne"'})
    assert send(offload)["state"] == "SUCCESS"
    (mail,) = offload.smtp.to("ann@example.com")
    assert mail.parsed["From"].addresses[0].display_name == 'Müller & "Söhne"'


# -- servers that are slow, or refuse us


class RawServer:
    """A server on a port of this machine that does with each connection what it is told."""

    def __init__(self, serve) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._serve = serve
        self._stopped = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            self._serve(connection, self._stopped)

    def stop(self) -> None:
        self._stopped.set()
        self._listener.close()


@pytest.fixture
def raw(request):
    made = []

    def make(serve) -> RawServer:
        made.append(RawServer(serve))
        return made[-1]

    yield make
    for server in made:
        server.stop()


def dribble(connection: socket.socket, stopped: threading.Event) -> None:
    """A greeting that never ends, a byte now and then."""
    while not stopped.wait(0.2):
        connection.sendall(b"2")


def without_starttls(connection: socket.socket, _: threading.Event) -> None:
    connection.sendall(b"220 here\r\n")
    while connection.recv(1000):
        connection.sendall(b"250 here\r\n")


def test_an_address_that_looks_encoded_is_sent_as_it_is(raw):
    """To the byte, in the envelope and in the header. (Our usual test server would itself decode it.)"""
    lines: list[bytes] = []

    def take(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(b"220 here\r\n")
        for line in connection.makefile("rb"):
            lines.append(line)
            if line == b"DATA\r\n":
                connection.sendall(b"354 go on\r\n")
            elif b"DATA\r\n" not in lines or line == b".\r\n":
                connection.sendall(b"250 OK\r\n")

    address = "=?utf-8?q?a=2C_evil=40evil.example=2C_b?=@example.com"
    mail = compose.message(
        compose.Content("=?utf-8?q?a=0D=0ABcc:_evil=40evil.example?=", "text"),
        sender="offload@example.com", to=[address], mail_id="1", date=datetime(2026, 11, 24, tzinfo=UTC),
    )  # fmt: skip
    sender = sender_of(raw(take).port, smtp_security="none")
    sent = sender.send(mail, "offload@example.com", [address], lambda _: True)
    sender._drop()
    assert sent.accepted == (0,)
    assert f"RCPT TO:<{address}>\r\n".encode() in lines
    assert f"To: {address}\r\n".encode() in lines


def sender_of(port: int, **settings):
    return Sender(SmtpSettings(smtp_host="127.0.0.1", smtp_port=port, mail_from="offload@example.com", **settings))


def test_a_server_that_dribbles_is_left_in_time(raw):
    server = raw(dribble)
    for settings, check in (
        ({"smtp_timeout_seconds": 1}, lambda sender: sender.check(30)),
        ({"smtp_timeout_seconds": 30}, lambda sender: sender.check(1)),
        ({"smtp_session_timeout_seconds": 1}, lambda sender: sender.send(b"x", "a@b.c", ["a@b.c"], lambda _: True)),
    ):
        began = time.monotonic()
        with pytest.raises(TemporaryError) as raised:
            check(sender_of(server.port, smtp_security="none", **settings))
        assert raised.value.code == "mail.unreachable"
        # A dribbling server would hold it for ever; the margin is for a machine that does other things.
        assert time.monotonic() - began < 20


def test_a_health_check_that_hangs_takes_no_slot(offload, raw):
    """One slot, and a mail server that dribbles: a mail is taken while the check still waits."""
    server = raw(dribble)
    hanging = {"OFFLOAD_SMTP_PORT": str(server.port), "OFFLOAD_HEALTH_TIMEOUT_SECONDS": "60"}
    worker = offload.worker("mail_worker", {"OFFLOAD_CONCURRENCY": "1"} | hanging)
    offload.gateway()
    client = offload.client()
    task_id = client.post("/v1/emails", json=MAIL).json()["task_id"]
    until(lambda: offload.task(client, task_id)["state"] == "STARTED", "the mail to be taken")
    assert "health: {" not in worker.output(), "the check still waits"


def test_each_cause_keeps_its_name(raw, tmp_path):
    plain = raw(without_starttls)
    issued = issue(tmp_path, "127.0.0.1")
    context = issued.for_a_server()

    def over_tls(connection: socket.socket, stopped: threading.Event) -> None:
        with context.wrap_socket(connection, server_side=True) as secured:
            without_starttls(secured, stopped)

    login = {"smtp_username": "a", "smtp_password": "b"}
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    cases = {
        "mail.tls_missing": sender_of(plain.port, smtp_security="starttls"),
        "mail.auth_missing": sender_of(plain.port, smtp_security="none", **login),
        "mail.certificate": sender_of(raw(over_tls).port, smtp_security="tls"),
        "mail.tls_failed": sender_of(plain.port, smtp_security="tls"),
        "mail.unreachable": sender_of(closed, smtp_security="none"),
    }
    for code, sender in cases.items():
        with pytest.raises(TemporaryError) as raised:
            sender.check(10)
        assert raised.value.code == code
