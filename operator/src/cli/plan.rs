//! `plan`: what `run` would do for the `RetailTenant`s of a file, as SQL and as operations on secrets. Writes nothing.

use std::{collections::BTreeSet, fmt::Write as _, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Args;
use k8s_openapi::jiff::Timestamp;
use kube::{Api, Client};
use storefence_runtime::AzureOptions;
use storefence_tenancy::{RetailTenant, resource::Mode};

use super::{
    CliError, ConfigArgs,
    output::{say, write},
    reload::InForce,
    validate,
};
use crate::{
    circuit::CircuitPolicy,
    database::{Limits, sql},
    leader::Leadership,
    metrics::Metrics,
    plan::{conflict::Claimant, rotation::Rotation, status::whole_second},
    reconcile::pass::{Preview, Work, preview},
    vault::VaultFactory,
};

/// Stands for the UID of an object that does not exist yet.
const NEW_UID: &str = "uid-of-the-new-object";
/// Exit code of a plan that has steps.
const DIFFERENT: u8 = 2;
/// What stands in the place of a verifier.
const MASKED: &str = "SCRAM-SHA-256$********";

/// `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    #[command(flatten)]
    config: ConfigArgs,

    /// YAML file with RetailTenants; - for standard input.
    #[arg(short, long, env = "STOREFENCE_PLAN_FILE", value_name = "FILE")]
    file: Option<PathBuf>,

    /// Take the objects as new, without asking the cluster for those of the same names.
    #[arg(long, env = "STOREFENCE_OFFLINE")]
    offline: bool,

    /// Longest wait for one answer of a database or vault.
    #[arg(long, env = "STOREFENCE_CALL_TIMEOUT", value_parser = super::run::duration, default_value = "10s")]
    call_timeout: Duration,

    #[command(flatten)]
    azure: AzureOptions,
}

/// Prints the steps of every tenant in the file.
pub async fn plan(arguments: PlanArgs) -> Result<ExitCode, CliError> {
    let PlanArgs { config, file, offline, call_timeout, azure } = arguments;
    let config = config.load()?;
    let file = file.ok_or(CliError::Missing {
        flag: "--file",
        variable: "STOREFENCE_PLAN_FILE",
        what: "a YAML file with RetailTenants",
    })?;
    let checked = validate::read(&file, "--file", "STOREFENCE_PLAN_FILE")?;
    let refused: String = checked.iter().filter(|one| !one.problems.is_empty()).map(validate::report).collect();
    if !refused.is_empty() {
        let problem = format!("{}: what would be refused has no plan\n{}", file.display(), refused.trim_end());
        return Err(CliError::Invalid { flag: "--file", variable: "STOREFENCE_PLAN_FILE", problem });
    }
    let tenants = checked.into_iter().map(|one| serde_json::from_value(one.document));
    let tenants: Vec<RetailTenant> = tenants.collect::<Result<_, _>>().context("--file")?;
    let metrics = Arc::new(Metrics::new().context("metrics")?);
    let vaults = VaultFactory::new(azure, Arc::clone(&metrics), call_timeout)?;
    let limits = Limits {
        concurrency: 1,
        deadline: call_timeout,
        fence_age: Duration::ZERO,
        circuit: CircuitPolicy::new(call_timeout, call_timeout),
        leadership: Leadership::alone(),
    };
    let (_, backends) = InForce::new(config, vaults, limits).await?;
    let client = match offline {
        true => None,
        false => Some(super::kubernetes().await.context("Kubernetes: KUBECONFIG, in-cluster, or --offline")?),
    };

    let mut steps = 0;
    let used: BTreeSet<String> = tenants.iter().map(|tenant| tenant.spec.database_ref.name.clone()).collect();
    for name in used {
        // What cannot be asked is reported with the tenants that need it.
        let Ok(database) = backends.database(&name) else { continue };
        let Ok(open) = database.unprotected().await else { continue };
        for table in open {
            steps += 1;
            say!("-- database {name}: protected table {table}")?;
            for statement in table.statements() {
                say!("{statement};")?;
            }
        }
    }
    for mut tenant in tenants {
        if let Some(client) = &client {
            adopt_identity(client, &mut tenant).await?;
        }
        let name = tenant.metadata.name.clone().unwrap_or_default();
        tenant.metadata.uid.get_or_insert_with(|| NEW_UID.to_owned());
        let claimants = [Claimant::of(&tenant)];
        let (claimants, metrics) = (&claimants, &metrics);
        // A preview does not look at the fence.
        let rotation = Rotation::at(&tenant, whole_second(Timestamp::now()));
        let work = Work { backends: &backends, tenant: &tenant, claimants, metrics, looked_after: &|_| true, rotation };
        let preview = preview(&work).await.with_context(|| format!("RetailTenant {name}"))?;
        steps += preview.plan.secrets.len() + preview.plan.database.len() + preview.plan.dependents.len();
        write(format_args!("{}", render(&name, &tenant, &preview)))?;
    }
    Ok(if steps == 0 { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENT) })
}

/// Takes over UID and status of the object in the cluster, if there is one.
async fn adopt_identity(client: &Client, tenant: &mut RetailTenant) -> Result<(), CliError> {
    let namespace = tenant.metadata.namespace.clone();
    let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
    let api = Api::<RetailTenant>::namespaced(client.clone(), &namespace);
    let name = tenant.metadata.name.clone().unwrap_or_default();
    let found = api.get_opt(&name).await.with_context(|| format!("RetailTenant {namespace}/{name}"))?;
    if let Some(found) = found {
        tenant.metadata = found.metadata;
        tenant.status = found.status;
    }
    Ok(())
}

fn render(name: &str, tenant: &RetailTenant, preview: &Preview) -> String {
    let Preview { desired, plan } = preview;
    let mut text = String::new();
    if plan.is_empty() {
        let _ = writeln!(text, "-- {name}: nothing to do");
        return text;
    }
    let _ = writeln!(text, "-- {name}: {} steps", plan.secrets.len() + plan.database.len());
    if tenant.spec.suspend {
        let _ = writeln!(text, "-- {name}: suspended: none of them is taken before spec.suspend is false");
    } else if tenant.spec.mode == Mode::Observe {
        let _ = writeln!(text, "-- {name}: mode Observe: none of them is taken, they are reported");
    }
    for taken in &plan.adopted {
        let _ = writeln!(text, "-- {name}: takes over {taken}");
    }
    for (role, objects) in &plan.dependents {
        let _ = writeln!(text, "-- {name}: cannot be taken from role {role}: {}", objects.join(", "));
    }
    for action in &plan.secrets {
        let step = action.describe();
        let _ = writeln!(text, "-- Key Vault {}: {step}", tenant.spec.key_vault_ref.name);
    }
    if !plan.database.is_empty() {
        let _ = writeln!(text, "BEGIN;");
        for statement in sql::statements(desired, plan, &|_| MASKED.to_owned()) {
            let _ = writeln!(text, "{};", statement.text);
            if let Some(kid) = statement.key {
                let _ = writeln!(text, "{}; -- key {kid}: ********", sql::COPY_KEY);
            }
        }
        let _ = writeln!(text, "COMMIT;");
    }
    text
}
