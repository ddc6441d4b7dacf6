//! Which products need a vector, and writing it.

use sqlx::{AssertSqlSafe, Connection, Row, SqlSafeStr, postgres::PgConnection};
use uuid::Uuid;

use super::batch::Embedded;

/// A product whose vector is missing or outdated.
pub struct Stale {
    pub product_id: Uuid,
    /// What is embedded.
    pub text: String,
}

/// What is embedded of a product: its name in its place in the catalogue, then the description, which in many catalogues
/// begins with the name again.
const TEXT: &str =
    "p.product_name || E'\\n' || c.category_name || ', ' || t.type_name || E'\\n' || p.product_description";

/// Products of the tenant `$1` (null: of all) whose vector is not of the model `$2` and of their text.
fn stale_from(columns: &str, rest: &str) -> impl SqlSafeStr {
    AssertSqlSafe(format!(
        "SELECT {columns} FROM retail.products p \
           JOIN retail.categories c USING (category_id) \
           JOIN retail.product_types t USING (type_id) \
           LEFT JOIN retail.product_description_embeddings e ON e.product_id = p.product_id \
          WHERE ($1::integer IS NULL OR p.tenant_key = $1) \
            AND (e.model, e.content_hash) IS DISTINCT FROM ($2, encode(sha256(convert_to({TEXT}, 'UTF8')), 'hex')) {rest}"
    ))
}

/// The number of a tenant.
pub async fn tenant(connection: &mut PgConnection, name: &str) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar("SELECT tenant_key FROM retail.tenants WHERE tenant_id = $1")
        .bind(name)
        .fetch_optional(connection)
        .await
}

/// Products in all, and those that need a vector.
pub async fn count(connection: &mut PgConnection, tenant: Option<i32>, model: &str) -> Result<(u64, u64), sqlx::Error> {
    let products: i64 =
        sqlx::query_scalar("SELECT count(*) FROM retail.products WHERE $1::integer IS NULL OR tenant_key = $1")
            .bind(tenant)
            .fetch_one(&mut *connection)
            .await?;
    let stale: i64 =
        sqlx::query_scalar(stale_from("count(*)", "")).bind(tenant).bind(model).fetch_one(connection).await?;
    Ok((u64::try_from(products).unwrap_or(0), u64::try_from(stale).unwrap_or(0)))
}

/// The next products that need a vector, in the order of their identifiers.
pub async fn stale(
    connection: &mut PgConnection,
    tenant: Option<i32>,
    model: &str,
    after: Option<Uuid>,
    limit: u32,
) -> Result<Vec<Stale>, sqlx::Error> {
    let rest = "AND ($3::uuid IS NULL OR p.product_id > $3) ORDER BY p.product_id LIMIT $4";
    let rows = sqlx::query(stale_from(&format!("p.product_id, {TEXT}"), rest))
        .bind(tenant)
        .bind(model)
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await?;
    rows.iter().map(|row| Ok(Stale { product_id: row.try_get(0)?, text: row.try_get(1)? })).collect()
}

/// Characters of a text whose words are kept: PostgreSQL refuses a `tsvector` of more than 1 MB.
const WORDS_MAX: i32 = 100_000;

/// Writes a batch whole or not at all. Products that are gone by now are left out; one whose text has changed keeps the
/// hash of the text that was embedded, so the next run meets it again.
pub async fn write(connection: &mut PgConnection, model: &str, batch: &[Embedded<'_>]) -> Result<(), sqlx::Error> {
    // real[] becomes a vector on assignment, wherever pgvector's schema is.
    let statement = "INSERT INTO retail.product_description_embeddings \
             (product_id, tenant_key, description_embedding, model, content_hash, search_document) \
         SELECT p.product_id, p.tenant_key, $2::real[], $3, encode(sha256(convert_to($4, 'UTF8')), 'hex'), \
                setweight(to_tsvector('english', left(p.product_name, $5) || ' ' || left(p.sku, $5)), 'A') \
                    || to_tsvector('english', left($4, $5)) \
           FROM retail.products p WHERE p.product_id = $1 \
         ON CONFLICT (product_id) DO UPDATE SET description_embedding = excluded.description_embedding, \
             model = excluded.model, content_hash = excluded.content_hash, search_document = excluded.search_document, \
             updated_at = now()";
    let mut transaction = connection.begin().await?;
    for (product, vector) in batch {
        sqlx::query(statement)
            .bind(product.product_id)
            .bind(vector)
            .bind(model)
            .bind(&product.text)
            .bind(WORDS_MAX)
            .execute(&mut *transaction)
            .await?;
    }
    transaction.commit().await
}

/// Statistics, without which the planner takes the table for empty until autovacuum has been there.
pub async fn analyze(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("ANALYZE retail.product_description_embeddings").execute(connection).await.map(drop)
}
