"""Renders the chart into the manifests beside this file: ``render.py`` writes them, ``render.py --check`` compares.

It also renders each scenario of the chart's folder ``ci``, with all that can be installed beside it, and linted.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CHART = HERE.parent / "charts" / "offload"
VARIANTS = ("minimal", "production")
HEADER = "# Rendered from charts/offload with k8s/values/{name}.yaml by `make manifests`. Do not edit.\n"
# What only Helm uses, and what would change with each version of the chart.
HELMS_OWN = re.compile(r"^(# Source: .*|\s+helm\.sh/chart: .*|\s+app\.kubernetes\.io/managed-by: Helm)\n", re.MULTILINE)


def render(name: str) -> str:
    """Return one variant."""
    command = [
        "helm", "template", "offload", str(CHART), "--namespace", "offload",
        "--values", str(HERE / "values" / f"{name}.yaml"), "--kube-version", "1.35.0",
        "--api-versions", "keda.sh/v1alpha1/ScaledObject", "--skip-tests",
    ]  # fmt: skip
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return HEADER.format(name=name) + HELMS_OWN.sub("", rendered)


def check_scenarios() -> int:
    """Lint and render what stands in the chart's ``ci``; returns the exit code."""
    kinds = (
        "keda.sh/v1alpha1/ScaledObject", "gateway.networking.k8s.io/v1/HTTPRoute",
        "monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1/PodMonitor",
    )  # fmt: skip
    api_versions = [argument for kind in kinds for argument in ("--api-versions", kind)]
    failed = 0
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        for command in (["lint", "--strict", str(CHART)], ["template", "offload", str(CHART), *api_versions]):
            done = subprocess.run(
                ["helm", *command, "--values", str(values)], capture_output=True, text=True, check=False
            )
            if done.returncode:
                failed = 1
                print(f"{values.name}: helm {command[0]}\n{done.stdout[-2000:]}{done.stderr[-2000:]}", file=sys.stderr)
    return failed


def main() -> int:
    """Write or compare; returns the exit code."""
    if shutil.which("helm") is None:
        print("NOT CHECKED: k8s/*.yaml, because there is no helm on PATH", file=sys.stderr)
        return 1 if os.environ.get("CI") or "--check" not in sys.argv else 0
    stale = check_scenarios() if "--check" in sys.argv else 0
    for name in VARIANTS:
        path, text = HERE / f"{name}.yaml", render(name)
        if "--check" not in sys.argv:
            path.write_text(text)
        elif not path.exists() or path.read_text() != text:
            stale = 1
            old = path.read_text().splitlines() if path.exists() else []
            print("\n".join(difflib.unified_diff(old, text.splitlines(), str(path), "the chart", lineterm="")))
    if stale:
        print("k8s/ is not what the chart renders: run `make manifests`", file=sys.stderr)
    return stale


if __name__ == "__main__":
    raise SystemExit(main())
