//! Who deploys, where, and under which names people sign in: the branches that a first `up` as a person does not take.

use std::fs;

use anyhow::{Context, Result, ensure};

use crate::infra::stage::{Stage, position};

const OWN: &str = "11111111-1111-1111-1111-111111111111";
const OTHER: &str = "99999999-9999-9999-9999-999999999999";
const APP: &str = "66666666-6666-6666-6666-666666666666";
const DEV: [&str; 4] = ["--environment", "dev", "--location", "swedencentral"];
const ADMINISTRATOR: [(&str, &str); 3] = [
    ("STOREFENCE_DATABASE_ADMIN_ID", OTHER),
    ("STOREFENCE_DATABASE_ADMIN_NAME", "database-people"),
    ("STOREFENCE_DATABASE_ADMIN_TYPE", "Group"),
];

fn dev<'a>(command: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [[command].as_slice(), &DEV, more].concat()
}

/// Calls that change something in the cloud.
fn changes(calls: &[String]) -> Vec<&String> {
    let words = ["create", "register", "recover", "purge", "delete --", "set --subscription", "update", "build"];
    calls.iter().filter(|call| words.iter().any(|word| call.contains(&format!(" {word}")))).collect()
}

fn refused(stage: &Stage, arguments: &[&str], variables: &[(&str, &str)], words: &str) -> Result<()> {
    let error = stage.script_with("deploy.sh", arguments, variables).err().context(words.to_owned())?;
    ensure!(error.to_string().contains(words), "{words:?} is not in: {error}");
    Ok(())
}

/// The parameters of the deployment that was made.
fn deployed(stage: &Stage) -> Result<String> {
    let calls = stage.calls()?;
    Ok(calls[position(&calls, "az deployment sub create")?].clone())
}

#[test]
fn a_pipeline_deploys_without_a_right_in_the_directory() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    fs::write(stage.path("fake/user-type"), "servicePrincipal")?;
    fs::write(stage.path("fake/user-name"), "88888888-8888-8888-8888-888888888888")?;
    stage.script_with("deploy.sh", &dev("deploy", &["--yes"]), &ADMINISTRATOR)?;
    let calls = stage.calls()?;
    let call = &calls[position(&calls, "az deployment sub create")?];
    for parameter in [
        format!("principalId={OWN} principalType=ServicePrincipal"),
        format!("databaseEntraAdministratorId={OTHER}"),
        "databaseEntraAdministratorName=database-people databaseEntraAdministratorType=Group".to_owned(),
    ] {
        ensure!(call.contains(&parameter), "{parameter} is not in {call}");
    }
    ensure!(!calls.iter().any(|call| call.starts_with("az ad ")), "Microsoft Graph was asked: {calls:#?}");

    // Without them the name has to come from there, and where it may not be read that is said.
    refused(&stage, &dev("deploy", &["--yes"]), &[], "cannot be read in Microsoft Graph")?;
    ensure!(position(&stage.calls()?, "az deployment sub create").is_err());
    fs::write(stage.path("fake/graph-may-be-read"), "")?;
    stage.script("deploy.sh", &dev("deploy", &["--yes"]))?;
    let call = deployed(&stage)?;
    let administrator = format!(
        "databaseEntraAdministratorId={OWN} databaseEntraAdministratorName=storefence-pipeline databaseEntraAdministratorType=ServicePrincipal"
    );
    ensure!(call.contains(&administrator), "{call}");
    Ok(())
}

#[test]
fn who_installs_the_chart_is_named_whole_or_not_at_all() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let deploy = dev("deploy", &["--yes"]);
    let (id, kind) = ("STOREFENCE_PRINCIPAL_ID", "STOREFENCE_PRINCIPAL_TYPE");
    // A group: both are given.
    stage.script_with("deploy.sh", &deploy, &[(id, OTHER), (kind, "Group")])?;
    let call = deployed(&stage)?;
    ensure!(call.contains(&format!("principalId={OTHER} principalType=Group")), "{call}");
    ensure!(call.contains(&format!("databaseEntraAdministratorId={OWN}")), "{call}");
    // Who is signed in needs no kind, and is no group.
    fs::write(stage.path("fake/user-type"), "servicePrincipal")?;
    stage.script_with("deploy.sh", &deploy, &[&[(id, OWN)][..], &ADMINISTRATOR].concat())?;
    let call = deployed(&stage)?;
    ensure!(call.contains(&format!("principalId={OWN} principalType=ServicePrincipal")), "{call}");
    fs::write(stage.path("fake/user-type"), "user")?;
    refused(&stage, &deploy, &[(id, OTHER)], "say with STOREFENCE_PRINCIPAL_TYPE what it is")?;
    refused(&stage, &deploy, &[(kind, "Group")], "who is signed in with the Azure CLI, is a User")?;
    refused(&stage, &deploy, &ADMINISTRATOR[..1], "belong together: give all three or none")?;
    ensure!(position(&stage.calls()?, "az deployment sub create").is_err());
    Ok(())
}

#[test]
fn a_preflight_and_a_what_if_change_nothing() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let deleted = serde_json::json!([{
        "name": "kv-ours",
        "properties": {"location": "swedencentral", "vaultId": "/subscriptions/s/resourceGroups/rg-storefence-dev/x"},
    }]);
    fs::write(stage.path("fake/deleted-vaults.json"), deleted.to_string())?;
    fs::write(stage.path("fake/monitor"), "NotRegistered")?;
    let said = stage.script("deploy.sh", &dev("preflight", &[]))?;
    ensure!(
        said.contains("Microsoft.Monitor is not registered in this subscription: infra/deploy.sh prepare"),
        "{said}"
    );
    stage.script("deploy.sh", &dev("what-if", &[]))?;
    let calls = stage.calls()?;
    position(&calls, "az deployment sub what-if")?;
    ensure!(changes(&calls).is_empty(), "{:#?}", changes(&calls));

    // A deployment does what they announced, after the yes.
    ensure!(stage.script("deploy.sh", &dev("deploy", &[])).is_err());
    ensure!(changes(&stage.calls()?).is_empty());
    stage.script("deploy.sh", &dev("deploy", &["--yes"]))?;
    let calls = stage.calls()?;
    let steps = [
        "az provider register --namespace Microsoft.Monitor",
        "az keyvault recover --name kv-ours",
        "az deployment sub create",
    ];
    let order = steps.iter().map(|step| position(&calls, step)).collect::<Result<Vec<_>>>()?;
    ensure!(order.is_sorted(), "{order:?} in {calls:#?}");
    Ok(())
}

/// Azure refuses to make storage smaller, and the server makes its own larger.
#[test]
fn storage_that_has_grown_stays() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let sizes = [
        (None, 32),
        (Some(("storageSizeGb", 16)), 32),
        (Some(("storageSizeGb", 64)), 64),
        (Some(("storageSizeGB", 128)), 128),
    ];
    for (now, wanted) in sizes {
        let servers = now.map_or(serde_json::json!([]), |(key, size)| serde_json::json!([{"storage": {key: size}}]));
        fs::write(stage.path("fake/servers.json"), servers.to_string())?;
        let said = stage.script("deploy.sh", &dev("deploy", &["--yes"]))?;
        let call = deployed(&stage)?;
        ensure!(call.ends_with(&format!("postgresStorageGB={wanted} --output none")), "{now:?}: {call}");
        ensure!(said.contains("has grown to") == (wanted > 32), "{now:?}: {said}");
    }
    // A parameter file that leaves it to the template.
    fs::write(stage.path("empty.json"), r#"{"parameters": {}}"#)?;
    let file = stage.path("empty.json").display().to_string();
    fs::write(stage.path("fake/servers.json"), "[]")?;
    stage.script("deploy.sh", &dev("deploy", &["--yes", "--parameters", &file]))?;
    ensure!(deployed(&stage)?.contains("postgresStorageGB=128 "));
    Ok(())
}

/// VS Code sends Entra the gateway's URL, and Entra wants a scope that begins with it (AADSTS9010010).
#[test]
fn the_scope_begins_with_a_verified_host() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let host = ["--host", "gateway.example.com"];
    let mine = ["--app-client-id", APP];
    let verified = ["--host-is-verified"];
    let registered = "22222222-2222-2222-2222-222222222222";
    let url = "https://gateway.example.com/mcp";
    for (options, audience, scope) in [
        (host.to_vec(), registered, format!("api://{registered}")),
        ([&host[..], &verified].concat(), registered, url.to_owned()),
        ([&host[..], &mine].concat(), APP, format!("api://{APP}")),
        ([&host[..], &mine, &verified].concat(), APP, url.to_owned()),
        // Without a host there is no URL of that domain.
        ([&mine[..], &verified].concat(), APP, format!("api://{APP}")),
    ] {
        let said = stage.script("deploy.sh", &[&["entra", "--environment", "dev"], options.as_slice()].concat())?;
        let written = fs::read_to_string(stage.path("checkout/target/infra/dev/entra.env"))?;
        let wanted = format!("STOREFENCE_AUDIENCE={audience}\nSTOREFENCE_SCOPE={scope}/Retail.Query\n");
        ensure!(written == wanted, "{options:?}: {written}");
        let own = options.contains(&APP);
        ensure!(own == said.contains(&format!("{scope} must be one of its identifier URIs")), "{options:?}: {said}");
        ensure!(own == stage.calls()?.is_empty(), "{options:?}: a registration of one's own is left alone");
    }
    Ok(())
}

const SUBSCRIPTION: (&str, &str) = ("AZURE_SUBSCRIPTION_ID", "value-of-AZURE_SUBSCRIPTION_ID");

#[test]
fn azd_hooks_hand_over_who_the_administrator_is() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    stage.script_with("deploy.sh", &dev("azd-preprovision", &[]), &[SUBSCRIPTION])?;
    let calls = stage.calls()?;
    position(&calls, &format!("azd env set STOREFENCE_DATABASE_ADMIN_ID {OWN}"))?;
    position(&calls, "azd env set STOREFENCE_DATABASE_ADMIN_NAME ada@contoso.example")?;
    position(&calls, "azd env set STOREFENCE_DATABASE_ADMIN_TYPE User")?;
    position(&calls, "azd env set STOREFENCE_PRINCIPAL_TYPE User")?;
    // The next time azd hands them back, and they stay.
    let back = [&ADMINISTRATOR[..], &[SUBSCRIPTION, ("STOREFENCE_PRINCIPAL_TYPE", "User")]].concat();
    stage.script_with("deploy.sh", &dev("azd-preprovision", &[]), &back)?;
    ensure!(!stage.calls()?.iter().any(|call| call.starts_with("azd ")));
    // azd passes its own parameter file, so what has grown is put there by a person.
    fs::write(stage.path("fake/servers.json"), r#"[{"storage": {"storageSizeGb": 64}}]"#)?;
    refused(
        &stage,
        &dev("azd-preprovision", &[]),
        &[SUBSCRIPTION],
        "put 64 into postgresStorageGB of infra/main.parameters.json",
    )
}

#[test]
fn hooks_work_in_the_subscription_of_azd() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    fs::write(stage.path("fake/subscription"), "another")?;
    let said = stage.script_with("deploy.sh", &dev("azd-preprovision", &[]), &[SUBSCRIPTION])?;
    ensure!(said.contains("was at the subscription another and is at value-of-AZURE_SUBSCRIPTION_ID now"), "{said}");
    let calls = stage.calls()?;
    let (set, first) =
        (position(&calls, "az account set --subscription value-of-")?, position(&calls, "az provider show")?);
    ensure!(set < first, "{calls:#?}");
    let forbidden = [("AZURE_SUBSCRIPTION_ID", "forbidden")];
    for hook in ["azd-preprovision", "azd-postprovision"] {
        refused(&stage, &dev(hook, &[]), &forbidden, "who is signed in with the Azure CLI cannot use")?;
        refused(&stage, &dev(hook, &[]), &[], "AZURE_SUBSCRIPTION_ID is not set; azd sets it for its hooks")?;
    }
    ensure!(changes(&stage.calls()?).iter().all(|call| call.contains("account set")));
    // And without azd: an environment of another subscription is not looked for in this one.
    fs::write(stage.path("fake/subscription"), "another")?;
    refused(
        &stage,
        &dev("images", &["--image-tag", "t"]),
        &[],
        "the Azure CLI is at another: az account set --subscription",
    )?;
    Ok(())
}

/// After provisioning azd has the outputs as variables; nobody else's variables count.
#[test]
fn what_comes_after_azd_uses_its_variables() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let names = crate::infra::stage::outputs()?;
    let variables: Vec<(&str, String)> =
        names.iter().map(|name| (name.as_str(), format!("of-azd-{}", name.to_lowercase()))).collect();
    let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
    fs::write(stage.path("fake/subscription"), "of-azd-azure_subscription_id")?;
    let said = stage.script_with("deploy.sh", &dev("azd-postprovision", &["--image-tag", "abc"]), &variables)?;
    let calls = stage.calls()?;
    ensure!(position(&calls, "az deployment sub show").is_err(), "{calls:#?}");
    let steps = [
        "az acr build --registry of-azd-azure_container_registry_name",
        "az ad app create",
        "az aks get-credentials --resource-group of-azd-azure_resource_group",
        "kubectl apply",
        "helm upgrade --install storefence",
    ];
    let order = steps.iter().map(|step| position(&calls, step)).collect::<Result<Vec<_>>>()?;
    ensure!(order.is_sorted(), "{order:?} in {calls:#?}");
    let values = fs::read_to_string(stage.path("checkout/target/infra/dev/values.yaml"))?;
    ensure!(values.contains("of-azd-azure_key_vault_endpoint"), "{values}");
    ensure!(said.contains("Declare a tenant"), "{said}");

    let variables =
        [&[("STOREFENCE_ADMIN_URL_VERSION", "stale"), ("AZURE_KEY_VAULT_ENDPOINT", "stale")][..], &[SUBSCRIPTION]]
            .concat();
    fs::write(stage.path("fake/subscription"), SUBSCRIPTION.1)?;
    stage.script_with("deploy.sh", &dev("values", &["--image-tag", "abc"]), &variables)?;
    let values = fs::read_to_string(stage.path("checkout/target/infra/dev/values.yaml"))?;
    ensure!(!values.contains("stale") && values.contains("https://kv-sf-dev.vault.azure.net/"), "{values}");

    stage.calls()?;
    let said = stage.script("deploy.sh", &dev("azd-postdown", &[]))?;
    ensure!(said.contains("the next deployment of this environment recovers them"), "{said}");
    ensure!(stage.calls()?.is_empty());
    Ok(())
}
