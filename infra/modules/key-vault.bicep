// A vault that only the virtual network reaches. Roles are in roles.bicep, the audit log goes to Log Analytics.
@minLength(3)
@maxLength(24)
param name string
param location string
param tags object

@minValue(7)
@maxValue(90)
param retentionDays int

param subnetId string
param dnsZoneId string
param workspaceId string

resource vault 'Microsoft.KeyVault/vaults@2024-11-01' = {
  name: name
  location: location
  tags: tags
  properties: {
    tenantId: tenant().tenantId
    sku: {
      family: 'A'
      name: 'standard'
    }
    enableRbacAuthorization: true
    enableSoftDelete: true
    softDeleteRetentionInDays: retentionDays
    enablePurgeProtection: true
    enabledForDeployment: false
    enabledForDiskEncryption: false
    enabledForTemplateDeployment: false
    publicNetworkAccess: 'Disabled'
    networkAcls: {
      defaultAction: 'Deny'
      // Resource Manager writes the administrator's URI this way; a role is needed all the same.
      bypass: 'AzureServices'
    }
  }
}

module endpoint 'private-endpoint.bicep' = {
  name: 'endpoint-${name}'
  params: {
    name: vault.name
    location: location
    tags: tags
    subnetId: subnetId
    serviceId: vault.id
    groupId: 'vault'
    dnsZoneId: dnsZoneId
  }
}

resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'log-analytics'
  scope: vault
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        categoryGroup: 'audit'
        enabled: true
      }
    ]
  }
}

output name string = vault.name
output uri string = vault.properties.vaultUri
