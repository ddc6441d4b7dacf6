//! Damage to the fence that no row shows, because contexts are honest and the gate refuses the words that would make use of
//! it. A suite that it passes by unnoticed would prove nothing.

use anyhow::Result;
use tokio_postgres::Client;

/// Believes what the setting says, signed or not.
const TRUSTING: &str =
    "CREATE OR REPLACE FUNCTION fence.visible_stores() RETURNS uuid[] LANGUAGE plpgsql STABLE SECURITY DEFINER
    PARALLEL RESTRICTED SET search_path = pg_catalog, pg_temp AS $$
    DECLARE
        stores text := split_part(split_part(current_setting('fence.context', true), '.', 1), '|', 7);
    BEGIN
        IF stores <> '*' THEN RETURN string_to_array(stores, ',')::uuid[]; END IF;
        RETURN (SELECT array_agg(store_id) FROM fence.tenant_stores WHERE tenant_key = fence.tenant_key());
    END $$";

/// One way to damage the fence.
pub struct Damage {
    pub what: &'static str,
    pub statement: String,
    /// What makes the fence whole again.
    pub repair: String,
}

/// The ways, for the fence of this database.
///
/// # Errors
/// The database's.
pub async fn unseen_in_rows(superuser: &Client) -> Result<[Damage; 3]> {
    let text = |row: tokio_postgres::Row| row.get::<_, String>(0);
    let login = "SELECT login::text FROM fence.logins ORDER BY 1 LIMIT 1";
    let login = text(superuser.query_one(login, &[]).await?);
    let body = "SELECT pg_get_functiondef('fence.visible_stores()'::regprocedure)";
    Ok([
        Damage {
            what: "a function that trusts the setting",
            statement: TRUSTING.to_owned(),
            repair: text(superuser.query_one(body, &[]).await?),
        },
        Damage {
            what: "FORCE removed",
            statement: "ALTER TABLE retail.orders NO FORCE ROW LEVEL SECURITY".to_owned(),
            repair: "ALTER TABLE retail.orders FORCE ROW LEVEL SECURITY".to_owned(),
        },
        Damage {
            what: "a login that is a member of the owner",
            statement: format!("GRANT retail_owner TO {login}"),
            repair: format!("REVOKE retail_owner FROM {login}"),
        },
    ])
}
