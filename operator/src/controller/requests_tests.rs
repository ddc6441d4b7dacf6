//! What the operator sends to the Kubernetes API: no field is null, and every write says whose it is.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::http::{Request, Response};
use k8s_openapi::jiff::Timestamp;
use kube::{
    Client, Resource,
    api::ObjectMeta,
    client::Body,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::{Value, json};
use storefence_tenancy::{RetailTenant, RetailTenantStatus};

use super::object::KubernetesObject;
use crate::{
    kubernetes::FIELD_MANAGER,
    leader::{Election, Leadership},
};

/// Method, path with query, body.
type Seen = (String, String, Value);

/// A server that records each request and answers with its body.
fn recording() -> (Client, Arc<Mutex<Vec<Seen>>>) {
    let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
    let kept = seen.clone();
    let service = tower::service_fn(move |request: Request<Body>| {
        let kept = kept.clone();
        async move {
            let (method, uri) = (request.method().to_string(), request.uri().to_string());
            let bytes = request.into_body().collect_bytes().await?;
            let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
            let known = kept.lock().unwrap().iter().any(|(method, ..)| method == "POST" || method == "PUT");
            kept.lock().unwrap().push((method.clone(), uri, body.clone()));
            let lease = || {
                let spec = json!({"holderIdentity": "another", "leaseDurationSeconds": 1});
                json!({"metadata": {"name": "storefence-operator", "resourceVersion": "7"}, "spec": spec})
            };
            let answer = match method.as_str() {
                "GET" if known => (200, lease()),
                "GET" => (404, json!({"kind": "Status", "status": "Failure", "code": 404, "reason": "NotFound"})),
                _ if body.is_object() => (200, body),
                _ => (200, json!({"apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": {}})),
            };
            let response = Response::builder().status(answer.0).body(Body::from(answer.1.to_string().into_bytes()));
            Ok::<_, kube::Error>(response.unwrap())
        }
    });
    (Client::new(service, "retail"), seen)
}

fn has_null(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(fields) => fields.values().any(has_null),
        Value::Array(items) => items.iter().any(has_null),
        _ => false,
    }
}

#[tokio::test]
async fn no_field_is_null_and_every_write_says_whose_it_is() {
    let (client, seen) = recording();
    let metadata = |uid: Option<&str>| ObjectMeta {
        name: Some("zava".into()),
        namespace: Some("retail".into()),
        uid: uid.map(str::to_owned),
        ..ObjectMeta::default()
    };
    let second = Duration::from_secs(1);
    for uid in [Some("u1"), None] {
        let object = KubernetesObject::new(&client, &metadata(uid), second, Leadership::alone());
        object.add_finalizer(&[], Some("5")).await.unwrap();
        object.add_finalizer(&["other".to_owned()], Some("5")).await.unwrap();
        object.remove_finalizer(&[storefence_tenancy::resource::FINALIZER.to_owned()]).await.unwrap();
        for version in [None, Some("5")] {
            let full: RetailTenantStatus = serde_json::from_value(json!({
                "conditions": [{"type": "Ready", "status": "True", "reason": "Reconciled", "message": "",
                                "lastTransitionTime": "2026-01-01T00:00:00Z"}],
                "credentials": {"activeSlot": "a", "activeKid": 1,
                    "slots": [{"slot": "a", "login": "l", "secretName": "s", "secretVersion": "v", "setAt": "2026-01-01T00:00:00Z"}],
                    "contextKeys": [{"kid": 1, "secretName": "s", "secretVersion": "v", "createdAt": "2026-01-01T00:00:00Z"}]},
                "rotation": {"slot": "b", "kid": 2, "startedAt": "2026-01-01T00:00:00Z"},
                "lastRotation": {"time": "2026-01-01T00:00:00Z"},
                "driftHistory": [{"time": "2026-01-01T00:00:00Z", "outcome": "Mended", "changes": ["x"]}],
            }))
            .unwrap();
            for status in [RetailTenantStatus::default(), full] {
                object.replace_status(&status, version).await.unwrap();
                object.replace_conditions(&status).await.unwrap();
            }
        }
    }
    let election = Election::new(client.clone(), "retail", Duration::from_millis(8), Leadership::alone());
    election.acquire().await;
    // Another replica has the lease by now, does not renew it, and is replaced.
    election.acquire().await;
    let reporter = Reporter { controller: FIELD_MANAGER.to_owned(), instance: None };
    let recorder = Recorder::new(client.clone(), reporter);
    let tenant = RetailTenant {
        metadata: metadata(Some("u1")),
        spec: serde_json::from_value(json!({
            "tenantId": "zava", "entra": {"tenantId": ""}, "databaseRef": {"name": ""}, "keyVaultRef": {"name": ""}, "stores": []
        }))
        .unwrap(),
        status: None,
    };
    let event = Event {
        type_: EventType::Normal,
        reason: "Reconciled".into(),
        note: None,
        action: "Reconcile".into(),
        secondary: None,
    };
    for _ in 0..2 {
        recorder.publish(&event, &tenant.object_ref(&())).await.unwrap();
    }

    let seen = seen.lock().unwrap();
    let writes: Vec<&Seen> = seen.iter().filter(|(method, ..)| method != "GET").collect();
    assert!(writes.len() >= 18, "{writes:#?}");
    for (method, uri, body) in writes {
        assert!(!body.is_null() && !has_null(body), "{method} {uri}: {body}");
        // kube's recorder sends no field manager: the server takes it from the client's User-Agent.
        let named = uri.contains("fieldManager=storefence-operator") || uri.contains("/events");
        assert!(named, "{method} {uri}");
    }
    let leases = seen.iter().filter(|(_, uri, _)| uri.contains("/leases")).count();
    assert!(leases >= 4, "one made and one replaced, each after a look: {leases} {:?}", Timestamp::now());
}
