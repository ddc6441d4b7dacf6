// Logs, traces, and where managed Prometheus keeps its metrics.
param location string
param tags object

@maxLength(20)
param environmentName string
param retentionDays int
param managedPrometheus bool

resource workspace 'Microsoft.OperationalInsights/workspaces@2023-09-01' = {
  name: 'log-storefence-${environmentName}'
  location: location
  tags: tags
  properties: {
    sku: {
      name: 'PerGB2018'
    }
    retentionInDays: retentionDays
    features: {
      disableLocalAuth: true
    }
  }
}

// Storefence speaks OTLP; an OpenTelemetry collector with an Entra identity forwards to this resource.
resource applicationInsights 'Microsoft.Insights/components@2020-02-02' = {
  name: 'appi-storefence-${environmentName}'
  location: location
  tags: tags
  kind: 'web'
  properties: {
    Application_Type: 'web'
    WorkspaceResourceId: workspace.id
    DisableLocalAuth: true
  }
}

resource containerInsights 'Microsoft.Insights/dataCollectionRules@2023-03-11' = {
  name: 'dcr-storefence-logs-${environmentName}'
  location: location
  tags: tags
  kind: 'Linux'
  properties: {
    dataSources: {
      extensions: [
        {
          name: 'ContainerInsightsExtension'
          extensionName: 'ContainerInsights'
          streams: [
            'Microsoft-ContainerLogV2'
            'Microsoft-KubeEvents'
            'Microsoft-KubePodInventory'
          ]
          extensionSettings: {
            dataCollectionSettings: {
              interval: '1m'
              namespaceFilteringMode: 'Off'
              enableContainerLogV2: true
            }
          }
        }
      ]
    }
    destinations: {
      logAnalytics: [
        {
          name: 'workspace'
          workspaceResourceId: workspace.id
        }
      ]
    }
    dataFlows: [
      {
        streams: [
          'Microsoft-ContainerLogV2'
          'Microsoft-KubeEvents'
          'Microsoft-KubePodInventory'
        ]
        destinations: [
          'workspace'
        ]
      }
    ]
  }
}

resource metrics 'Microsoft.Monitor/accounts@2023-04-03' = if (managedPrometheus) {
  name: 'amw-storefence-${environmentName}'
  location: location
  tags: tags
}

resource metricsEndpoint 'Microsoft.Insights/dataCollectionEndpoints@2023-03-11' = if (managedPrometheus) {
  name: 'dce-storefence-${environmentName}'
  location: location
  tags: tags
  kind: 'Linux'
  properties: {
    networkAcls: {
      publicNetworkAccess: 'Enabled'
    }
  }
}

resource prometheus 'Microsoft.Insights/dataCollectionRules@2023-03-11' = if (managedPrometheus) {
  name: 'dcr-storefence-metrics-${environmentName}'
  location: location
  tags: tags
  kind: 'Linux'
  properties: {
    dataCollectionEndpointId: metricsEndpoint.id
    dataSources: {
      prometheusForwarder: [
        {
          name: 'prometheus'
          streams: [
            'Microsoft-PrometheusMetrics'
          ]
          labelIncludeFilter: {}
        }
      ]
    }
    destinations: {
      monitoringAccounts: [
        {
          name: 'metrics'
          accountResourceId: metrics.id
        }
      ]
    }
    dataFlows: [
      {
        streams: [
          'Microsoft-PrometheusMetrics'
        ]
        destinations: [
          'metrics'
        ]
      }
    ]
  }
}

output workspaceId string = workspace.id
output applicationInsightsName string = applicationInsights.name
output containerInsightsRuleId string = containerInsights.id
output prometheusRuleId string = managedPrometheus ? prometheus.id : ''
