"""Each rule with a file that breaks it: `python -m unittest discover infra/check`."""

from __future__ import annotations

import json
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import around  # noqa: E402
import bicep  # noqa: E402
import rules  # noqa: E402

SUBNET = """
param location string
param prefix string = '10.0.0.0/16'

resource vnet 'Microsoft.Network/virtualNetworks@2024-05-01' = {
  name: 'vnet'
  location: location
  tags: {}
  properties: {
    addressPrefix: prefix
  }
}

output subnetId string = vnet.id
"""

MAIN = """
param location string

module network 'network.bicep' = {
  name: 'network'
  params: {
    location: location
  }
}

output SUBNET string = network.outputs.subnetId
"""


def files(main: str = MAIN, **others: str) -> rules.Files:
    """A set of files as bicep.load gives it."""
    texts = {"main.bicep": main, **{f"{name}.bicep": text for name, text in others.items()}}
    paths = {name: Path("/infra") / name for name in texts}
    return {path: bicep.parse(texts[name], path) for name, path in paths.items()}


class Broken(unittest.TestCase):
    """Every broken file is found by its rule, and by no sentence that is about something else."""

    def finds(self, rule, words: str, main: str = MAIN, **others: str) -> None:
        problems = list(rule(files(main, **others)))
        self.assertEqual(len(problems), 1, problems)
        self.assertIn(words, problems[0])

    def test_whole_files_pass(self) -> None:
        for rule in rules.RULES:
            self.assertEqual(list(rule(files(MAIN, network=SUBNET))), [], rule.__name__)

    def test_syntax(self) -> None:
        with self.assertRaises(bicep.BicepError):
            bicep.parse("resource a 'b@c' = {")

    def test_union_type(self) -> None:
        self.finds(rules.plain_types, "parameter tier", "param tier (string | int)\n")

    def test_missing_file(self) -> None:
        self.finds(rules.module_parameters, "there is no file network.bicep")

    def test_missing_parameter(self) -> None:
        self.finds(rules.module_parameters, "location of network.bicep is not passed", MAIN.replace("    location: location\n", ""), network=SUBNET)

    def test_missing_parameter_of_conditional_module(self) -> None:
        main = MAIN.replace("= {\n  name", "= if (true) {\n  name").replace("    location: location\n", "")
        self.finds(rules.module_parameters, "is not passed", main, network=SUBNET)

    def test_unknown_parameter(self) -> None:
        self.finds(rules.module_parameters, "has no parameter zone", MAIN.replace("    location: location\n", "    location: location\n    zone: 1\n"), network=SUBNET)

    def test_unused_output(self) -> None:
        self.finds(rules.module_outputs, "output other is used by nothing", network=SUBNET + "output other string = vnet.name\n")

    def test_unknown_output(self) -> None:
        main = MAIN + "output MORE string = network.outputs.vnetId\n"
        self.finds(rules.module_outputs, "has no such output", main, network=SUBNET)

    def test_undeclared_name(self) -> None:
        self.finds(rules.names_exist, "region is not declared", MAIN.replace("location: location", "location: region") + "var used = location\nvar again = used\noutput A string = again\n", network=SUBNET)

    def test_undeclared_name_in_text(self) -> None:
        self.finds(rules.names_exist, "suffix is not declared", "output A string = 'a-${suffix}'\n")

    def test_unused_variable(self) -> None:
        self.finds(rules.names_exist, "zones is declared and never used", MAIN + "var zones = []\n", network=SUBNET)

    def test_secret_by_call(self) -> None:
        self.finds(rules.no_secret_output, "output key", SUBNET + "output key string = vnet.listKeys().key1\n")

    def test_secret_by_property(self) -> None:
        self.finds(rules.no_secret_output, "output telemetry", SUBNET + "output telemetry string = vnet.properties.ConnectionString\n")

    def test_secret_by_name(self) -> None:
        self.finds(rules.no_secret_output, "output adminPassword", SUBNET + "output adminPassword string = vnet.name\n")

    def test_secret_by_parameter(self) -> None:
        main = "@secure()\nparam pass string\nvar uri = 'postgresql://${pass}@host'\nvar again = uri\noutput url string = again\n"
        self.finds(rules.no_secret_output, "output url", main)

    def test_secret_with_default(self) -> None:
        self.finds(rules.secure_parameters, "has a default that can be read", "@secure()\nparam pass string = 'hunter2'\n")
        self.assertEqual(list(rules.secure_parameters(files("@secure()\nparam pass string = newGuid()\n"))), [])

    def test_password_in_the_clear(self) -> None:
        self.finds(rules.secure_parameters, "is not @secure()", "param adminPassword string\n")

    def test_secret_handed_to_plain_parameter(self) -> None:
        main = MAIN.replace("param location string", "@secure()\nparam location string")
        self.finds(rules.secure_parameters, "takes a secret", main, network=SUBNET)

    def test_preview(self) -> None:
        self.finds(rules.api_versions, "is a preview", SUBNET.replace("2024-05-01", "2024-05-01-preview"))

    def test_listed_preview_passes(self) -> None:
        text = SUBNET.replace("Network/virtualNetworks@2024-05-01", "Insights/diagnosticSettings@2021-05-01-preview")
        self.assertEqual(list(rules.api_versions(files(text))), [])

    def test_version_not_pinned(self) -> None:
        self.finds(rules.api_versions, "is not pinned", SUBNET.replace("2024-05-01", "latest"))

    def test_long_name(self) -> None:
        vault = "@maxLength(20)\nparam name string\nresource vault 'Microsoft.KeyVault/vaults@2024-11-01' = {\n  name: 'kv-%s${uniqueString(name)}'\n}\n"
        self.finds(rules.name_lengths, "may have 25 characters, 24 are allowed", vault % "toolongxx")
        self.assertEqual(list(rules.name_lengths(files(vault % "toolongx"))), [])

    def test_long_name_through_a_module(self) -> None:
        module = "param name string\nresource vault 'Microsoft.KeyVault/vaults@2024-11-01' = {\n  name: name\n}\n"
        main = "var token = uniqueString('a')\nmodule vault 'vault.bicep' = {\n  name: 'vault'\n  params: {\n    name: 'storefence-kv-${token}'\n  }\n}\n"
        self.finds(rules.name_lengths, "may have 27 characters", main, vault=module)

    def test_postgres_at_once(self) -> None:
        child = "resource %s 'Microsoft.DBforPostgreSQL/flexibleServers/configurations@2025-08-01' = {\n  name: '%s'\n%s}\n"
        wait = "  dependsOn: [\n    %s\n  ]\n"
        self.finds(rules.postgres_in_order, "one after another", child % ("a", "a", "") + child % ("b", "b", ""))
        fork = child % ("a", "a", "") + child % ("b", "b", wait % "a") + child % ("c", "c", wait % "a")
        self.finds(rules.postgres_in_order, "one after another", fork)
        line = child % ("a", "a", "") + child % ("b", "b", wait % "a") + child % ("c", "c", wait % "b")
        self.assertEqual(list(rules.postgres_in_order(files(line))), [])

    def test_role_assignment(self) -> None:
        text = "var r = 'x'\nresource a 'Microsoft.Authorization/roleAssignments@2022-04-01' = {\n  name: %s\n  properties: {\n    roleDefinitionId: r\n%s  }\n}\n"
        kind = "    principalType: 'User'\n"
        self.finds(rules.role_assignments, "must be guid", text % ("'fixed'", kind))
        self.finds(rules.role_assignments, "principalType is missing", text % ("guid('a')", ""))
        self.finds(rules.role_assignments, "is no built-in role", "var acrPull = '4633458b-17de-408a-b874-0445c86b69e6'\noutput a string = acrPull\n")

    def test_tags(self) -> None:
        self.finds(rules.tags, "has no tags", SUBNET.replace("  tags: {}\n", ""))

    def test_open_vault(self) -> None:
        vault = (HERE.parent / "modules/key-vault.bicep").read_text("utf-8")
        self.finds(rules.closed, "enablePurgeProtection must be True", vault.replace("enablePurgeProtection: true", "enablePurgeProtection: false"))


class Real(unittest.TestCase):
    """The rules see what they are for in the real files."""

    def setUp(self) -> None:
        self.files = bicep.load(HERE.parent)

    def test_lengths_are_computed(self) -> None:
        lengths = rules.computed_lengths(self.files)
        self.assertEqual(lengths["key-vault.bicep:vault"], len("kv-sfadm-") + 13)
        self.assertEqual(lengths["registry.bicep:registry"], len("crsf") + 13)
        self.assertEqual(lengths["aks.bicep:cluster"], len("aks-storefence-") + 20)
        self.assertEqual(lengths["private-endpoint.bicep:endpoint"], len("pe-oai-storefence-") + 13)
        known = {k for f in self.files.values() for k, r in f.resources.items() if r["type"] in rules.LONGEST_NAME and not r["existing"]}
        computed = {k.split(":")[1] for k in lengths}
        self.assertEqual(known - computed, set())

    def test_breaking_the_real_files(self) -> None:
        main = HERE.parent / "main.bicep"
        for old, new, rule in (
            ("    clusterPrincipalId: identities.outputs.clusterPrincipalId\n", "", rules.module_parameters),
            ("vault.outputs.uri", "vault.outputs.url", rules.module_outputs),
            ("    namespace: namespace\n", "    namespace: nameSpace\n", rules.names_exist),
            ("= newGuid()", "= 'Passw0rd!'", rules.secure_parameters),
            ("'kv-sf-${token}'", "'kv-storefence-${token}'", rules.name_lengths),
            ("database.outputs.host", "databaseAdministratorPassword", rules.no_secret_output),
        ):
            text = main.read_text("utf-8")
            self.assertIn(old, text)
            changed = {**self.files, main: bicep.parse(text.replace(old, new), main)}
            self.assertTrue(list(rule(changed)), f"{rule.__name__} does not see {new!r}")


class Around(unittest.TestCase):
    """Parameter files, templates, scripts, azd and the registration."""

    MAIN = "@allowed([\n  'a'\n  'b'\n])\nparam kind string\n@minValue(1)\n@maxValue(3)\nparam count int\nparam other string = ''\n@secure()\nparam pass string = newGuid()\noutput URL string = kind\n"

    def setUp(self) -> None:
        self.main = bicep.parse(self.MAIN, Path("main.bicep"))

    def parameters(self, **values: object) -> list[str]:
        text = json.dumps({"parameters": {n: {"value": v} for n, v in values.items()}})
        return list(around.parameter_file(self.main, Path("p.json"), text, set()))

    def test_parameter_file(self) -> None:
        self.assertEqual(self.parameters(kind="a", count=2), [])
        self.assertEqual(self.parameters(kind="${KIND=a}", count=2), [])
        for values, words in (
            ({"kind": "a"}, "count is not given"),
            ({"kind": "c", "count": 2}, "is not one of"),
            ({"kind": "a", "count": 4}, "is outside"),
            ({"kind": "a", "count": "2"}, "type int"),
            ({"kind": "a", "count": 2, "zone": ""}, "has no parameter zone"),
            ({"kind": "a", "count": 2, "pass": "x"}, "is @secure"),
        ):
            problems = self.parameters(**values)
            self.assertEqual(len(problems), 1, problems)
            self.assertIn(words, problems[0])

    def test_database_size(self) -> None:
        text = "param postgresTier string\nparam postgresSku string\nparam postgresHighAvailability string = ''\n"
        self.main = bicep.parse(text, Path("main.bicep"))
        good = {"postgresTier": "Burstable", "postgresSku": "Standard_B2s"}
        self.assertEqual(self.parameters(**good), [])
        self.assertIn("not of the tier", self.parameters(**{**good, "postgresSku": "Standard_D4ds_v5"})[0])
        self.assertIn("have none", self.parameters(**good, postgresHighAvailability="ZoneRedundant")[0])

    def test_command_line(self) -> None:
        self.assertEqual(around.command_line(self.main, "s", '"kind=$x" "count=$y"'), ({"kind", "count"}, []))
        self.assertIn("no parameter kinds", around.command_line(self.main, "s", '"kinds=$x"')[1][0])

    def test_templates(self) -> None:
        good = {"deploy.sh": "STOREFENCE_HOST=$host\n", "deploy.ps1": "$known.STOREFENCE_HOST = $h\n"}
        self.assertEqual(list(around.templates(self.main, {"v": "${URL} ${STOREFENCE_HOST}"}, good)), [])
        self.assertIn("nobody gives ${MORE}", list(around.templates(self.main, {"v": "${URL} ${MORE}"}, good))[0])
        self.assertIn("output URL is used by no", list(around.templates(self.main, {"v": ""}, good))[0])
        missing = {**good, "deploy.ps1": ""}
        self.assertIn("deploy.ps1: does not set", list(around.templates(self.main, {"v": "${URL} ${STOREFENCE_HOST}"}, missing))[0])

    def test_hooks(self) -> None:
        text = "infra: {provider: bicep, path: infra, module: main}\nhooks:\n  predeploy:\n    posix: {run: ./infra/deploy.sh %s}\n    windows: {run: ./infra/deploy.ps1 chart}\n"
        shell, powershell = "  chart) chart ;;\n", "    'chart' { Invoke-Chart }\n"
        self.assertEqual(list(around.hooks(text % "chart", shell, powershell)), [])
        self.assertIn("has no command charts", list(around.hooks(text % "charts", shell, powershell))[0])

    def test_stays_inside(self) -> None:
        self.assertEqual(list(around.stays_inside("s", "$known.A = $env:A\nif ($env:A -eq 1) { }\n")), [])
        for line in ("  $env:A = 1", 'Set-Item -Path "env:$key" -Value 1', "$Env:KUBECONFIG= 'x'"):
            self.assertIn("sets a variable", list(around.stays_inside("s", line))[0])

    def test_same_commands(self) -> None:
        shell = 'x\ncase "$command" in\n  chart) chart ;;\n  next) next ;;\n'
        self.assertIn("command next", list(around.same_commands(shell, "    'chart' { Invoke-Chart }\n"))[0])

    def test_entra(self) -> None:
        app = json.loads((HERE.parent / "entra/app.json").read_text("utf-8"))
        clients = json.loads((HERE.parent / "entra/pre-authorized.json").read_text("utf-8"))
        self.assertEqual(list(around.entra(app, clients)), [])
        self.assertTrue(list(around.entra({**app, "api": {**app["api"], "requestedAccessTokenVersion": 1}}, clients)))
        self.assertTrue(list(around.entra({**app, "appRoles": app["appRoles"] * 2}, clients)))
        self.assertTrue(list(around.entra(app, clients[:1])))
        self.assertTrue(list(around.entra(app, [{**c, "scopes": ["Other"]} for c in clients])))


if __name__ == "__main__":
    unittest.main()
