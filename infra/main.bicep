// Everything that Storefence needs in one Azure subscription: `az deployment sub create`, infra/deploy.sh or `azd up`.
// No output is a secret. The database administrator's password is made inside the deployment and goes to Key Vault only.
targetScope = 'subscription'

@description('Name of the environment, for example dev or prod. It stands in resource names.')
@minLength(2)
@maxLength(20)
param environmentName string

@description('Region of all resources but the Azure OpenAI account.')
@minLength(3)
@maxLength(40)
param location string

@description('Region of the Azure OpenAI account; empty means the region of the rest. Not every region has the model.')
param openAiLocation string = ''

@description('Further tags for every resource.')
param tags object = {}

// --- People -----------------------------------------------------------------------------------------------------

@description('Object ID of the person or pipeline that installs the chart; becomes cluster administrator through Azure RBAC.')
@minLength(36)
@maxLength(36)
param principalId string

@description('Kind of principalId.')
@allowed([
  'User'
  'Group'
  'ServicePrincipal'
])
param principalType string = 'User'

@description('Object ID of the Microsoft Entra administrator of the database server, best a group.')
@minLength(36)
@maxLength(36)
param databaseEntraAdministratorId string

@description('Name of that administrator: the group\'s display name or the user principal name.')
@minLength(1)
@maxLength(120)
param databaseEntraAdministratorName string

@description('Kind of that administrator.')
@allowed([
  'User'
  'Group'
  'ServicePrincipal'
])
param databaseEntraAdministratorType string = 'Group'

// --- Network ----------------------------------------------------------------------------------------------------

@description('Address space of the virtual network; must hold the three subnets.')
param addressPrefix string = '10.40.0.0/16'

@description('Subnet of the nodes. Pods have their own range, since the network plug-in runs in overlay mode.')
param aksSubnetPrefix string = '10.40.0.0/20'

@description('Subnet of the private endpoints.')
param endpointSubnetPrefix string = '10.40.16.0/24'

@description('Subnet delegated to the database server.')
param databaseSubnetPrefix string = '10.40.17.0/24'

// --- Cluster ----------------------------------------------------------------------------------------------------

@description('Kubernetes version; empty means the region\'s default.')
param kubernetesVersion string = ''

@description('Tier of the control plane; Standard carries an uptime commitment.')
@allowed([
  'Free'
  'Standard'
  'Premium'
])
param aksTier string = 'Standard'

@description('VM size of the nodes.')
param nodeVmSize string = 'Standard_D4ds_v5'

@description('Fewest nodes that run Storefence.')
@minValue(1)
@maxValue(100)
param nodeMinCount int = 2

@description('Most nodes that run Storefence.')
@minValue(1)
@maxValue(1000)
param nodeMaxCount int = 5

@description('Availability zones of the nodes; empty where the region has none.')
param nodeZones array = []

@description('Keeps a node pool for system pods only, beside the one that runs Storefence.')
param dedicatedSystemPool bool = false

@description('The Kubernetes API has no public address.')
param privateCluster bool = false

@description('CIDR ranges that may reach the Kubernetes API; empty means any. Ignored for a private cluster.')
param authorizedIpRanges array = []

@description('Managed NGINX ingress (application routing add-on).')
param appRouting bool = true

@description('Azure Monitor managed service for Prometheus.')
param managedPrometheus bool = true

@description('Kubernetes namespace of Storefence.')
@minLength(1)
@maxLength(63)
param namespace string = 'storefence'

// --- Database ---------------------------------------------------------------------------------------------------

@description('Major version of PostgreSQL.')
@allowed([
  '17'
  '18'
])
param postgresVersion string = '17'

@description('Compute size of the database server.')
param postgresSku string = 'Standard_D4ds_v5'

@description('Tier that the size belongs to.')
@allowed([
  'Burstable'
  'GeneralPurpose'
  'MemoryOptimized'
])
param postgresTier string = 'GeneralPurpose'

@description('Storage in GiB, 32 or a doubling of it; grows by itself. What it has grown to must be given from then on: the scripts do.')
@minValue(32)
@maxValue(32767)
param postgresStorageGB int = 128

@description('High availability. Burstable sizes have none.')
@allowed([
  'Disabled'
  'SameZone'
  'ZoneRedundant'
])
param postgresHighAvailability string = 'Disabled'

@description('Zone of the primary; empty leaves it to Azure.')
@allowed([
  ''
  '1'
  '2'
  '3'
])
param postgresZone string = ''

@description('Days that backups are kept.')
@minValue(7)
@maxValue(35)
param postgresBackupDays int = 14

@description('Copies backups to the paired region. Cannot be changed later.')
@allowed([
  'Disabled'
  'Enabled'
])
param postgresGeoRedundantBackup string = 'Disabled'

@description('Name of the database.')
@minLength(1)
@maxLength(63)
param databaseName string = 'retail'

@description('Login of the password administrator that the operator uses. Cannot be changed later.')
@minLength(1)
@maxLength(63)
param databaseAdministratorLogin string = 'storefence_admin'

@description('Password of that administrator. Leave it out: each deployment makes a new one, sets it and stores it in Key Vault.')
@secure()
param databaseAdministratorPassword string = newGuid()

// --- Vaults, registry, model ------------------------------------------------------------------------------------

@description('Days that a deleted vault and its secrets can be recovered. Cannot be changed later.')
@minValue(7)
@maxValue(90)
param keyVaultRetentionDays int = 90

@description('Tier of the container registry.')
@allowed([
  'Basic'
  'Standard'
  'Premium'
])
param registrySku string = 'Standard'

@description('Throughput of the embedding deployment in thousands of tokens per minute.')
@minValue(1)
@maxValue(1000)
param embeddingCapacity int = 50

@description('How the embedding deployment is billed and where it runs.')
@allowed([
  'Standard'
  'GlobalStandard'
  'DataZoneStandard'
])
param embeddingSku string = 'Standard'

@description('Days that logs are kept.')
@minValue(30)
@maxValue(730)
param logRetentionDays int = 30

// ----------------------------------------------------------------------------------------------------------------

var token = uniqueString(subscription().id, environmentName, location)
var allTags = union(tags, {
  'azd-env-name': environmentName
  application: 'storefence'
})

resource group 'Microsoft.Resources/resourceGroups@2024-03-01' = {
  name: 'rg-storefence-${environmentName}'
  location: location
  tags: allTags
}

module identities 'modules/identities.bicep' = {
  name: 'storefence-identities'
  scope: group
  params: {
    location: location
    tags: allTags
    environmentName: environmentName
  }
}

module network 'modules/network.bicep' = {
  name: 'storefence-network'
  scope: group
  params: {
    location: location
    tags: allTags
    environmentName: environmentName
    addressPrefix: addressPrefix
    aksSubnetPrefix: aksSubnetPrefix
    endpointSubnetPrefix: endpointSubnetPrefix
    databaseSubnetPrefix: databaseSubnetPrefix
    clusterPrincipalId: identities.outputs.clusterPrincipalId
  }
}

module monitoring 'modules/monitoring.bicep' = {
  name: 'storefence-monitoring'
  scope: group
  params: {
    location: location
    tags: allTags
    environmentName: environmentName
    retentionDays: logRetentionDays
    managedPrometheus: managedPrometheus
  }
}

module registry 'modules/registry.bicep' = {
  name: 'storefence-registry'
  scope: group
  params: {
    name: 'crsf${token}'
    location: location
    tags: allTags
    sku: registrySku
  }
}

module cluster 'modules/aks.bicep' = {
  name: 'storefence-cluster'
  scope: group
  params: {
    location: location
    tags: allTags
    environmentName: environmentName
    kubernetesVersion: kubernetesVersion
    tier: aksTier
    identityId: identities.outputs.clusterId
    subnetId: network.outputs.aksSubnetId
    nodeVmSize: nodeVmSize
    nodeMinCount: nodeMinCount
    nodeMaxCount: nodeMaxCount
    nodeZones: nodeZones
    dedicatedSystemPool: dedicatedSystemPool
    privateCluster: privateCluster
    authorizedIpRanges: authorizedIpRanges
    appRouting: appRouting
    workspaceId: monitoring.outputs.workspaceId
    containerInsightsRuleId: monitoring.outputs.containerInsightsRuleId
    managedPrometheus: managedPrometheus
    prometheusRuleId: monitoring.outputs.prometheusRuleId
  }
}

module federation 'modules/federation.bicep' = {
  name: 'storefence-federation'
  scope: group
  params: {
    issuerUrl: cluster.outputs.issuerUrl
    namespace: namespace
    operatorIdentityName: identities.outputs.operatorName
    gatewayIdentityName: identities.outputs.gatewayName
  }
}

// The tenants' vault: the operator writes it, the gateway reads it.
module vault 'modules/key-vault.bicep' = {
  name: 'storefence-vault'
  scope: group
  params: {
    name: 'kv-sf-${token}'
    location: location
    tags: allTags
    retentionDays: keyVaultRetentionDays
    subnetId: network.outputs.endpointSubnetId
    dnsZoneId: network.outputs.vaultZoneId
    workspaceId: monitoring.outputs.workspaceId
  }
}

// The administrator's credential has a vault of its own: a Key Vault role holds for a whole vault, and the gateway,
// which reads every secret of the other one, must never be able to become the administrator.
module adminVault 'modules/key-vault.bicep' = {
  name: 'storefence-admin-vault'
  scope: group
  params: {
    name: 'kv-sfadm-${token}'
    location: location
    tags: allTags
    retentionDays: keyVaultRetentionDays
    subnetId: network.outputs.endpointSubnetId
    dnsZoneId: network.outputs.vaultZoneId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module database 'modules/postgres.bicep' = {
  name: 'storefence-database'
  scope: group
  params: {
    name: 'psql-storefence-${token}'
    location: location
    tags: allTags
    version: postgresVersion
    sku: postgresSku
    tier: postgresTier
    storageGB: postgresStorageGB
    highAvailability: postgresHighAvailability
    zone: postgresZone
    backupDays: postgresBackupDays
    geoRedundantBackup: postgresGeoRedundantBackup
    subnetId: network.outputs.databaseSubnetId
    dnsZoneId: network.outputs.databaseZoneId
    databaseName: databaseName
    administratorLogin: databaseAdministratorLogin
    administratorPassword: databaseAdministratorPassword
    entraAdministratorId: databaseEntraAdministratorId
    entraAdministratorName: databaseEntraAdministratorName
    entraAdministratorType: databaseEntraAdministratorType
    adminVaultName: adminVault.outputs.name
    workspaceId: monitoring.outputs.workspaceId
  }
}

module openAi 'modules/openai.bicep' = {
  name: 'storefence-openai'
  scope: group
  params: {
    name: 'oai-storefence-${token}'
    location: empty(openAiLocation) ? location : openAiLocation
    endpointLocation: location
    tags: allTags
    deploymentSku: embeddingSku
    capacity: embeddingCapacity
    subnetId: network.outputs.endpointSubnetId
    dnsZoneId: network.outputs.openAiZoneId
    workspaceId: monitoring.outputs.workspaceId
  }
}

module roles 'modules/roles.bicep' = {
  name: 'storefence-roles'
  scope: group
  params: {
    vaultName: vault.outputs.name
    adminVaultName: adminVault.outputs.name
    openAiName: openAi.outputs.name
    registryName: registry.outputs.name
    clusterName: cluster.outputs.name
    operatorPrincipalId: identities.outputs.operatorPrincipalId
    gatewayPrincipalId: identities.outputs.gatewayPrincipalId
    kubeletPrincipalId: cluster.outputs.kubeletPrincipalId
    deployerPrincipalId: principalId
    deployerPrincipalType: principalType
  }
}

// Names in capitals: azd keeps outputs as environment variables, infra/deploy.sh fills infra/templates with them.
output AZURE_LOCATION string = location
output AZURE_TENANT_ID string = tenant().tenantId
output AZURE_SUBSCRIPTION_ID string = subscription().subscriptionId
output AZURE_RESOURCE_GROUP string = group.name
output AZURE_CONTAINER_REGISTRY_NAME string = registry.outputs.name
output AZURE_CONTAINER_REGISTRY_ENDPOINT string = registry.outputs.loginServer
output AZURE_AKS_CLUSTER_NAME string = cluster.outputs.name
output AZURE_KEY_VAULT_NAME string = vault.outputs.name
output AZURE_KEY_VAULT_ENDPOINT string = vault.outputs.uri
output AZURE_OPENAI_ENDPOINT string = openAi.outputs.endpoint
output AZURE_OPENAI_EMBEDDING_DEPLOYMENT string = openAi.outputs.deploymentName
output AZURE_APPLICATION_INSIGHTS_NAME string = monitoring.outputs.applicationInsightsName
output AZURE_MANAGED_PROMETHEUS bool = managedPrometheus
output STOREFENCE_NAMESPACE string = namespace
output STOREFENCE_OPERATOR_CLIENT_ID string = identities.outputs.operatorClientId
output STOREFENCE_GATEWAY_CLIENT_ID string = identities.outputs.gatewayClientId
output STOREFENCE_DATABASE_HOST string = database.outputs.host
output STOREFENCE_DATABASE_NAME string = databaseName
output STOREFENCE_ADMIN_VAULT_NAME string = adminVault.outputs.name
output STOREFENCE_ADMIN_URL_SECRET string = database.outputs.adminUrlSecretName
output STOREFENCE_ADMIN_URL_VERSION string = database.outputs.adminUrlSecretVersion
