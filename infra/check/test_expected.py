"""Whatever is expected is taken away once, and is missed: `python -m unittest discover infra/check`."""

from __future__ import annotations

import copy
import sys
import unittest
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import bicep  # noqa: E402
import expected  # noqa: E402

TEMPLATE = (HERE.parent / "templates/values.yaml").read_text("utf-8")


class Missing(unittest.TestCase):
    """Every item by itself."""

    def setUp(self) -> None:
        self.files = bicep.load(HERE.parent)

    def changed(self, name: str, old: str, new: str) -> expected.Files:
        """The files, one of them with another text."""
        file = expected.named(self.files, name)
        self.assertIn(old, file.text)
        return {**self.files, file.path: bicep.parse(file.text.replace(old, new), file.path)}

    def test_nothing_is_missing(self) -> None:
        for rule in (expected.present, expected.assignments, expected.version):
            self.assertEqual(list(rule(self.files)), [])
        self.assertEqual(list(expected.subjects(self.files, TEMPLATE)), [])

    def test_each_item_taken_away(self) -> None:
        for what, name, symbol, path, _ in expected.EXPECTED:
            file = copy.deepcopy(expected.named(self.files, name))
            kind, declared = symbol.split()
            group = {"resource": file.resources, "module": file.modules, "var": file.variables, "output": file.outputs}[kind]
            inner = group[declared]
            if kind in ("resource", "module") and path != "type":
                inner = bicep.body_of(inner)
            self.replace(inner, path.split("."))
            problems = list(expected.present({**self.files, file.path: file}))
            self.assertTrue(any(f"{what}: {symbol}: {path} " in p for p in problems), f"{what}: {symbol}.{path}: {problems}")
            # And the whole declaration.
            del group[declared]
            problems = list(expected.present({**self.files, file.path: file}))
            self.assertTrue(any(f"{what}: there is no {symbol}" in p for p in problems), f"{what}: {symbol}: {problems}")

    def replace(self, value, steps: list[str]) -> None:
        """Puts something else at a path of what pycep read."""
        for step in steps[:-1]:
            if "function" in value and step == value["function"]["type"]:
                value = value["function"]["parameters"]
            else:
                value = value[int(step)] if isinstance(value, list) else value[step]
        last = steps[-1] if steps[-1] in value else f"'{steps[-1]}'"
        self.assertIn(last, value)
        value[last] = "something else"

    def test_role_assignments(self) -> None:
        roles = expected.named(self.files, "roles.bicep").text
        for old, new, words in (
            ("roleDefinitions.keyVaultSecretsOfficer", "roleDefinitions.keyVaultSecretsUser", "operatorPrincipalId is not keyVaultSecretsOfficer on vault"),
            ("roleDefinitions.acrPull", "roleDefinitions.openAiUser", "kubeletPrincipalId is not acrPull on registry"),
            ("  scope: adminVault\n", "  scope: vault\n", "operatorPrincipalId is not keyVaultSecretsUser on adminVault"),
            ("  scope: registry\n", "  scope: cluster\n", "kubeletPrincipalId is acrPull on cluster, which nobody asked for"),
            ("    principalId: deployerPrincipalId\n", "    principalId: gatewayPrincipalId\n", "gatewayPrincipalId is aksRbacClusterAdmin on cluster, which nobody asked for"),
            ("  name: adminVaultName\n", "  name: vaultName\n", "adminVault must be the one that adminVaultName names"),
        ):
            problems = list(expected.assignments(self.changed("roles.bicep", old, new)))
            self.assertTrue(any(words in p for p in problems), problems)
        # Each of them left out.
        for role, principal, scope in expected.ROLES:
            blocks = roles.split("\nresource ")
            kept = [b for b in blocks if not all(w in b for w in (f"scope: {scope}\n", f"principalId: {principal}\n", f"roleDefinitions.{role})"))]
            self.assertEqual(len(kept), len(blocks) - 1, (role, principal, scope))
            problems = list(expected.assignments(self.changed("roles.bicep", roles, "\nresource ".join(kept))))
            self.assertEqual(len(problems), 1, problems)
            self.assertIn(f"{principal} is not {role} on {scope}", problems[0])

    def test_version(self) -> None:
        for old, new in (("  '17'\n", "  '16'\n  '17'\n"), ("postgresVersion string = '17'", "postgresVersion string = '16'"), ("@allowed([\n  '17'\n  '18'\n])\n", "")):
            self.assertIn("17 or newer", list(expected.version(self.changed("main.bicep", old, new)))[0])

    def test_subjects(self) -> None:
        for old, new in (("${namespace}:storefence-gateway", "${namespace}:gateway"), ("serviceaccount:${namespace}:storefence-operator", "serviceaccount:storefence:storefence-operator")):
            self.assertIn("subject must be", list(expected.subjects(self.changed("federation.bicep", old, new), TEMPLATE))[0])
        self.assertIn("operator: subject", list(expected.subjects(self.files, TEMPLATE.replace("name: storefence-operator", "name: other")))[0])


if __name__ == "__main__":
    unittest.main()
