//! A copy of `infra/` to run in, with recorded stand-ins for the programs that the scripts call. They show order, arguments and the
//! files that are written; that Azure accepts them is not shown here.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, process::Command};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use storefence_tests::outside::own_program;
use tempfile::TempDir;

use crate::{infra::python::run, root};

/// Answers like `az`, and notes each call and each request body.
const AZ: &str = r#"#!/usr/bin/env bash
set -eu
echo "az $*" >>"$FAKE/calls"
case "$*" in
  "account show --query user.name"*) cat "$FAKE/user-name" ;;
  "account show --query user.type"*) cat "$FAKE/user-type" ;;
  "account show --query [name, id]"*) echo "Contoso" ;;
  "account show --query id "*) cat "$FAKE/subscription" ;;
  "account set --subscription forbidden") echo "the subscription doesn't exist" >&2; exit 1 ;;
  "account set --subscription "*) echo "$4" >"$FAKE/subscription" ;;
  "account get-access-token --query accessToken "*)
    payload=$(printf '{"oid":"%s","name":"?~>"}' 11111111-1111-1111-1111-111111111111 | base64 | tr -d '\n=' | tr '+/' '-_')
    echo "header.$payload.signature" ;;
  "ad sp show --id 11111111-"*) [ -f "$FAKE/graph-may-be-read" ] && echo storefence-pipeline ;;
  "provider show --namespace Microsoft.Monitor "*) cat "$FAKE/monitor" ;;
  "provider show"*) echo Registered ;;
  "postgres flexible-server list"*) cat "$FAKE/servers.json" ;;
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
pub struct Stage {
    directory: TempDir,
}

impl Stage {
    /// `None`, said aloud, without bash or jq.
    pub fn new() -> Result<Option<Self>> {
        for tool in ["bash", "jq"] {
            if own_program(tool)?.is_none() {
                return Ok(None);
            }
        }
        let stage = Self { directory: tempfile::tempdir()? };
        let (fake, checkout) = (stage.path("fake"), stage.path("checkout"));
        fs::create_dir_all(&fake)?;
        fs::create_dir_all(checkout.join("charts/storefence"))?;
        fs::create_dir_all(checkout.join("crds"))?;
        fs::write(checkout.join("Dockerfile"), "")?;
        run(Command::new("cp").arg("-R").arg(root().join("infra")).arg(&checkout))?;
        let git = "#!/usr/bin/env bash\necho 0123456789abcdef0123456789abcdef01234567\n";
        for (name, text) in
            [("az", AZ), ("git", git), ("kubectl", OTHER), ("helm", OTHER), ("kubelogin", OTHER), ("azd", OTHER)]
        {
            let path = fake.join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        for (name, text) in [
            ("deleted-vaults.json", "[]"),
            ("deleted-accounts.json", "[]"),
            ("servers.json", "[]"),
            ("monitor", "Registered"),
            ("user-name", "ada@contoso.example"),
            ("user-type", "user"),
            ("subscription", "value-of-AZURE_SUBSCRIPTION_ID"),
        ] {
            fs::write(fake.join(name), text)?;
        }
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

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub fn script(&self, script: &str, arguments: &[&str]) -> Result<String> {
        self.script_with(script, arguments, &[])
    }

    /// With variables of the environment, as pipelines and azd set them.
    pub fn script_with(&self, script: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<String> {
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
            .env("FAKE", self.path("fake"))
            .envs(variables.iter().copied()))
    }

    /// Calls since the last time.
    pub fn calls(&self) -> Result<Vec<String>> {
        let file = self.path("fake/calls");
        let text = fs::read_to_string(&file).unwrap_or_default();
        fs::write(file, "")?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    pub fn app(&self) -> Result<Value> {
        Ok(serde_json::from_str(&fs::read_to_string(self.path("fake/app.json"))?)?)
    }
}

/// A value of the kind that the output has, different for each.
pub fn output(name: &str) -> String {
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
pub fn outputs() -> Result<Vec<String>> {
    let text = fs::read_to_string(root().join("infra/main.bicep"))?;
    Ok(text
        .lines()
        .filter_map(|l| l.strip_prefix("output "))
        .filter_map(|l| l.split(' ').next())
        .map(str::to_owned)
        .collect())
}

pub fn position(calls: &[String], beginning: &str) -> Result<usize> {
    calls
        .iter()
        .position(|call| call.starts_with(beginning))
        .with_context(|| format!("no call {beginning:?} in {calls:#?}"))
}
