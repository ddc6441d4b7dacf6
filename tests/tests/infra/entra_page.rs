//! docs/entra.md against what it speaks of: every command of the page runs, the checks find what the script has made, and
//! the page's RetailTenant lets in whom the page says.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context, Result, bail, ensure};
use regex::Regex;
use serde_json::{Map, Value, json};
use storefence_devstack::{
    entra::{Entra, EntraOptions, TokenRequest},
    tls::Authority,
};
use storefence_tenancy::{Claims, Scope, TenantRules, resource::RetailTenant, scope::StoreSet};
use storefence_tests::documents::page_blocks;

use crate::{
    infra::{python::run, stage::Stage},
    root,
};

/// The client ID that the recorded registration gets, and a directory.
const APP: &str = "22222222-2222-2222-2222-222222222222";
const DIRECTORY: &str = "2b6d1f0c-94f3-4a6e-8a0b-6f7b3c5d9e10";
const REPORTS: &str = "6d0b8f3e-1c27-4e95-8a64-d3f7b92c5e10";
/// Each program writes its arguments as the shell hands them over, and answers where the page goes on with the answer.
const PROGRAMS: &str = r#"set -eu
note() { printf '%s\x1f' "$@" >>"$CALLS"; printf '\x1e' >>"$CALLS"; }
entra_app() { note entra-app "$@"; }
storefence-gateway() { note storefence-gateway "$@"; }
curl() { note curl "$@"; echo '{}'; }
az() {
  note az "$@"
  case "$*" in
    "ad app list "*) echo "$REGISTERED" ;;
    "account get-access-token "*accessToken*) echo "$ISSUED" ;;
  esac
}
"#;

fn page() -> Result<String> {
    Ok(fs::read_to_string(root().join("docs/entra.md"))?)
}

fn blocks(language: &str) -> Vec<String> {
    let all = page_blocks(language).into_iter();
    all.filter(|(path, _)| path.ends_with("docs/entra.md")).map(|(_, text)| text).collect()
}

/// What `--query` of the page finds: paths with dots, `[]` for each element, and a list of two such paths.
fn find(value: &Value, query: &str) -> Value {
    if let Some(list) =
        query.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).filter(|list| list.contains(','))
    {
        return list.split(", ").map(|path| find(value, path)).collect();
    }
    let (first, rest) = query.split_once('.').map_or((query, ""), |(first, rest)| (first, rest));
    let (name, each) = first.strip_suffix("[]").map_or((first, false), |name| (name, true));
    let found = &value[name];
    match (each, rest) {
        (true, rest) => found.as_array().into_iter().flatten().map(|item| find(item, rest)).collect(),
        (false, "") => found.clone(),
        (false, rest) => find(found, rest),
    }
}

fn after<'a>(call: &'a [String], option: &str) -> Result<&'a str> {
    let at = call.iter().position(|word| word == option).with_context(|| format!("{option} is not in {call:?}"))?;
    Ok(call.get(at + 1).with_context(|| format!("{option} has no value"))?)
}

/// The page's own token, as the public cloud would issue it.
async fn issued() -> Result<String> {
    let public_url = Some("https://login.microsoftonline.com".to_owned());
    let entra = Entra::start(&Authority::new()?, EntraOptions { public_url, ..EntraOptions::default() }).await?;
    let request =
        TokenRequest::user(DIRECTORY).claim("aud", json!(APP)).claim("roles", json!(["Storefence.HeadOffice"]));
    let token = entra.issue(&request.claim("extn.storeIds", json!(["Seattle"])))?;
    entra.shutdown().await;
    Ok(token)
}

/// The calls that the page's blocks make, in their order, and what they write.
fn walk(token: &str) -> Result<(Vec<Vec<String>>, String)> {
    let work = tempfile::tempdir()?;
    let commands = blocks("bash").join("\n").replace("./infra/entra-app.sh", "entra_app");
    let mut command = Command::new("bash");
    command.arg("-c").arg(format!("{PROGRAMS}{commands}\nprintf 'attribute %s\\n' \"$ATTRIBUTE\"")).current_dir(&work);
    command.env("CALLS", work.path().join("calls")).env("REGISTERED", APP).env("ISSUED", token);
    let output = run(command.env("REPORTS_APP", REPORTS))?;
    let calls = fs::read_to_string(work.path().join("calls"))?;
    let calls = calls.split_terminator('\u{1e}');
    Ok((calls.map(|call| call.split_terminator('\u{1f}').map(str::to_owned).collect()).collect(), output))
}

#[tokio::test]
async fn commands_of_the_entra_page_find_what_the_script_made() -> Result<()> {
    let Some(stage) = Stage::new()? else { return Ok(()) };
    let (calls, output) = walk(&issued().await?)?;
    let text = page()?;
    let guids = Regex::new(r"(?m)^\| (Visual Studio Code|Azure CLI) \| `([0-9a-f-]{36})` \|$")?;
    let clients: Vec<_> = guids.captures_iter(&text).map(|found| found[2].to_owned()).collect();
    let ours: Value = serde_json::from_str(&fs::read_to_string(root().join("infra/entra/app.json"))?)?;
    let roles = find(&ours, "appRoles[].value");
    for role in roles.as_array().context("roles")? {
        ensure!(text.contains(&format!("`{}`", role.as_str().context("a name")?)), "the page does not name {role}");
    }
    let mut asked = BTreeSet::new();
    for call in &calls {
        let words: Vec<&str> = call.iter().map(String::as_str).collect();
        match words[..] {
            ["entra-app", ref options @ ..] => drop(stage.script("entra-app.sh", options)?),
            ["az", "ad", "app", "list", ..] => {
                ensure!(after(call, "--display-name")? == stage_name(&ours)? && after(call, "--query")? == "[0].appId");
            }
            ["az", "ad", "app", "show", ..] => {
                ensure!(after(call, "--id")? == APP, "{call:?}");
                let (app, query) = (stage.app()?, after(call, "--query")?);
                let due = match query {
                    "api.requestedAccessTokenVersion" => json!(2),
                    "[identifierUris, api.oauth2PermissionScopes[].value]" => {
                        json!([[format!("api://{APP}")], ["Retail.Query"]])
                    }
                    "api.preAuthorizedApplications[].appId" => json!(clients),
                    "appRoles[].value" => roles.clone(),
                    "identifierUris" => json!([format!("api://{APP}"), "https://gateway.example.com/mcp"]),
                    other => bail!("no test knows what {other} should find"),
                };
                ensure!(find(&app, query) == due, "{query} finds {}, the page says {due}", find(&app, query));
                asked.insert(query.to_owned());
            }
            ["az", "ad", "sp", "show", ..] if after(call, "--id")? == APP => {
                ensure!(stage.path("fake/principal").exists(), "the registration has no service principal");
            }
            ["az", "ad", "sp", "show", ..] => {
                ensure!(after(call, "--id")? == REPORTS && after(call, "--query")? == "appId")
            }
            // The object ID, which `oid` holds.
            ["az", "ad", "user", "show", ..] => ensure!(after(call, "--query")? == "id", "{call:?}"),
            ["az", "account", "get-access-token", ..] => {
                let app = stage.app()?;
                let resource =
                    after(call, "--scope")?.strip_suffix("/.default").context("a resource's default scope")?;
                let uris = app["identifierUris"].as_array().context("URIs")?;
                ensure!(uris.contains(&json!(resource)), "{resource} is none of {uris:?}");
            }
            ["az", "rest", ..] => attribute(&stage.app()?, call)?,
            ["curl", ..] => ensure!(
                words.contains(&"https://gateway.example.com/.well-known/oauth-protected-resource/mcp"),
                "{call:?}"
            ),
            ["storefence-gateway", "explain", "--help"] => {}
            _ => bail!("no test knows this command: {call:?}"),
        }
    }
    ensure!(asked.len() == 5 && clients.len() == 2, "{asked:?} {clients:?}");
    let app = stage.app()?;
    let claims = find(&app, "optionalClaims.accessToken[].name");
    let attribute = output.lines().last().and_then(|line| line.strip_prefix("attribute ")).context("an attribute")?;
    ensure!(claims.as_array().is_some_and(|names| names.contains(&json!(attribute))), "{attribute}: {claims}");
    token(&output, &text)
}

/// The name under which the script registers where none is given.
fn stage_name(app: &Value) -> Result<&str> {
    app["displayName"].as_str().context("a name")
}

/// The attribute is the one whose claim the registration asks for, and takes several values.
fn attribute(app: &Value, call: &[String]) -> Result<()> {
    let name = format!("extension_{}_storeIds", APP.replace('-', ""));
    ensure!(find(app, "optionalClaims.accessToken[].name").to_string().contains(&name), "{app}");
    let url = after(call, "--url")?;
    if after(call, "--method")? == "GET" {
        ensure!(url.ends_with(&format!("?$select={name}")), "{url}");
        return Ok(());
    }
    let body: Map<String, Value> = serde_json::from_str(after(call, "--body")?)?;
    ensure!(body.keys().eq([&name]), "{body:?}");
    let named = rules()?;
    for store in body[&name].as_array().context("several values")? {
        let store = store.as_str().context("a text")?;
        ensure!(named.store_by_name_or_id(store).is_some(), "{store} is no store of the page's tenant");
    }
    Ok(())
}

/// What the page's own command shows of a token is what the table below it says.
fn token(output: &str, text: &str) -> Result<()> {
    let object = output.find("{\n").and_then(|from| Some(from..from + output[from..].find("\n}")? + 2));
    // The one before is the gateway's document, which is empty here.
    let shown: Value = serde_json::from_str(&output[object.context("no token is shown")?])?;
    ensure!(shown["ver"] == "2.0" && shown["aud"] == APP && shown["tid"] == DIRECTORY, "{shown}");
    ensure!(shown["iss"] == format!("https://login.microsoftonline.com/{DIRECTORY}/v2.0"), "{shown}");
    ensure!(shown["extn.storeIds"] == json!(["Seattle"]), "the page's command does not show the stores: {shown}");
    ensure!(shown["scp"] == "Retail.Query" && shown["roles"] == json!(["Storefence.HeadOffice"]), "{shown}");
    for field in
        ["| `ver` | `2.0` |", "| `iss` | `https://login.microsoftonline.com/` with your directory ID and `/v2.0` |"]
    {
        ensure!(text.contains(field), "{field} is not in the page");
    }
    let fields: BTreeSet<_> = shown.as_object().context("an object")?.keys().map(String::as_str).collect();
    ensure!(
        fields == BTreeSet::from(["ver", "iss", "aud", "tid", "oid", "scp", "roles", "groups", "extn.storeIds"]),
        "{shown}"
    );
    Ok(())
}

fn rules() -> Result<TenantRules> {
    let yaml = blocks("yaml");
    let [manifest] = yaml.as_slice() else { bail!("{} YAML blocks", yaml.len()) };
    let tenant: RetailTenant = serde_saphyr::from_str(manifest)?;
    TenantRules::compile(&tenant.spec).map_err(|problems| anyhow::anyhow!("{problems:?}"))
}

/// Names of the stores in reach, in the words of the page; or why there are none.
fn reach(claims: Value) -> Result<String> {
    let rules = rules()?;
    let base =
        json!({"tid": DIRECTORY, "oid": "11111111-2222-4333-8444-555555555555", "ver": "2.0", "scp": "Retail.Query"});
    let mut all = base.as_object().context("claims")?.clone();
    all.extend(claims.as_object().context("claims")?.clone());
    all.retain(|_, value| !value.is_null());
    let claims = match Claims::from_payload(all) {
        Ok(claims) => claims,
        Err(error) => return Ok(error.to_string()),
    };
    Ok(match Scope::compute(&claims, &rules) {
        Err(none) => none.reason().to_owned(),
        Ok(scope) => match scope.stores() {
            StoreSet::All => "all".to_owned(),
            StoreSet::Some(stores) => {
                let of = |name: &str| rules.store_by_name_or_id(name).is_some_and(|id| stores.contains(&id));
                ["Seattle", "Redmond"].into_iter().filter(|name| of(name)).collect::<Vec<_>>().join(" and ")
            }
        },
    })
}

#[test]
fn the_tenant_of_the_entra_page_lets_in_whom_the_page_says() -> Result<()> {
    let application = |more: Value| {
        let mut claims = json!({"scp": null, "idtyp": "app", "azp": REPORTS});
        claims.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        claims
    };
    for (claims, due) in [
        (json!({"roles": ["Storefence.HeadOffice"]}), "all"),
        (json!({"roles": ["Storefence.StoreManager"]}), "NoRule"),
        (json!({"groups": ["8e0f4c2a-51b7-4d33-9c0e-3f6a1b2c4d5e"]}), "Seattle"),
        (json!({"_claim_names": {"groups": "src1"}}), "GroupsOverage"),
        (json!({"_claim_names": {"groups": "src1"}, "roles": ["Storefence.HeadOffice"]}), "all"),
        (json!({"extn.storeIds": ["Redmond"]}), "Redmond"),
        (json!({"extn.storeIds": ["Seattle", "0a7b7a43-6a3b-4c39-8f6e-2a9e52a1c702"]}), "Seattle and Redmond"),
        (json!({"extn.storeIds": ["redmond", "*"]}), "NoRule"),
        // Names and addresses of people count nowhere.
        (json!({"preferred_username": "ada@contoso.example", "name": "Seattle", "upn": "Seattle"}), "NoRule"),
        (application(json!({"roles": ["Reports.Run"]})), "all"),
        (application(json!({"roles": ["Reports.Run"], "azp": "11111111-2222-4333-8444-666666666666"})), "AppOnly"),
        (application(json!({})), "neither scp nor roles: this is not an access token"),
        (json!({"azp": REPORTS}), "NoRule"),
    ] {
        let seen = reach(claims.clone())?;
        ensure!(seen == due, "{claims}: {seen}, and {due} is due");
    }
    Ok(())
}
