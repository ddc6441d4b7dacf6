//! Search by meaning among 50,000 products in 50 tenants (500,000 with `--large`), against exact search with the same
//! vector at hand.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use bytes::{BufMut, BytesMut};
use futures::SinkExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;
use storefence_tenancy::scope::StoreSet;
use tokio_postgres::Statement;
use uuid::Uuid;

use super::Settings;
use crate::{
    flight::{Session, Tenant},
    provision::Fenced,
    report::{Aim, Report, Row, median},
};

const DIMENSIONS: usize = 1536;
const MODEL: &str = "bench";
const TENANTS: usize = 50;
const WANTED: i32 = 20;
/// Searches of one round.
const SEARCHES: usize = 15;
/// Who has how many: one with ten products, one with the sample's catalogue, one with a hundredth of all, one with a
/// sixth, one with nearly half. All of them are searched by signs.
const TINY: usize = 1;
const SAMPLE: usize = 2;
const HUNDREDTH: usize = 3;
const LARGE: usize = 4;
const LARGEST: usize = 5;

pub async fn run(settings: Settings, report: &mut Report) -> Result<()> {
    measure(50_000, settings, report).await?;
    if settings.large {
        measure(500_000, settings, report).await?;
    }
    Ok(())
}

/// Products of a tenant, numbered from 1.
fn size(tenant: usize, total: usize) -> usize {
    let (large, largest) = (total * 4 / 25, total * 9 / 20);
    match tenant {
        TINY => 10,
        SAMPLE => 420,
        HUNDREDTH => total / 100,
        LARGE => large,
        LARGEST => largest,
        _ => (total - 10 - 420 - total / 100 - large - largest) / (TENANTS - 5),
    }
}

async fn measure(total: usize, settings: Settings, report: &mut Report) -> Result<()> {
    println!("{total} products in {TENANTS} tenants");
    let directory = tempfile::tempdir()?;
    let fenced = Fenced::start(directory.path()).await?;
    fenced.provision(TENANTS, 4).await?;
    let begun = Instant::now();
    let mut vectors = Vectors::new(total / 150);
    fill(&fenced, total, &mut vectors).await?;
    println!("  filled in {:.0} s", begun.elapsed().as_secs_f64());
    let name = |number: usize| match number {
        TINY => "a tenant of 10".to_owned(),
        SAMPLE => "a tenant of 420".to_owned(),
        HUNDREDTH => format!("a tenant with 1 % of {total}"),
        LARGE => format!("a tenant with 16 % of {total}"),
        _ => format!("a tenant with 45 % of {total}"),
    };
    let aims = [(TINY, None), (SAMPLE, Some(1.0)), (HUNDREDTH, None), (LARGE, Some(0.3)), (LARGEST, Some(0.3))];
    for (number, slowest) in aims {
        let tenant = fenced.tenant(number).await?;
        let mut searcher = Searcher::open(&fenced, &tenant, fenced.key_of(number).await?).await?;
        let (mut times, mut recalls) = (Vec::new(), Vec::new());
        for round in 0..=settings.rounds {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            for _ in 0..SEARCHES {
                let vector = vectors.next();
                let begun = Instant::now();
                let found = searcher.fenced(&vector).await?;
                ours.push(milliseconds(begun.elapsed()));
                let begun = Instant::now();
                let exact = searcher.exact(&vector).await?;
                theirs.push(milliseconds(begun.elapsed()));
                let expected = size(number, total).min(usize::try_from(WANTED)?);
                ensure!(
                    found.len() == expected && exact.len() == expected,
                    "{} and {} of {expected}",
                    found.len(),
                    exact.len()
                );
                recalls.push(found.intersection(&exact).count() as f64 / exact.len() as f64);
            }
            if round > 0 {
                times.push((median(&ours), median(&theirs)));
            }
        }
        let recall = recalls.iter().sum::<f64>() / recalls.len() as f64;
        let id = format!("search.{total}.{}", size(number, total));
        let what = format!("search by meaning, {}, recall@20", name(number));
        report.add(Row::absolute(&format!("{id}.recall"), &what, "", Aim::AtLeast(0.95), &[recall]));
        let what = format!("search by meaning, {}, p50", name(number));
        let aim = slowest.map_or(Aim::Smaller, Aim::AtMost);
        report.add(Row::ratio(&format!("{id}.p50"), &what, "exact search, explicit filter", "ms", aim, &times));
    }
    fenced.stop().await
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Products with vectors.
async fn fill(fenced: &Fenced, total: usize, vectors: &mut Vectors) -> Result<()> {
    let admin = &fenced.admin;
    let sizes: Vec<String> = (1..=TENANTS).map(|tenant| format!("({tenant}, {})", size(tenant, total))).collect();
    let products = format!(
        "SET session_replication_role = replica;
         INSERT INTO retail.categories (tenant_key, category_name) SELECT tenant_key, 'Things' FROM retail.tenants;
         INSERT INTO retail.product_types (tenant_key, category_id, type_name) SELECT tenant_key, category_id, 'Thing' FROM retail.categories;
         INSERT INTO retail.products (product_id, tenant_key, sku, product_name, category_id, type_id, cost, base_price, product_description)
         SELECT md5(t.tenant_id || g)::uuid, t.tenant_key, 'sku-' || g, 'thing ' || g, c.category_id, y.type_id, 1, 2, 'A thing of some use about the house'
           FROM (VALUES {}) AS sizes (number, products) JOIN retail.tenants t ON t.tenant_id = 't-' || lpad(number::text, 5, '0')
           JOIN retail.categories c USING (tenant_key) JOIN retail.product_types y USING (category_id), generate_series(1, products) g;
         INSERT INTO retail.inventory (store_id, product_id, stock_level) SELECT s.store_id, p.product_id, 5 FROM retail.products p JOIN retail.stores s USING (tenant_key);",
        sizes.join(", ")
    );
    admin.batch_execute(&products).await.context("products")?;
    let rows = admin.query("SELECT product_id, tenant_key FROM retail.products", &[]).await?;
    let sink = admin
        .copy_in("COPY retail.product_description_embeddings (product_id, tenant_key, description_embedding, model, content_hash) FROM STDIN (FORMAT binary)")
        .await?;
    let mut sink = std::pin::pin!(sink);
    let mut buffer = BytesMut::from(&b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0"[..]);
    for row in rows {
        buffer.put_i16(5);
        buffer.put_i32(16);
        buffer.put_slice(row.get::<_, Uuid>(0).as_bytes());
        buffer.put_i32(4);
        buffer.put_i32(row.get(1));
        buffer.put_i32(i32::try_from(4 + 4 * DIMENSIONS)?);
        buffer.put_u16(u16::try_from(DIMENSIONS)?);
        buffer.put_u16(0);
        vectors.next().into_iter().for_each(|number| buffer.put_f32(number));
        for text in [MODEL, ""] {
            buffer.put_i32(i32::try_from(text.len())?);
            buffer.put_slice(text.as_bytes());
        }
        if buffer.len() > 1 << 20 {
            sink.send(buffer.split().freeze()).await?;
        }
    }
    buffer.put_i16(-1);
    sink.send(buffer.freeze()).await?;
    sink.finish().await?;
    admin.batch_execute("RESET session_replication_role").await?;
    admin.batch_execute("VACUUM ANALYZE").await?;
    Ok(())
}

/// The same search inside the fence and by a superuser.
struct Searcher {
    session: Session,
    search: Statement,
    admin: tokio_postgres::Client,
    exact: Statement,
    tenant_key: i32,
}

impl Searcher {
    async fn open(fenced: &Fenced, tenant: &Tenant, tenant_key: i32) -> Result<Self> {
        let session = Session::open(tenant, StoreSet::All, "SELECT 1").await?;
        let search = session.prepare("SELECT line FROM fence.search_products($1, $2, $3, $4, $5, $6)").await?;
        let admin = fenced.cluster.connect(&fenced.database.name).await?;
        admin.batch_execute("SET jit = off").await?;
        // The same answer without policies and without the index: all distances of the tenant's own products.
        let exact = admin
            .prepare(
                "WITH own AS MATERIALIZED (SELECT product_id, description_embedding FROM retail.product_description_embeddings WHERE tenant_key = $1 AND model = $3), \
                 near AS (SELECT product_id, description_embedding <=> $2::real[]::vector AS distance FROM own ORDER BY 2, 1 LIMIT $4) \
                 SELECT row_to_json(x)::text FROM (SELECT p.product_id, p.sku, p.product_name, c.category_name, t.type_name, p.product_description, p.base_price, \
                        round((100 * (1 - distance))::numeric, 1) AS similarity_percent, s.stock_level, s.stores \
                   FROM near JOIN retail.products p USING (product_id) JOIN retail.categories c USING (category_id) JOIN retail.product_types t USING (type_id) \
                   LEFT JOIN LATERAL (SELECT sum(i.stock_level) AS stock_level, json_agg(json_build_array(st.store_name, i.stock_level)) AS stores \
                        FROM retail.inventory i JOIN retail.stores st USING (store_id) WHERE i.product_id = near.product_id AND st.tenant_key = $1) s ON true \
                  ORDER BY distance, p.product_id) x",
            )
            .await?;
        Ok(Self { session, search, admin, exact, tenant_key })
    }

    async fn fenced(&mut self, vector: &Vec<f32>) -> Result<HashSet<String>> {
        let search = self.search.clone();
        let none: Option<&str> = None;
        ids(self.session.fly(&search, &[vector, &MODEL, &none, &-1.0_f64, &WANTED]).await?)
    }

    async fn exact(&mut self, vector: &Vec<f32>) -> Result<HashSet<String>> {
        let rows = self.admin.query(&self.exact, &[&self.tenant_key, vector, &MODEL, &i64::from(WANTED)]).await?;
        ids(rows.iter().map(|row| row.get(0)).collect())
    }
}

fn ids(lines: Vec<String>) -> Result<HashSet<String>> {
    let read = |line: &String| {
        let value: Value = serde_json::from_str(line)?;
        value["product_id"].as_str().map(str::to_owned).context("no product_id")
    };
    lines.iter().map(read).collect()
}

/// Vectors in clusters, in a space of far fewer directions than dimensions, as those of texts are. The same in each run.
struct Vectors {
    random: StdRng,
    centres: Vec<Vec<f32>>,
    directions: Vec<Vec<f32>>,
}

impl Vectors {
    fn new(clusters: usize) -> Self {
        let mut random = StdRng::seed_from_u64(1536);
        let mut some = |count: usize| -> Vec<Vec<f32>> {
            (0..count).map(|_| (0..DIMENSIONS).map(|_| random.random_range(-1.0..1.0)).collect()).collect()
        };
        let (centres, directions) = (some(clusters), some(48));
        Self { random, centres, directions }
    }

    fn next(&mut self) -> Vec<f32> {
        let mut vector = self.centres[self.random.random_range(0..self.centres.len())].clone();
        for direction in &self.directions {
            let weight: f32 = self.random.random_range(-0.35..0.35);
            vector.iter_mut().zip(direction).for_each(|(to, by)| *to += weight * by);
        }
        vector
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_add_up() {
        for total in [50_000, 500_000] {
            let sum: usize = (1..=TENANTS).map(|tenant| size(tenant, total)).sum();
            assert!(sum <= total && sum > total - TENANTS, "{sum}");
        }
        assert!(size(LARGE, 500_000) < size(LARGEST, 500_000), "one with nearly half of all");
        let (mut one, mut other) = (Vectors::new(3), Vectors::new(3));
        assert_eq!(one.next(), other.next());
    }
}
