//! `explain` reports what the gateway does, and reveals nothing of the token.

use std::sync::Arc;

use anyhow::{Result, ensure};
use kube::api::{DeleteParams, DynamicObject, PostParams};
use serde_json::{Value, json};
use storefence_devstack::entra::{
    TokenRequest,
    principals::{self, AUDIENCE, ZAVA_TENANT_ID},
};

use crate::{
    Tests,
    identity::head_office,
    world::{CONTOSO, World, ZAVA},
};

pub fn tests(tests: &mut Tests) {
    tests.add("explain_says_why_without_showing_the_token", explain);
}

/// Where the RetailTenants come from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Files,
    Kubeconfig,
    Environment,
}

async fn explain(world: Arc<World>) -> Result<()> {
    let directory = world.path("tenants");
    std::fs::create_dir_all(&directory)?;
    std::fs::write(directory.join("zava.yaml"), format!("{}\n---\nkind: Other\n", ZAVA.object()))?;
    let mut broken = CONTOSO.object();
    broken["spec"]["stores"] = json!([]);
    std::fs::write(directory.join("contoso.yaml"), broken.to_string())?;
    let run = |token: &str, source: Source| -> Result<(Option<i32>, String)> {
        let file = world.path("token");
        std::fs::write(&file, token)?;
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_storefence-gateway"));
        command.args(["explain", "--audience", AUDIENCE, "--scope", "api://storefence/Retail.Query"]);
        command.args(["--authority", world.entra.url(), "--token-file"]).arg(&file);
        command.arg("--ca-file").arg(world.path("ca.pem")).env("KUBECONFIG", "/nowhere");
        match source {
            Source::Files => command.arg("--tenants").arg(&directory),
            Source::Kubeconfig => command.arg("--kubeconfig").arg(world.path("kubeconfig")),
            Source::Environment => command.env("KUBECONFIG", world.path("kubeconfig")),
        };
        let output = command.output()?;
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(
            !text.contains(token) && !text.contains(token.rsplit('.').next().unwrap_or("?")),
            "the token shows: {text}"
        );
        Ok((output.status.code(), text))
    };
    let seattle = world.token("seattle-manager")?;
    let expired = world.entra.issue(&head_office()?.expires_in(-100))?;
    let nobody = world.entra.issue(&TokenRequest::user(ZAVA_TENANT_ID))?;
    let application = world.entra.issue(&TokenRequest::application(
        ZAVA_TENANT_ID,
        "11111111-1111-4111-8111-111111111111",
        &[principals::HEAD_OFFICE_ROLE],
    ))?;
    let no_scope = world.entra.issue(&head_office()?.claim("scp", json!("User.Read")))?;
    for source in [Source::Files, Source::Kubeconfig, Source::Environment] {
        for (token, code, words) in [
            (&seattle, 0, "tenant zava: StoreManager; rules seattle; stores Seattle"),
            (&expired, 1, "token: rejected (expired)"),
            (&nobody, 1, "tenant zava: no access (NoRule)"),
            (&application, 1, "app-only: application 11111111-1111-4111-8111-111111111111"),
            (&application, 1, "no entraApplication rule names that application"),
            (&no_scope, 1, "scope Retail.Query: missing"),
        ] {
            let (status, text) = run(token, source)?;
            ensure!(status == Some(code) && text.contains(words), "{words}: {status:?} {text}");
        }
    }
    let (_, text) = run(&seattle, Source::Files)?;
    ensure!(text.contains("contoso.yaml: cannot be used: spec.stores"), "{text}");
    let (_, text) = run(&seattle, Source::Kubeconfig)?;
    ensure!(text.contains("tenant contoso: no access (ForeignDirectory)"), "{text}");
    let api = world.tenants().await?;
    let unprovisioned: DynamicObject = serde_json::from_value(of_zava("unprovisioned"))?;
    api.create(&PostParams::default(), &unprovisioned).await?;
    let (status, text) = run(&seattle, Source::Kubeconfig)?;
    api.delete("unprovisioned", &DeleteParams::default()).await?;
    let words = "tenant default/unprovisioned: not served: its status names no credentials yet";
    ensure!(status == Some(0) && text.contains(words), "{status:?} {text}");
    not_served(|object| std::fs::write(directory.join("zava.yaml"), object.to_string()), &|| {
        run(&seattle, Source::Files)
    })?;
    for (name, spec) in [("zava.yaml", ZAVA.object()), ("contoso.yaml", of_zava("contoso"))] {
        std::fs::write(directory.join(name), spec.to_string())?;
    }
    let (status, text) = run(&seattle, Source::Files)?;
    ensure!(status == Some(0) && text.contains("use /contoso/mcp or /zava/mcp"), "{status:?} {text}");
    Ok(())
}

/// Another tenant with the rules of the first.
fn of_zava(name: &str) -> Value {
    let mut object = ZAVA.object();
    object["metadata"]["name"] = json!(name);
    object["spec"]["tenantId"] = json!(name);
    object
}

/// The rules match, but the gateway lets nobody in: `explain` must say the same.
fn not_served(
    write: impl Fn(&Value) -> std::io::Result<()>,
    run: &dyn Fn() -> Result<(Option<i32>, String)>,
) -> Result<()> {
    let condition = |kind: &str, reason: &str| {
        json!({"conditions": [{"type": kind, "status": "False", "reason": reason, "message": "",
            "lastTransitionTime": "2026-01-01T00:00:00Z"}]})
    };
    for (status, words) in [
        (condition("PolicyVerified", "FenceDeviation"), "cannot be used: PolicyVerified is False"),
        (condition("Ready", "ConflictingTenant"), "tenant default/zava: not served: its condition Ready says Conflict"),
    ] {
        let mut object = ZAVA.object();
        object["status"] = status;
        write(&object)?;
        let (code, text) = run()?;
        ensure!(code == Some(1) && text.contains(words), "{words}: {code:?} {text}");
        ensure!(text.contains("token: rejected (directory)"), "as the gateway would: {text}");
    }
    let mut object = ZAVA.object();
    object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    write(&object)?;
    let (code, text) = run()?;
    ensure!(
        code == Some(1) && text.contains("tenant default/zava: not served: it is being deleted"),
        "{code:?} {text}"
    );
    Ok(())
}
