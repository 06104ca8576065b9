#!/usr/bin/env python3
"""tutorial.py   the steps of docs/tutorial.md in their order, as they stand there, and whether each does what the page says

On the page's own ports, which have to be free. `make demo-failures` and the exercises are left out.
"""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/tutorial.md"
CACHE = pathlib.Path(os.environ.get("OUTBOX_CACHE", pathlib.Path.home() / ".cache/outbox-relay"))
RUN = CACHE / "run/tutorial"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))

# Of `make dev`, which may have to build everything first.
START_SECONDS = 1200
PATIENCE = 60

environment = dict(os.environ)
running = {}


def fail(text):
    raise SystemExit(f"tutorial.py: {text}")


def background(name, command):
    log = open(RUN / f"{name}.log", "w")
    running[name] = subprocess.Popen(
        ["bash", "-ec", command], cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True
    )


def end(name, by=signal.SIGINT):
    process = running.pop(name, None)
    if process and process.poll() is None:
        os.killpg(process.pid, by)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def said(name):
    return (RUN / f"{name}.log").read_text()


def run(command):
    """What a block says on both outputs, and how it ends. The page names the cache where it is unless somebody moved it."""
    command = command.replace("~/.cache/outbox-relay", str(CACHE))
    done = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    return done.stdout, done.returncode


def until(what, look, seconds=PATIENCE):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        seen = look()
        if seen:
            print(f"ok: {what}", flush=True)
            return seen
        time.sleep(0.3)
    fail(f"never seen: {what}")


def holds(what, truth, text):
    if not truth:
        fail(f"not so: {what}\n{text}")
    print(f"ok: {what}", flush=True)


def counted(name):
    text, _ = run("curl -s localhost:9090/metrics")
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)", text, re.M))


def dev(block):
    background("dev", block)
    environment["PATH"] = f"{TARGET / 'debug'}:{environment['PATH']}"

    def ready():
        if running["dev"].poll() is not None:
            fail(f"make dev has ended: {said('dev')[-2000:]}")
        return "ready" in run("outbox-relay status")[0]

    until("make dev starts everything", ready, START_SECONDS)


def watch(block):
    # Where the programs are was found out before: the page's path is that of a clone without CARGO_TARGET_DIR.
    status, consume = block.splitlines()[1:]

    def ready():
        text, _ = run(status)
        return re.search(r"ready +yes", text) and "64" in text and "Streaming" in text

    until("status: ready, 64 slots, Streaming", ready)
    background("consume", consume)


def order(block):
    text, _ = run(block)
    answer = json.loads(text)
    holds("an order has an id, an event id and sequence number 1", answer["sequenceNumber"] == 1, text)
    environment["ID"] = answer["orderId"]
    until("the consumer prints it", lambda: "OrderCreated" in said("consume") and answer["orderId"] in said("consume"))


def take_on(block):
    run(block)
    kinds = lambda: re.findall(r"^\S+ (Order\w+) key", said("consume"), re.M)
    until("its events come in order", lambda: kinds() == ["OrderCreated", "OrderConfirmed", "OrderShipped"])


def metrics(block):
    text, code = run(block)
    holds("three events are counted", code == 0 and counted("cdc_events_processed_total") == 3, text)


def schema(block):
    text, code = run(block)
    holds("the schema is printed", code == 0 and "'enabled': true" in text, text)


def check(block):
    text, code = run(block)
    holds("check misses topic and dead letters and warns of the day", code != 0 and "tutorial-events" in text
          and "dead" in text and "warning" in text, text)


def setup(block):
    text, code = run(block)
    last = text[text.rindex("source.table") - 200 :] if "source.table" in text else text
    holds("setup makes them", code == 0 and "error " not in last, text)


def second(block):
    background("relay", block)


def read_all(block):
    status, consume = block.splitlines()
    until("the second relay is ready", lambda: re.search(r"ready +yes", run(status)[0]))
    background("consume-all", consume)
    until("it delivers all events since the beginning", lambda: environment["ID"] in said("consume-all")
          and said("consume-all").count("Order") >= 3)
    end("relay")
    end("consume-all")


def refused(block):
    text, _ = run(block)
    holds("the caller is told NotWritten", "NotWritten" in text, text)


def late(block):
    text, _ = run(block)
    count = re.findall(r"outbox_relay_late_events_total(?:\{[^}]*\})? (\d+)", text)
    holds("late events are counted", count and int(count[-1]) > 0, text)


def paused(block):
    pause, resume = block.splitlines()
    _, code = run(pause)
    holds("the broker stands still", code == 0, "")
    # Answers that were on their way.
    time.sleep(1)
    before = counted("cdc_events_processed_total")
    run("curl -s localhost:8080/orders -H 'content-type: application/json' "
        "-d '{\"customer\": \"Ada\", \"items\": [{\"sku\": \"pen\", \"quantity\": 2, \"priceCents\": 150}]}'")
    time.sleep(5)
    holds("nothing is delivered meanwhile", counted("cdc_events_processed_total") == before, "")
    run(resume)
    until("it is delivered afterwards", lambda: counted("cdc_events_processed_total") > before)


# What each block begins with, in the order of the page.
STEPS = [
    ("make dev", dev),
    ("export PATH=", watch),
    ("curl -s localhost:8080/orders", order),
    ("curl -s -X POST localhost:8080/orders/$ID", take_on),
    ("make metrics", metrics),
    ("outbox-relay schema", schema),
    ("cat > /tmp/relay.yaml", check),
    ("outbox-relay setup", setup),
    ("outbox-relay run", second),
    ("outbox-relay status --url", read_all),
    ('curl -s localhost:10000/faults -d \'{"kind": "error"', refused),
    ('curl -s localhost:10000/faults -d \'{"kind": "late_log_rows"', late),
    ("scripts/kafka.sh pause", paused),
    ("make demo-failures", None),
]


def main():
    RUN.mkdir(parents=True, exist_ok=True)
    blocks = [block.strip() for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.S)]
    if len(blocks) != len(STEPS):
        fail(f"{PAGE} has {len(blocks)} blocks of commands; {len(STEPS)} are known here")
    began = time.monotonic()
    try:
        for block, (beginning, step) in zip(blocks, STEPS):
            if not block.startswith(beginning):
                fail(f"a step that is not known here: {block}")
            if step:
                print(f"-- {block.splitlines()[0]}", flush=True)
                step(block)
    finally:
        for name in list(running):
            end(name)
    print(f"the tutorial holds, in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
