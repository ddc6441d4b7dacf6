#Requires -Version 7.2
<#
.SYNOPSIS
Installs Storefence in an Azure subscription, and removes it. Every step may be run again.

.DESCRIPTION
The same as deploy.sh. Commands: up (all, the default), preflight, what-if, deploy, images, entra, values, chart, next,
prepare (a part of deploy), cleanup. Preflight and what-if change nothing. Variables: STOREFENCE_PRINCIPAL_ID,
STOREFENCE_PRINCIPAL_TYPE (who installs the chart; default: who is signed in), STOREFENCE_DATABASE_ADMIN_ID, _NAME, _TYPE
(Entra administrator of the server; default: who is signed in), AZURE_SUBSCRIPTION_ID (default: the Azure CLI's).

.EXAMPLE
./infra/deploy.ps1 up -Environment dev -Location swedencentral
#>
[CmdletBinding()]
param(
    [Parameter(Position = 0)]
    [ValidateSet('up', 'preflight', 'what-if', 'deploy', 'images', 'entra', 'values', 'chart', 'next', 'prepare',
        'cleanup', 'azd-preprovision', 'azd-postprovision', 'azd-postdown')]
    [string] $Command = 'up',
    # 2 to 20 lower-case letters, digits and hyphens.
    [string] $Environment = $env:AZURE_ENV_NAME,
    [string] $Location = $env:AZURE_LOCATION,
    [string] $Parameters = (Join-Path $PSScriptRoot 'parameters/dev.parameters.json'),
    # Name under which people reach the gateway; without it there is no ingress.
    [string] $HostName = $env:STOREFENCE_HOST,
    # The host's domain is verified in the Entra directory (see docs/entra.md, AADSTS9010010).
    [switch] $HostIsVerified,
    [string] $AppName = '',
    # Use this registration, which you look after yourself.
    [string] $AppClientId = $env:STOREFENCE_APP_CLIENT_ID,
    [string] $Namespace = $(if ($env:STOREFENCE_NAMESPACE) { $env:STOREFENCE_NAMESPACE } else { 'storefence' }),
    [string] $ImageTag = $env:STOREFENCE_IMAGE_TAG,
    [switch] $Yes
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$PSNativeCommandUseErrorActionPreference = $false

if ($Environment -cnotmatch '^[a-z0-9][a-z0-9-]{0,18}[a-z0-9]$') {
    throw "-Environment: 2 to 20 lower-case letters, digits and hyphens are expected, not '$Environment'"
}
$root = Split-Path $PSScriptRoot
$group = "rg-storefence-$Environment"
$deployment = "storefence-$Environment"
$out = Join-Path $root "target/infra/$Environment"
if (-not $AppName) { $AppName = "Storefence ($Environment)" }
if ($env:STOREFENCE_HOST_IS_VERIFIED -eq 'true') { $HostIsVerified = $true }
$publicUrl = if ($HostName) { "https://$HostName" } else { 'http://localhost:8080' }
New-Item -ItemType Directory -Force -Path $out | Out-Null
# What templates are filled with. No variable of the environment: those would outlive the script, and give the next
# environment of the same session the values of this one.
$known = @{}

function Write-Step([string] $Text) { Write-Host "`n== $Text" }

function Assert-Tool {
    foreach ($tool in $args) {
        if (-not (Get-Command $tool -ErrorAction SilentlyContinue)) {
            throw "$tool is not installed; docs/azure.md says where to get it"
        }
    }
}

# Runs a program and stops when it fails.
function Invoke-Tool([string] $Program, [string[]] $Arguments) {
    $result = & $Program @Arguments
    if ($LASTEXITCODE -ne 0) { throw "$Program $($Arguments[0..1] -join ' ') failed" }
    $result
}

function Confirm-Step([string] $Question) {
    if ($Yes) { return }
    if ((Read-Host "$Question [y/N]") -notin 'y', 'Y', 'yes') { throw 'stopped, nothing changed by this step' }
}

function Read-Json([string[]] $Arguments) {
    (Invoke-Tool az $Arguments) -join "`n" | ConvertFrom-Json -AsHashtable
}

. (Join-Path $PSScriptRoot 'account.ps1')

function Get-DeletedVault {
    @(Read-Json @('keyvault', 'list-deleted', '--resource-type', 'vault', '--output', 'json') |
        Where-Object { $_ -and "$($_.properties.vaultId)" -like "*/resourcegroups/$group/*" })
}

# A deleted vault keeps its name until its retention is over, and purge protection means that nobody can shorten that.
function Restore-Vault {
    foreach ($vault in Get-DeletedVault) {
        Write-Host "Recovering the soft-deleted vault $($vault.name) with its secrets"
        Invoke-Tool az @('group', 'create', '--name', $group, '--location', $Location, '--output', 'none')
        Invoke-Tool az @('keyvault', 'recover', '--name', $vault.name, '--location', $vault.properties.location, '--output', 'none')
    }
}

function Get-DeletedOpenAi {
    @(Read-Json @('cognitiveservices', 'account', 'list-deleted', '--output', 'json') |
        Where-Object { $_ -and "$($_.id)" -like "*/resourcegroups/$group/*" })
}

function Remove-DeletedOpenAi {
    foreach ($account in Get-DeletedOpenAi) {
        Write-Host "Purging the soft-deleted Azure OpenAI account $($account.name); it holds no data"
        Invoke-Tool az @('cognitiveservices', 'account', 'purge', '--name', $account.name, '--resource-group', $group, '--location', $account.location)
    }
}

function Get-Unregistered {
    foreach ($provider in 'Microsoft.CognitiveServices', 'Microsoft.ContainerRegistry', 'Microsoft.ContainerService',
        'Microsoft.DBforPostgreSQL', 'Microsoft.Insights', 'Microsoft.KeyVault', 'Microsoft.ManagedIdentity',
        'Microsoft.Monitor', 'Microsoft.Network', 'Microsoft.OperationalInsights', 'Microsoft.OperationsManagement',
        'Microsoft.PolicyInsights') {
        $state = Invoke-Tool az @('provider', 'show', '--namespace', $provider, '--query', 'registrationState', '--output', 'tsv')
        if ($state -ne 'Registered') { $provider }
    }
}

# Looks, and changes nothing: pipelines run it for every pull request.
function Invoke-Preflight {
    Write-Step 'Preflight'
    Assert-Tool az
    if (-not $Location) { throw '-Location is not given' }
    if (-not (Test-Path $Parameters)) { throw "-Parameters: there is no file $Parameters" }
    Invoke-Tool az @('account', 'show', '--query', '[name, id]', '--output', 'tsv')
    & az bicep version *> $null
    if ($LASTEXITCODE -ne 0) { Invoke-Tool az @('bicep', 'install') }
    foreach ($provider in Get-Unregistered) {
        Write-Host "$provider is not registered in this subscription: infra/deploy.ps1 prepare registers it, and so does deploy"
    }
    foreach ($vault in Get-DeletedVault) {
        Write-Host "The vault $($vault.name) in $($vault.properties.location) is soft-deleted: deploy recovers it with its secrets"
    }
    foreach ($account in Get-DeletedOpenAi) {
        Write-Host "The Azure OpenAI account $($account.name) in $($account.location) is soft-deleted: deploy purges it"
    }
}

# Without it a what-if fails as well.
function Register-Provider {
    foreach ($provider in Get-Unregistered) {
        Write-Host "Registering $provider"
        Invoke-Tool az @('provider', 'register', '--namespace', $provider, '--wait')
    }
}

function Invoke-Prepare {
    if (-not $Location) { throw '-Location is not given' }
    Register-Provider
    Restore-Vault
    Remove-DeletedOpenAi
}

function Invoke-Deployment([string] $Verb, [string[]] $Further) {
    if (-not $Location) { throw '-Location is not given' }
    $principal = Get-Principal
    $admin = $principal.Admin
    # Azure refuses to make storage smaller.
    $storage = Get-StorageWanted $Parameters
    $now = Get-StorageNow
    if ($now -gt $storage) {
        Write-Host "The database's storage has grown to $now GB and stays so; $Parameters says $storage"
        $storage = $now
    }
    Invoke-Tool az (@('deployment', 'sub', $Verb, '--name', $deployment, '--location', $Location,
            '--template-file', (Join-Path $PSScriptRoot 'main.bicep'), '--parameters', "@$Parameters",
            '--parameters', "environmentName=$Environment", "location=$Location", "namespace=$Namespace",
            "principalId=$($principal.Id)", "principalType=$($principal.Type)",
            "databaseEntraAdministratorId=$($admin.Id)", "databaseEntraAdministratorName=$($admin.Name)",
            "databaseEntraAdministratorType=$($admin.Type)", "postgresStorageGB=$storage") + $Further)
}

function Invoke-WhatIf {
    Write-Step 'What a deployment would change'
    Invoke-Deployment what-if @()
}

function Invoke-Deploy {
    Write-Step "Deploying infra/main.bicep to $group (20 to 30 minutes the first time)"
    Confirm-Step 'Deploy?'
    Invoke-Prepare
    Invoke-Deployment create @('--output', 'none')
    Remove-Item -ErrorAction SilentlyContinue (Join-Path $out 'outputs.env')
}

function Import-EnvFile([string] $Path) {
    foreach ($line in Get-Content $Path) {
        $key, $value = $line -split '=', 2
        $known[$key] = $value
    }
}

# The deployment's outputs. Resource Manager changes the case of their names (azurE_LOCATION).
function Import-Output {
    # azd has set them for its hooks. Anybody else's variables may be of another environment.
    if ($Command -like 'azd-*' -and $env:STOREFENCE_ADMIN_URL_VERSION) {
        foreach ($variable in Get-ChildItem env:) { $known[$variable.Name] = $variable.Value }
        return
    }
    $file = Join-Path $out 'outputs.env'
    if (-not (Test-Path $file)) {
        $outputs = Read-Json @('deployment', 'sub', 'show', '--name', $deployment, '--query', 'properties.outputs', '--output', 'json')
        if (-not $outputs) { throw "the deployment $deployment has no outputs; run deploy first" }
        $outputs.GetEnumerator() | ForEach-Object { "$($_.Key.ToUpperInvariant())=$($_.Value.value)" } |
            Set-Content -Path $file -Encoding utf8NoBOM
    }
    Import-EnvFile $file
}

function Get-Tag {
    if ($ImageTag) { return $ImageTag }
    Invoke-Tool git @('-C', $root, 'rev-parse', '--short=12', 'HEAD')
}

function Invoke-Image {
    Import-Output
    Assert-SameSubscription
    $tag = Get-Tag
    $revision = & git @('-C', $root, 'describe', '--always', '--dirty', '--abbrev=40', '--exclude', '*') 2>$null
    if ($LASTEXITCODE -ne 0) { $revision = 'unknown' }
    $registry = $known.AZURE_CONTAINER_REGISTRY_NAME
    Write-Step "Images $tag in $registry"
    $dockerfile = Join-Path $root 'Dockerfile'
    foreach ($part in 'operator', 'gateway') {
        $image = "storefence-${part}:$tag"
        & az acr repository show --name $registry --image $image --output none 2>$null
        if ($LASTEXITCODE -eq 0) { Write-Host "$image is there"; continue }
        if (-not (Test-Path $dockerfile)) {
            throw "this checkout has no Dockerfile; push storefence-operator and storefence-gateway:$tag to $($known.AZURE_CONTAINER_REGISTRY_ENDPOINT)"
        }
        Invoke-Tool az @('acr', 'build', '--registry', $registry, '--image', $image, '--target', $part,
                '--build-arg', "REVISION=$revision", '--file', $dockerfile, $root)
    }
}

function Invoke-Entra {
    Write-Step 'Microsoft Entra ID'
    $file = Join-Path $out 'entra.env'
    $uri = if ($HostIsVerified -and $HostName) { "$publicUrl/mcp" } else { '' }
    if ($AppClientId) {
        if (-not $uri) { $uri = "api://$AppClientId" }
        "STOREFENCE_AUDIENCE=$AppClientId", "STOREFENCE_SCOPE=$uri/Retail.Query" |
            Set-Content -Path $file -Encoding utf8NoBOM
        Write-Host "The registration $AppClientId is yours: it is left alone. $uri must be one of its identifier URIs (docs/entra.md)"
        return
    }
    & (Join-Path $PSScriptRoot 'entra-app.ps1') -Name $AppName -Output $file -ResourceUri $uri
}

# Fills ${NAME} in a template; a name without a value stops.
function Write-Template([string] $Name, [string] $Path) {
    $text = Get-Content (Join-Path $PSScriptRoot "templates/$Name") -Raw
    $filled = [regex]::Replace($text, '\$\{([A-Z][A-Z0-9_]*)\}', {
            param($match)
            $key = $match.Groups[1].Value
            if (-not $known.Contains($key)) { throw "${Name}: no value for $key" }
            $known[$key]
        })
    Set-Content -Path $Path -Value $filled -NoNewline -Encoding utf8NoBOM
}

function Invoke-Value {
    Import-Output
    Write-Step 'Values'
    $entra = Join-Path $out 'entra.env'
    if (-not (Test-Path $entra)) { throw "$entra is missing; run entra first" }
    Import-EnvFile $entra
    $known.STOREFENCE_IMAGE_TAG = Get-Tag
    $known.STOREFENCE_HOST = if ($HostName) { $HostName } else { 'localhost' }
    $known.STOREFENCE_PUBLIC_URL = $publicUrl
    $known.STOREFENCE_INGRESS_ENABLED = if ($HostName) { 'true' } else { 'false' }
    Write-Template 'values.yaml' (Join-Path $out 'values.yaml')
    Write-Template 'secret-provider-class.yaml' (Join-Path $out 'secret-provider-class.yaml')
    Write-Template 'env' (Join-Path $out '.env')
    Write-Host "values.yaml, secret-provider-class.yaml and .env in $out"
}

function Invoke-Chart {
    Import-Output
    Assert-SameSubscription
    Write-Step 'Chart'
    Assert-Tool kubectl helm kubelogin
    $chart = Join-Path $root 'charts/storefence'
    $values = Join-Path $out 'values.yaml'
    if (-not (Test-Path $chart)) { throw 'this checkout has no charts/storefence' }
    if (-not (Test-Path $values)) { throw "$values is missing; run values first" }
    $kubeconfig = Join-Path $out 'kubeconfig'
    $namespace = $known.STOREFENCE_NAMESPACE
    Invoke-Tool az @('aks', 'get-credentials', '--resource-group', $known.AZURE_RESOURCE_GROUP, '--name', $known.AZURE_AKS_CLUSTER_NAME, '--file', $kubeconfig, '--overwrite-existing')
    Invoke-Tool kubelogin @('convert-kubeconfig', '--login', 'azurecli', '--kubeconfig', $kubeconfig)
    Invoke-Tool kubectl @('create', 'namespace', $namespace, '--dry-run=client', '--output', 'yaml', '--kubeconfig', $kubeconfig) |
        & kubectl apply --kubeconfig $kubeconfig --filename -
    if ($LASTEXITCODE -ne 0) { throw 'kubectl apply failed' }
    Invoke-Tool kubectl @('apply', '--kubeconfig', $kubeconfig, '--filename', (Join-Path $out 'secret-provider-class.yaml'))
    # Helm installs the CRDs of a chart once and never again.
    Invoke-Tool kubectl @('apply', '--kubeconfig', $kubeconfig, '--server-side', '--force-conflicts', '--filename', (Join-Path $root 'crds'))
    Invoke-Tool helm @('upgrade', '--install', 'storefence', $chart, '--kubeconfig', $kubeconfig, '--namespace', $namespace,
        '--values', $values, '--wait', '--timeout', '10m')
}

function Write-Next {
    Import-Output
    Write-Step 'Next'
    Write-Host @"
`$env:KUBECONFIG = '$(Join-Path $out 'kubeconfig')'
1. Declare a tenant: take examples/zava.yaml, set entra.tenantId to $($known.AZURE_TENANT_ID), and
     kubectl apply -n $($known.STOREFENCE_NAMESPACE) -f YOUR_TENANT.yaml
     kubectl get retailtenants -A
2. Give people an app role or a group: docs/entra.md.
3. Connect VS Code to $publicUrl/mcp: docs/entra.md.
"@
    if ($HostName) {
        Write-Host @"
4. Point the DNS name $HostName at the ingress:
     kubectl get service -n app-routing-system nginx
   and put its certificate in the Secret storefence-gateway-tls of the namespace $($known.STOREFENCE_NAMESPACE).
"@
    }
    else {
        Write-Host "4. Without -HostName there is no ingress: kubectl port-forward -n $($known.STOREFENCE_NAMESPACE) service/storefence-gateway 8080:80"
    }
}

function Invoke-Cleanup {
    Write-Step "Deleting $group"
    Assert-Tool az
    Confirm-Step "Delete the resource group $group with its database and everything in it?"
    if ((Invoke-Tool az @('group', 'exists', '--name', $group)) -eq 'true') {
        Invoke-Tool az @('group', 'delete', '--name', $group, '--yes')
    }
    Remove-DeletedOpenAi
    & az deployment sub delete --name $deployment --output none 2>$null
    Remove-Item -Recurse -Force $out
    foreach ($vault in Get-DeletedVault) {
        Write-Host "The vault $($vault.name) in $($vault.properties.location) is soft-deleted and protected from purging: it goes when its retention is over."
        Write-Host '  The next deployment of this environment recovers it, with the secrets of the old tenants.'
    }
    Write-Host "The registration in Entra stays: az ad app list --display-name `"$AppName`" --query [].appId"
}

# azd keeps the outputs as variables and runs these as hooks.
function Invoke-AzdPreprovision {
    Assert-Tool az azd
    Invoke-Preflight
    Invoke-Prepare
    $principal = Get-Principal
    $storage = Get-StorageWanted (Join-Path $PSScriptRoot 'main.parameters.json')
    $now = Get-StorageNow
    if ($now -gt $storage) {
        throw "the database's storage has grown to $now GB, and Azure does not make it smaller: put $now into postgresStorageGB of infra/main.parameters.json"
    }
    $wanted = @{
        STOREFENCE_DATABASE_ADMIN_ID   = $principal.Admin.Id
        STOREFENCE_DATABASE_ADMIN_NAME = $principal.Admin.Name
        STOREFENCE_DATABASE_ADMIN_TYPE = $principal.Admin.Type
        STOREFENCE_PRINCIPAL_TYPE      = $principal.Type
    }
    foreach ($entry in $wanted.GetEnumerator()) {
        if (-not (Test-Path "env:$($entry.Key)")) { Invoke-Tool azd @('env', 'set', $entry.Key, $entry.Value) }
    }
}

if ($Command -ne 'azd-postdown') { Set-Subscription }
switch ($Command) {
    'up' { Invoke-Preflight; Register-Provider; Invoke-WhatIf; Invoke-Deploy; Invoke-Image; Invoke-Entra; Invoke-Value; Invoke-Chart; Write-Next }
    'preflight' { Invoke-Preflight }
    'what-if' { Invoke-WhatIf }
    'deploy' { Invoke-Deploy }
    'images' { Invoke-Image }
    'entra' { Invoke-Entra }
    'values' { Invoke-Value }
    'chart' { Invoke-Chart }
    'next' { Write-Next }
    'prepare' { Assert-Tool az; Invoke-Prepare }
    'cleanup' { Invoke-Cleanup }
    'azd-preprovision' { Invoke-AzdPreprovision }
    'azd-postprovision' { Invoke-Image; Invoke-Entra; Invoke-Value; Invoke-Chart; Write-Next }
    'azd-postdown' { Write-Host 'The vaults are soft-deleted; the next deployment of this environment recovers them.' }
}
