// The database server, inside the virtual network. Everything below it is written one after another: the server
// answers a second write that comes while one is under way with ServerIsBusy.
@minLength(3)
@maxLength(63)
param name string
param location string
param tags object
param version string
param sku string
param tier string
param storageGB int
param highAvailability string
param zone string
param backupDays int
param geoRedundantBackup string
param subnetId string
param dnsZoneId string
param databaseName string
param administratorLogin string

@secure()
param administratorPassword string
param entraAdministratorId string
param entraAdministratorName string
param entraAdministratorType string

@description('Vault that takes the administrator\'s connection URI; the operator alone reads it.')
param adminVaultName string
param workspaceId string

resource server 'Microsoft.DBforPostgreSQL/flexibleServers@2025-08-01' = {
  name: name
  location: location
  tags: tags
  sku: {
    name: sku
    tier: tier
  }
  properties: {
    createMode: 'Default'
    version: version
    administratorLogin: administratorLogin
    administratorLoginPassword: administratorPassword
    // Tenants' logins have passwords that the operator rotates; people sign in with Entra.
    authConfig: {
      activeDirectoryAuth: 'Enabled'
      passwordAuth: 'Enabled'
      tenantId: tenant().tenantId
    }
    storage: {
      storageSizeGB: storageGB
      autoGrow: 'Enabled'
    }
    backup: {
      backupRetentionDays: backupDays
      geoRedundantBackup: geoRedundantBackup
    }
    availabilityZone: empty(zone) ? null : zone
    highAvailability: {
      mode: highAvailability
    }
    network: {
      delegatedSubnetResourceId: subnetId
      privateDnsZoneArmResourceId: dnsZoneId
      publicNetworkAccess: 'Disabled'
    }
    maintenanceWindow: {
      customWindow: 'Enabled'
      dayOfWeek: 0
      startHour: 2
      startMinute: 0
    }
  }
}

resource database 'Microsoft.DBforPostgreSQL/flexibleServers/databases@2025-08-01' = {
  parent: server
  name: databaseName
  properties: {
    charset: 'UTF8'
    collation: 'en_US.utf8'
  }
}

// CREATE EXTENSION vector is the migration's; this allows it.
resource extensions 'Microsoft.DBforPostgreSQL/flexibleServers/configurations@2025-08-01' = {
  parent: server
  name: 'azure.extensions'
  properties: {
    source: 'user-override'
    value: 'VECTOR'
  }
  dependsOn: [
    database
  ]
}

resource requireTls 'Microsoft.DBforPostgreSQL/flexibleServers/configurations@2025-08-01' = {
  parent: server
  name: 'require_secure_transport'
  properties: {
    source: 'user-override'
    value: 'on'
  }
  dependsOn: [
    extensions
  ]
}

resource tlsVersion 'Microsoft.DBforPostgreSQL/flexibleServers/configurations@2025-08-01' = {
  parent: server
  name: 'ssl_min_protocol_version'
  properties: {
    source: 'user-override'
    value: 'TLSv1.2'
  }
  dependsOn: [
    requireTls
  ]
}

// ddl would write ALTER ROLE ... PASSWORD, and all would write the tenants' questions, into the server's log.
resource statementLog 'Microsoft.DBforPostgreSQL/flexibleServers/configurations@2025-08-01' = {
  parent: server
  name: 'log_statement'
  properties: {
    source: 'user-override'
    value: 'none'
  }
  dependsOn: [
    tlsVersion
  ]
}

resource administrator 'Microsoft.DBforPostgreSQL/flexibleServers/administrators@2025-08-01' = {
  parent: server
  name: entraAdministratorId
  properties: {
    principalName: entraAdministratorName
    principalType: entraAdministratorType
    tenantId: tenant().tenantId
  }
  dependsOn: [
    statementLog
  ]
}

resource adminVault 'Microsoft.KeyVault/vaults@2024-11-01' existing = {
  name: adminVaultName
}

// Written through Resource Manager, which reaches a vault that has no public address. Last, so that the vault never
// holds a password that the server did not take.
resource adminUrl 'Microsoft.KeyVault/vaults/secrets@2024-11-01' = {
  parent: adminVault
  name: 'database-admin-url'
  tags: union(tags, {
    'managed-by': 'storefence-infra'
  })
  properties: {
    contentType: 'PostgreSQL connection URI'
    value: 'postgresql://${administratorLogin}:${uriComponent(administratorPassword)}@${server.properties.fullyQualifiedDomainName}:5432/${databaseName}?sslmode=verify-full'
  }
  dependsOn: [
    administrator
  ]
}

resource logs 'Microsoft.Insights/diagnosticSettings@2021-05-01-preview' = {
  name: 'log-analytics'
  scope: server
  properties: {
    workspaceId: workspaceId
    logs: [
      {
        category: 'PostgreSQLLogs'
        enabled: true
      }
    ]
    metrics: [
      {
        category: 'AllMetrics'
        enabled: true
      }
    ]
  }
}

output host string = server.properties.fullyQualifiedDomainName
output adminUrlSecretName string = adminUrl.name
output adminUrlSecretVersion string = last(split(adminUrl.properties.secretUriWithVersion, '/'))
