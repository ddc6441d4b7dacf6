"""What must be there, one sentence for each: the other rules find what is wrong, these find what is missing.

The table names a declaration and what stands at a path below it; an expression is written as in Bicep.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bicep import Bicep, body_of

Files = dict[Path, Bicep]

AKS, POSTGRES, OPENAI = "aks.bicep", "postgres.bicep", "openai.bicep"
NETWORK, MONITORING, VAULT, MAIN = "network.bicep", "monitoring.bicep", "key-vault.bicep", "main.bicep"

# What it is for, file, declaration, path below it, what stands there.
EXPECTED: list[tuple[str, str, str, str, Any]] = [
    ("the cluster issues tokens for its accounts", AKS, "resource cluster", "properties.oidcIssuerProfile.enabled", True),
    ("workload identity", AKS, "resource cluster", "properties.securityProfile.workloadIdentity.enabled", True),
    ("Azure CNI", AKS, "resource cluster", "properties.networkProfile.networkPlugin", "azure"),
    ("network policies hold", AKS, "resource cluster", "properties.networkProfile.networkPolicy", "cilium"),
    ("secrets are mounted from Key Vault", AKS, "resource cluster", "properties.addonProfiles.azureKeyvaultSecretsProvider.enabled", True),
    ("managed Prometheus is an option", AKS, "resource cluster", "properties.azureMonitorProfile.metrics.enabled", "managedPrometheus"),
    ("managed Prometheus: the cluster's rule", AKS, "resource prometheus", "properties.dataCollectionRuleId", "prometheusRuleId"),
    ("managed Prometheus: where metrics are kept", MONITORING, "resource prometheus", "properties.destinations.monitoringAccounts.0.accountResourceId", "metrics.id"),
    ("managed Prometheus: what main passes", MAIN, "module cluster", "params.managedPrometheus", "managedPrometheus"),
    ("Log Analytics", MONITORING, "resource workspace", "type", "Microsoft.OperationalInsights/workspaces"),
    ("Application Insights", MONITORING, "resource applicationInsights", "properties.WorkspaceResourceId", "workspace.id"),
    ("the cluster's audit goes to Log Analytics", AKS, "resource audit", "properties.workspaceId", "workspaceId"),
    ("registry", "registry.bicep", "resource registry", "type", "Microsoft.ContainerRegistry/registries"),
    ("federation: the issuer is the cluster's", "federation.bicep", "resource operatorCredential", "properties.issuer", "issuerUrl"),
    ("federation: the issuer is the cluster's", "federation.bicep", "resource gatewayCredential", "properties.issuer", "issuerUrl"),
    ("federation: the operator's credential is the operator's", "federation.bicep", "resource operatorCredential", "parent", "operator"),
    ("federation: the gateway's credential is the gateway's", "federation.bicep", "resource gatewayCredential", "parent", "gateway"),
    ("federation: what main passes", MAIN, "module federation", "params.issuerUrl", "cluster.outputs.issuerUrl"),
    ("federation: what main passes", MAIN, "module federation", "params.namespace", "namespace"),
    ("federation: what main passes", MAIN, "module federation", "params.operatorIdentityName", "identities.outputs.operatorName"),
    ("federation: what main passes", MAIN, "module federation", "params.gatewayIdentityName", "identities.outputs.gatewayName"),
    ("Key Vault has roles", VAULT, "resource vault", "properties.enableRbacAuthorization", True),
    ("Key Vault cannot be purged", VAULT, "resource vault", "properties.enablePurgeProtection", True),
    ("Key Vault has a private endpoint", VAULT, "module endpoint", "params.groupId", "vault"),
    ("Key Vault's endpoint leads to it", VAULT, "module endpoint", "params.serviceId", "vault.id"),
    ("Key Vault's audit goes to Log Analytics", VAULT, "resource audit", "properties.workspaceId", "workspaceId"),
    ("the tenants' vault stands in the vaults' zone", MAIN, "module vault", "params.dnsZoneId", "network.outputs.vaultZoneId"),
    ("the administrator's vault stands in the vaults' zone", MAIN, "module adminVault", "params.dnsZoneId", "network.outputs.vaultZoneId"),
    ("pgvector is allowed", POSTGRES, "resource extensions", "name", "azure.extensions"),
    ("pgvector is allowed", POSTGRES, "resource extensions", "properties.value", "VECTOR"),
    ("the server wants TLS", POSTGRES, "resource requireTls", "name", "require_secure_transport"),
    ("the server wants TLS", POSTGRES, "resource requireTls", "properties.value", "on"),
    ("the server's version is a parameter", POSTGRES, "resource server", "properties.version", "version"),
    ("the server's version is a parameter", MAIN, "module database", "params.version", "postgresVersion"),
    ("the server's size is a parameter", POSTGRES, "resource server", "sku.name", "sku"),
    ("the server's size is a parameter", MAIN, "module database", "params.sku", "postgresSku"),
    ("zone redundancy is a parameter", POSTGRES, "resource server", "properties.highAvailability.mode", "highAvailability"),
    ("zone redundancy is a parameter", MAIN, "module database", "params.highAvailability", "postgresHighAvailability"),
    ("storage is a parameter", POSTGRES, "resource server", "properties.storage.storageSizeGB", "storageGB"),
    ("the server is in the network", POSTGRES, "resource server", "properties.network.delegatedSubnetResourceId", "subnetId"),
    ("the server is in the network alone", POSTGRES, "resource server", "properties.network.publicNetworkAccess", "Disabled"),
    ("the server's zone is private", POSTGRES, "resource server", "properties.network.privateDnsZoneArmResourceId", "dnsZoneId"),
    ("the server's zone is the database's", MAIN, "module database", "params.dnsZoneId", "network.outputs.databaseZoneId"),
    ("people sign in to the database with Entra", POSTGRES, "resource server", "properties.authConfig.activeDirectoryAuth", "Enabled"),
    ("the database's Entra administrator", POSTGRES, "resource administrator", "name", "entraAdministratorId"),
    ("the database's Entra administrator", MAIN, "module database", "params.entraAdministratorId", "databaseEntraAdministratorId"),
    ("the database", POSTGRES, "resource database", "name", "databaseName"),
    ("the embedding model", OPENAI, "resource deployment", "properties.model.name", "model"),
    ("the embedding model", OPENAI, "var model", "value", "text-embedding-3-small"),
    ("Azure OpenAI has no keys", OPENAI, "resource account", "properties.disableLocalAuth", True),
    ("Azure OpenAI has a private endpoint", OPENAI, "module endpoint", "params.groupId", "account"),
    ("Azure OpenAI's endpoint leads to it", OPENAI, "module endpoint", "params.serviceId", "account.id"),
    ("Azure OpenAI stands in its zone", MAIN, "module openAi", "params.dnsZoneId", "network.outputs.openAiZoneId"),
    ("private endpoints are named in their zone", "private-endpoint.bicep", "resource zoneGroup", "properties.privateDnsZoneConfigs.0.properties.privateDnsZoneId", "dnsZoneId"),
    *(
        (f"private DNS: {zone}", NETWORK, f"resource {zone}Link", path, value)
        for zone in ("databaseZone", "vaultZone", "openAiZone")
        for path, value in (("parent", zone), ("properties.virtualNetwork.id", "vnet.id"))
    ),
    ("private DNS: the vaults' name", NETWORK, "var zoneNames", "value.vault", "privatelink.vaultcore.azure.net"),
    ("private DNS: Azure OpenAI's name", NETWORK, "var zoneNames", "value.openAi", "privatelink.openai.azure.com"),
    ("tags: azd finds what it made", MAIN, "var allTags", "value.union.arg_2.azd-env-name", "environmentName"),
    ("tags: the installation's own", MAIN, "var allTags", "value.union.arg_1", "tags"),
    ("tags: the group", MAIN, "resource group", "tags", "allTags"),
    *((f"tags: {name}", MAIN, f"module {name}", "params.tags", "allTags") for name in ("identities", "network", "monitoring", "registry", "cluster", "vault", "adminVault", "database", "openAi")),
    *(
        (f"roles: whose {name} it is", MAIN, "module roles", f"params.{name}", value)
        for name, value in (
            ("vaultName", "vault.outputs.name"),
            ("adminVaultName", "adminVault.outputs.name"),
            ("openAiName", "openAi.outputs.name"),
            ("registryName", "registry.outputs.name"),
            ("clusterName", "cluster.outputs.name"),
            ("operatorPrincipalId", "identities.outputs.operatorPrincipalId"),
            ("gatewayPrincipalId", "identities.outputs.gatewayPrincipalId"),
            ("kubeletPrincipalId", "cluster.outputs.kubeletPrincipalId"),
            ("deployerPrincipalId", "principalId"),
        )
    ),
    # What the chart's values and .env need.
    *(
        (f"output {name}", MAIN, f"output {name}", "value", value)
        for name, value in (
            ("AZURE_TENANT_ID", "tenant().tenantId"),
            ("AZURE_SUBSCRIPTION_ID", "subscription().subscriptionId"),
            ("AZURE_RESOURCE_GROUP", "group.name"),
            ("AZURE_CONTAINER_REGISTRY_NAME", "registry.outputs.name"),
            ("AZURE_CONTAINER_REGISTRY_ENDPOINT", "registry.outputs.loginServer"),
            ("AZURE_AKS_CLUSTER_NAME", "cluster.outputs.name"),
            ("AZURE_KEY_VAULT_ENDPOINT", "vault.outputs.uri"),
            ("AZURE_OPENAI_ENDPOINT", "openAi.outputs.endpoint"),
            ("AZURE_OPENAI_EMBEDDING_DEPLOYMENT", "openAi.outputs.deploymentName"),
            ("AZURE_MANAGED_PROMETHEUS", "managedPrometheus"),
            ("STOREFENCE_NAMESPACE", "namespace"),
            ("STOREFENCE_OPERATOR_CLIENT_ID", "identities.outputs.operatorClientId"),
            ("STOREFENCE_GATEWAY_CLIENT_ID", "identities.outputs.gatewayClientId"),
            ("STOREFENCE_DATABASE_HOST", "database.outputs.host"),
            ("STOREFENCE_DATABASE_NAME", "databaseName"),
            ("STOREFENCE_ADMIN_VAULT_NAME", "adminVault.outputs.name"),
            ("STOREFENCE_ADMIN_URL_SECRET", "database.outputs.adminUrlSecretName"),
            ("STOREFENCE_ADMIN_URL_VERSION", "database.outputs.adminUrlSecretVersion"),
        )
    ),
]

# Who may do what: role, principal, scope. Nobody else may do anything.
ROLES = {
    ("keyVaultSecretsOfficer", "operatorPrincipalId", "vault"),
    ("keyVaultSecretsUser", "gatewayPrincipalId", "vault"),
    ("keyVaultSecretsUser", "operatorPrincipalId", "adminVault"),
    ("openAiUser", "operatorPrincipalId", "openAi"),
    ("openAiUser", "gatewayPrincipalId", "openAi"),
    ("acrPull", "kubeletPrincipalId", "registry"),
    ("aksRbacClusterAdmin", "deployerPrincipalId", "cluster"),
}

# What the names of roles.bicep stand for.
SCOPES = {
    "vault": "vaultName",
    "adminVault": "adminVaultName",
    "openAi": "openAiName",
    "registry": "registryName",
    "cluster": "clusterName",
}


def written(value: Any) -> Any:
    """An expression as it stands in the file, where it is one of names, properties and calls without arguments."""
    if not isinstance(value, dict):
        return value
    if (operator := value.get("operator")) and operator["type"] == "property_accessor":
        operands = operator["operands"]
        return f"{written(operands['operand_1'])}.{written(operands['operand_2'])}"
    if function := value.get("function"):
        if not any((function.get("parameters") or {}).values()):
            return f"{function['type']}()"
        return {function["type"]: function["parameters"]}
    return value


def named(files: Files, name: str) -> Bicep | None:
    """The file of that name."""
    return next((file for path, file in files.items() if path.name == name), None)


def declaration(file: Bicep, what: str) -> dict[str, Any] | None:
    """A resource's or module's object with its type, or a variable or output as it is."""
    kind, name = what.split()
    if kind in ("resource", "module"):
        found = (file.resources if kind == "resource" else file.modules).get(name)
        return found and {"type": found["type"], **body_of(found)}
    return (file.variables if kind == "var" else file.outputs).get(name)


def at(value: Any, path: str) -> Any:
    """What stands at a path; None where nothing does."""
    for step in path.split("."):
        value = written(value)
        if isinstance(value, list) and step.isdigit():
            value = value[int(step)] if int(step) < len(value) else None
        elif isinstance(value, dict):
            value = value.get(step, value.get(f"'{step}'"))
        else:
            return None
    return written(value)


def present(files: Files) -> Iterator[str]:
    """What the table names is there."""
    for what, name, symbol, path, wanted in EXPECTED:
        file = named(files, name)
        found = file and declaration(file, symbol)
        if found is None:
            yield f"{name}: {what}: there is no {symbol}"
        elif (value := at(found, path)) != wanted:
            yield f"{name}: {what}: {symbol}: {path} must be {wanted!r}, not {value!r}"


def assignments(files: Files) -> Iterator[str]:
    """The role assignments are those of the table, each over what it says."""
    file = named(files, "roles.bicep")
    if file is None:
        yield "roles.bicep: there is no such file"
        return
    found = set()
    for symbol, resource in file.resources.items():
        body = body_of(resource)
        if resource["existing"]:
            if SCOPES.get(symbol) != body.get("name"):
                yield f"{file.path}: {symbol} must be the one that {SCOPES.get(symbol)} names"
            continue
        role = at(body, "properties.roleDefinitionId.subscription_resource_id.resource_name_1")
        found.add((str(role).removeprefix("roleDefinitions."), at(body, "properties.principalId"), body.get("scope")))
    for role, principal, scope in sorted(ROLES - found):
        yield f"{file.path}: {principal} is not {role} on {scope}"
    for role, principal, scope in sorted(map(str, entry) for entry in found - ROLES):
        yield f"{file.path}: {principal} is {role} on {scope}, which nobody asked for"


def version(files: Files) -> Iterator[str]:
    """PostgreSQL is 17 or newer, whatever is chosen."""
    main = named(files, MAIN)
    if main is None or "postgresVersion" not in main.params:
        yield f"{MAIN}: there is no parameter postgresVersion"
        return
    allowed = main.decorator("postgresVersion", "allowed")
    values = [*(allowed if isinstance(allowed, list) else []), main.params["postgresVersion"]["default"]]
    if len(values) < 2 or not all(isinstance(v, str) and v.isdigit() and int(v) >= 17 for v in values):
        yield f"{main.path}: postgresVersion: 17 or newer is expected, not {values}"


def subjects(files: Files, template: str) -> Iterator[str]:
    """The accounts that may act as the identities are those that the chart's values name."""
    file = named(files, "federation.bicep")
    text = re.sub(r"\$\{[A-Z0-9_]+\}", "filled", template)
    values = YAML(typ="safe").load(text)
    for part in ("operator", "gateway"):
        account = values.get(part, {}).get("serviceAccount", {}).get("name")
        found = file and declaration(file, f"resource {part}Credential")
        subject = at(found, "properties.subject") if found else None
        wanted = "system:serviceaccount:${namespace}:" + str(account)
        if subject != wanted:
            yield f"federation.bicep: {part}: subject must be {wanted}, as infra/templates/values.yaml names it, not {subject}"


def check(root: Path, files: Files) -> Iterator[str]:
    """All rules of this module over a checkout."""
    for rule in (present, assignments, version):
        yield from rule(files)
    yield from subjects(files, (root / "infra/templates/values.yaml").read_text("utf-8"))
