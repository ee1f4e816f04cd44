"""Sends one of everything, and shows what comes of it: python try_it.py PICTURE ADDRESS."""

import sys

import tasks
from celery import chain, chord, group

picture, address = sys.argv[1:]
show = {
    "add": tasks.add.delay(4, 4),
    "slow report": tasks.slow_report.delay(3),
    "mail": tasks.send_email.delay(address, "Hello"),
    "chain": chain(tasks.resize.s(picture, 800), tasks.thumbnail.s(), tasks.notify.s(address)).delay(),
    "group": group(tasks.add.s(i, i) for i in range(5)).delay(),
    "chord": chord((tasks.add.s(i, i) for i in range(5)), tasks.total.s()).delay(),
    "failure": tasks.fail.apply_async(("on purpose",), link_error=tasks.on_error.s()),
}
for name, result in show.items():
    value = result.get(timeout=60, propagate=False)
    print(f"{name:12} {getattr(result, 'state', 'SUCCESS'):8} {value!r}  {result.id}", flush=True)
