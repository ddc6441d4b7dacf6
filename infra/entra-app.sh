#!/usr/bin/env bash
# Registers Storefence's API in Microsoft Entra ID, or brings an existing registration up to date: the scope
# Retail.Query, the app roles, version 2 tokens, the storeIds attribute, VS Code and the Azure CLI pre-authorised.
# What the directory's own people added to the registration stays. docs/entra.md walks through the same by hand.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: infra/entra-app.sh [options]
  --name NAME            display name, default Storefence; finds the registration on the next run
  --client-id ID         an existing registration, instead of looking for the name
  --resource-uri URL     the gateway's URL with /mcp, as identifier URI; its domain must be verified in the directory
  --groups KIND          group claims: None (default), ApplicationGroup, SecurityGroup
  --output FILE          write STOREFENCE_AUDIENCE and STOREFENCE_SCOPE to FILE
Needs az (signed in, with the right to register applications) and jq.
USAGE
}

fail() {
  echo "entra-app: $*" >&2
  exit 1
}

name=Storefence
client_id=
resource_uri=
groups=None
output=
while [ $# -gt 0 ]; do
  case "$1" in
    --name) name=${2:?--name needs a value}; shift 2 ;;
    --client-id) client_id=${2:?--client-id needs a value}; shift 2 ;;
    --resource-uri) resource_uri=${2:?--resource-uri needs a value}; shift 2 ;;
    --groups) groups=${2:?--groups needs a value}; shift 2 ;;
    --output) output=${2:?--output needs a value}; shift 2 ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
done
case "$groups" in
  None | ApplicationGroup | SecurityGroup) ;;
  *) fail "--groups: None, ApplicationGroup or SecurityGroup is expected, not $groups" ;;
esac
case "$name" in
  *\'*) fail "--name must not hold a quotation mark" ;;
esac
for tool in az jq; do
  command -v "$tool" >/dev/null || fail "$tool is not installed"
done

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
graph=$(az cloud show --query endpoints.microsoftGraphResourceId --output tsv)
graph=${graph%/}/v1.0

# Changes the registration by the JSON document in the file $1.
patch() {
  az rest --method PATCH --url "$graph/applications/$object_id" \
    --headers Content-Type=application/json --body "@$1" --output none
}

if [ -z "$client_id" ]; then
  found=$(az ad app list --filter "displayName eq '$name'" --query '[].appId' --output tsv)
  case "$(printf '%s' "$found" | grep -c . || true)" in
    0)
      echo "Registering $name"
      client_id=$(az ad app create --display-name "$name" --sign-in-audience AzureADMyOrg --query appId --output tsv)
      ;;
    1) client_id=$found ;;
    *) fail "several registrations are called $name; choose one with --client-id" ;;
  esac
fi
az ad app show --id "$client_id" --output json >"$work/app.json"
object_id=$(jq -r .id "$work/app.json")
echo "Application (client) ID $client_id"

# Ours replace those with the same value and keep their IDs: Entra refuses to remove a scope or role that is enabled.
jq --slurpfile ours "$here/entra/app.json" '
  def merged($theirs; $ours):
    ($ours | map(.value)) as $values
    | ($theirs | map(select(.value as $v | $values | index($v) | not)))
      + ($ours | map(. as $our | (($theirs | map(select(.value == $our.value)) | first) // {}) as $their
          | $our + {id: ($their.id // $our.id)}));
  $ours[0] as $app
  | {
      api: {
        requestedAccessTokenVersion: $app.api.requestedAccessTokenVersion,
        oauth2PermissionScopes: merged(.api.oauth2PermissionScopes // []; $app.api.oauth2PermissionScopes)
      },
      appRoles: merged(.appRoles // []; $app.appRoles)
    }' "$work/app.json" >"$work/scope.json"
echo "Scope Retail.Query, app roles, version 2 tokens"
patch "$work/scope.json"

attribute="extension_$(printf '%s' "$client_id" | tr -d -)_storeIds"
existing=$(az rest --method GET --url "$graph/applications/$object_id/extensionProperties" \
  --query "value[?name=='$attribute'].name" --output tsv)
if [ -z "$existing" ]; then
  echo "Attribute $attribute"
  printf '%s' '{"name":"storeIds","dataType":"String","isMultiValued":true,"targetObjects":["User"]}' >"$work/attribute.json"
  az rest --method POST --url "$graph/applications/$object_id/extensionProperties" \
    --headers Content-Type=application/json --body "@$work/attribute.json" --output none
fi

jq --slurpfile ours "$here/entra/app.json" --arg attribute "$attribute" --arg groups "$groups" \
  --arg app "api://$client_id" --arg resource "$resource_uri" '
  ($ours[0].optionalClaims.accessToken
    + [{name: $attribute, source: "user", essential: false, additionalProperties: []}]) as $claims
  | ($claims | map(.name)) as $names
  | (.optionalClaims // {}) as $theirs
  | {
      identifierUris: ((.identifierUris // []) + [$app] + (if $resource == "" then [] else [$resource] end) | unique),
      groupMembershipClaims: $groups,
      optionalClaims: {
        idToken: ($theirs.idToken // []),
        saml2Token: ($theirs.saml2Token // []),
        accessToken: (($theirs.accessToken // [] | map(select(.name as $n | $names | index($n) | not))) + $claims)
      }
    }' "$work/app.json" >"$work/claims.json"
echo "Identifier URIs and claims"
patch "$work/claims.json"

# After the scope exists: a reference to one that does not is refused.
jq --slurpfile clients "$here/entra/pre-authorized.json" --slurpfile patch "$work/scope.json" '
  ($patch[0].api.oauth2PermissionScopes | map({(.value): .id}) | add) as $ids
  | ($clients[0] | map({appId, delegatedPermissionIds: (.scopes | map($ids[.]))})) as $ours
  | ($ours | map(.appId)) as $known
  | {api: {preAuthorizedApplications:
      ((.api.preAuthorizedApplications // [] | map(select(.appId as $a | $known | index($a) | not))) + $ours)}}
  ' "$work/app.json" >"$work/clients.json"
echo "VS Code and Azure CLI pre-authorised"
patch "$work/clients.json"

if ! az ad sp show --id "$client_id" --output none 2>/dev/null; then
  echo "Service principal in this directory"
  az ad sp create --id "$client_id" --output none
fi

# Entra refuses a request whose resource and scope differ (AADSTS9010010): the scope must begin with what clients send.
scope="${resource_uri:-api://$client_id}/Retail.Query"
echo "Audience of tokens   $client_id"
echo "Scope to ask for     $scope"
if [ -n "$output" ]; then
  printf 'STOREFENCE_AUDIENCE=%s\nSTOREFENCE_SCOPE=%s\n' "$client_id" "$scope" >"$output"
fi
