//! `infra/deploy.sh` and `infra/entra-app.sh` from end to end, with recorded stand-ins for the programs they call. This
//! shows order, arguments and the files that are written; that Azure accepts them is not shown here.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    infra::python::{bin, run},
    root,
};

/// Answers like `az`, and notes each call and each request body.
const AZ: &str = r#"#!/usr/bin/env bash
set -eu
echo "az $*" >>"$FAKE/calls"
case "$*" in
  "account show --query user.name"*) echo ada@contoso.example ;;
  "account show --query user.type"*) echo user ;;
  "account show --query [name, id]"*) echo "Contoso" ;;
  "ad signed-in-user show"*) echo 11111111-1111-1111-1111-111111111111 ;;
  "provider show"*) echo Registered ;;
  "keyvault list-deleted"*) cat "$FAKE/deleted-vaults.json" ;;
  "cognitiveservices account list-deleted"*) cat "$FAKE/deleted-accounts.json" ;;
  "deployment sub show"*) cat "$FAKE/outputs.json" ;;
  "acr repository show"*) [ -f "$FAKE/images-are-there" ] ;;
  "group exists"*) echo true ;;
  "cloud show"*) echo https://graph.microsoft.com/ ;;
  "ad app list"*) [ ! -f "$FAKE/app.json" ] || echo 22222222-2222-2222-2222-222222222222 ;;
  "ad app create"*)
    echo '{"id":"33333333-3333-3333-3333-333333333333","appId":"22222222-2222-2222-2222-222222222222","api":{},"appRoles":[]}' >"$FAKE/app.json"
    echo 22222222-2222-2222-2222-222222222222 ;;
  "ad app show"*) cat "$FAKE/app.json" ;;
  "ad sp show"*) [ -f "$FAKE/principal" ] ;;
  "ad sp create"*) touch "$FAKE/principal" ;;
  "rest --method GET"*) [ ! -f "$FAKE/attribute" ] || echo extension ;;
  "rest --method POST"*) touch "$FAKE/attribute" ;;
  "rest --method PATCH"*)
    for last in "$@"; do case "$last" in @*) body=${last#@} ;; esac; done
    jq -s '.[0] as $old | .[1] as $new | $old * $new' "$FAKE/app.json" "$body" >"$FAKE/app.new"
    mv "$FAKE/app.new" "$FAKE/app.json" ;;
esac
"#;

/// Notes the call and takes what it is given.
const OTHER: &str = "#!/usr/bin/env bash\necho \"${0##*/} $*\" >>\"$FAKE/calls\"\ncase \"$*\" in *--filename\\ -) cat >/dev/null ;; esac\n";

/// A copy of `infra/` with what the scripts look for beside it, so that the real checkout's `target/` stays clean.
struct Stage {
    directory: TempDir,
}

impl Stage {
    /// `None`, said aloud, without bash or jq.
    fn new() -> Result<Option<Self>> {
        if ["bash", "jq"].iter().any(|tool| Command::new(tool).arg("--version").output().is_err()) {
            println!("skipped: bash and jq are needed");
            return Ok(None);
        }
        let stage = Self { directory: tempfile::tempdir()? };
        let (fake, checkout) = (stage.path("fake"), stage.path("checkout"));
        fs::create_dir_all(&fake)?;
        fs::create_dir_all(checkout.join("charts/storefence"))?;
        fs::create_dir_all(checkout.join("crds"))?;
        fs::write(checkout.join("Dockerfile"), "")?;
        run(Command::new("cp").arg("-R").arg(root().join("infra")).arg(&checkout))?;
        for (name, text) in [("az", AZ), ("kubectl", OTHER), ("helm", OTHER), ("kubelogin", OTHER), ("azd", OTHER)] {
            let path = fake.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        fs::write(fake.join("deleted-vaults.json"), "[]")?;
        fs::write(fake.join("deleted-accounts.json"), "[]")?;
        // Resource Manager's own spelling of output names.
        let outputs: serde_json::Map<_, _> = outputs()?
            .iter()
            .map(|name| {
                let (first, rest) = name.split_at(name.find('_').unwrap_or(0));
                let (body, last) = first.split_at(first.len() - 1);
                (format!("{}{last}{rest}", body.to_lowercase()), json!({"type": "String", "value": output(name)}))
            })
            .collect();
        fs::write(fake.join("outputs.json"), Value::Object(outputs).to_string())?;
        Ok(Some(stage))
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.directory.path().join(name)
    }

    fn script(&self, script: &str, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("bash");
        for (name, _) in std::env::vars() {
            if ["AZURE_", "STOREFENCE_", "KUBECONFIG"].iter().any(|prefix| name.starts_with(prefix)) {
                command.env_remove(name);
            }
        }
        let path = format!("{}:{}", self.path("fake").display(), std::env::var("PATH")?);
        run(command
            .arg(self.path("checkout/infra").join(script))
            .args(arguments)
            .env("PATH", path)
            .env("FAKE", self.path("fake")))
    }

    /// Calls since the last time.
    fn calls(&self) -> Result<Vec<String>> {
        let file = self.path("fake/calls");
        let text = fs::read_to_string(&file).unwrap_or_default();
        fs::write(file, "")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    fn app(&self) -> Result<Value> {
        Ok(serde_json::from_str(&fs::read_to_string(self.path("fake/app.json"))?)?)
    }
}

/// A value of the kind that the output has, different for each.
fn output(name: &str) -> String {
    match name {
        "AZURE_MANAGED_PROMETHEUS" => "true".to_owned(),
        "AZURE_OPENAI_ENDPOINT" => "https://oai-sf-dev.openai.azure.com/".to_owned(),
        "STOREFENCE_OPERATOR_CLIENT_ID" => "44444444-4444-4444-4444-444444444444".to_owned(),
        "STOREFENCE_GATEWAY_CLIENT_ID" => "55555555-5555-5555-5555-555555555555".to_owned(),
        "AZURE_KEY_VAULT_ENDPOINT" => "https://kv-sf-dev.vault.azure.net/".to_owned(),
        _ => format!("value-of-{name}"),
    }
}

/// Outputs of `main.bicep`.
fn outputs() -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("infra/main.bicep"))?;
    Ok(text
        .lines()
        .filter_map(|l| l.strip_prefix("output "))
        .filter_map(|l| l.split(' ').next())
        .map(str::to_owned)
        .collect())
}

fn position(calls: &[String], beginning: &str) -> Result<usize> {
    calls
        .iter()
        .position(|call| call.starts_with(beginning))
        .with_context(|| format!("no call {beginning:?} in {calls:#?}"))
}

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
        "az acr build",
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
    let Some(bin) = bin() else { return Ok(()) };
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

    stage.script("deploy.sh", &["preflight", "--environment", "dev", "--location", "swedencentral"])?;
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
fn azd_hooks_hand_over_who_the_administrator_is() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    stage.script("deploy.sh", &["azd-preprovision", "--environment", "dev", "--location", "swedencentral"])?;
    let calls = stage.calls()?;
    position(&calls, "azd env set STOREFENCE_DATABASE_ADMIN_ID 11111111-1111-1111-1111-111111111111")?;
    position(&calls, "azd env set STOREFENCE_DATABASE_ADMIN_NAME ada@contoso.example")?;
    Ok(())
}

#[test]
fn powershell_scripts_parse() -> Result<()> {
    if Command::new("pwsh").arg("-Version").output().is_err() {
        println!("skipped: PowerShell is not installed; infra/*.ps1 are not parsed here");
        return Ok(());
    }
    for script in ["deploy.ps1", "entra-app.ps1"] {
        let program = format!(
            "$e = $null; [void][System.Management.Automation.Language.Parser]::ParseFile('{}', [ref]$null, [ref]$e); $e; exit $e.Count",
            root().join("infra").join(script).display()
        );
        run(Command::new("pwsh").args(["-NoProfile", "-Command", &program]))?;
    }
    Ok(())
}
