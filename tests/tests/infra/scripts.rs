//! `infra/deploy.sh` and `infra/entra-app.sh` from end to end.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_tests::outside::own_program;

use crate::{
    infra::{
        python::{bin, run},
        stage::{Stage, output, position},
    },
    root,
};

const UP: [&str; 9] =
    ["up", "--environment", "dev", "--location", "swedencentral", "--image-tag", "abc123", "--yes", "--host"];

#[test]
fn up_goes_through_every_step_in_order_and_twice() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let arguments: Vec<_> = UP.into_iter().chain(["gateway.example.com"]).collect();
    stage.script("deploy.sh", &arguments)?;
    let calls = stage.calls()?;
    let steps = [
        "az provider show",
        "az deployment sub what-if",
        "az deployment sub create",
        "az acr build --registry value-of-AZURE_CONTAINER_REGISTRY_NAME --image storefence-operator:abc123 --target operator --build-arg REVISION=0123456789abcdef0123456789abcdef01234567",
        "az ad app create",
        "az aks get-credentials",
        "kubectl apply",
        "helm upgrade --install storefence",
    ];
    let order = steps.iter().map(|step| position(&calls, step)).collect::<Result<Vec<_>>>()?;
    ensure!(order.is_sorted(), "{order:?} in {calls:#?}");
    let create = &calls[order[2]];
    ensure!(create.contains("principalId=11111111-1111-1111-1111-111111111111"), "{create}");
    ensure!(create.contains("databaseEntraAdministratorName=ada@contoso.example"), "{create}");
    ensure!(!calls.iter().any(|call| call.to_lowercase().contains("password")), "{calls:#?}");

    let out = stage.path("checkout/target/infra/dev");
    let values: Value = serde_saphyr::from_str(&fs::read_to_string(out.join("values.yaml"))?)?;
    ensure!(values["gateway"]["publicUrl"] == "https://gateway.example.com", "{values}");
    ensure!(values["gateway"]["audiences"] == json!(["22222222-2222-2222-2222-222222222222"]), "{values}");
    ensure!(
        values["gateway"]["scopes"] == json!(["api://22222222-2222-2222-2222-222222222222/Retail.Query"]),
        "{values}"
    );
    ensure!(values["gateway"]["ingress"]["enabled"] == true, "{values}");
    ensure!(values["config"]["keyVaults"][0]["url"] == output("AZURE_KEY_VAULT_ENDPOINT"), "{values}");
    ensure!(values["config"]["embeddings"]["endpoint"] == output("AZURE_OPENAI_ENDPOINT"), "{values}");
    ensure!(values["config"]["embeddings"]["deployment"] == output("AZURE_OPENAI_EMBEDDING_DEPLOYMENT"), "{values}");
    ensure!(values["operator"]["clientId"] == output("STOREFENCE_OPERATOR_CLIENT_ID"), "{values}");
    fit_the_chart(&out.join("values.yaml"))?;
    let class: Value = serde_saphyr::from_str(&fs::read_to_string(out.join("secret-provider-class.yaml"))?)?;
    ensure!(class["spec"]["parameters"]["keyvaultName"] == output("STOREFENCE_ADMIN_VAULT_NAME"), "{class}");
    ensure!(class["spec"]["parameters"]["clientID"] == output("STOREFENCE_OPERATOR_CLIENT_ID"), "{class}");
    ensure!(no_placeholder(&out)?, "a placeholder is left");

    // Again: images and registration are found, nothing is made twice.
    fs::write(stage.path("fake/images-are-there"), "")?;
    let before = stage.app()?;
    stage.script("deploy.sh", &arguments)?;
    let calls = stage.calls()?;
    for made in ["az acr build", "az ad app create", "az ad sp create", "az rest --method POST"] {
        ensure!(position(&calls, made).is_err(), "{made} a second time: {calls:#?}");
    }
    ensure!(stage.app()? == before, "the registration changed");
    Ok(())
}

/// The chart's own schema refuses keys that it does not know.
fn fit_the_chart(values: &Path) -> Result<()> {
    let schema = root().join("charts/storefence/values.schema.json");
    let Some(bin) = bin()? else { return Ok(()) };
    run(Command::new(bin.join("check-jsonschema")).arg("--schemafile").arg(schema).arg(values))?;
    Ok(())
}

fn no_placeholder(directory: &Path) -> Result<bool> {
    for entry in fs::read_dir(directory)? {
        if fs::read_to_string(entry?.path())?.contains("${") {
            return Ok(false);
        }
    }
    Ok(true)
}

#[test]
fn soft_deleted_resources_of_this_environment_alone_are_brought_back_or_purged() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let vault = |name: &str, group: &str| json!({"name": name, "properties": {"location": "swedencentral", "vaultId": format!("/subscriptions/s/resourceGroups/{group}/providers/Microsoft.KeyVault/vaults/{name}")}});
    let account = |name: &str, group: &str| json!({"name": name, "location": "eastus", "id": format!("/subscriptions/s/providers/Microsoft.CognitiveServices/locations/eastus/resourceGroups/{group}/deletedAccounts/{name}")});
    let deleted = json!([
        vault("kv-ours", "rg-storefence-dev"),
        vault("kv-theirs", "rg-storefence-dev2"),
        vault("kv-other", "other")
    ]);
    fs::write(stage.path("fake/deleted-vaults.json"), deleted.to_string())?;
    let deleted = json!([account("oai-ours", "RG-Storefence-dev"), account("oai-theirs", "rg-storefence-dev2")]);
    fs::write(stage.path("fake/deleted-accounts.json"), deleted.to_string())?;

    // Looking changes nothing, and says what would be done.
    let said = stage.script("deploy.sh", &["preflight", "--environment", "dev", "--location", "swedencentral"])?;
    ensure!(said.contains("vault kv-ours in swedencentral is soft-deleted: deploy recovers it"), "{said}");
    ensure!(
        said.contains("oai-ours in eastus is soft-deleted: deploy purges it") && !said.contains("theirs"),
        "{said}"
    );
    stage.calls()?;

    stage.script("deploy.sh", &["prepare", "--environment", "dev", "--location", "swedencentral"])?;
    let calls = stage.calls()?;
    position(&calls, "az keyvault recover --name kv-ours --location swedencentral")?;
    position(
        &calls,
        "az cognitiveservices account purge --name oai-ours --resource-group rg-storefence-dev --location eastus",
    )?;
    ensure!(!calls.iter().any(|call| call.contains("theirs") || call.contains("other")), "{calls:#?}");

    let said = stage.script("deploy.sh", &["cleanup", "--environment", "dev", "--yes"])?;
    let calls = stage.calls()?;
    let (group, purge) = (
        position(&calls, "az group delete --name rg-storefence-dev --yes")?,
        position(&calls, "az cognitiveservices account purge --name oai-ours")?,
    );
    ensure!(group < purge, "{calls:#?}");
    ensure!(!calls.iter().any(|call| call.starts_with("az keyvault purge")), "{calls:#?}");
    ensure!(
        said.contains("kv-ours in swedencentral is soft-deleted and protected") && !said.contains("kv-theirs"),
        "{said}"
    );
    Ok(())
}

#[test]
fn without_a_yes_nothing_is_deployed_or_deleted() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    for arguments in
        [["deploy", "--environment", "dev", "--location", "x"].as_slice(), &["cleanup", "--environment", "dev"]]
    {
        ensure!(stage.script("deploy.sh", arguments).is_err(), "{arguments:?} went on");
    }
    let calls = stage.calls()?;
    ensure!(!calls.iter().any(|call| call.contains("create") || call.contains("delete --name")), "{calls:#?}");
    Ok(())
}

#[test]
fn bad_arguments_are_answered_with_their_name() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    for (arguments, words) in [
        (["preflight", "--environment", "Dev_1"].as_slice(), "--environment"),
        (&["deploy", "--environment", "dev"], "--location is not given"),
        (&["destroy", "--environment", "dev"], "unknown command destroy"),
        (&["values", "--environment", "dev", "--colour", "red"], "unknown option --colour"),
        (&["values", "--environment", "dev", "--image-tag", "t"], "run infra/deploy.sh entra first"),
    ] {
        let error = stage.script("deploy.sh", arguments).err().with_context(|| format!("{arguments:?} passed"))?;
        ensure!(error.to_string().contains(words), "{arguments:?}: {error}");
    }
    Ok(())
}

#[test]
fn the_registration_keeps_what_others_added() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let theirs = json!({
        "id": "33333333-3333-3333-3333-333333333333",
        "appId": "22222222-2222-2222-2222-222222222222",
        "identifierUris": ["api://theirs"],
        "api": {
            "requestedAccessTokenVersion": null,
            "oauth2PermissionScopes": [{"id": "scope-theirs", "value": "Other.Read"}, {"id": "scope-ours", "value": "Retail.Query", "isEnabled": false}],
            "preAuthorizedApplications": [{"appId": "client-theirs", "delegatedPermissionIds": ["scope-theirs"]}],
        },
        "appRoles": [{"id": "role-theirs", "value": "Storefence.Seattle"}],
        "optionalClaims": {"idToken": [{"name": "email"}], "accessToken": [{"name": "ipaddr"}], "saml2Token": []},
    });
    fs::write(stage.path("fake/app.json"), theirs.to_string())?;
    let output = stage.path("entra.env");
    stage.script(
        "entra-app.sh",
        &["--resource-uri", "https://gateway.example.com/mcp", "--output", output.to_str().context("path")?],
    )?;
    let app = stage.app()?;
    ensure!(app["api"]["requestedAccessTokenVersion"] == 2, "{app}");
    let list = |value: &Value, key: &str| {
        value.as_array().into_iter().flatten().map(|e| e[key].as_str().unwrap_or("").to_owned()).collect::<Vec<_>>()
    };
    let scopes = &app["api"]["oauth2PermissionScopes"];
    ensure!(
        list(scopes, "value") == ["Other.Read", "Retail.Query"] && list(scopes, "id") == ["scope-theirs", "scope-ours"],
        "{scopes}"
    );
    ensure!(
        list(&app["appRoles"], "value")
            == ["Storefence.Seattle", "Storefence.HeadOffice", "Storefence.RegionalManager", "Storefence.StoreManager"],
        "{app}"
    );
    let clients = &app["api"]["preAuthorizedApplications"];
    ensure!(
        list(clients, "appId")
            == ["client-theirs", "aebc6443-996d-45c2-90f0-388ff96faa56", "04b07795-8ddb-461a-bbee-02f9e1bf7b46"],
        "{clients}"
    );
    ensure!(clients[1]["delegatedPermissionIds"] == json!(["scope-ours"]), "{clients}");
    let claims = list(&app["optionalClaims"]["accessToken"], "name");
    ensure!(claims == ["ipaddr", "idtyp", "extension_22222222222222222222222222222222_storeIds"], "{claims:?}");
    ensure!(
        app["identifierUris"]
            == json!(["api://22222222-2222-2222-2222-222222222222", "api://theirs", "https://gateway.example.com/mcp"]),
        "{app}"
    );
    // The scope begins with the resource that clients send.
    ensure!(fs::read_to_string(output)?.contains("STOREFENCE_SCOPE=https://gateway.example.com/mcp/Retail.Query"));
    Ok(())
}

#[test]
fn powershell_scripts_parse() -> Result<()> {
    // The workflow parses them as well, in a step of its own.
    if own_program("pwsh")?.is_none() {
        return Ok(());
    }
    for script in ["account.ps1", "deploy.ps1", "entra-app.ps1"] {
        let program = format!(
            "$e = $null; [void][System.Management.Automation.Language.Parser]::ParseFile('{}', [ref]$null, [ref]$e); $e; exit $e.Count",
            root().join("infra").join(script).display()
        );
        run(Command::new("pwsh").args(["-NoProfile", "-Command", &program]))?;
    }
    Ok(())
}
