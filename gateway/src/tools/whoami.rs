//! `whoami`: who the token is as the gateway sees it.

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use storefence_tenancy::resource::Role;

use super::{Caller, Services, Tool, ToolError, stores, typed::TypedTool};

/// Returns tenant, role, stores, tools and limits.
pub struct Whoami;

#[derive(Deserialize, JsonSchema)]
pub struct Arguments {}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Me {
    #[schemars(with = "String")]
    role: Role,
    tenant_id: String,
    tenant_name: String,
    stores: Vec<String>,
    rules: Vec<String>,
    tools: Vec<String>,
    limits: Limits,
    expires: String,
    directory_id: String,
    object_id: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Limits {
    max_rows: u32,
    max_result_bytes: u32,
    statement_timeout_seconds: f64,
}

impl TypedTool for Whoami {
    const NAME: &'static str = "whoami";
    const TITLE: &'static str = "Who you are here";
    const DESCRIPTION: &'static str = "Tells who you are as the gateway sees your token: the tenant, your role, the stores you answer for, the tools you may \
         use, the rules that granted them, the limits of your statements and when the token expires. Call it when rows seem to be missing.";
    const REST: &'static str = "execute_sales_query pages through retail.stores";
    type Answer = Me;
    type Arguments = Arguments;

    async fn run(&self, services: &Services, caller: &Caller, _: Arguments) -> Result<Me, ToolError> {
        let (tenant, scope, claims) = (&caller.tenant, &caller.scope, &caller.principal.claims);
        let expires = i64::try_from(caller.principal.expires()).unwrap_or(i64::MAX);
        let limits = tenant.limits;
        Ok(Me {
            role: scope.role(),
            tenant_id: tenant.id().as_str().to_owned(),
            tenant_name: tenant.display_name.to_string(),
            stores: stores::in_scope(caller).into_iter().map(|(_, store)| store.name.to_string()).collect(),
            rules: scope.rules().iter().map(ToString::to_string).collect(),
            tools: services.tools.granted(scope).map(|tool| Tool::name(tool).to_owned()).collect(),
            limits: Limits {
                max_rows: limits.max_rows,
                max_result_bytes: limits.max_bytes,
                statement_timeout_seconds: limits.timeout.as_secs_f64(),
            },
            expires: Timestamp::from_second(expires).unwrap_or(Timestamp::MAX).to_string(),
            directory_id: claims.tid.to_string(),
            object_id: claims.oid.to_string(),
        })
    }
}
