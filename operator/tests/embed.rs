//! `embed` against a real database and a real model: what is filled, what is repeated, what is left.

mod support;

use std::time::{Duration, Instant};

use sqlx::{Connection, PgConnection};
use storefence_devstack::{
    embeddings::{EmbeddingsApi, EmbeddingsOptions, Fault, Model},
    entra::{ClientApp, Entra, EntraOptions, principals::ZAVA_TENANT_ID},
    postgres::AdminKind,
    tls::Authority,
};
use storefence_operator::{
    embed::{self, EmbedError, Options, Retries},
    metrics::Metrics,
    seed::{self, Scale},
};
use storefence_runtime::{AzureOptions, CredentialKind, Embeddings, EmbeddingsEntry};
use support::{World, in_world};
use tempfile::TempDir;

struct Provider {
    api: EmbeddingsApi,
    options: AzureOptions,
    _entra: Entra,
    directory: TempDir,
}

impl Provider {
    async fn start() -> Self {
        let authority = Authority::new().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let ca_file = directory.path().join("ca.pem");
        authority.write_pem(&ca_file).unwrap();
        let entra = Entra::start(&authority, EntraOptions::default()).await.unwrap();
        let client = ClientApp::with_secret(ZAVA_TENANT_ID);
        entra.add_client(client.clone());
        let model = tokio::task::spawn_blocking(|| Model::shared(&|_| ())).await.unwrap().unwrap();
        let api = EmbeddingsApi::start(&authority, &entra, model, EmbeddingsOptions::default()).await.unwrap();
        api.allow(&client.object_id);
        let options = AzureOptions {
            ca_file: Some(ca_file),
            credential: CredentialKind::ClientSecret,
            authority_host: entra.url().parse().unwrap(),
            tenant_id: Some(client.tenant_id.clone()),
            client_id: Some(client.client_id.clone()),
            federated_token_file: None,
            client_secret: client.secret,
            key_vault_resource: "https://vault.azure.net".to_owned(),
        };
        Self { api, options, _entra: entra, directory }
    }

    fn client(&self, entry: serde_json::Value) -> Embeddings {
        let entry: EmbeddingsEntry = serde_json::from_value(entry).unwrap();
        let config = entry.check(self.directory.path()).unwrap();
        self.options.embeddings(&config, Duration::from_secs(120)).unwrap()
    }

    /// With our own identity.
    fn azure(&self, model: Option<&str>) -> Embeddings {
        let (endpoint, deployment) = (self.api.url(), self.api.deployment());
        self.client(serde_json::json!({
            "provider": "azureOpenAI", "endpoint": endpoint, "deployment": deployment, "model": model,
        }))
    }
}

/// Short waits, so that a test does not take as long as a quota.
fn options(tenant: &str) -> Options {
    let retries = Retries { attempts: 3, first_wait: Duration::from_millis(50), longest_wait: Duration::from_secs(5) };
    Options { tenant: Some(tenant.to_owned()), batch: 16, retries }
}

async fn seeded(world: &World) -> PgConnection {
    let mut connection = PgConnection::connect(&world.database.admin_url).await.unwrap();
    for tenant in ["zava", "contoso"] {
        seed::run(&mut connection, tenant, Scale::Small).await.unwrap();
    }
    connection
}

async fn count(connection: &mut PgConnection, sql: &'static str) -> u64 {
    u64::try_from(sqlx::query_scalar::<_, i64>(sql).fetch_one(connection).await.unwrap()).unwrap()
}

const CONTOSO: &str =
    "SELECT count(*) FROM retail.products JOIN retail.tenants USING (tenant_key) WHERE tenant_id = 'contoso'";
const EMBEDDED: &str = "SELECT count(*) FROM retail.product_description_embeddings";

#[test]
fn what_is_missing_or_outdated_is_filled_and_nothing_else() {
    in_world((18, AdminKind::CreateRole), |world| async move {
        let provider = Provider::start().await;
        let mut connection = seeded(&world).await;
        let contoso = count(&mut connection, CONTOSO).await;
        let (azure, all) = (provider.azure(None), options("contoso"));
        let steps = std::sync::Mutex::new(Vec::new());
        let tell = |progress| steps.lock().unwrap().push(progress);
        let report = embed::run(&mut connection, &azure, &all, &tell).await.unwrap();
        assert_eq!((report.written, report.products), (contoso, contoso));
        let last = *steps.lock().unwrap().last().unwrap();
        assert_eq!((last.written, last.stale), (contoso, contoso));
        assert_eq!(count(&mut connection, EMBEDDED).await, contoso, "the other tenant's are left");
        let again = embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap();
        assert_eq!((again.written, provider.api.inputs()), (0, contoso));

        // An edited text alone is embedded again, and its words are those of the new text.
        sqlx::raw_sql("UPDATE retail.products SET product_description = 'Zanzibar cloves' WHERE product_id = (SELECT min(product_id::text)::uuid FROM retail.product_description_embeddings)")
            .execute(&mut connection)
            .await
            .unwrap();
        assert_eq!(embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap().written, 1);
        let words = "SELECT count(*) FROM retail.product_description_embeddings WHERE search_document @@ to_tsquery('english', 'zanzibar')";
        assert_eq!(count(&mut connection, words).await, 1);

        // Vectors of another model do not compare: all are made again. A key does as well as an identity.
        std::fs::write(provider.directory.path().join("key"), provider.api.api_key()).unwrap();
        let endpoint = format!("{}/v1", provider.api.url());
        let open = serde_json::json!({
            "provider": "openAI", "endpoint": endpoint, "model": provider.api.deployment(), "apiKeyFile": "key",
        });
        assert_eq!(
            embed::run(&mut connection, &provider.client(open), &all, &|_| ()).await.unwrap().written,
            0,
            "the same"
        );
        let renamed = provider.azure(Some("next"));
        assert_eq!(embed::run(&mut connection, &renamed, &all, &|_| ()).await.unwrap().written, contoso);
        assert_eq!(
            count(&mut connection, "SELECT count(*) FROM retail.product_description_embeddings WHERE model = 'next'")
                .await,
            contoso
        );

        let unknown = embed::run(&mut connection, &azure, &options("fabrikam"), &|_| ()).await.unwrap_err();
        assert_eq!(unknown.reason(), "UnknownTenant");
    });
}

#[test]
fn an_interrupted_run_goes_on_where_it_ended() {
    in_world((16, AdminKind::CreateRole), |world| async move {
        let provider = Provider::start().await;
        let mut connection = seeded(&world).await;
        let contoso = count(&mut connection, CONTOSO).await;
        for fault in [Fault::Slow(Duration::ZERO), Fault::Slow(Duration::ZERO), Fault::Status(403, "PermissionDenied")]
        {
            provider.api.inject(fault);
        }
        let (azure, all) = (provider.azure(None), options("contoso"));
        let error = embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap_err();
        let EmbedError::Provider { progress, .. } = &error else { panic!("{error}") };
        assert_eq!((progress.written, progress.stale), (32, contoso));
        assert!(error.to_string().contains(&format!("32 of {contoso} products are done")), "{error}");
        assert_eq!(count(&mut connection, EMBEDDED).await, 32);
        let rest = embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap();
        assert_eq!(rest.written, contoso - 32);
        assert_eq!(provider.api.inputs(), contoso, "no text was embedded twice");
    });
}

/// The tenants share a provider and a run: one text that it does not take must not keep vectors from all others.
#[test]
fn a_refused_product_keeps_no_other_from_its_vector() {
    in_world((16, AdminKind::CreateRole), |world| async move {
        let provider = Provider::start().await;
        let mut connection = seeded(&world).await;
        let contoso = count(&mut connection, CONTOSO).await;
        // The very first and one far behind, in the order in which they are embedded. And one that is longer than the model
        // takes, and longer than PostgreSQL keeps the words of.
        for (places, description) in [
            ("0, 101", "'Not for the filter'"),
            ("7", "(SELECT string_agg('word' || i, ' ') FROM generate_series(1, 200000) i)"),
        ] {
            let edit = format!(
                "UPDATE retail.products SET product_description = {description} WHERE product_id IN ( \
                    SELECT product_id FROM (SELECT product_id, row_number() OVER (ORDER BY product_id) - 1 AS place \
                        FROM retail.products JOIN retail.tenants USING (tenant_key) WHERE tenant_id = 'contoso') p \
                     WHERE place IN ({places}))"
            );
            sqlx::raw_sql(sqlx::AssertSqlSafe(edit)).execute(&mut connection).await.unwrap();
        }
        provider.api.refuse(Some("Not for the filter"));
        let (azure, all) = (provider.azure(None), options("contoso"));
        let report = embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap();
        assert_eq!((report.written, report.refused, report.products), (contoso - 2, 2, contoso));
        let filtered = "SELECT count(*) FROM retail.products p WHERE product_description = 'Not for the filter' AND NOT EXISTS \
            (SELECT FROM retail.product_description_embeddings e WHERE e.product_id = p.product_id)";
        assert_eq!((count(&mut connection, EMBEDDED).await, count(&mut connection, filtered).await), (contoso - 2, 2));

        // What was cut is up to date all the same, and the next run asks for the refused ones alone.
        let inputs = provider.api.inputs();
        let again = embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap();
        assert_eq!((again.written, again.refused), (0, 2));
        assert_eq!(provider.api.inputs(), inputs + 1, "a plain text, to see whether the provider works at all");
        provider.api.refuse(None);
        let last = embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap();
        assert_eq!((last.written, last.refused), (2, 0));
    });
}

#[test]
fn the_provider_says_when_to_come_back() {
    in_world((18, AdminKind::Superuser), |world| async move {
        let provider = Provider::start().await;
        let mut connection = seeded(&world).await;
        let contoso = count(&mut connection, CONTOSO).await;
        let (azure, all) = (provider.azure(None), Options { batch: 256, ..options("contoso") });
        provider.api.inject(Fault::Throttle(2));
        provider.api.inject(Fault::ThrottleMillis(300));
        let begun = Instant::now();
        let report = embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap();
        assert_eq!(report.written, contoso);
        assert!(begun.elapsed() >= Duration::from_millis(2_300), "{:?}: it came back too early", begun.elapsed());

        sqlx::raw_sql("TRUNCATE retail.product_description_embeddings")
            .execute(&mut world_owner(&world).await)
            .await
            .unwrap();
        let mut ends_with = async |fault: Fault, times: usize, reason: &str| {
            let before = provider.api.calls();
            (0..times).for_each(|_| provider.api.inject(fault.clone()));
            let error = embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap_err();
            provider.api.clear_faults();
            assert_eq!(error.reason(), reason, "{fault:?}: {error}");
            provider.api.calls() - before
        };
        assert_eq!(ends_with(Fault::Throttle(3_600), 1, "EmbeddingsThrottled").await, 1, "an hour is not waited for");
        assert_eq!(ends_with(Fault::Status(503, "busy"), 9, "EmbeddingsUnavailable").await, 3);
        // A token that is refused is fetched anew, once in a while and not for every answer.
        assert_eq!(ends_with(Fault::Status(401, "401"), 9, "EmbeddingsUnauthorized").await, 2);
        assert_eq!(ends_with(Fault::Status(401, "401"), 9, "EmbeddingsUnauthorized").await, 1);
        // Nothing is sought by halves where a plain text is refused too.
        assert_eq!(ends_with(Fault::Garbage, 9, "EmbeddingsUnusable").await, 2);
        assert_eq!(ends_with(Fault::Status(400, "no such version"), 9, "EmbeddingsRefused").await, 2);
        provider.api.server().set_down(true);
        let error = embed::run(&mut connection, &azure, &all, &|_| ()).await.unwrap_err();
        assert_eq!(error.reason(), "EmbeddingsUnavailable", "{error}");
        assert_eq!(count(&mut connection, EMBEDDED).await, 0);
    });
}

async fn world_owner(world: &World) -> PgConnection {
    PgConnection::connect(&world.database.admin_url).await.unwrap()
}

#[test]
fn the_running_operator_keeps_vectors_up_to_date() {
    in_world((18, AdminKind::CreateRole), |world| async move {
        let provider = Provider::start().await;
        let mut connection = seeded(&world).await;
        sqlx::raw_sql("DELETE FROM retail.inventory").execute(&mut connection).await.unwrap();
        sqlx::raw_sql("DELETE FROM retail.order_items").execute(&mut connection).await.unwrap();
        sqlx::raw_sql("DELETE FROM retail.products WHERE product_name NOT LIKE 'Waterproof%'")
            .execute(&mut connection)
            .await
            .unwrap();
        let left = count(&mut connection, "SELECT count(*) FROM retail.products").await;
        assert!(left > 0);
        let path = provider.directory.path().join("operator.yaml");
        let config = format!(
            "databases:\n- name: retail\n  adminUrl: {}\nembeddings:\n  provider: azureOpenAI\n  endpoint: {}\n  deployment: {}\n",
            world.database.admin_url,
            provider.api.url(),
            provider.api.deployment()
        );
        std::fs::write(&path, config).unwrap();
        // A provider that is away at first costs a round and nothing else.
        provider.api.inject(Fault::Status(401, "not yet"));
        let keeping = tokio::spawn(embed::keep(
            path,
            provider.options.clone(),
            std::sync::Arc::new(Metrics::new().unwrap()),
            Duration::from_millis(50),
        ));
        let mut becomes = async |sql: &'static str, wanted: u64| {
            let deadline = Instant::now() + Duration::from_secs(30);
            while count(&mut connection, sql).await != wanted {
                assert!(Instant::now() < deadline && !keeping.is_finished(), "{sql} has not become {wanted}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        becomes(EMBEDDED, left).await;
        let mut editor = world_owner(&world).await;
        sqlx::raw_sql("UPDATE retail.products SET product_description = 'Zanzibar cloves'")
            .execute(&mut editor)
            .await
            .unwrap();
        let words = "SELECT count(*) FROM retail.product_description_embeddings WHERE search_document @@ to_tsquery('english', 'zanzibar')";
        becomes(words, left).await;
        keeping.abort();
    });
}

#[test]
fn a_configuration_without_a_provider_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("operator.yaml");
    let ask = |text: &str| {
        std::fs::write(&path, text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_storefence-operator"));
        command.args(["embed", "--database", "retail", "--config"]).arg(&path).env_clear();
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let database = "databases:\n- name: retail\n  adminUrl: postgresql://h/d\n";
    let (code, said) = ask(database);
    assert!(code == Some(2) && said.contains("embeddings") && said.contains("provider"), "{said}");
    let (code, said) = ask(&format!("{database}embeddings:\n  provider: azureOpenAI\n  endpoint: http://plain\n"));
    assert!(code == Some(2) && said.contains("embeddings.endpoint"), "{said}");
}
