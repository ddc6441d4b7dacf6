//! The Kubernetes API stand-in as a kube-rs client sees it: objects, patches, validation, access. With
//! `STOREFENCE_TEST_KUBECONFIG` set, the same tests run against that cluster, so that a difference between it and the
//! stand-in shows as a failure.

mod kube_api_support;

use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{ConfigMap, Event as CoreEvent, Secret},
};
use kube::{
    Api, Resource as _, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use kube_api_support::{Cluster, Shelf, ShelfSpec, client, status, version};
use serde_json::{Value, json};
use storefence_devstack::kube_api::Match;

fn merge(patch: Value) -> Patch<Value> {
    Patch::Merge(patch)
}

fn plain() -> PatchParams {
    PatchParams::default()
}

#[tokio::test]
async fn writes_that_change_nothing_are_no_writes() {
    let cluster = Cluster::start().await;
    let shelves = cluster.shelves();
    let one = cluster.shelf("a").await;
    assert_eq!((one.metadata.generation, one.spec.rows), (Some(1), Some(5)), "defaults are filled in");
    let same = shelves.patch("a", &plain(), &merge(json!({"spec": {"code": "oak"}}))).await.expect("patch");
    assert_eq!(version(&same), version(&one));
    let spec = shelves.patch("a", &plain(), &merge(json!({"spec": {"rows": 6}}))).await.expect("patch");
    assert!(version(&spec) > version(&one));
    assert_eq!(spec.metadata.generation, Some(2));
    let labels =
        shelves.patch("a", &plain(), &merge(json!({"metadata": {"labels": {"x": "y"}}}))).await.expect("patch");
    assert_eq!(labels.metadata.generation, Some(2), "metadata is not what is asked for");
    cluster.stop().await;
}

#[tokio::test]
async fn status_is_apart_in_both_directions() {
    let cluster = Cluster::start().await;
    let shelves = cluster.shelves();
    cluster.shelf("a").await;
    let both = json!({"spec": {"rows": 7}, "status": {"observedGeneration": 1}});
    let main = shelves.patch("a", &plain(), &merge(both)).await.expect("patch");
    assert_eq!((main.spec.rows, main.status), (Some(7), None));
    let both = json!({"spec": {"rows": 8}, "metadata": {"labels": {"x": "y"}}, "status": {"observedGeneration": 2}});
    let sub = shelves.patch_status("a", &plain(), &merge(both)).await.expect("patch status");
    assert_eq!((sub.spec.rows, sub.metadata.generation), (Some(7), Some(2)));
    assert_eq!(sub.status.and_then(|s| s.observed_generation), Some(2));
    assert!(sub.metadata.labels.is_none());
    cluster.stop().await;
}

#[tokio::test]
async fn conflicts_and_missing_objects_are_told_apart() {
    let cluster = Cluster::start().await;
    let shelves = cluster.shelves();
    let mut stale = cluster.shelf("a").await;
    shelves.patch("a", &plain(), &merge(json!({"spec": {"rows": 6}}))).await.expect("patch");
    stale.spec.title = Some("late".into());
    let error = status(shelves.replace("a", &PostParams::default(), &stale).await.expect_err("stale"));
    assert_eq!((error.0, error.1.as_str()), (409, "Conflict"));
    assert_eq!(
        error.2,
        "Operation cannot be fulfilled on shelves.devstack.storefence.dev \"a\": the object has been modified; please apply \
         your changes to the latest version and try again"
    );
    let twin = Shelf::new("a", ShelfSpec { code: "oak".into(), ..ShelfSpec::default() });
    let error = status(shelves.create(&PostParams::default(), &twin).await.expect_err("taken"));
    assert_eq!((error.0, error.1.as_str()), (409, "AlreadyExists"));
    assert_eq!(error.2, "shelves.devstack.storefence.dev \"a\" already exists");
    let error = status(shelves.get("b").await.expect_err("absent"));
    assert_eq!(
        (error.0, error.1.as_str(), error.2.as_str()),
        (404, "NotFound", "shelves.devstack.storefence.dev \"b\" not found")
    );
    let elsewhere: Api<Shelf> = Api::namespaced(cluster.client.clone(), "no-such-namespace");
    let error = status(elsewhere.create(&PostParams::default(), &twin).await.expect_err("no namespace"));
    assert_eq!((error.0, error.2.as_str()), (404, "namespaces \"no-such-namespace\" not found"));
    let gone = DeleteParams {
        preconditions: Some(kube::api::Preconditions { uid: Some("other".into()), resource_version: None }),
        ..DeleteParams::default()
    };
    assert_eq!(status(shelves.delete("a", &gone).await.expect_err("precondition")).0, 409);
    cluster.stop().await;
}

#[tokio::test]
async fn invalid_objects_are_refused_in_the_servers_words() {
    let cluster = Cluster::start().await;
    let shelves: Api<kube::api::DynamicObject> =
        Api::namespaced_with(cluster.client.clone(), &cluster.namespace, &kube::api::ApiResource::erase::<Shelf>(&()));
    let cases = [
        (json!({}), "spec.code: Required value"),
        (json!({"code": "OAK"}), "spec.code: Invalid value: \"OAK\": spec.code in body should match '^[a-z]+$'"),
        (json!({"code": "o"}), "spec.code: Invalid value: \"o\": spec.code in body should be at least 2 chars long"),
        (
            json!({"code": "oak", "kind": "Glass"}),
            "spec.kind: Unsupported value: \"Glass\": supported values: \"Wood\", \"Steel\"",
        ),
        (
            json!({"code": "oak", "rows": 11}),
            "spec.rows: Invalid value: 11: spec.rows in body should be less than or equal to 10",
        ),
        (
            json!({"code": "oak", "rows": "6"}),
            "spec.rows: Invalid value: \"string\": spec.rows in body must be of type integer: \"string\"",
        ),
        (
            json!({"code": "oak", "id": "x"}),
            "spec.id: Invalid value: \"x\": spec.id in body must be of type uuid: \"x\"",
        ),
        (json!({"code": "oak", "tags": ["a", "a"]}), "spec.tags[1]: Duplicate value: \"a\""),
        (json!({"code": "oak", "tags": ["a", "z"]}), "spec: Forbidden: unknown tag"),
        (
            json!({"code": "oak", "boxes": [{"name": "a"}, {"name": "a"}]}),
            "spec.boxes[1]: Duplicate value: {\"name\":\"a\"}",
        ),
        (
            json!({"code": "oak", "boxes": [{"name": "a", "weight": 100}]}),
            "spec.boxes: Invalid value: boxes of oak are too heavy",
        ),
        (
            json!({"code": "oak", "port": true}),
            "spec.port: Invalid value: \"boolean\": spec.port in body must be of type integer,string: \"boolean\"",
        ),
    ];
    for (spec, wanted) in cases {
        let object = serde_json::from_value(json!({"apiVersion": "devstack.storefence.dev/v1", "kind": "Shelf", "metadata": {"name": "bad"}, "spec": spec}))
            .expect("object");
        let error = status(shelves.create(&PostParams::default(), &object).await.expect_err(wanted));
        assert_eq!((error.0, error.1.as_str()), (422, "Invalid"), "{}", error.2);
        assert!(error.2.starts_with("Shelf.devstack.storefence.dev \"bad\" is invalid: "), "{}", error.2);
        assert!(error.2.contains(wanted), "{wanted}\nis not in\n{}", error.2);
    }
    cluster.shelf("good").await;
    let error = cluster
        .shelves()
        .patch("good", &plain(), &merge(json!({"spec": {"code": "elm"}})))
        .await
        .expect_err("immutable");
    assert_eq!(
        status(error).2,
        "Shelf.devstack.storefence.dev \"good\" is invalid: spec: Invalid value: code is immutable"
    );
    cluster.stop().await;
}

#[tokio::test]
async fn unknown_fields_are_dropped_or_refused() {
    let cluster = Cluster::start().await;
    let shelves = cluster.shelves();
    cluster.shelf("a").await;
    let strict = PatchParams { field_validation: Some(kube::api::ValidationDirective::Strict), ..plain() };
    let typo = merge(json!({"spec": {"titel": "x"}}));
    let error = status(shelves.patch("a", &strict, &typo).await.expect_err("typo"));
    // What the patch has led to is judged, not the patch.
    assert_eq!(error.0, 422);
    assert!(error.2.contains("strict decoding error: unknown field \"spec.titel\""), "{}", error.2);
    let ignored = PatchParams { field_validation: Some(kube::api::ValidationDirective::Ignore), ..plain() };
    let before = shelves.get("a").await.expect("get");
    let after = shelves.patch("a", &ignored, &typo).await.expect("ignored");
    assert_eq!(version(&before), version(&after));
    cluster.stop().await;
}

#[tokio::test]
async fn json_patch_tests_absent_paths_against_null() {
    let cluster = Cluster::start().await;
    let shelves = cluster.shelves();
    cluster.shelf("a").await;
    let patch = json!([
        {"op": "test", "path": "/metadata/finalizers", "value": null},
        {"op": "add", "path": "/metadata/finalizers", "value": ["storefence.dev/x"]},
    ]);
    let patch = || Patch::<Shelf>::Json(serde_json::from_value(patch.clone()).expect("patch"));
    let shelf = shelves.patch("a", &plain(), &patch()).await.expect("absent equals null");
    assert_eq!(shelf.finalizers(), ["storefence.dev/x"]);
    assert_eq!(status(shelves.patch("a", &plain(), &patch()).await.expect_err("present")).0, 422);
    shelves.patch("a", &plain(), &merge(json!({"metadata": {"finalizers": null}}))).await.expect("patch");
    cluster.stop().await;
}

#[tokio::test]
async fn finalizers_hold_an_object_until_the_last_is_gone() {
    let cluster = Cluster::start().await;
    let shelves = cluster.shelves();
    cluster.shelf("a").await;
    let held = merge(json!({"metadata": {"finalizers": ["storefence.dev/x", "storefence.dev/y"]}}));
    shelves.patch("a", &plain(), &held).await.expect("patch");
    let marked = shelves.delete("a", &DeleteParams::default()).await.expect("delete").left().expect("the object");
    assert!(marked.metadata.deletion_timestamp.is_some());
    assert_eq!(marked.metadata.generation, Some(2), "the first mark counts as a change");
    let again = shelves.delete("a", &DeleteParams::default()).await.expect("delete").left().expect("the object");
    assert_eq!(version(&again), version(&marked));
    let more = merge(json!({"metadata": {"finalizers": ["storefence.dev/x", "storefence.dev/y", "storefence.dev/z"]}}));
    let error = status(shelves.patch("a", &plain(), &more).await.expect_err("too late"));
    assert!(error.2.contains("no new finalizers can be added if the object is being deleted"), "{}", error.2);
    let mut watch = Box::pin(
        shelves
            .watch(&WatchParams::default().timeout(20), &marked.resource_version().expect("version"))
            .await
            .expect("watch"),
    );
    shelves
        .patch("a", &plain(), &merge(json!({"metadata": {"finalizers": ["storefence.dev/y"]}})))
        .await
        .expect("first");
    shelves.patch("a", &plain(), &merge(json!({"metadata": {"finalizers": null}}))).await.expect("last");
    assert!(matches!(watch.try_next().await.expect("event"), Some(WatchEvent::Modified(_))));
    assert!(matches!(watch.try_next().await.expect("event"), Some(WatchEvent::Deleted(_))));
    assert_eq!(status(shelves.get("a").await.expect_err("gone")).0, 404);
    cluster.stop().await;
}

#[tokio::test]
async fn server_side_apply_owns_what_it_sets() {
    let cluster = Cluster::start().await;
    let shelves = cluster.shelves();
    let config = |spec: Value| {
        Patch::Apply(
            json!({"apiVersion": "devstack.storefence.dev/v1", "kind": "Shelf", "metadata": {"name": "a"}, "spec": spec}),
        )
    };
    let (one, two) = (PatchParams::apply("one"), PatchParams::apply("two"));
    let first = json!({"code": "oak", "title": "t", "boxes": [{"name": "a", "weight": 1}, {"name": "b", "weight": 2}]});
    shelves.patch("a", &one, &config(first.clone())).await.expect("create on apply");
    let repeated = shelves.patch("a", &one, &config(first)).await.expect("again");
    assert_eq!(repeated.metadata.generation, Some(1));
    let error =
        status(shelves.patch("a", &two, &config(json!({"code": "oak", "title": "u"}))).await.expect_err("conflict"));
    assert_eq!((error.0, error.1.as_str()), (409, "Conflict"));
    assert_eq!(error.2, "Apply failed with 1 conflict: conflict with \"one\": .spec.title");
    let second = json!({"code": "oak", "boxes": [{"name": "b", "note": "n"}, {"name": "c"}]});
    let shared = shelves.patch("a", &two, &config(second)).await.expect("merge");
    assert_eq!(
        shared.spec.boxes,
        [json!({"name": "a", "weight": 1}), json!({"name": "b", "weight": 2, "note": "n"}), json!({"name": "c"})]
    );
    let less = shelves.patch("a", &one, &config(json!({"code": "oak", "title": "t"}))).await.expect("fewer fields");
    assert_eq!(less.spec.boxes, [json!({"name": "b", "note": "n"}), json!({"name": "c"})]);
    let forced =
        shelves.patch("a", &two.clone().force(), &config(json!({"code": "oak", "title": "u"}))).await.expect("force");
    assert_eq!(forced.spec.title.as_deref(), Some("u"));
    let entries = forced.metadata.managed_fields.unwrap_or_default();
    let owns = |who: &str| {
        let entry = entries.iter().find(|e| e.manager.as_deref() == Some(who)).expect(who);
        serde_json::to_string(&entry.fields_v1).expect("fields").contains("f:title")
    };
    assert!(owns("two") && !owns("one"));
    let ready = json!({"apiVersion": "devstack.storefence.dev/v1", "kind": "Shelf", "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    let reported = shelves.patch_status("a", &one, &Patch::Apply(ready.clone())).await.expect("status");
    assert_eq!(reported.status.expect("status").conditions.len(), 1);
    let unchanged = shelves.patch_status("a", &one, &Patch::Apply(ready)).await.expect("status");
    assert_eq!(unchanged.metadata.resource_version, reported.metadata.resource_version);
    assert_eq!(unchanged.spec.title.as_deref(), Some("u"), "applying status does not give up the spec");
    cluster.stop().await;
}

#[tokio::test]
async fn a_lease_goes_to_one_holder() {
    let cluster = Cluster::start().await;
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let lease = |holder: &str| {
        serde_json::from_value(json!({"metadata": {"name": "leader"}, "spec": {"holderIdentity": holder}}))
            .expect("lease")
    };
    leases.create(&PostParams::default(), &lease("none")).await.expect("create");
    let seen = leases.get("leader").await.expect("get");
    let take = |holder: &'static str| {
        let (leases, mut lease) = (leases.clone(), seen.clone());
        async move {
            lease.spec.get_or_insert_default().holder_identity = Some(holder.into());
            leases.replace("leader", &PostParams::default(), &lease).await
        }
    };
    let results = futures::future::join_all((0..8).map(|_| take("me"))).await;
    assert_eq!(results.iter().filter(|r| r.is_ok()).count(), 1);
    for error in results.into_iter().filter_map(Result::err) {
        assert_eq!(status(error).0, 409);
    }
    let apply = |who: &str| {
        Patch::Apply(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "spec": {"holderIdentity": who}}))
    };
    let error = leases.patch("leader", &PatchParams::apply("b"), &apply("b")).await.expect_err("held");
    assert_eq!(status(error).0, 409);
    cluster.stop().await;
}

#[tokio::test]
async fn events_are_the_same_objects_in_both_groups() {
    let cluster = Cluster::start().await;
    let shelf = cluster.shelf("a").await;
    let recorder = Recorder::new(
        cluster.client.clone(),
        Reporter { controller: "devstack-tests".into(), instance: Some("one".into()) },
    );
    let event = || Event {
        type_: EventType::Warning,
        reason: "Bent".into(),
        note: Some("it bends".into()),
        action: "Look".into(),
        secondary: None,
    };
    recorder.publish(&event(), &shelf.object_ref(&())).await.expect("publish");
    recorder.publish(&event(), &shelf.object_ref(&())).await.expect("publish again");
    let events: Api<CoreEvent> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let uid = shelf.uid().expect("uid");
    let about = ListParams::default().fields(&format!("involvedObject.name=a,involvedObject.uid={uid}"));
    let found = events.list(&about).await.expect("list").items;
    assert_eq!(found.len(), 1, "the second one is counted, not added");
    assert_eq!((found[0].reason.as_deref(), found[0].message.as_deref()), (Some("Bent"), Some("it bends")));
    assert_eq!(found[0].series.as_ref().and_then(|s| s.count), Some(2));
    let others = events.list(&ListParams::default().fields("involvedObject.name=b")).await.expect("list");
    assert!(others.items.is_empty());
    cluster.stop().await;
}

#[tokio::test]
async fn long_lists_come_in_pages() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    for n in 0..7 {
        let map = serde_json::from_value(json!({"metadata": {"name": format!("page-{n}"), "labels": {"paged": ""}}}))
            .expect("map");
        maps.create(&PostParams::default(), &map).await.expect("create");
    }
    let mut params = ListParams::default().labels("paged").limit(3);
    let mut seen = Vec::new();
    loop {
        let page = maps.list(&params).await.expect("page");
        seen.push(page.items.iter().map(ConfigMap::name_any).collect::<Vec<_>>());
        match page.metadata.continue_.filter(|c| !c.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(seen.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
    assert_eq!(seen.concat(), (0..7).map(|n| format!("page-{n}")).collect::<Vec<_>>());
    cluster.stop().await;
}

#[tokio::test]
async fn secrets_take_plain_text_and_generated_names() {
    let cluster = Cluster::start().await;
    let secrets: Api<Secret> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let secret = serde_json::from_value(json!({"metadata": {"generateName": "gen-"}, "stringData": {"k": "v"}}))
        .expect("secret");
    let made = secrets.create(&PostParams::default(), &secret).await.expect("create");
    assert!(made.name_any().len() == 9 && made.name_any().starts_with("gen-"), "{}", made.name_any());
    assert_eq!(made.data.as_ref().and_then(|d| d.get("k")).map(|b| b.0.clone()), Some(b"v".to_vec()));
    assert_eq!((made.type_.as_deref(), made.string_data), (Some("Opaque"), None));
    let dry = PostParams { dry_run: true, ..PostParams::default() };
    let named = serde_json::from_value(json!({"metadata": {"name": "dry"}})).expect("secret");
    secrets.create(&dry, &named).await.expect("dry run");
    assert!(secrets.get_opt("dry").await.expect("get").is_none());
    cluster.stop().await;
}

#[tokio::test]
async fn faults_are_injected_and_requests_counted() {
    let cluster = Cluster::start().await;
    let Some(api) = cluster.stand_in("faults_are_injected_and_requests_counted") else { return };
    let (shelves, faults, counters) = (cluster.shelves(), api.faults(), api.counters());
    cluster.shelf("a").await;
    counters.reset();
    for code in [409, 410, 429, 500, 503] {
        faults.fail_next(Match::any().verb("patch").resource("shelves/status").name("a"), 1, code);
    }
    let report = merge(json!({"status": {"observedGeneration": 1}}));
    let mut codes = Vec::new();
    let client = raw_client(api);
    let url =
        format!("{}/apis/devstack.storefence.dev/v1/namespaces/{}/shelves/a/status", api.url(), cluster.namespace);
    for _ in 0..5 {
        let request = client.patch(&url).bearer_auth(api.token("storefence-admin").expect("token"));
        let request = request.header("content-type", "application/merge-patch+json").body("{}");
        codes.push(request.send().await.expect("answer").status().as_u16());
    }
    assert_eq!(codes, [409, 410, 429, 500, 503]);
    shelves.patch_status("a", &plain(), &report).await.expect("back to normal");
    assert_eq!((counters.get("patch", "shelves/status"), counters.writes(None)), (6, 6));
    assert_eq!(counters.writes(Some("reader")), 0);
    faults.delay(Match::any().verb("get"), Duration::from_millis(300));
    let started = std::time::Instant::now();
    shelves.get("a").await.expect("get");
    assert!(started.elapsed() >= Duration::from_millis(300));
    faults.clear();
    faults.throttle_next(Match::any().verb("get"), 1, 7);
    let url = format!("{}/api/v1/namespaces/default", api.url());
    let throttled =
        client.get(url).bearer_auth(api.token("storefence-admin").expect("token")).send().await.expect("answer");
    assert_eq!(throttled.headers()["retry-after"], "7");
    cluster.stop().await;
}

fn raw_client(api: &storefence_devstack::kube_api::KubeApi) -> reqwest::Client {
    let pem = api.authority_pem();
    let root = reqwest::Certificate::from_pem(pem.as_bytes()).expect("pem");
    reqwest::Client::builder().tls_certs_only([root]).no_proxy().build().expect("client")
}

#[tokio::test]
async fn callers_are_authenticated_and_authorised() {
    let cluster = Cluster::start().await;
    let Some(api) = cluster.stand_in("callers_are_authenticated_and_authorised") else { return };
    let reader = client(&api.kubeconfig_for("reader").expect("reader")).await;
    let shelves: Api<Shelf> = Api::namespaced(reader.clone(), &cluster.namespace);
    shelves.list(&ListParams::default()).await.expect("may list");
    let error = status(shelves.delete("a", &DeleteParams::default()).await.expect_err("may not delete"));
    assert_eq!((error.0, error.1.as_str()), (403, "Forbidden"));
    assert_eq!(
        error.2,
        format!(
            "shelves.devstack.storefence.dev \"a\" is forbidden: User \"reader\" cannot delete resource \"shelves\" in API group \
             \"devstack.storefence.dev\" in the namespace \"{}\"",
            cluster.namespace
        )
    );
    let secrets: Api<Secret> = Api::all(reader);
    let error = status(secrets.list(&ListParams::default()).await.expect_err("may not list"));
    assert_eq!(
        error.2,
        "secrets is forbidden: User \"reader\" cannot list resource \"secrets\" in API group \"\" at the cluster scope"
    );
    let raw = raw_client(api);
    for request in
        [raw.get(format!("{}/api/v1/secrets", api.url())), raw.get(format!("{}/apis", api.url())).bearer_auth("wrong")]
    {
        let answer = request.send().await.expect("answer");
        assert_eq!(answer.status(), 401);
        let body: Value = serde_json::from_str(&answer.text().await.expect("body")).expect("Status");
        assert_eq!((&body["kind"], &body["reason"]), (&json!("Status"), &json!("Unauthorized")));
    }
    assert_eq!(raw.get(format!("{}/readyz", api.url())).send().await.expect("answer").status(), 200);
    cluster.stop().await;
}

#[tokio::test]
async fn definitions_are_checked_and_take_their_objects_with_them() {
    let cluster = Cluster::start().await;
    if cluster.stand_in("definitions_are_checked_and_take_their_objects_with_them").is_none() {
        return;
    }
    let crds: Api<k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition> =
        Api::all(cluster.client.clone());
    let mut broken = kube_api_support::definition();
    broken["metadata"]["name"] = json!("wrong.devstack.storefence.dev");
    broken["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["code"] =
        json!({"pattern": "[", "type": "string"});
    let error = status(
        crds.create(&PostParams::default(), &serde_json::from_value(broken).expect("crd")).await.expect_err("broken"),
    );
    assert_eq!(error.0, 422);
    assert!(error.2.contains("must be spec.names.plural+\".\"+spec.group"), "{}", error.2);
    assert!(error.2.contains("must be a valid regular expression"), "{}", error.2);

    cluster.shelf("a").await;
    cluster
        .shelves()
        .patch("a", &plain(), &merge(json!({"metadata": {"finalizers": ["storefence.dev/x"]}})))
        .await
        .expect("hold");
    crds.delete("shelves.devstack.storefence.dev", &DeleteParams::default()).await.expect("delete");
    assert!(cluster.shelves().get("a").await.expect("held").metadata.deletion_timestamp.is_some());
    cluster.shelves().patch("a", &plain(), &merge(json!({"metadata": {"finalizers": null}}))).await.expect("release");
    assert!(crds.get_opt("shelves.devstack.storefence.dev").await.expect("get").is_none());
    assert_eq!(status(cluster.shelves().get("a").await.expect_err("no longer served")).0, 404);
    cluster.stop().await;
}
