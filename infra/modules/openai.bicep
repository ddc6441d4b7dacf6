// Azure OpenAI with the embedding model. No keys: local authentication is off, Entra identities only.
@minLength(2)
@maxLength(64)
param name string

@description('Region of the account, which must have the model.')
param location string

@description('Region of the virtual network.')
param endpointLocation string
param tags object
param deploymentSku string
param capacity int
param subnetId string
param dnsZoneId string
param workspaceId string

var model = 'text-embedding-3-small'

resource account 'Microsoft.CognitiveServices/accounts@2025-06-01' = {
  name: name
  location: location
  tags: tags
  kind: 'OpenAI'
  sku: {
    name: 'S0'
  }
  properties: {
    customSubDomainName: name
    disableLocalAuth: true
    publicNetworkAccess: 'Disabled'
    networkAcls: {
      defaultAction: 'Deny'
    }
  }
}

resource deployment 'Microsoft.CognitiveServices/accounts/deployments@2025-06-01' = {
  parent: account
  name: model
  sku: {
    name: deploymentSku
    capacity: capacity
  }
  properties: {
    model: {
      format: 'OpenAI'
      name: model
      version: '1'
    }
    versionUpgradeOption: 'NoAutoUpgrade'
  }
}

// The endpoint waits for the deployment: the account refuses two changes at once.
module endpoint 'private-endpoint.bicep' = {
  name: 'endpoint-${name}'
  params: {
    name: account.name
    location: endpointLocation
    tags: tags
    subnetId: subnetId
    serviceId: account.id
    groupId: 'account'
    dnsZoneId: dnsZoneId
  }
  dependsOn: [
    deployment
  ]
}

resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'log-analytics'
  scope: account
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

output name string = account.name
output endpoint string = account.properties.endpoint
output deploymentName string = deployment.name
