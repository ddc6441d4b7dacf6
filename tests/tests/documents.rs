//! Documents are tested: every manifest in README, docs and examples is accepted by the API server as it stands, and every
//! relative link leads somewhere.

use std::{
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value;
use storefence_devstack::{
    kube_api::{KubeApi, KubeApiOptions},
    tls::Authority,
};
use storefence_tenancy::resource::crd;
use storefence_tests::documents::{files, yaml_blocks};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// What a YAML block is, by its top level. Each kind has a test that takes every block of it.
enum Kind {
    /// Accepted by the API server, below.
    RetailTenant,
    /// Taken by the chart's schema and templates: `values_in_the_documents_fit` in the suite `chart`.
    Values,
    /// Taken by the operator's parser: `configurations_in_the_documents_are_accepted` in `operator/src/config.rs`.
    Configuration,
}

fn kind(document: &Value) -> Option<Kind> {
    let values: Value =
        serde_saphyr::from_str(&fs::read_to_string(root().join("charts/storefence/values.yaml")).ok()?).ok()?;
    if document["kind"] == "RetailTenant" {
        return Some(Kind::RetailTenant);
    }
    let keys: Vec<&String> = document.as_object()?.keys().collect();
    if keys.iter().all(|key| values.get(key.as_str()).is_some()) {
        return Some(Kind::Values);
    }
    keys.contains(&&"databases".to_owned()).then_some(Kind::Configuration)
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_are_accepted_as_they_stand() {
    let authority = Authority::new().unwrap();
    let api = KubeApi::start(KubeApiOptions::new(&authority)).await.unwrap();
    let token = api.token(storefence_devstack::kube_api::ADMIN).unwrap();
    let ca = reqwest::Certificate::from_pem(authority.pem().as_bytes()).unwrap();
    let http = reqwest::Client::builder().add_root_certificate(ca).build().unwrap();
    let post = |path: &str, object: Value| {
        http.post(format!("{}{path}?fieldValidation=Strict", api.url())).bearer_auth(token).json(&object).send()
    };
    let created = post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", serde_json::to_value(crd()).unwrap());
    assert!(created.await.unwrap().status().is_success());

    let mut sources = yaml_blocks();
    let examples = files(&root().join("examples"), "yaml");
    sources.extend(examples.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())));
    let mut manifests = 0;
    for (n, (path, text)) in sources.into_iter().enumerate() {
        let shown = path.display();
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{shown}: not YAML: {error}\n{text}"));
        for mut document in documents {
            match kind(&document) {
                Some(Kind::RetailTenant) => {}
                Some(Kind::Values | Kind::Configuration) => continue,
                None => panic!("{shown}: no test knows what this is\n{text}"),
            }
            manifests += 1;
            document["metadata"]["name"] = format!("document-{n}-{manifests}").into();
            document["metadata"]["namespace"] = "default".into();
            let path = "/apis/retail.storefence.dev/v1alpha1/namespaces/default/retailtenants";
            let answer = post(path, document).await.unwrap();
            let (status, said) = (answer.status(), answer.text().await.unwrap());
            assert!(status.is_success(), "{shown}: {said}\n{text}");
        }
    }
    assert!(manifests >= 2, "the examples were not found");
    api.shutdown().await;
}

#[test]
fn relative_links_lead_somewhere() {
    let documents = files(&root(), "md");
    let link = regex::Regex::new(r"\]\(([^)#\s]+)(#[^)]*)?\)").unwrap();
    let mut broken = Vec::new();
    for path in &documents {
        for found in link.captures_iter(&fs::read_to_string(path).unwrap()) {
            let target = &found[1];
            if !target.contains("://")
                && !target.starts_with("mailto:")
                && !path.parent().unwrap().join(target).exists()
            {
                broken.push(format!("{}: {target}", path.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}
