//! What a statement ought to answer: the same statement over tables that hold the scope's rows and no others.
//!
//! One database per scope, filled by the superuser with plain WHERE clauses, without row-level security and without any
//! code of the fence. `fence.visible_stores()` exists there as a constant, since statements may call it.

use futures::{SinkExt, StreamExt, pin_mut};
use storefence_tenancy::scope::StoreSet;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    Tenant, World,
    flight::{Answer, refusal},
};

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

/// A database that holds one scope's rows.
pub struct Oracle {
    client: Client,
}

impl Oracle {
    pub async fn new(world: &World, name: &str, tenant: &Tenant, scope: &StoreSet) -> Self {
        let stores: Vec<Uuid> = tenant.stores.iter().map(|store| store.0).filter(|id| scope.contains(id)).collect();
        let list: Vec<String> = stores.iter().map(|id| format!("'{id}'")).collect();
        let stores = format!("ARRAY[{}]::uuid[]", list.join(","));
        let source = world.superuser().await;
        source.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let client = world.cluster.connect(name).await.unwrap();
        client.batch_execute("CREATE EXTENSION vector; CREATE SCHEMA retail; CREATE SCHEMA fence").await.unwrap();
        for (table, condition) in TABLES {
            let columns: String = source
                .query_one(
                    "SELECT string_agg(quote_ident(attname) || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum) \
                     FROM pg_attribute WHERE attrelid = ('retail.' || $1)::regclass AND attnum > 0 AND NOT attisdropped",
                    &[&table],
                )
                .await
                .unwrap()
                .get(0);
            client.batch_execute(&format!("CREATE TABLE retail.{table} ({columns})")).await.unwrap();
            let condition = condition.replace("$TENANT", &tenant.tenant_key.to_string()).replace("$STORES", &stores);
            let rows = source
                .copy_out(&format!("COPY (SELECT * FROM retail.{table} WHERE {condition}) TO STDOUT"))
                .await
                .unwrap();
            let sink = client.copy_in::<_, bytes::Bytes>(&format!("COPY retail.{table} FROM STDIN")).await.unwrap();
            pin_mut!(rows, sink);
            while let Some(chunk) = rows.next().await {
                sink.send(chunk.unwrap()).await.unwrap();
            }
            sink.finish().await.unwrap();
        }
        // the reader of the oracle has no more rights than the fence's
        client
            .batch_execute(&format!(
                "CREATE FUNCTION fence.visible_stores() RETURNS uuid[] LANGUAGE sql STABLE AS $$ SELECT {stores} $$; \
                 CREATE FUNCTION fence.oracle(query text) RETURNS TABLE (line text) LANGUAGE plpgsql STABLE SECURITY DEFINER \
                 SET search_path = pg_catalog, retail, public, pg_temp AS $$ \
                 DECLARE r record; BEGIN \
                     PERFORM set_config('fence.context', 'of the oracle', true); \
                     FOR r IN EXECUTE query LOOP line := row_to_json(r)::text; RETURN NEXT; END LOOP; END $$; \
                 REVOKE ALL ON DATABASE {name} FROM PUBLIC; \
                 GRANT USAGE ON SCHEMA retail, fence TO fence_reader; GRANT CREATE ON SCHEMA fence TO fence_reader; \
                 GRANT SELECT ON ALL TABLES IN SCHEMA retail TO fence_reader; \
                 ALTER FUNCTION fence.oracle(text) OWNER TO fence_reader; REVOKE CREATE ON SCHEMA fence FROM fence_reader"
            ))
            .await
            .unwrap();
        Self { client }
    }

    pub async fn answer(&self, query: &str) -> Answer {
        self.client.batch_execute("BEGIN READ ONLY").await.unwrap();
        let answer = self.client.query("SELECT line FROM fence.oracle($1)", &[&query]).await;
        self.client.batch_execute("ROLLBACK").await.unwrap();
        Ok(answer.map_err(refusal)?.iter().map(|row| row.get(0)).collect())
    }
}
