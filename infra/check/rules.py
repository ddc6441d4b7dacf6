"""The rules for Bicep files. Each takes what bicep.load gives and yields sentences; no sentence is a pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bicep import Bicep, body_of, names_in

Files = dict[Path, Bicep]

# Preview versions that may stand, and why.
PREVIEW_ALLOWED = {
    "Microsoft.Insights/diagnosticSettings": "no stable version knows category groups; every Azure sample uses this one",
}

# Longest name by resource type, from Microsoft's "Naming rules and restrictions for Azure resources".
LONGEST_NAME = {
    "Microsoft.CognitiveServices/accounts": 64,
    "Microsoft.ContainerRegistry/registries": 50,
    "Microsoft.ContainerService/managedClusters": 63,
    "Microsoft.DBforPostgreSQL/flexibleServers": 63,
    "Microsoft.Insights/components": 260,
    "Microsoft.Insights/dataCollectionEndpoints": 44,
    "Microsoft.Insights/dataCollectionRules": 64,
    "Microsoft.KeyVault/vaults": 24,
    "Microsoft.KeyVault/vaults/secrets": 127,
    "Microsoft.ManagedIdentity/userAssignedIdentities": 128,
    "Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials": 120,
    "Microsoft.Monitor/accounts": 44,
    "Microsoft.Network/networkSecurityGroups": 80,
    "Microsoft.Network/privateDnsZones": 253,
    "Microsoft.Network/privateEndpoints": 64,
    "Microsoft.Network/virtualNetworks": 64,
    "Microsoft.OperationalInsights/workspaces": 63,
    "Microsoft.Resources/resourceGroups": 90,
}

# Built-in roles, from Microsoft's "Azure built-in roles".
ROLES = {
    "acrPull": "7f951dda-4ed3-4680-a7ca-43fe172d538d",
    "aksRbacClusterAdmin": "b1ff04bb-8a4e-4dc4-8eb5-8693973ce19b",
    "keyVaultSecretsOfficer": "b86a8fe4-44ce-4948-aee5-eccb2c155cd7",
    "keyVaultSecretsUser": "4633458b-17de-408a-b874-0445c86b69e6",
    "networkContributor": "4d97b98b-1d4f-4787-a291-c67834d212e7",
    "openAiUser": "5e0bd9bd-7b93-4f28-af87-19fc36ad61bd",
}

GUID = re.compile(r"'([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})'")


def _target(file: Bicep, module: dict[str, Any]) -> Path:
    return (file.path.parent / module["detail"]["path"]).resolve()


def plain_types(files: Files) -> Iterator[str]:
    """pycep and older Bicep read @allowed; union types are refused."""
    for file in files.values():
        for name, body in ((k[1], b) for k, b in file.bodies.items() if k[0] == "param"):
            if not re.match(r"\s+(string|int|bool|object|array)\??\s*(=|$|\n)", body):
                yield f"{file.path}: parameter {name}: a plain type with @allowed is expected"


def module_parameters(files: Files) -> Iterator[str]:
    """Every parameter without default is passed, and none that does not exist."""
    for file in files.values():
        for name, module in file.modules.items():
            target = files.get(_target(file, module))
            if target is None:
                yield f"{file.path}: module {name}: there is no file {module['detail']['path']}"
                continue
            passed = set(body_of(module).get("params") or {})
            for missing in sorted(target.required - passed):
                yield f"{file.path}: module {name}: parameter {missing} of {target.path.name} is not passed"
            for unknown in sorted(passed - set(target.params)):
                yield f"{file.path}: module {name}: {target.path.name} has no parameter {unknown}"


def module_outputs(files: Files) -> Iterator[str]:
    """Every output of a module is used by something, and nothing uses one that does not exist."""
    used: dict[Path, set[str]] = {}
    called = set()
    for file in files.values():
        for name, module in file.modules.items():
            target = files.get(_target(file, module))
            if target is None:
                continue
            called.add(target.path)
            wanted = set(re.findall(rf"\b{name}!?\.\??outputs\.(\w+)", file.code))
            used.setdefault(target.path, set()).update(wanted)
            for unknown in sorted(wanted - set(target.outputs)):
                yield f"{file.path}: {name}.outputs.{unknown}: {target.path.name} has no such output"
    for path in sorted(called):
        for unused in sorted(set(files[path].outputs) - used.get(path, set())):
            yield f"{path}: output {unused} is used by nothing"


def names_exist(files: Files) -> Iterator[str]:
    """Every name that an expression uses is declared, and every parameter and variable is used."""
    builtin = {"az", "sys"}
    for file in files.values():
        declared = set(file.params) | set(file.variables) | set(file.resources) | set(file.modules)
        used: set[str] = set()
        for (kind, name), body in file.bodies.items():
            expression = body
            if kind in ("param", "output"):
                expression = body.split("=", 1)[1] if "=" in body else ""
            names = names_in(expression)
            used |= names
            for unknown in sorted(names - declared - builtin):
                yield f"{file.path}: {kind} {name}: {unknown} is not declared"
        for unused in sorted((set(file.params) | set(file.variables)) - used):
            yield f"{file.path}: {unused} is declared and never used"


SECRET_CALL = re.compile(r"\blist[A-Z]\w*\(|\bgetSecret\(|\blistKeys\b")
SECRET_PROPERTY = re.compile(r"\.(connectionString|instrumentationKey|primaryKey|secondaryKey|sharedKey|key1|key2)\b", re.I)
SECRET_NAME = re.compile(r"password|connectionstring|accesskey|apikey|sharedkey|secretvalue", re.I)


def no_secret_output(files: Files) -> Iterator[str]:
    """No output is a secret: not by call, by property, by name, nor by way of a @secure parameter."""
    for file in files.values():
        tainted = set(file.secure)
        while True:
            more = {n for n in file.variables if names_in(file.bodies[("var", n)]) & tainted} - tainted
            if not more:
                break
            tainted |= more
        for name in file.outputs:
            body = file.bodies[("output", name)]
            if (
                SECRET_CALL.search(body)
                or SECRET_PROPERTY.search(body)
                or SECRET_NAME.search(name)
                or names_in(body.split("=", 1)[1]) & tainted
            ):
                yield f"{file.path}: output {name} may hold a secret"


def secure_parameters(files: Files) -> Iterator[str]:
    """A @secure parameter has no default but newGuid(); one that is called a password is @secure; none is passed on
    to a parameter that is not."""
    for file in files.values():
        for name in file.params:
            body = file.bodies[("param", name)]
            default = body.split("=", 1)[1].strip() if "=" in body else ""
            if name in file.secure:
                if default and default != "newGuid()":
                    yield f"{file.path}: @secure parameter {name} has a default that can be read: {default}"
            elif re.search(r"(password|secret)$", name, re.I):
                yield f"{file.path}: parameter {name} is not @secure()"
        for symbol, module in file.modules.items():
            target = files.get(_target(file, module))
            for parameter, value in (body_of(module).get("params") or {}).items():
                if target and isinstance(value, str) and value in file.secure and parameter not in target.secure:
                    yield f"{file.path}: module {symbol}: {parameter} takes a secret and is not @secure()"


def api_versions(files: Files) -> Iterator[str]:
    """Every resource has a dated API version, and no preview but those listed with a reason."""
    for file in files.values():
        for name, resource in file.resources.items():
            version, kind = resource["api_version"] or "", resource["type"]
            if not re.fullmatch(r"\d{4}-\d{2}-\d{2}(-preview)?", version):
                yield f"{file.path}: resource {name}: API version {version or 'missing'} is not pinned"
            elif version.endswith("-preview") and kind not in PREVIEW_ALLOWED:
                yield f"{file.path}: resource {name}: {kind}@{version} is a preview"


class Lengths:
    """Longest value of an expression as pycep gives it; None where that cannot be told."""

    def __init__(self, files: Files) -> None:
        self.files = files

    def of(self, file: Bicep, value: Any, depth: int = 0) -> int | None:
        """Longest value in a file."""
        if depth > 12:
            return None
        if isinstance(value, str):
            if "${" in value:
                parts = re.split(r"\$\{([^}]*)\}", value)
                total = 0
                for index, part in enumerate(parts):
                    length = len(part) if index % 2 == 0 else self.of_text(file, part, depth + 1)
                    if length is None:
                        return None
                    total += length
                return total
            return self.of_text(file, value, depth) if self.declared(file, value) else len(value)
        if isinstance(value, dict) and "function" in value:
            return self.of_function(file, value["function"], depth)
        if isinstance(value, dict) and value.get("operator", {}).get("type") == "property_accessor":
            operands = value["operator"]["operands"]
            return self.of_text(file, f"{operands['operand_1']}.{operands['operand_2']}", depth)
        if isinstance(value, dict) and value.get("operator", {}).get("type") == "conditional":
            operands = value["operator"]["operands"]
            both = [self.of(file, operands[k], depth + 1) for k in ("true_value", "false_value")]
            return None if None in both else max(both)
        return None

    @staticmethod
    def declared(file: Bicep, name: str) -> bool:
        """Whether the text is a name of the file."""
        return name in file.params or name in file.variables

    def of_function(self, file: Bicep, function: dict[str, Any], depth: int) -> int | None:
        """Longest result of a function."""
        kind, arguments = function["type"], list((function.get("parameters") or {}).values())
        if kind == "unique_string":
            return 13
        if kind in ("guid", "new_guid"):
            return 36
        if kind in ("to_lower", "to_upper") and arguments:
            return self.of(file, arguments[0], depth + 1)
        if kind == "take" and len(arguments) == 2 and isinstance(arguments[1], int):
            return arguments[1]
        return None

    def of_text(self, file: Bicep, text: str, depth: int) -> int | None:
        """Longest value of a name, or of symbol.property."""
        text = text.strip()
        if text in file.variables:
            return self.of(file, file.variables[text]["value"], depth + 1)
        if text in file.params:
            return self.of_parameter(file, text, depth)
        if text.startswith("uniqueString("):
            return 13
        head, _, rest = text.partition(".")
        if rest == "name" and head in file.resources:
            return self.of(file, body_of(file.resources[head]).get("name"), depth + 1)
        if head in file.variables and isinstance(file.variables[head]["value"], dict):
            return self.of(file, file.variables[head]["value"].get(rest), depth + 1)
        return None

    def of_parameter(self, file: Bicep, name: str, depth: int) -> int | None:
        """What callers pass; where that cannot be told, @maxLength or the longest of @allowed."""
        limits = []
        allowed, longest = file.decorator(name, "allowed"), file.decorator(name, "max_length")
        if isinstance(allowed, list):
            limits.append(max(len(str(a)) for a in allowed))
        if isinstance(longest, int):
            limits.append(longest)
        passed: list[int | None] = []
        for caller in self.files.values():
            for module in caller.modules.values():
                if _target(caller, module) == file.path:
                    value = (body_of(module).get("params") or {}).get(name)
                    passed.append(self.of(caller, value, depth + 1))
        # A @maxLength would only turn a name that is too long into a failed deployment.
        if passed and None not in passed:
            return max(passed)
        return min(limits) if limits else None


def name_lengths(files: Files) -> Iterator[str]:
    """Names keep to Azure's limits where their length can be computed."""
    lengths = Lengths(files)
    for file in files.values():
        for symbol, resource in file.resources.items():
            limit = LONGEST_NAME.get(resource["type"])
            length = lengths.of(file, body_of(resource).get("name"))
            if limit is not None and length is not None and length > limit and not resource["existing"]:
                yield f"{file.path}: resource {symbol}: its name may have {length} characters, {limit} are allowed"


def computed_lengths(files: Files) -> dict[str, int]:
    """Longest names that could be computed, for the test that the rule sees something."""
    lengths = Lengths(files)
    found = {}
    for file in files.values():
        for symbol, resource in file.resources.items():
            length = lengths.of(file, body_of(resource).get("name"))
            if length is not None and not resource["existing"]:
                found[f"{file.path.name}:{symbol}"] = length
    return found


def postgres_in_order(files: Files) -> Iterator[str]:
    """What stands below a flexible server is written one after another: each waits for another one of them."""
    prefix = "Microsoft.DBforPostgreSQL/flexibleServers/"
    for file in files.values():
        children = {n: r for n, r in file.resources.items() if r["type"].startswith(prefix) and not r["existing"]}
        if len(children) < 2:
            continue
        waits = {n: [d for d in body_of(r).get("dependsOn") or [] if d in children] for n, r in children.items()}
        first = [n for n, on in waits.items() if not on]
        targets = [d for on in waits.values() for d in on]
        if len(first) != 1 or len(set(targets)) != len(targets):
            yield f"{file.path}: {', '.join(sorted(children))} must wait for one another by dependsOn, one after another"


def role_assignments(files: Files) -> Iterator[str]:
    """Assignments are found again (guid names), do not race the directory (principalType) and mean what they say."""
    for file in files.values():
        for symbol, resource in file.resources.items():
            if resource["type"] != "Microsoft.Authorization/roleAssignments":
                continue
            body = body_of(resource)
            if (body.get("name") or {}) and "guid(" not in file.bodies[("resource", symbol)]:
                yield f"{file.path}: {symbol}: its name must be guid(...)"
            if "principalType" not in body.get("properties", {}):
                yield f"{file.path}: {symbol}: principalType is missing"
        for name, guid in re.findall(r"(\w+)(?::|\s*=)\s*('[0-9a-f-]{36}')", file.text):
            if ROLES.get(name) != guid.strip("'"):
                yield f"{file.path}: {name} = {guid} is no built-in role that infra/check knows by that name"


def tags(files: Files) -> Iterator[str]:
    """What has a location has tags."""
    for file in files.values():
        for symbol, resource in file.resources.items():
            body = body_of(resource)
            if not resource["existing"] and "location" in body and "tags" not in body:
                yield f"{file.path}: resource {symbol} has no tags"


def closed(files: Files) -> Iterator[str]:
    """Vaults and models are private and key-free; vaults cannot be purged."""
    wanted = {
        "Microsoft.KeyVault/vaults": {"enableRbacAuthorization": True, "enablePurgeProtection": True, "publicNetworkAccess": "Disabled"},
        "Microsoft.CognitiveServices/accounts": {"disableLocalAuth": True, "publicNetworkAccess": "Disabled"},
        "Microsoft.ContainerRegistry/registries": {"adminUserEnabled": False},
        "Microsoft.ContainerService/managedClusters": {"disableLocalAccounts": True},
    }
    for file in files.values():
        for symbol, resource in file.resources.items():
            properties = body_of(resource).get("properties", {})
            for name, value in wanted.get(resource["type"], {}).items():
                if not resource["existing"] and properties.get(name) != value:
                    yield f"{file.path}: resource {symbol}: {name} must be {value}"


RULES = [
    plain_types,
    module_parameters,
    module_outputs,
    names_exist,
    no_secret_output,
    secure_parameters,
    api_versions,
    name_lengths,
    postgres_in_order,
    role_assignments,
    tags,
    closed,
]
