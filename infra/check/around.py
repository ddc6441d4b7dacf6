"""The rules for what stands around the Bicep files: parameter files, templates, scripts, azd, the Entra registration."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bicep import Bicep

TYPES = {"string": str, "int": int, "bool": bool, "object": dict, "array": list}
PLACEHOLDER = re.compile(r"\$\{([A-Z][A-Z0-9_]*)\}")

# Values that the scripts give beside the deployment's outputs.
SCRIPT_VALUES = {
    "STOREFENCE_AUDIENCE",
    "STOREFENCE_HOST",
    "STOREFENCE_IMAGE_TAG",
    "STOREFENCE_INGRESS_ENABLED",
    "STOREFENCE_PUBLIC_URL",
    "STOREFENCE_SCOPE",
}

# Applications of Microsoft's own, the same in every directory.
WELL_KNOWN_CLIENTS = {
    "Visual Studio Code": "aebc6443-996d-45c2-90f0-388ff96faa56",
    "Azure CLI": "04b07795-8ddb-461a-bbee-02f9e1bf7b46",
}


def _bad_value(main: Bicep, name: str, value: Any) -> str | None:
    kind = main.params[name]["type"]
    expected = TYPES.get(kind if isinstance(kind, str) else "")
    if expected and (not isinstance(value, expected) or (expected is int and isinstance(value, bool))):
        return f"a value of type {kind} is expected"
    if isinstance(value, str) and "${" in value:
        return None  # azd fills it in
    allowed = main.decorator(name, "allowed")
    if isinstance(allowed, list) and value not in allowed:
        return f"{value!r} is not one of {allowed}"
    size = len(value) if isinstance(value, (str, list)) else value
    kinds = ("min_length", "max_length") if isinstance(value, (str, list)) else ("min_value", "max_value")
    low, high = (main.decorator(name, k) for k in kinds)
    if isinstance(size, int) and ((isinstance(low, int) and size < low) or (isinstance(high, int) and size > high)):
        return f"{value!r} is outside {low} to {high}"
    return None


def parameter_file(main: Bicep, path: Path, text: str, given_elsewhere: set[str]) -> Iterator[str]:
    """A parameter file names parameters that exist, with values that they take, and all that nobody else gives."""
    values = {n: v.get("value") for n, v in json.loads(text)["parameters"].items()}
    for name, value in values.items():
        if name not in main.params:
            yield f"{path}: {main.path.name} has no parameter {name}"
        elif name in main.secure:
            yield f"{path}: {name} is @secure: it must not stand in a file"
        elif problem := _bad_value(main, name, value):
            yield f"{path}: {name}: {problem}"
    for missing in sorted(main.required - set(values) - given_elsewhere):
        yield f"{path}: {missing} is not given"
    tier, sku = values.get("postgresTier"), values.get("postgresSku", "")
    letters = {"Burstable": "B", "GeneralPurpose": "D", "MemoryOptimized": "E"}
    if tier and not sku.startswith(f"Standard_{letters[tier]}"):
        yield f"{path}: postgresSku {sku} is not of the tier {tier}"
    if tier == "Burstable" and values.get("postgresHighAvailability", "Disabled") != "Disabled":
        yield f"{path}: postgresHighAvailability: Burstable sizes have none"


def command_line(main: Bicep, name: str, script: str) -> tuple[set[str], list[str]]:
    """Parameters that a script passes to the deployment, and those among them that do not exist."""
    passed = set(re.findall(r'"([a-z]\w+)=\$', script))
    return passed, [f"{name}: {main.path.name} has no parameter {p}" for p in sorted(passed - set(main.params))]


def templates(main: Bicep, texts: dict[str, str], scripts: dict[str, str]) -> Iterator[str]:
    """Every placeholder has a value, every value that scripts promise is set by each, every output has a consumer."""
    wanted = {name for text in texts.values() for name in PLACEHOLDER.findall(text)}
    for unknown in sorted(wanted - set(main.outputs) - SCRIPT_VALUES):
        yield f"infra/templates: nobody gives ${{{unknown}}} a value"
    for script, text in scripts.items():
        for value in sorted(SCRIPT_VALUES & wanted):
            if not re.search(rf"(?m)(^\s*|known\.|printf '|\\n|\"){value} ?=", text):
                yield f"{script}: does not set {value}"
    for output in sorted(main.outputs):
        if output not in wanted and not all(re.search(rf"\b{output}\b", t) for t in scripts.values()):
            yield f"{main.path}: output {output} is used by no template and not by every script"


def hooks(azure_yaml: str, shell: str, powershell: str) -> Iterator[str]:
    """The commands that azd's hooks call exist in the scripts."""
    document = YAML(typ="safe").load(azure_yaml)
    if document.get("infra") != {"provider": "bicep", "path": "infra", "module": "main"}:
        yield "azure.yaml: infra must be the Bicep module main in infra"
    for hook, variants in document.get("hooks", {}).items():
        for system, script, text in (("posix", "deploy.sh", shell), ("windows", "deploy.ps1", powershell)):
            run = variants.get(system, {}).get("run", "")
            found = re.fullmatch(rf"\./infra/{re.escape(script)} ([a-z-]+)", run)
            if not found:
                yield f"azure.yaml: {hook}.{system}: ./infra/{script} COMMAND is expected, not {run!r}"
            elif not re.search(rf"(?m)^\s+'?{found[1]}'?( \{{|\))", text):
                yield f"azure.yaml: {hook}.{system}: {script} has no command {found[1]}"


def stays_inside(name: str, powershell: str) -> Iterator[str]:
    """No variable of the environment is set: in PowerShell it would outlive the script."""
    pattern = r"(?im)^\s*(\$env:\w+\s*=|set-item\b.*\benv:|\[environment\]::setenvironmentvariable).*"
    for found in re.finditer(pattern, powershell):
        yield f"{name}: sets a variable of the session: {found[0].strip()}"


def same_commands(shell: str, powershell: str) -> Iterator[str]:
    """Both scripts have the same commands."""
    first = set(re.findall(r"(?m)^  ([a-z][a-z-]+)\) ", shell.split('\ncase "$command" in', 1)[-1]))
    second = set(re.findall(r"(?m)^    '([a-z-]+)' \{", powershell))
    for name in sorted(first ^ second):
        yield f"command {name} stands in only one of deploy.sh and deploy.ps1"


def entra(app: dict[str, Any], clients: list[dict[str, Any]]) -> Iterator[str]:
    """The registration asks for v2 tokens, its IDs are unique, and only known clients are pre-authorised."""
    if app.get("api", {}).get("requestedAccessTokenVersion") != 2:
        yield "infra/entra/app.json: requestedAccessTokenVersion must be 2"
    scopes = app.get("api", {}).get("oauth2PermissionScopes", [])
    entries = scopes + app.get("appRoles", [])
    ids = [e["id"] for e in entries]
    if len(set(ids)) != len(ids):
        yield "infra/entra/app.json: an ID stands twice"
    for entry in entries:
        if not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", entry["id"]):
            yield f"infra/entra/app.json: {entry['value']}: {entry['id']} is no GUID"
        if not entry.get("isEnabled"):
            yield f"infra/entra/app.json: {entry['value']} is not enabled"
    if {c["name"]: c["appId"] for c in clients} != WELL_KNOWN_CLIENTS:
        yield "infra/entra/pre-authorized.json: VS Code and Azure CLI with their IDs are expected"
    for client in clients:
        for scope in set(client["scopes"]) - {s["value"] for s in scopes}:
            yield f"infra/entra/pre-authorized.json: {client['name']}: there is no scope {scope}"


def check(root: Path, main: Bicep) -> Iterator[str]:
    """All rules of this module over a checkout."""
    infra = root / "infra"
    scripts = {n: (infra / n).read_text("utf-8") for n in ("deploy.sh", "deploy.ps1")}
    given = []
    for name, text in scripts.items():
        passed, problems = command_line(main, name, text)
        yield from problems
        given.append(passed)
    if given[0] != given[1]:
        yield f"only one of deploy.sh and deploy.ps1 passes {sorted(given[0] ^ given[1])}"
    for path in sorted((infra / "parameters").glob("*.json")):
        yield from parameter_file(main, path, path.read_text("utf-8"), given[0])
    azd = infra / "main.parameters.json"
    yield from parameter_file(main, azd, azd.read_text("utf-8"), set())
    texts = {p.name: p.read_text("utf-8") for p in sorted((infra / "templates").iterdir())}
    yield from templates(main, texts, scripts)
    yield from hooks((root / "azure.yaml").read_text("utf-8"), scripts["deploy.sh"], scripts["deploy.ps1"])
    yield from same_commands(scripts["deploy.sh"], scripts["deploy.ps1"])
    for path in sorted(infra.glob("*.ps1")):
        yield from stays_inside(path.name, path.read_text("utf-8"))
    yield from entra(
        json.loads((infra / "entra/app.json").read_text("utf-8")),
        json.loads((infra / "entra/pre-authorized.json").read_text("utf-8")),
    )
