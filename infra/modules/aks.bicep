// The cluster: OIDC issuer and workload identity, Azure CNI overlay with Cilium (so that NetworkPolicies hold),
// Entra sign-in only, secrets mounted from Key Vault, logs and metrics to Azure Monitor.
param location string
param tags object

@maxLength(20)
param environmentName string

@description('Empty means the region\'s default.')
param kubernetesVersion string
param tier string

@description('User-assigned identity of the control plane.')
param identityId string
param subnetId string
param nodeVmSize string
param nodeMinCount int
param nodeMaxCount int
param nodeZones array
param dedicatedSystemPool bool
param privateCluster bool
param authorizedIpRanges array
param appRouting bool
param workspaceId string
param containerInsightsRuleId string
param managedPrometheus bool

@description('Data collection rule of managed Prometheus; empty without it.')
param prometheusRuleId string

var pool = {
  vmSize: nodeVmSize
  osType: 'Linux'
  osSKU: 'AzureLinux'
  type: 'VirtualMachineScaleSets'
  maxPods: 110
  enableAutoScaling: true
  vnetSubnetID: subnetId
  availabilityZones: nodeZones
  upgradeSettings: {
    maxSurge: '33%'
  }
}

// Without a dedicated system pool the one pool runs everything.
var workPool = union(pool, {
  name: dedicatedSystemPool ? 'work' : 'system'
  mode: dedicatedSystemPool ? 'User' : 'System'
  count: nodeMinCount
  minCount: nodeMinCount
  maxCount: nodeMaxCount
})

var systemPool = union(pool, {
  name: 'system'
  mode: 'System'
  count: 2
  minCount: 2
  maxCount: 3
  nodeTaints: [
    'CriticalAddonsOnly=true:NoSchedule'
  ]
})

var pools = dedicatedSystemPool ? [
  systemPool
  workPool
] : [
  workPool
]

resource cluster 'Microsoft.ContainerService/managedClusters@2025-05-01' = {
  name: 'aks-storefence-${environmentName}'
  location: location
  tags: tags
  sku: {
    name: 'Base'
    tier: tier
  }
  identity: {
    type: 'UserAssigned'
    userAssignedIdentities: {
      '${identityId}': {}
    }
  }
  properties: {
    kubernetesVersion: empty(kubernetesVersion) ? null : kubernetesVersion
    dnsPrefix: 'storefence-${environmentName}'
    nodeResourceGroup: 'rg-storefence-${environmentName}-nodes'
    enableRBAC: true
    disableLocalAccounts: true
    aadProfile: {
      managed: true
      enableAzureRBAC: true
      tenantID: tenant().tenantId
    }
    agentPoolProfiles: pools
    networkProfile: {
      networkPlugin: 'azure'
      networkPluginMode: 'overlay'
      networkDataplane: 'cilium'
      networkPolicy: 'cilium'
      loadBalancerSku: 'standard'
      outboundType: 'loadBalancer'
      podCidr: '10.244.0.0/16'
      serviceCidr: '10.41.0.0/16'
      dnsServiceIP: '10.41.0.10'
    }
    apiServerAccessProfile: {
      enablePrivateCluster: privateCluster
      authorizedIPRanges: privateCluster ? [] : authorizedIpRanges
    }
    oidcIssuerProfile: {
      enabled: true
    }
    securityProfile: {
      workloadIdentity: {
        enabled: true
      }
      imageCleaner: {
        enabled: true
        intervalHours: 168
      }
    }
    autoUpgradeProfile: {
      upgradeChannel: 'patch'
      nodeOSUpgradeChannel: 'NodeImage'
    }
    addonProfiles: {
      azureKeyvaultSecretsProvider: {
        enabled: true
        config: {
          enableSecretRotation: 'true'
          rotationPollInterval: '2m'
        }
      }
      azurepolicy: {
        enabled: true
      }
      omsagent: {
        enabled: true
        config: {
          logAnalyticsWorkspaceResourceID: workspaceId
          useAADAuth: 'true'
        }
      }
    }
    ingressProfile: {
      webAppRouting: {
        enabled: appRouting
      }
    }
    azureMonitorProfile: {
      metrics: {
        enabled: managedPrometheus
      }
    }
  }
}

resource containerInsights 'Microsoft.Insights/dataCollectionRuleAssociations@2023-03-11' = {
  name: 'ContainerInsightsExtension'
  scope: cluster
  properties: {
    dataCollectionRuleId: containerInsightsRuleId
  }
}

resource prometheus 'Microsoft.Insights/dataCollectionRuleAssociations@2023-03-11' = if (managedPrometheus) {
  name: 'ContainerInsightsMetricsExtension'
  scope: cluster
  properties: {
    dataCollectionRuleId: prometheusRuleId
  }
}

resource audit 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'log-analytics'
  scope: cluster
  properties: {
    workspaceId: workspaceId
    logAnalyticsDestinationType: 'Dedicated'
    logs: [
      {
        category: 'kube-audit-admin'
        enabled: true
      }
      {
        category: 'guard'
        enabled: true
      }
    ]
  }
}

output name string = cluster.name
output issuerUrl string = cluster.properties.oidcIssuerProfile.issuerURL
output kubeletPrincipalId string = cluster.properties.identityProfile.kubeletidentity.objectId
