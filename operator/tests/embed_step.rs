//! The step of `run` that keeps vectors up to date, over the binary: it is wired, and works by its own interval.

mod harness;

use std::time::{Duration, Instant};

use harness::{Operator, World, poll};
use storefence_devstack::{
    embeddings::{EmbeddingsApi, EmbeddingsOptions, Fault, Model},
    tls::Authority,
};

/// A product of a tenant.
const PRODUCT: &str = "SET ROLE retail_loader;
    INSERT INTO retail.tenants (tenant_id, display_name) VALUES ('zava', 'Zava');
    INSERT INTO retail.categories (tenant_key, category_name) SELECT tenant_key, 'GARDEN' FROM retail.tenants;
    INSERT INTO retail.product_types (tenant_key, category_id, type_name) SELECT tenant_key, category_id, 'FENCING' FROM retail.categories;
    INSERT INTO retail.products (tenant_key, sku, product_name, category_id, type_id, cost, base_price, product_description)
        SELECT tenant_key, 'ZV-1', 'Fence Picket', category_id, type_id, 1, 2, 'Keeps the dog in' FROM retail.product_types;
    RESET ROLE";

const EMBEDDED: &str = "SELECT count(*) FROM retail.product_description_embeddings";

async fn becomes(world: &World, operator: &Operator, what: &str, sql: &str) {
    let deadline = Instant::now() + Duration::from_secs(90);
    while world.text(sql).await != "1" {
        assert!(Instant::now() < deadline, "{what}:\n{}", operator.log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A provider that the world's operator may ask, and what to write of it into the configuration.
async fn provider(world: &World) -> (EmbeddingsApi, String) {
    let authority = Authority::new().unwrap();
    let roots = std::fs::read_to_string(world.directory.path().join("ca.pem")).unwrap();
    world.write("ca.pem", &format!("{roots}\n{}", authority.pem()));
    let model = tokio::task::spawn_blocking(|| Model::shared(&|_| ())).await.unwrap().unwrap();
    let api = EmbeddingsApi::start(&authority, &world.entra, model, EmbeddingsOptions::default()).await.unwrap();
    api.allow(&world.app.object_id);
    let entry = format!(
        "embeddings:\n  provider: azureOpenAI\n  endpoint: {}\n  deployment: {}\n",
        api.url(),
        api.deployment()
    );
    (api, entry)
}

/// The database is migrated and has the product.
async fn prepared() -> (World, String) {
    let world = World::start().await;
    let (code, _, said) = world.run(&["migrate"]);
    assert_eq!(code, Some(0), "{said}");
    world.execute(PRODUCT).await;
    let config = std::fs::read_to_string(world.directory.path().join("config.yaml")).unwrap();
    (world, config)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edited_product_is_embedded_by_the_running_operator() {
    let (world, config) = prepared().await;
    let (api, entry) = provider(&world).await;
    world.write("config.yaml", &(config + &entry));
    // The provider is away at first: a round is lost, and nothing else.
    api.inject(Fault::Status(401, "not yet"));
    let operator = world.operator_with(&["--resync", "1h", "--embed-interval", "1s"]).await;
    becomes(&world, &operator, "the product has a vector", EMBEDDED).await;
    world.execute("UPDATE retail.products SET product_description = 'Keeps the zebra out'").await;
    let edited = "SELECT count(*) FROM retail.product_description_embeddings WHERE search_document @@ to_tsquery('english', 'zebra')";
    becomes(&world, &operator, "the edited product has another one", edited).await;
}

/// Nobody waits for the interval where a round could not even begin.
#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_that_comes_late_is_met_long_before_the_next_round() {
    let (world, config) = prepared().await;
    let (_api, entry) = provider(&world).await;
    let secret = "adminUrlSecret: {keyVault: main, name: retail-administrator} #";
    world.write("config.yaml", &(config.replace("adminUrl:", secret) + &entry));
    let operator = world.operator_with(&["--resync", "1h", "--embed-interval", "10m"]).await;
    let told = poll(async || operator.log().contains("embeddings are not up to date").then_some(()));
    assert!(told.await.is_some(), "{}", operator.log());
    world.vault.put("retail-administrator", &world.database.admin_tls_url, &[]);
    becomes(&world, &operator, "the product has a vector", EMBEDDED).await;
}
