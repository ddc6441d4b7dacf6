# Who deploys, in which subscription, and how large the database's storage is by now. deploy.ps1 reads this file into its own
# scope: $Command, $Environment, $group, $known, Invoke-Tool, Read-Json and Assert-Tool are its. account.sh is the same for deploy.sh.

# azd and the Azure CLI have a subscription each. Where the variable names one, everything happens there.
function Set-Subscription {
    if (-not $env:AZURE_SUBSCRIPTION_ID) {
        if ($Command -like 'azd-*') {
            throw 'AZURE_SUBSCRIPTION_ID is not set; azd sets it for its hooks: run azd up, or infra/deploy.ps1 without azd'
        }
        return
    }
    Assert-Tool az
    $current = Invoke-Tool az @('account', 'show', '--query', 'id', '--output', 'tsv')
    if ($current -eq $env:AZURE_SUBSCRIPTION_ID) { return }
    & az account set --subscription $env:AZURE_SUBSCRIPTION_ID
    if ($LASTEXITCODE -ne 0) {
        throw "AZURE_SUBSCRIPTION_ID is $env:AZURE_SUBSCRIPTION_ID, which who is signed in with the Azure CLI cannot use: az login, as the same person as azd"
    }
    Write-Host "The Azure CLI was at the subscription $current and is at $env:AZURE_SUBSCRIPTION_ID now, as AZURE_SUBSCRIPTION_ID says"
}

# The environment's outputs name its subscription; in another one its names would not be found, or be somebody else's.
function Assert-SameSubscription {
    $current = Invoke-Tool az @('account', 'show', '--query', 'id', '--output', 'tsv')
    $own = $known.AZURE_SUBSCRIPTION_ID
    if ($current -ne $own) {
        throw "$Environment is in the subscription $own, and the Azure CLI is at ${current}: az account set --subscription $own"
    }
}

# Object ID of who is signed in. It stands in the token: Microsoft Graph need not be asked, where a pipeline has no right.
function Get-SignedInId {
    $token = Invoke-Tool az @('account', 'get-access-token', '--query', 'accessToken', '--output', 'tsv')
    $part = ("$token" -split '\.')[1].Replace('-', '+').Replace('_', '/')
    $part = $part.PadRight($part.Length + (4 - $part.Length % 4) % 4, '=')
    $claims = [Text.Encoding]::UTF8.GetString([Convert]::FromBase64String($part)) | ConvertFrom-Json -AsHashtable
    if (-not $claims['oid']) { throw "who is signed in does not stand in the Azure CLI's token: az login" }
    $claims['oid']
}

# Who installs the chart, and the database's administrator: who is signed in, where the variables do not say otherwise.
function Get-Principal {
    $id = if ($env:STOREFENCE_PRINCIPAL_ID) { $env:STOREFENCE_PRINCIPAL_ID } else { $env:AZURE_PRINCIPAL_ID }
    $type = $env:STOREFENCE_PRINCIPAL_TYPE
    $admin = @{
        Id   = $env:STOREFENCE_DATABASE_ADMIN_ID
        Name = $env:STOREFENCE_DATABASE_ADMIN_NAME
        Type = $env:STOREFENCE_DATABASE_ADMIN_TYPE
    }
    $given = @($admin.Values | Where-Object { $_ }).Count
    if ($given -notin 0, 3) {
        throw 'STOREFENCE_DATABASE_ADMIN_ID, STOREFENCE_DATABASE_ADMIN_NAME and STOREFENCE_DATABASE_ADMIN_TYPE belong together: give all three or none'
    }
    if ($id -and $type -and $given -eq 3) { return @{ Id = $id; Type = $type; Admin = $admin } }
    $account = Read-Json @('account', 'show', '--query', 'user', '--output', 'json')
    $ownId = Get-SignedInId
    $ownType = if ($account.type -eq 'servicePrincipal') { 'ServicePrincipal' } else { 'User' }
    if (-not $id) { $id = $ownId }
    if ($id -eq $ownId) {
        if ($type -and $type -ne $ownType) {
            throw "STOREFENCE_PRINCIPAL_TYPE is $type, and $ownId, who is signed in with the Azure CLI, is a $ownType"
        }
        $type = $ownType
    }
    if (-not $type) {
        throw "$id is not who is signed in with the Azure CLI ($ownId): say with STOREFENCE_PRINCIPAL_TYPE what it is (User, Group or ServicePrincipal)"
    }
    if ($given -eq 0) {
        $name = $account.name
        if ($ownType -eq 'ServicePrincipal') {
            # The name is in Microsoft Graph only.
            $name = & az ad sp show --id $ownId --query displayName --output tsv
            if ($LASTEXITCODE -ne 0) {
                throw "the name of the service principal $ownId cannot be read in Microsoft Graph: name the database's administrator with STOREFENCE_DATABASE_ADMIN_ID, STOREFENCE_DATABASE_ADMIN_NAME and STOREFENCE_DATABASE_ADMIN_TYPE"
            }
        }
        $admin = @{ Id = $ownId; Name = $name; Type = $ownType }
    }
    @{ Id = $id; Type = $type; Admin = $admin }
}

# Gigabytes that the database server has by now, 0 where there is none: its storage grows by itself.
function Get-StorageNow {
    if ((Invoke-Tool az @('group', 'exists', '--name', $group)) -ne 'true') { return 0 }
    $size = 0
    foreach ($server in @(Read-Json @('postgres', 'flexible-server', 'list', '--resource-group', $group, '--output', 'json'))) {
        foreach ($name in 'storageSizeGb', 'storageSizeGB') {
            if ($server -and $server.storage.Contains($name)) { $size = [Math]::Max($size, [int] $server.storage[$name]) }
        }
    }
    $size
}

# Gigabytes that a parameter file asks for, or the template.
function Get-StorageWanted([string] $File) {
    $given = (Get-Content $File -Raw | ConvertFrom-Json -AsHashtable).parameters
    if ($given.Contains('postgresStorageGB')) { return [int] $given.postgresStorageGB.value }
    $template = Get-Content (Join-Path $PSScriptRoot 'main.bicep') -Raw
    [int] [regex]::Match($template, '(?m)^param postgresStorageGB int = (\d+)').Groups[1].Value
}
