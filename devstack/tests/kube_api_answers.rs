//! `kube_api_answers/answers.json`: what a kube-apiserver 1.36 answers to many requests for one kind; the stand-in must
//! answer the same. With `STOREFENCE_TEST_KUBECONFIG` set, that cluster is asked.

#[path = "kube_api_support/mod.rs"]
mod support;

use http::Request;
use http_body_util::BodyExt as _;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::{
    Api,
    api::{Patch, PatchParams},
    client::Body,
};
use serde::Deserialize;
use serde_json::Value;
use storefence_devstack::kube_api::{CRD_LIMIT, RULE_LIMIT, rule_costs};

use support::{Cluster, eventually};

#[derive(Deserialize)]
struct Case {
    name: String,
    method: String,
    path: String,
    #[serde(rename = "type")]
    content_type: Option<String>,
    body: Option<String>,
    accept: Option<String>,
    code: u16,
    reason: Option<String>,
    message: Option<String>,
    text: Option<String>,
    #[serde(default)]
    warnings: Vec<String>,
}

struct Answer {
    code: u16,
    body: String,
    warnings: Vec<String>,
}

async fn ask(cluster: &Cluster, case: &Case) -> Answer {
    let own = |text: &str| text.replace("{ns}", &cluster.namespace);
    let mut request = Request::builder().method(case.method.as_str()).uri(own(&case.path));
    request = request.header("accept", case.accept.as_deref().unwrap_or("application/json"));
    if let Some(kind) = &case.content_type {
        request = request.header("content-type", kind);
    }
    let body = Body::from(case.body.as_deref().map(own).unwrap_or_default().into_bytes());
    let answer = cluster.client.send(request.body(body).expect("request")).await.expect("answer");
    let warnings = answer.headers().get_all("warning").iter();
    let warnings = warnings.map(|w| w.to_str().expect("text").trim_start_matches("299 - ").to_owned()).collect();
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await.expect("body").to_bytes();
    Answer { code, body: String::from_utf8_lossy(&body).into_owned(), warnings }
}

/// A rule that a server accepts today has room to grow, and to be counted otherwise by the next version.
#[test]
fn the_definition_stays_within_half_of_every_budget() {
    let definition = serde_json::to_value(storefence_tenancy::resource::crd()).expect("definition");
    let costs = rule_costs(&definition).expect("schema");
    assert!(costs.len() > 10, "{costs:?}");
    for rule in &costs {
        assert!(rule.cost <= RULE_LIMIT / 2, "{rule:?}");
    }
    let total: u64 = costs.iter().map(|rule| rule.cost).sum();
    assert!(total <= CRD_LIMIT / 2, "{total}: {costs:?}");
}

#[tokio::test]
async fn answers_are_those_of_a_real_server() {
    let cluster = Cluster::start().await;
    let definition: Value = serde_json::from_str(include_str!("kube_api_answers/widgets.json")).expect("definition");
    let definitions: Api<CustomResourceDefinition> = Api::all(cluster.client.clone());
    let params = PatchParams::apply("devstack-tests").force();
    definitions.patch("widgets.diff.test", &params, &Patch::Apply(&definition)).await.expect("definition");
    let object = r#"{"apiVersion": "diff.test/v1", "kind": "Widget", "metadata": {"name": "a"}, "spec": {"size": 1}}"#;
    let create = Case {
        name: "create".into(),
        method: "POST".into(),
        path: "/apis/diff.test/v1/namespaces/{ns}/widgets?fieldManager=m".into(),
        content_type: Some("application/json".into()),
        body: Some(object.into()),
        accept: None,
        code: 201,
        reason: None,
        message: None,
        text: None,
        warnings: Vec::new(),
    };
    eventually("the kind is served", || async { (ask(&cluster, &create).await.code == 201).then_some(()) }).await;

    let cases: Vec<Case> = serde_json::from_str(include_str!("kube_api_answers/answers.json")).expect("answers");
    assert!(cases.len() > 150, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let answer = ask(&cluster, case).await;
        let own = |text: &Option<String>| text.as_ref().map(|text| text.replace("{ns}", &cluster.namespace));
        let status: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let found = |name: &str| status[name].as_str().unwrap_or_default().to_owned();
        let mut problems = Vec::new();
        if answer.code != case.code {
            problems.push(format!("{} instead of {}", answer.code, case.code));
        }
        if let Some(message) = own(&case.message)
            && found("message") != message
        {
            problems.push(format!("says {:?}\n    instead of {message:?}", found("message")));
        }
        if let Some(reason) = &case.reason
            && found("reason") != *reason
        {
            problems.push(format!("reason {:?} instead of {reason:?}", found("reason")));
        }
        if let Some(text) = &case.text
            && answer.body != *text
        {
            problems.push(format!("says {:?} instead of {text:?}", answer.body));
        }
        if answer.warnings != case.warnings {
            problems.push(format!("warns {:?} instead of {:?}", answer.warnings, case.warnings));
        }
        if !problems.is_empty() {
            wrong.push(format!("{}: {}", case.name, problems.join("; ")));
        }
    }
    let failed = format!("{} of {} differ:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let none = wrong.is_empty();
    cluster.stop().await;
    assert!(none, "{failed}");
}
