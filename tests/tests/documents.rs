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

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Files below a directory, generated and fetched ones left out.
fn files(directory: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !name.starts_with('.') && name != "target" && name != "node_modules" {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

/// The fenced blocks of a language in a Markdown text.
fn blocks(markdown: &str, language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut block: Option<String> = None;
    for line in markdown.lines() {
        let trimmed = line.trim_start();
        match &mut block {
            None if trimmed.strip_prefix("```").is_some_and(|rest| rest.trim() == language) => {
                block = Some(String::new())
            }
            Some(_) if trimmed.starts_with("```") => found.extend(block.take()),
            Some(text) => {
                text.push_str(line);
                text.push('\n');
            }
            None => {}
        }
    }
    found
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

    let mut sources = Vec::new();
    let (mut markdown, mut examples) = (Vec::new(), Vec::new());
    files(&root(), "md", &mut markdown);
    files(&root().join("examples"), "yaml", &mut examples);
    for path in markdown {
        let text = fs::read_to_string(&path).unwrap();
        sources.extend(blocks(&text, "yaml").into_iter().map(|block| (path.clone(), block)));
    }
    sources.extend(examples.into_iter().map(|path| (path.clone(), fs::read_to_string(&path).unwrap())));
    let mut manifests = 0;
    for (n, (path, text)) in sources.into_iter().enumerate() {
        let shown = path.display();
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{shown}: not YAML: {error}\n{text}"));
        for mut document in documents {
            if document["kind"] != "RetailTenant" {
                continue;
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
    let mut documents = Vec::new();
    files(&root(), "md", &mut documents);
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
