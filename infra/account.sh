# shellcheck shell=bash
# Who deploys, in which subscription, and how large the database's storage is by now. deploy.sh reads this file; account.ps1 is the
# same for deploy.ps1. They give it:
: "${command:?}" "${environment:?}" "${group:?}" "${here:?}"

# azd and the Azure CLI have a subscription each. Where the variable names one, everything happens there.
subscription() {
  if [ -z "${AZURE_SUBSCRIPTION_ID:-}" ]; then
    case "$command" in
      azd-*) fail "AZURE_SUBSCRIPTION_ID is not set; azd sets it for its hooks: run azd up, or infra/deploy.sh without azd" ;;
    esac
    return
  fi
  need az
  current=$(az account show --query id --output tsv) || fail "not signed in: az login"
  [ "$current" != "$AZURE_SUBSCRIPTION_ID" ] || return 0
  az account set --subscription "$AZURE_SUBSCRIPTION_ID" ||
    fail "AZURE_SUBSCRIPTION_ID is $AZURE_SUBSCRIPTION_ID, which who is signed in with the Azure CLI cannot use: az login, as the same person as azd"
  echo "The Azure CLI was at the subscription $current and is at $AZURE_SUBSCRIPTION_ID now, as AZURE_SUBSCRIPTION_ID says"
}

# The environment's outputs name its subscription; in another one its names would not be found, or be somebody else's.
same_subscription() {
  current=$(az account show --query id --output tsv) || fail "not signed in: az login"
  [ "$current" = "$AZURE_SUBSCRIPTION_ID" ] ||
    fail "$environment is in the subscription $AZURE_SUBSCRIPTION_ID, and the Azure CLI is at $current: az account set --subscription $AZURE_SUBSCRIPTION_ID"
}

# Object ID of who is signed in. It stands in the token: Microsoft Graph need not be asked, where a pipeline has no right.
signed_in_id() {
  az account get-access-token --query accessToken --output tsv | jq -rR '
    split(".")[1] | gsub("-"; "+") | gsub("_"; "/") | . + ("=" * ((4 - length % 4) % 4)) | @base64d | fromjson | .oid // empty'
}

# Sets principal_id and principal_type, and database_admin_id, _type and _name, to who is signed in, where the variables do not
# say otherwise.
principal() {
  principal_id=${STOREFENCE_PRINCIPAL_ID:-${AZURE_PRINCIPAL_ID:-}}
  principal_type=${STOREFENCE_PRINCIPAL_TYPE:-}
  database_admin_id=${STOREFENCE_DATABASE_ADMIN_ID:-}
  database_admin_name=${STOREFENCE_DATABASE_ADMIN_NAME:-}
  database_admin_type=${STOREFENCE_DATABASE_ADMIN_TYPE:-}
  case "${database_admin_id:+i}${database_admin_name:+n}${database_admin_type:+t}" in
    '' | int) ;;
    *) fail "STOREFENCE_DATABASE_ADMIN_ID, STOREFENCE_DATABASE_ADMIN_NAME and STOREFENCE_DATABASE_ADMIN_TYPE belong together: give all three or none" ;;
  esac
  if [ -n "$principal_id" ] && [ -n "$principal_type" ] && [ -n "$database_admin_id" ]; then
    return
  fi
  own_id=$(signed_in_id) || own_id=
  [ -n "$own_id" ] || fail "who is signed in does not stand in the Azure CLI's token: az login"
  own_type=User
  if [ "$(az account show --query user.type --output tsv)" = servicePrincipal ]; then
    own_type=ServicePrincipal
  fi
  principal_id=${principal_id:-$own_id}
  if [ "$principal_id" = "$own_id" ]; then
    [ "${principal_type:-$own_type}" = "$own_type" ] ||
      fail "STOREFENCE_PRINCIPAL_TYPE is $principal_type, and $own_id, who is signed in with the Azure CLI, is a $own_type"
    principal_type=$own_type
  fi
  [ -n "$principal_type" ] ||
    fail "$principal_id is not who is signed in with the Azure CLI ($own_id): say with STOREFENCE_PRINCIPAL_TYPE what it is (User, Group or ServicePrincipal)"
  if [ -z "$database_admin_id" ]; then
    if [ "$own_type" = ServicePrincipal ]; then
      # The name is in Microsoft Graph only.
      database_admin_name=$(az ad sp show --id "$own_id" --query displayName --output tsv) ||
        fail "the name of the service principal $own_id cannot be read in Microsoft Graph: name the database's administrator with STOREFENCE_DATABASE_ADMIN_ID, STOREFENCE_DATABASE_ADMIN_NAME and STOREFENCE_DATABASE_ADMIN_TYPE"
    else
      database_admin_name=$(az account show --query user.name --output tsv)
    fi
    database_admin_id=$own_id
    database_admin_type=$own_type
  fi
}

# Gigabytes that the database server has by now, 0 where there is none: its storage grows by itself.
storage_now() {
  if [ "$(az group exists --name "$group")" != true ]; then
    echo 0
    return
  fi
  az postgres flexible-server list --resource-group "$group" --output json |
    jq '[.[].storage | .storageSizeGb // .storageSizeGB // 0] | max // 0'
}

# Gigabytes that the parameter file $1 asks for, or the template.
storage_wanted() {
  wanted=$(jq -r '.parameters.postgresStorageGB.value // empty' "$1")
  echo "${wanted:-$(sed -n 's/^param postgresStorageGB int = //p' "$here/main.bicep")}"
}
