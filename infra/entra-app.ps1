#Requires -Version 7.2
<#
.SYNOPSIS
Registers Storefence's API in Microsoft Entra ID, or brings an existing registration up to date.

.DESCRIPTION
The same as entra-app.sh: the scope Retail.Query, the app roles, version 2 tokens, the storeIds attribute, VS Code and
the Azure CLI pre-authorised. What the directory's own people added to the registration stays. Needs az, signed in.

.PARAMETER Name
Display name; finds the registration on the next run.
.PARAMETER ClientId
An existing registration, instead of looking for the name.
.PARAMETER ResourceUri
The gateway's URL with /mcp, as identifier URI; its domain must be verified in the directory.
.PARAMETER Groups
Group claims.
.PARAMETER Output
File that takes STOREFENCE_AUDIENCE and STOREFENCE_SCOPE.
#>
[CmdletBinding()]
param(
    [ValidatePattern("^[^']+$")] [string] $Name = 'Storefence',
    [string] $ClientId = '',
    [string] $ResourceUri = '',
    [ValidateSet('None', 'ApplicationGroup', 'SecurityGroup')] [string] $Groups = 'None',
    [string] $Output = ''
)

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

function Invoke-Az {
    $result = & az @args
    if ($LASTEXITCODE -ne 0) { throw "az $($args[0..1] -join ' ') failed" }
    $result
}

function Invoke-Graph([string] $Method, [string] $Path, $Body) {
    $file = New-TemporaryFile
    try {
        $Body | ConvertTo-Json -Depth 20 | Set-Content -Path $file -Encoding utf8NoBOM
        Invoke-Az rest --method $Method --url "$graph/applications/$objectId$Path" `
            --headers Content-Type=application/json --body "@$file" --output none
    }
    finally {
        Remove-Item $file
    }
}

# Ours replace those with the same value and keep their IDs: Entra refuses to remove a scope or role that is enabled.
function Join-ByValue($Theirs, $Ours) {
    $known = @($Ours | ForEach-Object { $_.value })
    $kept = @($Theirs | Where-Object { $null -ne $_ -and $known -notcontains $_.value })
    $new = foreach ($entry in $Ours) {
        $copy = $entry.Clone()
        $their = @($Theirs | Where-Object { $null -ne $_ -and $_.value -eq $entry.value })
        if ($their.Count -gt 0) { $copy.id = $their[0].id }
        $copy
    }
    @($kept) + @($new)
}

if (-not (Get-Command az -ErrorAction SilentlyContinue)) { throw 'az is not installed' }
$ours = Get-Content (Join-Path $PSScriptRoot 'entra/app.json') -Raw | ConvertFrom-Json -AsHashtable
$clients = @(Get-Content (Join-Path $PSScriptRoot 'entra/pre-authorized.json') -Raw | ConvertFrom-Json -AsHashtable)
$graph = (Invoke-Az cloud show --query endpoints.microsoftGraphResourceId --output tsv).TrimEnd('/') + '/v1.0'

if (-not $ClientId) {
    $found = @(Invoke-Az ad app list --filter "displayName eq '$Name'" --query '[].appId' --output tsv)
    if ($found.Count -gt 1) { throw "several registrations are called $Name; choose one with -ClientId" }
    if ($found.Count -eq 1) { $ClientId = $found[0] }
    else {
        Write-Host "Registering $Name"
        $ClientId = Invoke-Az ad app create --display-name $Name --sign-in-audience AzureADMyOrg --query appId --output tsv
    }
}
$app = (Invoke-Az ad app show --id $ClientId --output json) -join "`n" | ConvertFrom-Json -AsHashtable
$objectId = $app.id
Write-Host "Application (client) ID $ClientId"

Write-Host 'Scope Retail.Query, app roles, version 2 tokens'
$scopes = @(Join-ByValue $app.api.oauth2PermissionScopes $ours.api.oauth2PermissionScopes)
Invoke-Graph PATCH '' @{
    api      = @{
        requestedAccessTokenVersion = $ours.api.requestedAccessTokenVersion
        oauth2PermissionScopes      = $scopes
    }
    appRoles = @(Join-ByValue $app.appRoles $ours.appRoles)
}

$attribute = "extension_$($ClientId -replace '-', '')_storeIds"
$existing = Invoke-Az rest --method GET --url "$graph/applications/$objectId/extensionProperties" `
    --query "value[?name=='$attribute'].name" --output tsv
if (-not $existing) {
    Write-Host "Attribute $attribute"
    Invoke-Graph POST '/extensionProperties' @{
        name = 'storeIds'; dataType = 'String'; isMultiValued = $true; targetObjects = @('User')
    }
}

Write-Host 'Identifier URIs and claims'
$claims = @($ours.optionalClaims.accessToken) +
    @(@{ name = $attribute; source = 'user'; essential = $false; additionalProperties = @() })
$names = @($claims | ForEach-Object { $_.name })
$theirs = if ($app.optionalClaims) { $app.optionalClaims } else { @{ idToken = @(); saml2Token = @(); accessToken = @() } }
$uris = @($app.identifierUris) + @("api://$ClientId")
if ($ResourceUri) { $uris += $ResourceUri }
Invoke-Graph PATCH '' @{
    identifierUris        = @($uris | Where-Object { $_ } | Sort-Object -Unique)
    groupMembershipClaims = $Groups
    optionalClaims        = @{
        idToken     = @($theirs.idToken | Where-Object { $_ })
        saml2Token  = @($theirs.saml2Token | Where-Object { $_ })
        accessToken = @($theirs.accessToken | Where-Object { $_ -and $names -notcontains $_.name }) + $claims
    }
}

# After the scope exists: a reference to one that does not is refused.
Write-Host 'VS Code and Azure CLI pre-authorised'
$known = @($clients | ForEach-Object { $_.appId })
$authorised = @($app.api.preAuthorizedApplications | Where-Object { $_ -and $known -notcontains $_.appId })
foreach ($client in $clients) {
    $ids = @($client.scopes | ForEach-Object { $value = $_; ($scopes | Where-Object { $_.value -eq $value }).id })
    $authorised += @{ appId = $client.appId; delegatedPermissionIds = $ids }
}
Invoke-Graph PATCH '' @{ api = @{ preAuthorizedApplications = @($authorised) } }

& az ad sp show --id $ClientId --output none 2>$null
if ($LASTEXITCODE -ne 0) {
    Write-Host 'Service principal in this directory'
    Invoke-Az ad sp create --id $ClientId --output none
}

# Entra refuses a request whose resource and scope differ (AADSTS9010010): the scope must begin with what clients send.
$base = if ($ResourceUri) { $ResourceUri } else { "api://$ClientId" }
Write-Host "Audience of tokens   $ClientId"
Write-Host "Scope to ask for     $base/Retail.Query"
if ($Output) {
    "STOREFENCE_AUDIENCE=$ClientId", "STOREFENCE_SCOPE=$base/Retail.Query" | Set-Content -Path $Output -Encoding utf8NoBOM
}
