#!/usr/bin/env bash
# Installs Storefence in an Azure subscription, and removes it. Every step may be run again.
# Works with the bash 3.2 of macOS. infra/deploy.ps1 is the same for PowerShell.
set -euo pipefail

usage() {
  cat <<'USAGE'
Usage: infra/deploy.sh [COMMAND] [options]

Commands
  up           all of the following, in this order (default)
  preflight    tools, sign-in, resource providers, what is soft-deleted; changes nothing
  what-if      what a deployment would change; changes nothing
  deploy       prepare, then deploy infra/main.bicep
  images       build the images in the registry, unless they are there
  entra        register the API in Microsoft Entra ID, or bring the registration up to date
  values       write the chart's values, the SecretProviderClass and an env file to target/infra/ENVIRONMENT
  chart        install or upgrade the chart
  next         say what to do now
  prepare      register resource providers, recover this environment's soft-deleted vaults, purge its soft-deleted
               Azure OpenAI account; a part of deploy
  cleanup      delete the environment

Options
  --environment NAME       required; 2 to 20 letters, digits and hyphens
  --location REGION        required for up, preflight, what-if, prepare and deploy
  --parameters FILE        default infra/parameters/dev.parameters.json
  --host HOST              name under which people reach the gateway; without it there is no ingress
  --host-is-verified       the host's domain is verified in the Entra directory (see docs/entra.md, AADSTS9010010)
  --app-name NAME          name of the Entra registration, default Storefence (ENVIRONMENT)
  --app-client-id ID       use this registration, which you look after yourself; skips entra
  --namespace NAME         default storefence
  --image-tag TAG          default the commit
  --yes                    do not ask

Variables: STOREFENCE_PRINCIPAL_ID, STOREFENCE_PRINCIPAL_TYPE (who installs the chart; default: who is signed in),
STOREFENCE_DATABASE_ADMIN_ID, _NAME, _TYPE (Entra administrator of the server; default: who is signed in),
AZURE_SUBSCRIPTION_ID (default: the Azure CLI's).
USAGE
}

fail() {
  echo "deploy: $*" >&2
  exit 1
}

say() {
  printf '\n== %s\n' "$*"
}

need() {
  for tool in "$@"; do
    command -v "$tool" >/dev/null || fail "$tool is not installed; docs/azure.md says where to get it"
  done
}

command=up
case "${1:-}" in
  '' | -*) ;;
  *) command=$1; shift ;;
esac
environment=${AZURE_ENV_NAME:-}
location=${AZURE_LOCATION:-}
parameters=
host=${STOREFENCE_HOST:-}
verified=${STOREFENCE_HOST_IS_VERIFIED:-false}
app_name=
app_client_id=${STOREFENCE_APP_CLIENT_ID:-}
namespace=${STOREFENCE_NAMESPACE:-storefence}
image_tag=${STOREFENCE_IMAGE_TAG:-}
yes=false
while [ $# -gt 0 ]; do
  case "$1" in
    --environment) environment=${2:?--environment needs a value}; shift 2 ;;
    --location) location=${2:?--location needs a value}; shift 2 ;;
    --parameters) parameters=${2:?--parameters needs a value}; shift 2 ;;
    --host) host=${2:?--host needs a value}; shift 2 ;;
    --host-is-verified) verified=true; shift ;;
    --app-name) app_name=${2:?--app-name needs a value}; shift 2 ;;
    --app-client-id) app_client_id=${2:?--app-client-id needs a value}; shift 2 ;;
    --namespace) namespace=${2:?--namespace needs a value}; shift 2 ;;
    --image-tag) image_tag=${2:?--image-tag needs a value}; shift 2 ;;
    --yes) yes=true; shift ;;
    -h | --help) usage; exit 0 ;;
    *) usage >&2; fail "unknown option $1" ;;
  esac
done
if [ "$command" = help ]; then
  usage
  exit 0
fi
printf '%s' "$environment" | grep -Eq '^[a-z0-9][a-z0-9-]{0,18}[a-z0-9]$' ||
  fail "--environment: 2 to 20 lower-case letters, digits and hyphens are expected, not '$environment'"

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/.." && pwd)
parameters=${parameters:-$here/parameters/dev.parameters.json}
app_name=${app_name:-Storefence ($environment)}
group=rg-storefence-$environment
deployment=storefence-$environment
out=$root/target/infra/$environment
mkdir -p "$out"

# shellcheck source-path=SCRIPTDIR source=account.sh
. "$here/account.sh"

confirm() {
  [ "$yes" = true ] && return
  printf '%s [y/N] ' "$1"
  read -r answer || fail "no answer; --yes answers yes"
  case "$answer" in
    y | Y | yes) ;;
    *) fail "stopped, nothing changed by this step" ;;
  esac
}

in_group() {
  jq -r --arg group "/resourcegroups/$group/" --arg path "$1" '
    .[] | select((getpath($path / ".") // "") | ascii_downcase | contains($group | ascii_downcase))
    | "\(.name) \(.location // .properties.location)"'
}

# A deleted vault keeps its name until its retention is over, and purge protection means that nobody can shorten that.
recover_vaults() {
  az keyvault list-deleted --resource-type vault --output json | in_group properties.vaultId |
    while read -r name region; do
      echo "Recovering the soft-deleted vault $name with its secrets"
      az group create --name "$group" --location "$location" --output none
      az keyvault recover --name "$name" --location "$region" --output none
    done
}

purge_openai() {
  az cognitiveservices account list-deleted --output json | in_group id |
    while read -r name region; do
      echo "Purging the soft-deleted Azure OpenAI account $name; it holds no data"
      az cognitiveservices account purge --name "$name" --resource-group "$group" --location "$region"
    done
}

providers() {
  echo Microsoft.CognitiveServices Microsoft.ContainerRegistry Microsoft.ContainerService \
    Microsoft.DBforPostgreSQL Microsoft.Insights Microsoft.KeyVault Microsoft.ManagedIdentity Microsoft.Monitor \
    Microsoft.Network Microsoft.OperationalInsights Microsoft.OperationsManagement Microsoft.PolicyInsights
}

unregistered() {
  for provider in $(providers); do
    state=$(az provider show --namespace "$provider" --query registrationState --output tsv)
    [ "$state" = Registered ] || echo "$provider"
  done
}

# Looks, and changes nothing: pipelines run it for every pull request.
preflight() {
  say "Preflight"
  need az jq
  [ -n "$location" ] || fail "--location is not given"
  [ -f "$parameters" ] || fail "--parameters: there is no file $parameters"
  az account show --query '[name, id]' --output tsv || fail "not signed in: az login"
  az bicep version >/dev/null 2>&1 || az bicep install
  for provider in $(unregistered); do
    echo "$provider is not registered in this subscription: infra/deploy.sh prepare registers it, and so does deploy"
  done
  az keyvault list-deleted --resource-type vault --output json | in_group properties.vaultId |
    while read -r name region; do
      echo "The vault $name in $region is soft-deleted: deploy recovers it with its secrets"
    done
  az cognitiveservices account list-deleted --output json | in_group id |
    while read -r name region; do
      echo "The Azure OpenAI account $name in $region is soft-deleted: deploy purges it"
    done
}

# Without it a what-if fails as well.
register() {
  for provider in $(unregistered); do
    echo "Registering $provider"
    az provider register --namespace "$provider" --wait
  done
}

prepare() {
  register
  recover_vaults
  purge_openai
}

# Runs `az deployment sub $1` over the template.
deployment() {
  principal
  # Azure refuses to make storage smaller.
  storage=$(storage_wanted "$parameters")
  now=$(storage_now)
  if [ "$now" -gt "$storage" ]; then
    echo "The database's storage has grown to $now GB and stays so; $parameters says $storage"
    storage=$now
  fi
  az deployment sub "$1" --name "$deployment" --location "$location" --template-file "$here/main.bicep" \
    --parameters "@$parameters" \
    --parameters "environmentName=$environment" "location=$location" "namespace=$namespace" \
    "principalId=$principal_id" "principalType=$principal_type" \
    "databaseEntraAdministratorId=$database_admin_id" "databaseEntraAdministratorName=$database_admin_name" \
    "databaseEntraAdministratorType=$database_admin_type" "postgresStorageGB=$storage" \
    ${2:+--output "$2"}
}

what_if() {
  say "What a deployment would change"
  deployment what-if
}

deploy() {
  say "Deploying infra/main.bicep to $group (20 to 30 minutes the first time)"
  confirm "Deploy?"
  prepare
  deployment create none
  rm -f "$out/outputs.env"
}

# The deployment's outputs as variables. Resource Manager changes the case of their names (azurE_LOCATION).
outputs() {
  # azd has set them for its hooks. Anybody else's variables may be of another environment.
  case "$command" in
    azd-*) [ -z "${STOREFENCE_ADMIN_URL_VERSION:-}" ] || return 0 ;;
  esac
  need az jq
  if [ ! -f "$out/outputs.env" ]; then
    az deployment sub show --name "$deployment" --query properties.outputs --output json |
      jq -r 'to_entries[] | "\(.key | ascii_upcase)=\(.value.value)"' >"$out/outputs.tmp"
    [ -s "$out/outputs.tmp" ] || fail "the deployment $deployment has no outputs; run infra/deploy.sh deploy first"
    mv "$out/outputs.tmp" "$out/outputs.env"
  fi
  while IFS='=' read -r key value; do
    export "$key=$value"
  done <"$out/outputs.env"
}

# The tag that stands for this checkout.
tag() {
  if [ -z "$image_tag" ]; then
    image_tag=$(git -C "$root" rev-parse --short=12 HEAD) || fail "--image-tag is not given and this is no git checkout"
  fi
}

images() {
  outputs
  same_subscription
  tag
  revision=$(git -C "$root" describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null) || revision=unknown
  say "Images $image_tag in $AZURE_CONTAINER_REGISTRY_NAME"
  for part in operator gateway; do
    image=storefence-$part:$image_tag
    if az acr repository show --name "$AZURE_CONTAINER_REGISTRY_NAME" --image "$image" --output none 2>/dev/null; then
      echo "$image is there"
      continue
    fi
    [ -f "$root/Dockerfile" ] || fail "this checkout has no Dockerfile; push storefence-operator and storefence-gateway:$image_tag to $AZURE_CONTAINER_REGISTRY_ENDPOINT"
    az acr build --registry "$AZURE_CONTAINER_REGISTRY_NAME" --image "$image" --target "$part" \
      --build-arg "REVISION=$revision" --file "$root/Dockerfile" "$root"
  done
}

public_url() {
  if [ -n "$host" ]; then echo "https://$host"; else echo "http://localhost:8080"; fi
}

entra() {
  say "Microsoft Entra ID"
  resource=
  if [ "$verified" = true ] && [ -n "$host" ]; then
    resource=$(public_url)/mcp
  fi
  if [ -n "$app_client_id" ]; then
    uri=${resource:-api://$app_client_id}
    printf 'STOREFENCE_AUDIENCE=%s\nSTOREFENCE_SCOPE=%s\n' "$app_client_id" "$uri/Retail.Query" >"$out/entra.env"
    echo "The registration $app_client_id is yours: it is left alone. $uri must be one of its identifier URIs (docs/entra.md)"
    return
  fi
  if [ -n "$resource" ]; then
    "$here/entra-app.sh" --name "$app_name" --output "$out/entra.env" --resource-uri "$resource"
  else
    "$here/entra-app.sh" --name "$app_name" --output "$out/entra.env"
  fi
}

# Fills ${NAME} in the template $1 from the environment; a name without a value stops.
render() {
  awk '{
    line = $0; done = ""
    while (match(line, /\$\{[A-Z][A-Z0-9_]*\}/)) {
      name = substr(line, RSTART + 2, RLENGTH - 3)
      if (!(name in ENVIRON)) { print "deploy: " FILENAME ": no value for " name > "/dev/stderr"; exit 1 }
      done = done substr(line, 1, RSTART - 1) ENVIRON[name]
      line = substr(line, RSTART + RLENGTH)
    }
    print done line
  }' "$here/templates/$1" >"$2.tmp"
  mv "$2.tmp" "$2"
}

values() {
  outputs
  tag
  say "Values"
  [ -f "$out/entra.env" ] || fail "$out/entra.env is missing; run infra/deploy.sh entra first"
  while IFS='=' read -r key value; do
    export "$key=$value"
  done <"$out/entra.env"
  STOREFENCE_IMAGE_TAG=$image_tag
  STOREFENCE_HOST=${host:-localhost}
  STOREFENCE_PUBLIC_URL=$(public_url)
  STOREFENCE_INGRESS_ENABLED=$([ -n "$host" ] && echo true || echo false)
  export STOREFENCE_IMAGE_TAG STOREFENCE_HOST STOREFENCE_PUBLIC_URL STOREFENCE_INGRESS_ENABLED
  render values.yaml "$out/values.yaml"
  render secret-provider-class.yaml "$out/secret-provider-class.yaml"
  render env "$out/.env"
  echo "$out/values.yaml, secret-provider-class.yaml and .env"
}

chart() {
  outputs
  same_subscription
  say "Chart"
  need kubectl helm kubelogin
  [ -d "$root/charts/storefence" ] || fail "this checkout has no charts/storefence"
  [ -f "$out/values.yaml" ] || fail "$out/values.yaml is missing; run infra/deploy.sh values first"
  KUBECONFIG=$out/kubeconfig
  export KUBECONFIG
  az aks get-credentials --resource-group "$AZURE_RESOURCE_GROUP" --name "$AZURE_AKS_CLUSTER_NAME" \
    --file "$KUBECONFIG" --overwrite-existing
  kubelogin convert-kubeconfig --login azurecli
  kubectl create namespace "$STOREFENCE_NAMESPACE" --dry-run=client --output yaml | kubectl apply --filename -
  kubectl apply --filename "$out/secret-provider-class.yaml"
  # Helm installs the CRDs of a chart once and never again.
  kubectl apply --server-side --force-conflicts --filename "$root/crds"
  helm upgrade --install storefence "$root/charts/storefence" --namespace "$STOREFENCE_NAMESPACE" \
    --values "$out/values.yaml" --wait --timeout 10m
}

next() {
  outputs
  say "Next"
  cat <<NEXT
export KUBECONFIG=$out/kubeconfig
1. Declare a tenant: take examples/zava.yaml, set entra.tenantId to $AZURE_TENANT_ID, and
     kubectl apply -n $STOREFENCE_NAMESPACE -f YOUR_TENANT.yaml
     kubectl get retailtenants -A
2. Give people an app role or a group: docs/entra.md.
3. Connect VS Code to $(public_url)/mcp: docs/entra.md.
NEXT
  if [ -n "$host" ]; then
    cat <<NEXT
4. Point the DNS name $host at the ingress:
     kubectl get service -n app-routing-system nginx
   and put its certificate in the Secret storefence-gateway-tls of the namespace $STOREFENCE_NAMESPACE.
NEXT
  else
    echo "4. Without --host there is no ingress: kubectl port-forward -n $STOREFENCE_NAMESPACE service/storefence-gateway 8080:80"
  fi
}

cleanup() {
  say "Deleting $group"
  need az jq
  confirm "Delete the resource group $group with its database and everything in it?"
  if [ "$(az group exists --name "$group")" = true ]; then
    az group delete --name "$group" --yes
  fi
  purge_openai
  az deployment sub delete --name "$deployment" --output none 2>/dev/null || true
  rm -rf "$out"
  az keyvault list-deleted --resource-type vault --output json | in_group properties.vaultId |
    while read -r name region; do
      echo "The vault $name in $region is soft-deleted and protected from purging: it goes when its retention is over."
      echo "  The next deployment of this environment recovers it, with the secrets of the old tenants."
    done
  echo "The registration in Entra stays: az ad app list --display-name \"$app_name\" --query [].appId"
}

# azd keeps the outputs as variables and runs these as hooks.
azd_preprovision() {
  need az jq azd
  preflight
  prepare
  principal
  storage=$(storage_wanted "$here/main.parameters.json")
  now=$(storage_now)
  [ "$now" -le "$storage" ] ||
    fail "the database's storage has grown to $now GB, and Azure does not make it smaller: put $now into postgresStorageGB of infra/main.parameters.json"
  if [ -z "${STOREFENCE_DATABASE_ADMIN_ID:-}" ]; then
    azd env set STOREFENCE_DATABASE_ADMIN_ID "$database_admin_id"
    azd env set STOREFENCE_DATABASE_ADMIN_NAME "$database_admin_name"
    azd env set STOREFENCE_DATABASE_ADMIN_TYPE "$database_admin_type"
  fi
  [ -n "${STOREFENCE_PRINCIPAL_TYPE:-}" ] || azd env set STOREFENCE_PRINCIPAL_TYPE "$principal_type"
}

case "$command" in
  azd-postdown) ;;
  *) subscription ;;
esac
case "$command" in
  up) preflight; register; what_if; deploy; images; entra; values; chart; next ;;
  preflight) preflight ;;
  what-if) need az jq; [ -n "$location" ] || fail "--location is not given"; what_if ;;
  deploy) need az jq; [ -n "$location" ] || fail "--location is not given"; deploy ;;
  images) images ;;
  entra) entra ;;
  values) values ;;
  chart) chart ;;
  next) next ;;
  prepare) need az jq; [ -n "$location" ] || fail "--location is not given"; prepare ;;
  cleanup) cleanup ;;
  azd-preprovision) azd_preprovision ;;
  azd-postprovision) images; entra; values; chart; next ;;
  azd-postdown) echo "The vaults are soft-deleted; the next deployment of this environment recovers them." ;;
  *) usage >&2; fail "unknown command $command" ;;
esac
