// The cluster's service accounts may act as the identities. One credential per identity: Azure refuses two writes at
// once under the same identity, and these are under two.
param issuerUrl string
param namespace string
param operatorIdentityName string
param gatewayIdentityName string

var audiences = [
  'api://AzureADTokenExchange'
]

resource operator 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' existing = {
  name: operatorIdentityName
}

resource gateway 'Microsoft.ManagedIdentity/userAssignedIdentities@2023-01-31' existing = {
  name: gatewayIdentityName
}

resource operatorCredential 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = {
  parent: operator
  name: 'storefence-operator'
  properties: {
    issuer: issuerUrl
    subject: 'system:serviceaccount:${namespace}:storefence-operator'
    audiences: audiences
  }
}

resource gatewayCredential 'Microsoft.ManagedIdentity/userAssignedIdentities/federatedIdentityCredentials@2023-01-31' = {
  parent: gateway
  name: 'storefence-gateway'
  properties: {
    issuer: issuerUrl
    subject: 'system:serviceaccount:${namespace}:storefence-gateway'
    audiences: audiences
  }
}
