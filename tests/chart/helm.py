"""Runs Helm's own engine over a chart: reads a list of jobs as JSON, writes a list of answers.

A job is {"values": {...}, "name": ..., "namespace": ...}; its answer {"files": {path: text}} or {"error": text}. A job with
"lint": true is answered with {"messages": [...]}. The module helm_python comes from the wheel helm-python-sdk, which binds
Helm's Go SDK.
"""

import json
import sys

import helm_python
from helm_python import Chart


def answer(chart, path, job):
    values = job.get("values") or {}
    try:
        if job.get("lint"):
            return {"messages": helm_python.lint(path, values, strict=True)["messages"]}
        if job.get("schema"):
            chart.validate_schema(values)
            return {"files": {}}
        return {"files": chart.render(values, name=job["name"], namespace=job["namespace"], is_install=True)}
    except helm_python.HelmError as error:
        return {"error": str(error)}


def main():
    path = sys.argv[1]
    jobs = json.load(sys.stdin)
    with Chart.load(path) as chart:
        json.dump([answer(chart, path, job) for job in jobs], sys.stdout)


main()
