"""The repository agrees with itself."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import celery_leases.keys
from devstack import settings_reference
from offload_contracts.contract import Queue
from offload_contracts.registry import ALL

ROOT = Path(__file__).parents[2]
SERVICES = ("gateway", "image-worker", "mail-worker", "http-worker", "housekeeper", "beat")
SOURCES = sorted(
    path
    for folder in ("libs", "services", "devstack")
    for path in (ROOT / folder).rglob("src/**/*.py")
    if "offload_contracts" not in path.parts
)


def literals(path: Path) -> set[str]:
    """Return all string literals of a module but its docstrings."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
    }


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_task_is_named_outside_of_the_contracts(path):
    assert literals(path) & {contract.name for contract in ALL} == set()


def test_each_task_has_one_consumer_and_each_queue_one_fleet(monkeypatch, tmp_path):
    import http_worker.tasks
    from http_worker.settings import HttpWorkerSettings

    import housekeeper.tasks
    import image_worker.tasks
    import mail_worker.tasks
    from housekeeper.settings import HousekeeperSettings
    from image_worker.settings import ImageWorkerSettings
    from mail_worker.settings import MailWorkerSettings

    monkeypatch.setattr("offload_core.logs.configure", lambda *_: None)
    common = {"redis_url": "redis://localhost/0"}
    with_files = common | {"blob_url": f"file://{tmp_path}"}
    linking = common | {"link_secret": "s" * 32}
    mail = linking | {"smtp_host": "localhost", "mail_from": "a@example.com"}
    workers = {
        image_worker.tasks.worker: ImageWorkerSettings(**with_files),
        mail_worker.tasks.worker: MailWorkerSettings(**mail),
        http_worker.tasks.worker: HttpWorkerSettings(**linking),
        housekeeper.tasks.worker: HousekeeperSettings(**with_files),
    }
    fleets = {worker.queues: worker.create(settings) for worker, settings in workers.items()}
    assert sorted(queue for queues in fleets for queue in queues) == sorted(Queue)
    for queues, app in fleets.items():
        ours = {name for name in app.tasks if not name.startswith("celery.")}
        assert ours == {contract.name for contract in ALL if contract.queue in queues}
        assert app.conf.accept_content == ["json"]
        assert (app.conf.task_soft_time_limit, app.conf.task_time_limit) == (300, 360)
        assert app.conf.result_expires == 3600


@pytest.mark.parametrize(
    "override", [{"task_acks_late": False}, {"accept_content": ["json", "pickle"]}, {"worker_disable_prefetch": False}]
)
def test_settings_that_would_break_a_promise_are_refused(override):
    from offload_core.settings import Settings, SettingsError
    from offload_worker.celery_app import _refuse_overrides, create_app

    app = create_app("test", Settings(redis_url="redis://localhost/0"))
    _refuse_overrides(app.conf)
    app.conf.update(override)
    with pytest.raises(SettingsError, match=next(iter(override))):
        _refuse_overrides(app.conf)


def test_the_gateway_loads_no_celery():
    code = (
        "import sys, gateway.app, gateway.__main__;"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'celery', 'kombu', 'billiard', 'PIL', 'reportlab'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_importing_a_service_reads_no_environment():
    code = (
        "import os\n"
        "before = dict(os.environ)\n"
        "import gateway.app, image_worker.app, image_worker.tasks, mail_worker.app, mail_worker.tasks\n"
        "import http_worker.app, http_worker.tasks, housekeeper.app, housekeeper.tasks, beat.app\n"
        "assert dict(os.environ) == before\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env={"PATH": ""})
    assert run.returncode == 0, run.stderr


def test_the_settings_page_is_what_the_code_says():
    page = (ROOT / "docs" / "reference" / "settings.md").read_text()
    assert page == settings_reference.render(), "run `make docs`"
    for name, fields in settings_reference.variables().items():
        assert all(field.description for field in fields.values()), name


def test_a_renamed_setting_is_read_by_its_old_name_with_a_warning(monkeypatch, tmp_path, caplog):
    from image_worker.settings import ImageWorkerSettings
    from image_worker.tasks import worker

    monkeypatch.setattr("offload_core.logs.configure", lambda *_: None)
    monkeypatch.setenv("OFFLOAD_IMAGE_CONCURRENCY", "3")
    given = {"redis_url": "redis://localhost/0", "blob_url": f"file://{tmp_path}"}
    assert ImageWorkerSettings(**given).concurrency == 3
    worker.create(ImageWorkerSettings(**given))
    assert "OFFLOAD_IMAGE_CONCURRENCY is called OFFLOAD_CONCURRENCY now" in caplog.text
    monkeypatch.setenv("OFFLOAD_CONCURRENCY", "5")
    assert ImageWorkerSettings(**given).concurrency == 5


@pytest.mark.parametrize("service", SERVICES)
def test_every_service_says_what_happens_when_something_dies(service):
    text = (ROOT / "services" / service / "README.md").read_text()
    for word in ("## Settings", "## When something dies", "Redis", "process"):
        assert word in text, word


def test_the_chart_writes_the_key_prefix_once_and_the_brokers_keys_as_they_are():
    templates = ROOT / "charts" / "offload" / "templates"
    assert [path for path in templates.rglob("*.*") if "offload:" in path.read_text()] == []
    asked = re.findall(r'"key" "([a-z-]+)"', (templates / "workers" / "scaledobject.yaml").read_text())
    assert set(asked) == {celery_leases.keys.LIVE, celery_leases.keys.LEASES, celery_leases.keys.PAUSE}


def test_every_service_has_the_same_files():
    for service in SERVICES:
        package = ROOT / "services" / service / "src" / service.replace("-", "_")
        assert {"__init__.py", "__main__.py", "app.py", "settings.py"} <= {path.name for path in package.iterdir()}


@pytest.mark.parametrize("word", ["utils", "helpers", "common", "manager", "core"])
def test_no_module_has_a_name_that_says_nothing(word):
    assert [path for path in SOURCES if path.stem == word] == []


def test_the_page_about_elasticity_shows_the_clusters_last_report():
    mark = "<!-- What follows is written by `make cluster-test`. -->\n"
    report = (ROOT / "reports" / "cluster.md").read_text().partition(mark)[2]
    assert "| what | measured |" in report
    assert (ROOT / "docs" / "explanation" / "elasticity.md").read_text().partition(mark)[2] == report


def test_nothing_but_the_broker_spells_its_keys():
    """Others call its functions: in Lua by ``--- @include``, in Python `celery_leases.admin`."""
    spelt = re.compile(rf""":(?:{"|".join(map(re.escape, celery_leases.keys.PARTS))})['"]""")
    ours = ROOT / "libs" / "celery-leases"
    files = [
        path
        for folder in ("libs", "services", "devstack")
        for path in (ROOT / folder).rglob("src/**/*")
        if path.suffix in {".lua", ".py"} and not path.is_relative_to(ours)
    ]
    assert len(files) > 100
    assert [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if spelt.search(line)
    ] == []
    assert [
        path for path in SOURCES if "celery_leases import keys" in path.read_text() and ours not in path.parents
    ] == []


def test_everything_is_of_one_version():
    def version(folder: Path) -> str:
        return tomllib.loads((folder / "pyproject.toml").read_text())["project"]["version"]

    chart = (ROOT / "charts" / "offload" / "Chart.yaml").read_text()
    release = re.search(r"^appVersion: (\S+)$", chart, re.MULTILINE)[1]
    assert f"\nversion: {release}\n" in chart
    libraries = [file.parent for file in (ROOT / "libs").glob("*/pyproject.toml")]
    assert len(libraries) == 4
    for folder in [*(ROOT / "services" / service for service in SERVICES), *libraries, ROOT / "devstack"]:
        assert version(folder) == release, folder
    for service in SERVICES:
        assert f"ARG VERSION={release}\n" in (ROOT / "services" / service / "Dockerfile").read_text()
    assert f"## {release} - " in (ROOT / "CHANGELOG.md").read_text()
    assert celery_leases.__version__ == release


def test_the_dockerfiles_differ_in_their_service_alone():
    def shape(service: str) -> str:
        text = (ROOT / "services" / service / "Dockerfile").read_text()
        text = re.sub(r".*image\.description.*\n|EXPOSE .*\n|# Exec form.*\n", "", text)
        return text.replace(service, "SERVICE").replace(service.replace("-", "_"), "SERVICE")

    assert len({shape(service) for service in SERVICES}) == 1


def test_skaffold_builds_and_deploys_every_service():
    config = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
    images = {f"offload/{service}" for service in SERVICES}
    parts = [config, *config["profiles"]]
    assert all({one["image"] for one in part["build"]["artifacts"]} == images for part in parts if "build" in part)
    assert {one["image"] for one in config["test"]} == images
    deployed = {
        f"{{{{.IMAGE_{part}_{image.replace('/', '_').replace('-', '_')}}}}}"
        for image in images
        for part in ("REPO", "TAG", "DIGEST")
    }
    for part in parts:
        for release in part["deploy"]["helm"]["releases"]:
            assert set(release["setValueTemplates"].values()) == deployed
