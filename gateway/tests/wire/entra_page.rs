//! docs/entra.md against the gateway: both agree on what clients send.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::{
    entra::principals::{AUDIENCE, ZAVA_TENANT_ID},
    process::Spawn,
};
use storefence_gateway::{cli, identity::authority::Authority};
use storefence_tests::documents::page_blocks;
use uuid::Uuid;

use crate::{
    Tests,
    world::{World, free_port, until},
};

pub fn tests(tests: &mut Tests) {
    tests.add("the_entra_page_names_resource_scope_and_options_as_they_are", page);
}

/// The page's names for the gateway.
const PUBLIC: &str = "https://gateway.example.com";

async fn page(world: Arc<World>) -> Result<()> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/entra.md"))?;
    options(&text)?;
    issuers(&text)?;
    // Step 8 results in these options.
    let scope = text.split("--scope ").find(|rest| rest.starts_with(PUBLIC)).context("a scope with the URL")?;
    let scope = scope.split('`').next().context("a scope")?;
    let document = document(&world, scope).await?;
    let resource = document["resource"].as_str().context("a resource")?;
    ensure!(document["scopes_supported"] == json!([scope]), "{document}");
    // The pitfall: Entra refuses a scope that does not begin with the resource.
    ensure!(scope == format!("{resource}/Retail.Query"), "{scope} does not belong to {resource}");
    ensure!(text.contains(&format!("--resource-uri {resource}\n")), "the script is told another URI than {resource}");
    ensure!(text.contains(&format!("`resource`, which is the gateway's URL\n(`{resource}`)")), "{resource}");
    let server = &document["authorization_servers"][0];
    ensure!(server == "https://login.microsoftonline.com/organizations/v2.0", "{server}");

    let blocks: Vec<_> = page_blocks("json").into_iter().filter(|(path, _)| path.ends_with("docs/entra.md")).collect();
    ensure!(blocks.len() == 2, "{} JSON blocks: no test knows the others", blocks.len());
    for (_, block) in blocks {
        let settings: Value = serde_json::from_str(&block).with_context(|| block.clone())?;
        let server = &settings["servers"]["storefence"];
        ensure!(server["type"] == "http" && server["url"] == resource, "{server}");
        let Some(headers) = server["headers"].as_object() else {
            ensure!(settings["inputs"].is_null() && server["oauth"].is_null(), "{settings}");
            continue;
        };
        // The pasted token: prompted for, hidden, and obtained by the command of step 7.
        let input = &settings["inputs"][0];
        let id = input["id"].as_str().context("an id")?;
        ensure!(headers.len() == 1 && headers["Authorization"] == format!("Bearer ${{input:{id}}}"), "{headers:?}");
        ensure!(input["type"] == "promptString" && input["password"] == true, "{input}");
        let command = input["description"].as_str().context("a command")?.replace("CLIENT-ID", "$APP");
        let command = command.replace("api://$APP/.default", "\"api://$APP/.default\"");
        ensure!(text.contains(&format!("\n{command} > token\n")), "{command}");
    }
    Ok(())
}

/// The gateway's own metadata document, with the options of the page.
async fn document(world: &World, scope: &str) -> Result<Value> {
    let (port, admin) = (free_port()?, free_port()?);
    let tenants = world.path("entra-page");
    std::fs::create_dir_all(&tenants)?;
    let _gateway = Spawn::new(env!("CARGO_BIN_EXE_storefence-gateway"))
        .args(["run", "--listen", &format!("127.0.0.1:{port}"), "--admin-listen", &format!("127.0.0.1:{admin}")])
        .args(["--public-url", PUBLIC, "--audience", AUDIENCE, "--scope", scope, "--log-format", "json"])
        .args(["--credential", "client-secret", "--azure-tenant-id", ZAVA_TENANT_ID, "--azure-client-id", AUDIENCE])
        .arg("--config")
        .arg(world.path("config.yaml"))
        .arg("--tenants")
        .arg(tenants)
        .env("AZURE_CLIENT_SECRET", "unused")
        .log(world.path("entra-page.log"))
        .start()?;
    let url = format!("http://127.0.0.1:{port}/.well-known/oauth-protected-resource/mcp");
    let get = async || -> Result<Value> {
        let answer = world.http.get(&url).header("host", "gateway.example.com").send().await?;
        Ok(answer.error_for_status()?.json().await?)
    };
    until("it answers", Duration::from_secs(20), || async { Ok(get().await.is_ok()) }).await?;
    get().await
}

/// Rows of options and their variables.
fn options(text: &str) -> Result<()> {
    let command = cli::command();
    let run = command.find_subcommand("run").context("run")?;
    let mut named = BTreeSet::new();
    for row in text.lines().filter(|line| line.starts_with("| `--")) {
        let cells: Vec<_> = row.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let known = run.get_arguments().find(|argument| argument.get_long() == cells[1].strip_prefix("--"));
        let variable = known.and_then(|argument| argument.get_env()).and_then(|name| name.to_str());
        ensure!(variable == Some(cells[2]), "{row}: the variable is {variable:?}");
        named.insert(cells[1]);
    }
    ensure!(named == BTreeSet::from(["--audience", "--scope", "--public-url"]), "{named:?}");
    Ok(())
}

/// Step 2: the issuers of both versions.
fn issuers(text: &str) -> Result<()> {
    let authority = Authority::new(&"https://login.microsoftonline.com".parse()?, None);
    for issuer in [authority.v2_issuer(Uuid::nil()), authority.v1_issuer(Uuid::nil())] {
        let shown = issuer.replace(&Uuid::nil().to_string(), "DIRECTORY");
        ensure!(text.contains(&format!("`{shown}`")), "{shown} is not in the page");
    }
    Ok(())
}
