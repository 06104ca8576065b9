#!/usr/bin/env python3
"""Judges what a Prometheus in the cluster of KUBECONFIG has of relays and operators.

  monitoring.py SERVICE=TARGETS... [--files FILES --fires ALERT]

Wanted are the named services with so many targets each, no others, all up. FILES holds alerts.yaml and dashboard.json, as the
chart ships them; then also: a series of every metric that alerts and dashboard name; a number in the answer to every query of
the dashboard, and values for its variables; every alert loaded and evaluated, and ALERT firing. Prints a table of the
metrics; what is missing goes to the standard error, with exit code 1.
"""

import argparse
import collections
import json
import math
import re
import subprocess
import sys
import urllib.parse

PROMETHEUS = "/api/v1/namespaces/monitoring/services/prometheus-operated:web/proxy/api/v1/"
# In the place of Grafana's variables: all, and a window that reaches back to the beginning of the test.
GRAFANA = {"$namespace": ".*", "$service": ".*", "$__rate_interval": "10m"}


def ask(path, **parameters):
    url = PROMETHEUS + path + ("?" + urllib.parse.urlencode(parameters) if parameters else "")
    answer = subprocess.run(["kubectl", "get", "--raw", url], capture_output=True, text=True)
    if answer.returncode != 0:
        sys.exit(f"Prometheus does not answer {path} {parameters}: {answer.stderr.strip()}")
    return json.loads(answer.stdout)["data"]


def numbers(expression):
    """The values of the answer: a quantile of nothing is no number."""
    values = [float(series["value"][1]) for series in ask("query", query=expression)["result"]]
    return [value for value in values if not math.isnan(value)]


def selected(node):
    """The metrics that an expression names, as Prometheus itself understands it."""
    if isinstance(node, list):
        return set().union(*map(selected, node))
    if not isinstance(node, dict):
        return set()
    own = {node["name"]} if node.get("type") in ("vectorSelector", "matrixSelector") else set()
    return own.union(*map(selected, node.values()))


def filled_in(text):
    for variable, value in GRAFANA.items():
        text = text.replace(variable, value)
    return text


def targets(wanted):
    up = collections.Counter()
    missing = []
    for target in ask("targets", state="active")["activeTargets"]:
        service = target["labels"].get("service", target["scrapePool"])
        if target["health"] == "up":
            up[service] += 1
        else:
            missing.append(f"target {target['scrapeUrl']} of {service} is {target['health']}: {target['lastError']}")
    if up != collections.Counter(wanted):
        missing.append(f"targets that are up: {dict(up)} instead of {wanted}")
    return sum(up.values()), missing


def alerts(file, fires):
    """The alerts' expressions, as they were loaded."""
    wanted = set(re.findall(r"^ *- alert: (\w+)$", file.read(), re.MULTILINE))
    rules = {rule["name"]: rule for group in ask("rules", type="alert")["groups"] for rule in group["rules"]}
    missing = [f"alert {name} is not loaded" for name in sorted(wanted - rules.keys())]
    missing += [f"alert {name}: {rule['health']} {rule.get('lastError', '')}" for name, rule in rules.items() if rule["health"] != "ok"]
    if not wanted:
        missing.append("the file names no alert")
    if rules.get(fires, {}).get("state") != "firing":
        missing.append(f"alert {fires} does not fire")
    return {name: rules[name]["query"] for name in wanted & rules.keys()}, missing


def dashboard(file):
    """Its expressions, and whether all have an answer."""
    board = json.load(file)
    queries = [(panel["title"], filled_in(target["expr"])) for panel in board["panels"] for target in panel.get("targets", [])]
    missing = [f"the dashboard's panel {title} is empty: {query}" for title, query in queries if not numbers(query)]
    for variable in board["templating"]["list"]:
        if variable["type"] != "query":
            continue
        selector, label = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"]).groups()
        queries.append((variable["name"], filled_in(selector)))
        if not ask(f"label/{label}/values", **{"match[]": filled_in(selector)}):
            missing.append(f"the dashboard's variable {variable['name']} has no values")
    if not queries:
        missing.append("the dashboard has no queries")
    return queries, missing


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("services", nargs="+")
    parser.add_argument("--files")
    parser.add_argument("--fires")
    options = parser.parse_args()
    wanted = {name: int(count) for name, count in (text.split("=") for text in options.services)}

    up, missing = targets(wanted)
    if not options.files:
        sys.exit("; ".join(missing) or 0)
    with open(options.files + "/alerts.yaml") as file:
        rules, more = alerts(file, options.fires)
        missing += more
    with open(options.files + "/dashboard.json") as file:
        queries, more = dashboard(file)
        missing += more

    named = collections.defaultdict(set)
    for query in rules.values():
        for metric in selected(ask("parse_query", query=query)):
            named[metric].add("alerts")
    for _, query in queries:
        for metric in selected(ask("parse_query", query=query)):
            named[metric].add("dashboard")

    print(f"{'metric':<56}{'series':>7}{'highest':>12}  named by")
    for metric in sorted(named):
        values = numbers(metric)
        if not values:
            missing.append(f"there is no series of {metric}")
        print(f"{metric:<56}{len(values):>7}{max(values, default=math.nan):>12.5g}  {', '.join(sorted(named[metric]))}")
    print(f"targets up: {up}; answered queries of the dashboard: {len(queries)}; evaluated alerts: {len(rules)}; firing: {options.fires}")
    if missing:
        sys.exit("; ".join(missing))


main()
