//! Getting the rows into the database.
//!
//! `COPY FROM` is refused on a table whose row-level security applies to the role, and it applies to every role but a
//! superuser. So rows are copied to a temporary table and inserted from there.

use std::fmt::Write as _;

use jiff::civil::Date;
use sqlx::{AssertSqlSafe, Row, SqlSafeStr, postgres::PgConnection};

use super::{
    Progress, Report, SeedError, catalogue::Catalogue, customers::Customers, orders::Orders, random::Stream,
    tenants::SampleTenant,
};

/// Bytes sent at a time.
const CHUNK: usize = 1 << 18;

/// Makes sure that tenant and stores exist, whoever comes first: this or the operator.
pub async fn tenant(connection: &mut PgConnection, sample: &SampleTenant) -> Result<i32, SeedError> {
    sqlx::query(
        "INSERT INTO retail.tenants (tenant_id, display_name) VALUES ($1, $2) ON CONFLICT (tenant_id) DO NOTHING",
    )
    .bind(sample.id)
    .bind(sample.display_name)
    .execute(&mut *connection)
    .await?;
    let tenant_key: i32 = sqlx::query_scalar("SELECT tenant_key FROM retail.tenants WHERE tenant_id = $1")
        .bind(sample.id)
        .fetch_one(&mut *connection)
        .await?;
    for store in sample.stores {
        sqlx::query(
            "INSERT INTO retail.stores (store_id, tenant_key, store_name, display_name, is_online) VALUES ($1, $2, $3, $4, $5) \
             ON CONFLICT (store_id) DO UPDATE SET is_online = excluded.is_online WHERE stores.is_online <> excluded.is_online",
        )
        .bind(store.id)
        .bind(tenant_key)
        .bind(store.name)
        .bind(format!("{} {}", sample.display_name, store.name))
        .bind(store.online)
        .execute(&mut *connection)
        .await?;
    }
    Ok(tenant_key)
}

/// The tenant's orders so far.
pub async fn orders_of(connection: &mut PgConnection, tenant_key: i32) -> Result<i64, SeedError> {
    Ok(sqlx::query_scalar(
        "SELECT count(*) FROM retail.orders JOIN retail.stores USING (store_id) WHERE tenant_key = $1",
    )
    .bind(tenant_key)
    .fetch_one(connection)
    .await?)
}

/// What the tenant has.
pub async fn counts(connection: &mut PgConnection, tenant_key: i32) -> Result<Report, SeedError> {
    let row = sqlx::query(
        "WITH own AS (SELECT store_id FROM retail.stores WHERE tenant_key = $1) \
         SELECT (SELECT count(*) FROM retail.products WHERE tenant_key = $1), \
                (SELECT count(*) FROM retail.customers WHERE primary_store_id IN (SELECT store_id FROM own)), \
                (SELECT count(*) FROM retail.orders WHERE store_id IN (SELECT store_id FROM own)), \
                (SELECT count(*) FROM retail.order_items WHERE store_id IN (SELECT store_id FROM own))",
    )
    .bind(tenant_key)
    .fetch_one(connection)
    .await?;
    let count = |index: usize| row.try_get::<i64, _>(index).map(|count| u64::try_from(count).unwrap_or(0));
    Ok(Report { loaded: false, products: count(0)?, customers: count(1)?, orders: count(2)?, order_items: count(3)? })
}

/// Categories, types, products.
pub async fn catalogue(connection: &mut PgConnection, tenant_key: i32, catalogue: &Catalogue) -> Result<(), SeedError> {
    let mut copy = Copy::start(connection, "categories", "category_id, tenant_key, category_name").await?;
    for category in &catalogue.categories {
        copy.row(&[&category.id, &tenant_key, &category.name]).await?;
    }
    copy.finish().await?;
    let mut copy = Copy::start(connection, "product_types", "type_id, tenant_key, category_id, type_name").await?;
    for item in &catalogue.types {
        copy.row(&[&item.id, &tenant_key, &item.category, &item.name]).await?;
    }
    copy.finish().await?;
    let columns =
        "product_id, tenant_key, sku, product_name, category_id, type_id, cost, base_price, product_description";
    let mut copy = Copy::start(connection, "products", columns).await?;
    for item in &catalogue.products {
        let (cost, price) = (Cents(item.cost), Cents(item.price));
        let row: [&(dyn std::fmt::Display + Sync); 9] = [
            &item.id,
            &tenant_key,
            &item.sku,
            &item.name,
            &item.category,
            &item.product_type,
            &cost,
            &price,
            &item.description,
        ];
        copy.row(&row).await?;
    }
    copy.finish().await
}

/// Stock of every product in every store.
pub async fn inventory(
    connection: &mut PgConnection,
    sample: &SampleTenant,
    catalogue: &Catalogue,
) -> Result<(), SeedError> {
    let mut copy = Copy::start(connection, "inventory", "store_id, product_id, stock_level").await?;
    for (number, store) in sample.stores.iter().enumerate() {
        let mut stream = Stream::new(sample.id, "stock", number as u64);
        for product in &catalogue.products {
            let level = if stream.chance(3) { 0 } else { 1 + stream.below(20 + 4 * store.weight) };
            copy.row(&[&store.id, &product.id, &level]).await?;
        }
    }
    copy.finish().await
}

/// Customers, with the day of each one's first order.
pub async fn customers(
    connection: &mut PgConnection,
    customers: &Customers,
    first_orders: &[Option<Date>],
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), SeedError> {
    let columns = "customer_id, primary_store_id, first_name, last_name, email, phone, created_at";
    let mut copy = Copy::start(connection, "customers", columns).await?;
    for number in 0..customers.count {
        let first_order = usize::try_from(number).ok().and_then(|at| first_orders.get(at).copied()).flatten();
        let customer = customers.customer(number, first_order);
        let phone = customer.phone.as_deref().unwrap_or("\\N");
        let since = Moment(customer.since, 20 * 3_600);
        copy.row(&[
            &customer.id,
            &customer.store,
            &customer.first_name,
            &customer.last_name,
            &customer.email,
            &phone,
            &since,
        ])
        .await?;
        report(progress, "customers", number + 1, customers.count);
    }
    copy.finish().await
}

/// Orders, then their lines: two passes over the same rows, since one connection takes one COPY at a time.
pub async fn sales(
    connection: &mut PgConnection,
    orders: &Orders<'_>,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), SeedError> {
    let mut copy = Copy::start(connection, "orders", "order_id, store_id, customer_id, order_date").await?;
    for number in 0..orders.count {
        let order = orders.order(number);
        copy.row(&[&order.id, &order.store, &order.customer, &Moment(order.day, order.second)]).await?;
        report(progress, "orders", number + 1, orders.count);
    }
    copy.finish().await?;
    let columns = "order_item_id, order_id, store_id, product_id, quantity, unit_price, discount_percent, discount_amount, total_amount";
    let mut copy = Copy::start(connection, "order_items", columns).await?;
    let mut lines = 0;
    for number in 0..orders.count {
        let order = orders.order(number);
        for line in &order.lines {
            let (price, discount, total) = (Cents(line.unit_price), Cents(line.discount_amount), Cents(line.total));
            let row: [&(dyn std::fmt::Display + Sync); 9] = [
                &line.id,
                &order.id,
                &order.store,
                &line.product,
                &line.quantity,
                &price,
                &line.discount_percent,
                &discount,
                &total,
            ];
            copy.row(&row).await?;
            lines += 1;
        }
        report(progress, "order_items", lines, lines.max(orders.count * 245 / 100));
    }
    copy.finish().await
}

/// Statistics: without them the planner takes the tables for empty until autovacuum has been there.
pub async fn analyze(connection: &mut PgConnection) -> Result<(), SeedError> {
    sqlx::raw_sql(
        "ANALYZE retail.tenants, retail.stores, retail.categories, retail.product_types, retail.products, retail.customers, \
         retail.orders, retail.order_items, retail.inventory",
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Every thousandth row and the last.
fn report(progress: &(dyn Fn(Progress) + Send + Sync), table: &'static str, rows: u64, total: u64) {
    if rows.is_multiple_of(1_000) || rows == total {
        progress(Progress { table, rows, total });
    }
}

/// Rows on their way into one table.
struct Copy<'c> {
    connection: &'c mut PgConnection,
    table: &'static str,
    columns: &'static str,
    buffer: String,
}

impl<'c> Copy<'c> {
    async fn start(
        connection: &'c mut PgConnection,
        table: &'static str,
        columns: &'static str,
    ) -> Result<Self, SeedError> {
        let staging = format!(
            "CREATE TEMPORARY TABLE seed_{table} ON COMMIT DROP AS SELECT {columns} FROM retail.{table} WITH NO DATA"
        );
        sqlx::raw_sql(AssertSqlSafe(staging).into_sql_str()).execute(&mut *connection).await?;
        Ok(Self { connection, table, columns, buffer: String::with_capacity(CHUNK + 1_024) })
    }

    /// One row in COPY's text format. No value of ours holds a tab, a line end or a backslash, but for `\N`.
    async fn row(&mut self, fields: &[&(dyn std::fmt::Display + Sync)]) -> Result<(), SeedError> {
        for (index, field) in fields.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\t" };
            // writing to a String cannot fail
            let _ = write!(self.buffer, "{separator}{field}");
        }
        self.buffer.push('\n');
        if self.buffer.len() >= CHUNK { self.send().await } else { Ok(()) }
    }

    async fn send(&mut self) -> Result<(), SeedError> {
        let statement = format!("COPY pg_temp.seed_{} FROM STDIN", self.table);
        let mut copy = self.connection.copy_in_raw(&statement).await?;
        copy.send(self.buffer.as_bytes()).await?;
        copy.finish().await?;
        self.buffer.clear();
        Ok(())
    }

    async fn finish(mut self) -> Result<(), SeedError> {
        if !self.buffer.is_empty() {
            self.send().await?;
        }
        let (table, columns) = (self.table, self.columns);
        let statement = format!(
            "INSERT INTO retail.{table} ({columns}) SELECT {columns} FROM pg_temp.seed_{table}; DROP TABLE pg_temp.seed_{table}"
        );
        sqlx::raw_sql(AssertSqlSafe(statement).into_sql_str()).execute(self.connection).await?;
        Ok(())
    }
}

/// An amount of money.
struct Cents(u64);

impl std::fmt::Display for Cents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// A point in time: a day and seconds after midnight, UTC.
struct Moment(Date, u64);

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (hour, minute, second) = (self.1 / 3_600, self.1 / 60 % 60, self.1 % 60);
        write!(f, "{} {hour:02}:{minute:02}:{second:02}+00", self.0)
    }
}
