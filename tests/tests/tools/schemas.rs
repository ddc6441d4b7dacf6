//! `get_multiple_table_schemas`.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use storefence_devstack::mcp_client::Revision;
use storefence_tests::Shared;

use super::administrator::{ROLES, call, row};

const TOOL: &str = "get_multiple_table_schemas";

/// What PostgreSQL's own catalog says of the tables, in the words of the answer, but for rows and hints.
const CATALOG: &str = "SELECT json_build_object(
    'name', 'retail.' || c.relname,
    'comment', obj_description(c.oid, 'pg_class'),
    'columns', (SELECT json_agg(json_build_object(
            'name', a.attname, 'type', format_type(a.atttypid, a.atttypmod), 'nullable', NOT a.attnotnull,
            'default', (SELECT pg_get_expr(d.adbin, d.adrelid) FROM pg_attrdef d WHERE d.adrelid = c.oid AND d.adnum = a.attnum),
            'comment', col_description(c.oid, a.attnum)) ORDER BY a.attnum)
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
    'constraints', (SELECT coalesce(json_agg(json_build_object(
            'kind', k.contype::text, 'columns', names.local, 'table', r.relname, 'references', names.far)), '[]')
        FROM pg_constraint k LEFT JOIN pg_class r ON r.oid = k.confrelid
        CROSS JOIN LATERAL (SELECT
            (SELECT json_agg(a.attname ORDER BY array_position(k.conkey, a.attnum)) FROM pg_attribute a
              WHERE a.attrelid = k.conrelid AND a.attnum = ANY (k.conkey)) AS local,
            (SELECT json_agg(a.attname ORDER BY array_position(k.confkey, a.attnum)) FROM pg_attribute a
              WHERE a.attrelid = k.confrelid AND a.attnum = ANY (k.confkey)) AS far) names
        WHERE k.conrelid = c.oid AND k.contype IN ('p', 'u', 'f')))::text
    FROM pg_class c WHERE c.relnamespace = 'retail'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm') ORDER BY c.relname";

/// Elements in no order of their own.
fn sorted(values: impl Iterator<Item = Value>) -> Vec<String> {
    let mut texts: Vec<String> = values.map(|value| value.to_string()).collect();
    texts.sort();
    texts
}

pub async fn catalog(shared: &Shared) -> Result<()> {
    let answer = call(shared, "seattle-manager", TOOL, json!({})).await?;
    let tables = answer["tables"].as_array().context("no tables")?;
    let expected = shared.database.query(CATALOG, &[]).await?;
    ensure!(tables.len() == expected.len(), "{} tables of {}", tables.len(), expected.len());
    let (mut keys, mut relationships, mut defaults) = (0, 0, 0);
    for (table, expected) in tables.iter().zip(&expected) {
        let expected: Value = serde_json::from_str(&expected.get::<_, String>(0))?;
        let name = &expected["name"];
        for field in ["name", "comment", "columns"] {
            ensure!(table[field] == expected[field], "{name} {field}: {}, not {}", table[field], expected[field]);
        }
        let columns = table["columns"].as_array().context("no columns")?;
        ensure!(columns.iter().all(|column| column["comment"].is_string()), "{name}: a column without a comment");
        defaults += columns.iter().filter(|column| column["default"].is_string()).count();
        let all = || expected["constraints"].as_array().into_iter().flatten();
        let own = all().filter(|known| known["kind"] != "f");
        let own = sorted(own.map(|known| json!({"primary": known["kind"] == "p", "columns": known["columns"]})));
        let far = all().filter(|known| known["kind"] == "f");
        let far = sorted(far.map(
            |known| json!({"columns": known["columns"], "table": known["table"], "references": known["references"]}),
        ));
        for (field, expected) in [("keys", own), ("relationships", far)] {
            let found = sorted(table[field].as_array().into_iter().flatten().cloned());
            ensure!(found == expected, "{name} {field}: {found:?}, not {expected:?}");
            *(if field == "keys" { &mut keys } else { &mut relationships }) += found.len();
        }
        let hints = table["hints"].as_array().with_context(|| format!("{name}: no hints"))?;
        let spoken_of = ["orders", "order_items", "products", "customers", "inventory", "stores"];
        let expected = spoken_of.iter().any(|known| *name == format!("retail.{known}"));
        ensure!(
            !expected || hints.iter().any(|hint| hint.as_str().is_some_and(|hint| hint.len() > 20)),
            "{name}: {hints:?}"
        );
    }
    ensure!(
        keys > 10 && relationships > 8 && defaults > 3,
        "{keys} keys, {relationships} relationships, {defaults} defaults"
    );
    Ok(())
}

/// Counting stops where it would cost more than the count is worth.
pub async fn many(shared: &Shared) -> Result<()> {
    let (owner, connection) =
        tokio_postgres::connect(&shared.stack.facts().database_url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let seattle = "(SELECT store_id FROM retail.stores WHERE store_name = 'Seattle')";
    let fill = format!(
        "SET ROLE retail_loader; INSERT INTO retail.customers (primary_store_id, first_name, last_name, email) \
         SELECT {seattle}, 'One', 'Of many', 'many' || i || '@example.com' FROM generate_series(1, 100001) i"
    );
    let ask = async || -> Result<(Value, Value)> {
        let answer = call(shared, "seattle-manager", TOOL, json!({"table_names": ["customers"]})).await?;
        Ok((answer["tables"][0]["rows"].clone(), answer["tables"][0]["rowsAtLeast"].clone()))
    };
    let (before, at_least) = ask().await?;
    ensure!(at_least == false, "{before}");
    owner.batch_execute(&fill).await?;
    let filled = ask().await;
    owner.batch_execute("DELETE FROM retail.customers WHERE last_name = 'Of many'").await?;
    ensure!(filled? == (json!(100_000), json!(true)), "more than a hundred thousand");
    ensure!(ask().await? == (before, json!(false)));
    Ok(())
}

/// A year without an order in between is none of the years with orders.
pub async fn gap(shared: &Shared) -> Result<()> {
    let pick = "SELECT array_agg(order_id), array_agg(order_date::text), extract(year FROM min(order_date) AT TIME ZONE 'UTC')::int \
        FROM retail.orders JOIN retail.stores USING (store_id) WHERE store_name = 'Redmond' \
         AND extract(year FROM order_date AT TIME ZONE 'UTC') = extract(year FROM now() AT TIME ZONE 'UTC') - 3";
    let row = shared.database.query_one(pick, &[]).await?;
    let (orders, dates, year) = (row.get::<_, Vec<uuid::Uuid>>(0), row.get::<_, Vec<String>>(1), row.get::<_, i32>(2));
    let put = "UPDATE retail.orders o SET order_date = s.at::timestamptz + $3::text::interval \
        FROM unnest($1::uuid[], $2::text[]) s (id, at) WHERE o.order_id = s.id";
    let years = async || -> Result<Vec<i64>> {
        let answer = call(shared, "redmond-manager", TOOL, json!({"table_names": ["orders"]})).await?;
        let years = answer["validValues"]["orderYears"].as_array().context("no years")?;
        Ok(years.iter().filter_map(Value::as_i64).collect())
    };
    let before = years().await?;
    ensure!(before.contains(&i64::from(year)), "{before:?}");
    shared.database.execute(put, &[&orders, &dates, &"1 year"]).await?;
    let without = years().await;
    shared.database.execute(put, &[&orders, &dates, &"0 years"]).await?;
    let expected: Vec<_> = before.iter().copied().filter(|known| *known != i64::from(year)).collect();
    ensure!(without? == expected && expected.len() == before.len() - 1, "{expected:?}");
    ensure!(years().await? == before);
    Ok(())
}

pub async fn scope(shared: &Shared) -> Result<()> {
    for (principal, stores) in ROLES {
        let answer =
            call(shared, principal, TOOL, json!({"table_names": ["retail.orders", "customers", "stores"]})).await?;
        let values = row(
            shared,
            stores,
            "SELECT (SELECT json_agg(store_name ORDER BY store_name) FROM stores) AS stores,
                (SELECT json_agg(category_name ORDER BY category_name) FROM categories) AS categories,
                (SELECT json_object_agg(category_name, types) FROM (SELECT category_name, json_agg(type_name ORDER BY type_name) AS types
                    FROM categories JOIN product_types USING (category_id) GROUP BY 1) t) AS \"productTypes\",
                (SELECT json_agg(y ORDER BY y) FROM (SELECT DISTINCT extract(year FROM order_date AT TIME ZONE 'UTC')::int AS y FROM orders) y) AS \"orderYears\",
                (SELECT count(*) FROM orders) AS orders, (SELECT count(*) FROM customers) AS customers",
        )
        .await?;
        for name in ["stores", "categories", "productTypes", "orderYears"] {
            ensure!(
                answer["validValues"][name] == values[name],
                "{principal} {name}: {}, not {}",
                answer["validValues"][name],
                values[name]
            );
        }
        let counted = |name: &str| {
            answer["tables"]
                .as_array()
                .into_iter()
                .flatten()
                .find(|table| table["name"] == name)
                .map(|table| table["rows"].clone())
        };
        ensure!(counted("retail.orders").as_ref() == Some(&values["orders"]), "{principal}: hidden orders are counted");
        ensure!(
            counted("retail.customers").as_ref() == Some(&values["customers"]),
            "{principal}: hidden customers are counted"
        );
    }
    let contoso = call(shared, "contoso-head-office", TOOL, json!({"table_names": ["stores"]})).await?;
    let text = contoso.to_string();
    ensure!(!text.contains("Redmond") && !text.contains("POWER TOOLS"), "{}", contoso["validValues"]);
    for revision in Revision::ALL {
        for name in ["fence.tenants", "context_keys", "nothing", "pg_class"] {
            let client = shared.client("seattle-manager", revision)?;
            let answer = client.call_tool(TOOL, json!({"table_names": ["orders", name]})).await?;
            let said = answer.structured()["message"].as_str().unwrap_or_default();
            ensure!(answer.is_tool_error() && answer.structured()["code"] == "VALIDATION_ERROR", "{answer:?}");
            ensure!(said.contains(name) && said.contains("valid names are categories, customers"), "{said}");
        }
    }
    Ok(())
}

/// A migration acts on the next call: the remembered schema is of another version.
pub async fn migrated(shared: &Shared) -> Result<()> {
    let columns = |answer: &Value| answer["tables"][0]["columns"].as_array().map_or(0, Vec::len);
    let before = call(shared, "seattle-manager", TOOL, json!({"table_names": ["inventory"]})).await?;
    let (owner, connection) =
        tokio_postgres::connect(&shared.stack.facts().database_url, tokio_postgres::NoTls).await?;
    tokio::spawn(connection);
    let ask = async || call(shared, "seattle-manager", TOOL, json!({"table_names": ["inventory"]})).await;
    owner
        .batch_execute("SET ROLE retail_owner; ALTER TABLE retail.inventory ADD COLUMN shelf text; RESET ROLE")
        .await?;
    // Callers see what the view has.
    let hidden = ask().await;
    let view = async |columns: &str| {
        let view = format!(
            "SET ROLE fence_reader; DROP VIEW views_retail.inventory; CREATE VIEW views_retail.inventory AS SELECT {columns} FROM retail.inventory; \
             GRANT SELECT ON views_retail.inventory TO fence_runner; RESET ROLE"
        );
        owner.batch_execute(&view).await
    };
    let own = "store_id, product_id, stock_level, updated_at";
    view(&format!("{own}, shelf")).await?;
    let after = ask().await;
    view(own).await?;
    owner.batch_execute("SET ROLE retail_owner; ALTER TABLE retail.inventory DROP COLUMN shelf; RESET ROLE").await?;
    ensure!(columns(&hidden?) == columns(&before), "a column that no view has shows");
    ensure!(columns(&after?) == columns(&before) + 1, "the new column does not show");
    let again = call(shared, "seattle-manager", TOOL, json!({"table_names": ["inventory"]})).await?;
    ensure!(columns(&again) == columns(&before), "the dropped column still shows");
    Ok(())
}
