// One identity each for the control plane, the operator and the gateway: none can do what another may.
param location string
param tags object

@maxLength(20)
param environmentName string

resource cluster 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'id-storefence-cluster-${environmentName}'
  location: location
  tags: tags
}

resource operator 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'id-storefence-operator-${environmentName}'
  location: location
  tags: tags
}

resource gateway 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' = {
  name: 'id-storefence-gateway-${environmentName}'
  location: location
  tags: tags
}

output clusterId string = cluster.id
output clusterPrincipalId string = cluster.properties.principalId
output operatorName string = operator.name
output operatorClientId string = operator.properties.clientId
output operatorPrincipalId string = operator.properties.principalId
output gatewayName string = gateway.name
output gatewayClientId string = gateway.properties.clientId
output gatewayPrincipalId string = gateway.properties.principalId
