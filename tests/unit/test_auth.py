"""API keys: kept as digests, named, with scopes."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from starlette.requests import Request

from gateway import auth
from gateway.problems import Problem
from gateway.settings import GatewaySettings
from offload_core.settings import SettingsError


def settings(tmp_path, **more) -> GatewaySettings:
    return GatewaySettings(
        redis_url="redis://localhost/0", blob_url=f"file://{tmp_path}", link_secret="s" * 32, **more
    )  # fmt: skip


def request(method: str = "GET", tag: str = "tasks", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    route = SimpleNamespace(path="/v1/somewhere", tags=[tag])
    return Request({"type": "http", "method": method, "headers": raw, "route": route})


class Nothing:
    """A Redis that holds no API keys."""

    async def get(self, _: str) -> None:
        return None

    async def hgetall(self, _: str) -> dict[bytes, bytes]:
        return {}


def keys_of(settings: GatewaySettings) -> auth.Keys:
    keys = auth.Keys(settings, Nothing())
    asyncio.run(keys.refresh())
    return keys


def test_a_new_key_is_known_by_its_line(tmp_path):
    key, line = auth.new_key("shop", ["tasks"])
    file = tmp_path / "keys"
    file.write_text(f"# our keys\n{line}   # the shop's\n\n")
    keys = keys_of(settings(tmp_path, api_keys_file=str(file)))
    for headers in ({"authorization": f"Bearer {key}"}, {"authorization": f"bearer {key}"}, {"x_api_key": key}):
        caller = keys.caller(request(**headers))
        assert (caller.tenant, caller.is_operator) == ("shop", False)
    assert key not in line


def test_keys_come_by_environment_too(tmp_path, monkeypatch):
    key, line = auth.new_key("root", ["operator", "tasks"])
    _, other = auth.new_key("shop", ["tasks"])
    monkeypatch.setenv("OFFLOAD_API_KEYS", f"{line}\n{other}")
    keys = keys_of(settings(tmp_path))
    assert keys.caller(request(x_api_key=key)).is_operator


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 401, "auth.missing"),
        ({"authorization": "Basic abc"}, 401, "auth.missing"),
        ({"authorization": "Bearer "}, 401, "auth.missing"),
        ({"authorization": "Bearer offload_wrong"}, 401, "auth.refused"),
    ],
)
def test_without_a_known_key_nothing_is_served(tmp_path, headers, status, code):
    _, line = auth.new_key("shop", ["tasks"])
    keys = keys_of(settings(tmp_path, api_keys=(line,)))
    with pytest.raises(Problem) as raised:
        keys.caller(request(**headers))
    assert (raised.value.status, raised.value.code) == (status, code)


def test_without_any_key_the_gateway_does_not_start(tmp_path):
    with pytest.raises(SettingsError, match="OFFLOAD_DEVELOPMENT_MODE"):
        keys_of(settings(tmp_path))


def test_development_mode_is_loud(tmp_path, caplog):
    keys = keys_of(settings(tmp_path, development_mode=True))
    assert keys.caller(request()).is_operator
    assert "DEVELOPMENT MODE" in caplog.text


@pytest.mark.parametrize("line", ["", "shop", "shop:123", "shop:" + "g" * 64, "sh op:" + "a" * 64])
def test_a_line_that_is_no_key_is_refused(tmp_path, line):
    with pytest.raises(SettingsError):
        keys_of(settings(tmp_path, api_keys=(line,)))


@pytest.mark.parametrize("scope", ["root", "tasks:admin", "read"])
def test_a_scope_that_there_is_not_is_refused(tmp_path, scope):
    with pytest.raises(SettingsError, match=scope):
        keys_of(settings(tmp_path, api_keys=(f"shop:{'a' * 64}:{scope}",)))


@pytest.mark.parametrize(
    ("scope", "method", "tag", "is_allowed"),
    [
        ("tasks:read", "GET", "tasks", True),
        ("tasks:read", "GET", "events", True),
        ("tasks:read", "POST", "tasks", False),
        ("tasks:write", "DELETE", "batches", True),
        ("tasks:write", "GET", "tasks", False),
        ("schedules:read", "GET", "tasks", False),
        ("schedules:write", "PUT", "schedules", True),
        ("webhooks:read", "POST", "webhooks", False),
        ("tasks", "POST", "webhooks", True),
        ("tasks", "GET", "queues", False),
        ("operator", "POST", "schedules", True),
        ("operator", "DELETE", "dead letters", True),
        ("operator", "GET", "tenants", False),
        ("admin", "GET", "audit", True),
        ("admin", "GET", "tasks", False),
    ],
)
def test_a_key_may_do_what_its_scopes_say(tmp_path, scope, method, tag, is_allowed):
    key, line = auth.new_key("shop", [scope])
    keys = keys_of(settings(tmp_path, api_keys=(f"{line}:2999-12-31",)))
    if is_allowed:
        assert keys.caller(request(method, tag, x_api_key=key)).tenant == "shop"
    else:
        with pytest.raises(Problem, match=r"auth\.scope"):
            keys.caller(request(method, tag, x_api_key=key))


def test_a_key_that_redis_may_know_is_not_refused_while_it_does_not_answer(tmp_path):
    key, line = auth.new_key("shop", ["tasks"])
    keys = auth.Keys(settings(tmp_path, api_keys=(line,)), Nothing())
    assert keys.caller(request(x_api_key=key)).tenant == "shop"
    with pytest.raises(Problem) as raised:
        keys.caller(request(x_api_key="offload_unknown"))
    assert (raised.value.status, raised.value.code) == (503, "redis.unavailable")


@pytest.mark.parametrize("name", ["beat", "development", "offload"])
def test_the_names_of_our_own_tasks_are_no_keys(tmp_path, name):
    with pytest.raises(SettingsError, match=name):
        auth.new_key(name, ["tasks"])
    with pytest.raises(SettingsError, match=name):
        keys_of(settings(tmp_path, api_keys=(f"{name}:{'a' * 64}",)))


@pytest.mark.parametrize(
    ("expires", "is_known"),
    [("2999-12-31", True), ("2999-12-31T23:59:59Z", True), ("2020-01-01", False), ("2020-01-01T00:00:00+02:00", False)],
)
def test_a_key_ends_with_its_expiry(tmp_path, expires, is_known):
    key, line = auth.new_key("shop", ["tasks"], expires)
    keys = keys_of(settings(tmp_path, api_keys=(line,)))
    if is_known:
        assert keys.caller(request(x_api_key=key)).tenant == "shop"
    else:
        with pytest.raises(Problem) as raised:
            keys.caller(request(x_api_key=key))
        assert (raised.value.status, raised.value.code) == (401, "auth.refused")


def test_an_expiry_that_is_no_date_is_refused():
    with pytest.raises(SettingsError, match="expiry"):
        auth.new_key("shop", ["tasks"], "2026-13-01")


def test_a_changed_file_is_read_again_and_a_broken_one_changes_nothing(tmp_path, caplog):
    key, line = auth.new_key("shop", ["tasks"])
    other, other_line = auth.new_key("other", ["tasks"])
    file = tmp_path / "keys"
    file.write_text(line)
    keys = keys_of(settings(tmp_path, api_keys_file=str(file)))
    file.write_text(f"{other_line}\n")
    asyncio.run(keys.refresh())
    assert keys.caller(request(x_api_key=other)).tenant == "other"
    with pytest.raises(Problem):
        keys.caller(request(x_api_key=key))
    file.write_text("no key at all, and longer than before")
    asyncio.run(keys.refresh())
    assert keys.caller(request(x_api_key=other)).tenant == "other"
    assert "stay as they were" in caplog.text
