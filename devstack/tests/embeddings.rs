//! The embeddings stand-in: real vectors behind the real routes.

use std::time::Instant;

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use storefence_devstack::{
    embeddings::{DIMENSIONS, EmbeddingsApi, EmbeddingsOptions, Fault, Model, RESOURCE},
    entra::{ClientApp, Entra, EntraOptions, principals::ZAVA_TENANT_ID},
    tls::Authority,
};

struct World {
    entra: Entra,
    api: EmbeddingsApi,
    http: Client,
}

async fn world() -> World {
    let authority = Authority::new().unwrap();
    let entra = Entra::start(&authority, EntraOptions::default()).await.unwrap();
    let model = tokio::task::spawn_blocking(|| Model::shared(&|_| ())).await.unwrap().unwrap();
    let api = EmbeddingsApi::start(&authority, &entra, model, EmbeddingsOptions::default()).await.unwrap();
    let root = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let http = Client::builder().add_root_certificate(root).build().unwrap();
    World { entra, api, http }
}

impl World {
    fn route(&self) -> String {
        format!("{}/openai/deployments/{}/embeddings?api-version=2024-10-21", self.api.url(), self.api.deployment())
    }

    async fn post(&self, body: &Value) -> Response {
        self.http.post(self.route()).header("api-key", self.api.api_key()).json(body).send().await.unwrap()
    }

    async fn vectors(&self, texts: &[&str]) -> Vec<Vec<f64>> {
        let response = self.post(&json!({"input": texts})).await;
        assert_eq!(response.status(), StatusCode::OK);
        let body: Value = response.json().await.unwrap();
        let data = body["data"].as_array().unwrap();
        let indexes: Vec<_> = data.iter().map(|item| item["index"].as_u64().unwrap() as usize).collect();
        assert_eq!(indexes, (0..texts.len()).collect::<Vec<_>>());
        data.iter()
            .map(|item| item["embedding"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect())
            .collect()
    }
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// Values that sentence-transformers gives for the same weights (the first pair stands in the model's own documentation).
#[tokio::test(flavor = "multi_thread")]
async fn cosines_are_those_of_the_model() {
    let world = world().await;
    let texts = [
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
        "waterproof electrical connectors",
        "Waterproof Wire Connectors 25-Pack. Secure splices that keep water and vibration out of electrical connections.",
        "Claw Hammer 16 oz. Balanced head and a grip that swallows the shock.",
    ];
    let vectors = world.vectors(&texts).await;
    for vector in &vectors {
        assert_eq!(vector.len(), DIMENSIONS);
        assert!((cosine(vector, vector) - 1.0).abs() < 1e-6);
        assert!((vector.iter().map(|value| value * value).sum::<f64>() - 1.0).abs() < 1e-4);
        assert!(vector[384..].iter().all(|value| *value == 0.0) && vector[..384].iter().any(|value| *value != 0.0));
    }
    for (a, b, expected) in [(0, 1, 0.6660), (0, 2, 0.1046), (1, 2, 0.1411)] {
        let found = cosine(&vectors[a], &vectors[b]);
        assert!((found - expected).abs() < 0.001, "{} / {}: {found:.4} instead of {expected}", texts[a], texts[b]);
    }
    assert!(cosine(&vectors[3], &vectors[4]) > cosine(&vectors[3], &vectors[5]) + 0.4);
    // A text means the same alone and beside a longer one that makes padding of it.
    let alone = world.vectors(&texts[3..4]).await;
    assert!(cosine(&alone[0], &vectors[3]) > 0.9999);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_may_get_vectors() {
    let world = world().await;
    let client = ClientApp::with_secret(ZAVA_TENANT_ID);
    world.entra.add_client(client.clone());
    let token = |resource: &str| {
        let form = [
            ("grant_type", "client_credentials"),
            ("client_id", client.client_id.as_str()),
            ("client_secret", client.secret.as_deref().unwrap()),
            ("scope", &format!("{resource}/.default")),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(form).finish();
        let request = world
            .http
            .post(format!("{}/{ZAVA_TENANT_ID}/oauth2/v2.0/token", world.entra.url()))
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body);
        async move {
            let body: Value = request.send().await.unwrap().json().await.unwrap();
            body["access_token"].as_str().unwrap().to_owned()
        }
    };
    let ask = |token: String| {
        let request = world.http.post(world.route()).bearer_auth(token).json(&json!({"input": "a hammer"}));
        async move { request.send().await.unwrap().status() }
    };
    let ours = token(RESOURCE).await;
    assert_eq!(ask(ours.clone()).await, StatusCode::UNAUTHORIZED, "no role yet");
    world.api.allow(&client.object_id);
    assert_eq!(ask(ours).await, StatusCode::OK);
    assert_eq!(ask(token("https://vault.azure.net").await).await, StatusCode::UNAUTHORIZED, "a token for the vault");
    assert_eq!(ask("nonsense".to_owned()).await, StatusCode::UNAUTHORIZED);
    let key = |key: &str, route: String| {
        let request = world.http.post(route).header("api-key", key).json(&json!({"input": "a hammer"}));
        async move { request.send().await.unwrap().status() }
    };
    assert_eq!(key("wrong", world.route()).await, StatusCode::UNAUTHORIZED);
    let other = world.route().replace(world.api.deployment(), "absent");
    assert_eq!(key(world.api.api_key(), other).await, StatusCode::NOT_FOUND);
    let versionless = world.route().split('?').next().unwrap().to_owned();
    assert_eq!(key(world.api.api_key(), versionless).await, StatusCode::NOT_FOUND);
    let open = world.http.post(format!("{}/v1/embeddings", world.api.url())).bearer_auth(world.api.api_key());
    let open = open.json(&json!({"input": ["a", "b"], "model": world.api.deployment()})).send().await.unwrap();
    assert_eq!(open.status(), StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_and_faults() {
    let world = world().await;
    for body in [json!({}), json!({"input": []}), json!({"input": [""]}), json!({"input": 7})] {
        assert_eq!(world.post(&body).await.status(), StatusCode::BAD_REQUEST, "{body}");
    }
    world.api.inject(Fault::Throttle(3));
    world.api.inject(Fault::Status(503, "unavailable"));
    let throttled = world.post(&json!({"input": "x"})).await;
    assert_eq!(
        (throttled.status(), throttled.headers()["retry-after"].as_bytes()),
        (StatusCode::TOO_MANY_REQUESTS, &b"3"[..])
    );
    assert_eq!(world.post(&json!({"input": "x"})).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(world.post(&json!({"input": "x"})).await.status(), StatusCode::OK);
}

/// The sample catalogue has about 420 products; `up` embeds them while somebody waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_catalogue_is_embedded_in_little_time() {
    let world = world().await;
    let text =
        "Waterproof Wire Connectors 25-Pack\nELECTRICAL, CONNECTORS\nSecure splices that keep water and vibration out.";
    let texts: Vec<String> = (0..64).map(|number| format!("{text} {number}")).collect();
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let begun = Instant::now();
    world.vectors(&texts).await;
    println!("64 texts took {:?}", begun.elapsed());
    assert!(begun.elapsed().as_secs() < 30, "{:?}", begun.elapsed());
}
