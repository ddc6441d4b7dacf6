//! What a statement ought to answer: the same statement over tables that hold the scope's rows and no others.
//!
//! One database per scope, filled by the superuser with plain WHERE clauses, without row-level security and without any
//! code of the fence. `fence.visible_stores()` exists there as a constant, since statements may call it.

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt, pin_mut};
use serde_json::Value;
use storefence_devstack::postgres::Cluster;
use tokio_postgres::Client;
use uuid::Uuid;

/// Tables in an order that needs no constraint, and the condition that leaves the scope's rows.
const TABLES: [(&str, &str); 10] = [
    ("tenants", "tenant_key = $TENANT"),
    ("stores", "store_id = ANY ($STORES)"),
    ("categories", "tenant_key = $TENANT"),
    ("product_types", "tenant_key = $TENANT"),
    ("products", "tenant_key = $TENANT"),
    ("product_description_embeddings", "tenant_key = $TENANT"),
    ("customers", "primary_store_id = ANY ($STORES)"),
    ("orders", "store_id = ANY ($STORES)"),
    ("order_items", "store_id = ANY ($STORES)"),
    ("inventory", "store_id = ANY ($STORES)"),
];

const COLUMNS: &str =
    "SELECT string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
    FROM pg_attribute WHERE attrelid = ('retail.' || $1)::regclass AND attnum > 0 AND NOT attisdropped";

/// A database that holds one scope's rows.
pub struct Oracle {
    client: Client,
}

impl Oracle {
    /// Copies the rows of these stores and this tenant from `source` into the new database `name` of the same cluster.
    ///
    /// # Errors
    /// The database's message.
    pub async fn new(cluster: &Cluster, source: &str, name: &str, tenant_key: i32, stores: &[Uuid]) -> Result<Self> {
        let list: Vec<String> = stores.iter().map(|id| format!("'{id}'")).collect();
        let stores = format!("ARRAY[{}]::uuid[]", list.join(","));
        let source = cluster.connect(source).await?;
        source.batch_execute(&format!("CREATE DATABASE {name}")).await?;
        let client = cluster.connect(name).await?;
        client.batch_execute("CREATE EXTENSION vector; CREATE SCHEMA retail; CREATE SCHEMA fence").await?;
        for (table, condition) in TABLES {
            let columns: String = source.query_one(COLUMNS, &[&table]).await?.get(0);
            client.batch_execute(&format!("CREATE TABLE retail.{table} ({columns})")).await?;
            let condition = condition.replace("$TENANT", &tenant_key.to_string()).replace("$STORES", &stores);
            let rows =
                source.copy_out(&format!("COPY (SELECT * FROM retail.{table} WHERE {condition}) TO STDOUT")).await?;
            let sink = client.copy_in(&format!("COPY retail.{table} FROM STDIN")).await?;
            pin_mut!(rows, sink);
            while let Some(chunk) = rows.next().await {
                sink.send(chunk?).await?;
            }
            sink.finish().await?;
        }
        // The runner of the oracle has no more rights than the fence's. An array of values keeps duplicate names apart.
        client
            .batch_execute(&format!(
                "CREATE FUNCTION fence.visible_stores() RETURNS uuid[] LANGUAGE sql STABLE AS $$ SELECT {stores} $$;
                 CREATE FUNCTION fence.oracle(query text, named boolean) RETURNS TABLE (line text) LANGUAGE plpgsql STABLE SECURITY DEFINER
                 SET search_path = pg_catalog, retail, public, pg_temp AS $$
                 DECLARE r record; BEGIN
                     PERFORM set_config('fence.context', 'of the oracle', true);
                     FOR r IN EXECUTE query LOOP
                         line := row_to_json(r)::text;
                         IF NOT named THEN line := (SELECT json_agg(value) FROM json_each(line::json)); END IF;
                         RETURN NEXT;
                     END LOOP; END $$;
                 REVOKE ALL ON DATABASE {name} FROM PUBLIC;
                 GRANT USAGE ON SCHEMA retail, fence TO fence_runner; GRANT CREATE ON SCHEMA fence TO fence_runner;
                 GRANT SELECT ON ALL TABLES IN SCHEMA retail TO fence_runner;
                 ALTER FUNCTION fence.oracle(text, boolean) OWNER TO fence_runner; REVOKE CREATE ON SCHEMA fence FROM fence_runner"
            ))
            .await?;
        Ok(Self { client })
    }

    /// The rows of a statement, each as the JSON text that the fence gives.
    ///
    /// # Errors
    /// PostgreSQL's message on the statement.
    pub async fn lines(&self, query: &str) -> Result<Vec<String>, tokio_postgres::Error> {
        Ok(self.run(query, true).await?.into_iter().flatten().collect())
    }

    /// The rows of a statement, or the SQLSTATE that it fails with.
    ///
    /// # Errors
    /// The oracle itself does not work.
    pub async fn answer(&self, query: &str) -> Result<Result<Vec<Vec<Value>>, String>> {
        match self.run(query, false).await {
            Ok(lines) => {
                let parsed = lines.iter().map(|line| line.as_deref().map_or(Ok(Vec::new()), serde_json::from_str));
                Ok(Ok(parsed.collect::<serde_json::Result<_>>()?))
            }
            Err(error) => Ok(Err(error.code().context("the oracle is gone")?.code().to_owned())),
        }
    }

    async fn run(&self, query: &str, named: bool) -> Result<Vec<Option<String>>, tokio_postgres::Error> {
        self.client.batch_execute("BEGIN READ ONLY").await?;
        let answer = self.client.query("SELECT line FROM fence.oracle($1, $2)", &[&query, &named]).await;
        self.client.batch_execute("ROLLBACK").await?;
        Ok(answer?.iter().map(|row| row.get(0)).collect())
    }
}
