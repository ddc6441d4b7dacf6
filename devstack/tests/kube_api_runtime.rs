//! The Kubernetes API stand-in under kube-rs' runtime: watches, controllers, finalizers, garbage collection, load.

mod kube_api_support;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams},
    runtime::{
        Controller, WatchStreamExt as _,
        controller::Action,
        finalizer::{Event as Finalizer, finalizer},
        watcher,
    },
};
use kube_api_support::{Cluster, Shelf, eventually, status};
use serde_json::{Value, json};
use storefence_devstack::kube_api::Match;

fn merge(patch: Value) -> Patch<Value> {
    Patch::Merge(patch)
}

fn plain() -> PatchParams {
    PatchParams::default()
}

#[tokio::test]
async fn watches_follow_selectors_and_start_at_a_version() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let map = |name: &str| {
        serde_json::from_value(json!({"metadata": {"name": name, "labels": {"shown": "no"}}})).expect("map")
    };
    maps.create(&PostParams::default(), &map("a")).await.expect("create");
    let list = maps.list(&ListParams::default().labels("shown=yes")).await.expect("list");
    assert!(list.items.is_empty());
    let params = WatchParams::default().labels("shown=yes").timeout(20);
    let mut watch =
        Box::pin(maps.watch(&params, &list.metadata.resource_version.expect("version")).await.expect("watch"));
    let show = |how: &str| merge(json!({"metadata": {"labels": {"shown": how}}}));
    maps.patch("a", &plain(), &show("yes")).await.expect("in");
    maps.patch("a", &plain(), &merge(json!({"data": {"k": "v"}}))).await.expect("change");
    maps.patch("a", &plain(), &show("no")).await.expect("out");
    let mut kinds = Vec::new();
    while kinds.len() < 3 {
        match watch.try_next().await.expect("event") {
            Some(WatchEvent::Added(_)) => kinds.push("added"),
            Some(WatchEvent::Modified(_)) => kinds.push("modified"),
            Some(WatchEvent::Deleted(_)) => kinds.push("deleted"),
            Some(WatchEvent::Bookmark(_)) => {}
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(kinds, ["added", "modified", "deleted"]);
    cluster.stop().await;
}

async fn watch_survives(config: watcher::Config) {
    let cluster = Cluster::start().await;
    let Some(api) = cluster.stand_in("watch_survives") else { return };
    cluster.shelf("a").await;
    let mut seen = Box::pin(
        watcher(cluster.shelves(), config).default_backoff().applied_objects().filter_map(|r| async { r.ok() }),
    );
    let mut wait_for = async |name: &str| {
        let deadline = Duration::from_secs(20);
        tokio::time::timeout(deadline, async {
            while let Some(shelf) = seen.next().await {
                if shelf.name_any() == name {
                    return;
                }
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{name} never seen"));
    };
    wait_for("a").await;
    api.faults().drop_watches();
    cluster.shelf("b").await;
    wait_for("b").await;
    api.faults().compact_history();
    cluster.shelf("c").await;
    wait_for("c").await;
    api.faults().fail_next(Match::any().verb("watch").resource("shelves"), 1, 410);
    api.faults().drop_watches();
    cluster.shelf("d").await;
    wait_for("d").await;
    api.set_down(true);
    api.set_down(false);
    cluster.shelf("e").await;
    wait_for("e").await;
    cluster.stop().await;
}

#[tokio::test]
async fn watchers_survive_lost_connections_and_lost_history() {
    watch_survives(watcher::Config::default()).await;
}

#[tokio::test]
async fn streaming_lists_survive_them_too() {
    watch_survives(watcher::Config::default().streaming_lists()).await;
}

#[tokio::test]
async fn forgotten_versions_are_gone() {
    let cluster = Cluster::start().await;
    let Some(api) = cluster.stand_in("forgotten_versions_are_gone") else { return };
    cluster.shelf("a").await;
    cluster.shelf("b").await;
    let page = cluster.shelves().list(&ListParams::default().limit(1)).await.expect("list");
    let seen = page.metadata.resource_version.expect("version");
    let params = WatchParams::default().timeout(20);
    let mut open = Box::pin(cluster.shelves().watch(&params, &seen).await.expect("watch"));
    api.faults().compact_history();
    let Some(WatchEvent::Error(status)) = open.try_next().await.expect("event") else {
        panic!("an open watch goes on")
    };
    assert_eq!((status.code, status.reason.as_str()), (410, "Expired"));
    let mut late = Box::pin(cluster.shelves().watch(&params, &seen).await.expect("watch"));
    let Some(WatchEvent::Error(status)) = late.try_next().await.expect("event") else { panic!("a late watch starts") };
    assert_eq!(status.code, 410);
    let token = page.metadata.continue_.expect("more");
    let next = ListParams::default().limit(1).continue_token(&token);
    let error = kube_api_support::status(cluster.shelves().list(&next).await.expect_err("stale token"));
    assert_eq!((error.0, error.1.as_str()), (410, "Expired"));
    let fresh =
        cluster.shelves().list(&ListParams::default()).await.expect("list").metadata.resource_version.expect("version");
    let mut watch = Box::pin(cluster.shelves().watch(&params, &fresh).await.expect("watch"));
    cluster.shelf("c").await;
    assert!(matches!(watch.try_next().await.expect("event"), Some(WatchEvent::Added(_))));
    cluster.stop().await;
}

#[tokio::test]
async fn initial_events_end_in_a_bookmark() {
    let cluster = Cluster::start().await;
    cluster.shelf("a").await;
    let params = WatchParams::default().timeout(20).initial_events();
    let mut watch = Box::pin(cluster.shelves().watch(&params, "0").await.expect("watch"));
    assert!(
        matches!(watch.try_next().await.expect("event"), Some(WatchEvent::Added(shelf)) if shelf.name_any() == "a")
    );
    let Some(WatchEvent::Bookmark(mark)) = watch.try_next().await.expect("event") else { panic!("no bookmark") };
    assert_eq!(mark.metadata.annotations.get("k8s.io/initial-events-end").map(String::as_str), Some("true"));
    cluster.stop().await;
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Failed(String);

async fn reconcile(shelf: Arc<Shelf>, client: Arc<Client>) -> Result<Action, Failed> {
    let shelves: Api<Shelf> = Api::namespaced((*client).clone(), &shelf.namespace().unwrap_or_default());
    let result = finalizer(&shelves, "devstack.storefence.dev/fence", shelf, |event| async {
        match event {
            Finalizer::Apply(shelf) => {
                let ready = json!({
                    "apiVersion": "devstack.storefence.dev/v1", "kind": "Shelf",
                    "status": {"observedGeneration": shelf.metadata.generation, "conditions": [{"type": "Ready", "status": "True"}]},
                });
                let params = PatchParams::apply("devstack-controller").force();
                shelves.patch_status(&shelf.name_any(), &params, &Patch::Apply(ready)).await?;
                Ok::<_, kube::Error>(Action::await_change())
            }
            Finalizer::Cleanup(_) => Ok(Action::await_change()),
        }
    })
    .await;
    result.map_err(|error| Failed(error.to_string()))
}

#[tokio::test]
async fn a_controller_with_a_finalizer_settles_and_cleans_up() {
    let cluster = Cluster::start().await;
    let shelves = cluster.shelves();
    let controller = tokio::spawn(
        Controller::new(shelves.clone(), watcher::Config::default())
            .run(reconcile, |_, _, _| Action::requeue(Duration::from_millis(50)), Arc::new(cluster.client.clone()))
            .for_each(|_| async {}),
    );
    cluster.shelf("a").await;
    let observed = |generation: i64| {
        let shelves = shelves.clone();
        move || {
            let shelves = shelves.clone();
            async move {
                let shelf = shelves.get("a").await.expect("get");
                (shelf.status.as_ref()?.observed_generation == Some(generation)).then_some(shelf)
            }
        }
    };
    let shelf = eventually("reconciled", observed(1)).await;
    assert_eq!(shelf.finalizers(), ["devstack.storefence.dev/fence"]);
    shelves.patch("a", &plain(), &merge(json!({"spec": {"rows": 9}}))).await.expect("patch");
    eventually("reconciled again", observed(2)).await;
    if let Some(api) = &cluster.api {
        // Settled means silent: once what is under way has arrived, nothing is written any more.
        eventually("no more writes", || async {
            let before = api.counters().writes(None);
            tokio::time::sleep(Duration::from_millis(200)).await;
            (api.counters().writes(None) == before).then_some(())
        })
        .await;
    }
    shelves.delete("a", &DeleteParams::default()).await.expect("delete");
    eventually("cleaned up", || async { shelves.get_opt("a").await.expect("get").is_none().then_some(()) }).await;
    controller.abort();
    cluster.stop().await;
}

#[tokio::test]
async fn owned_objects_go_with_their_owner_and_namespaces_take_all_with_them() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), &cluster.namespace);
    let shelf = cluster.shelf("a").await;
    let owner = shelf.controller_owner_ref(&()).expect("reference");
    let map = serde_json::from_value(json!({"metadata": {"name": "owned", "ownerReferences": [owner]}})).expect("map");
    maps.create(&PostParams::default(), &map).await.expect("create");
    cluster.shelves().delete("a", &DeleteParams::default()).await.expect("delete");
    eventually("collected", || async { maps.get_opt("owned").await.expect("get").is_none().then_some(()) }).await;

    cluster.shelf("held").await;
    cluster
        .shelves()
        .patch("held", &plain(), &merge(json!({"metadata": {"finalizers": ["storefence.dev/x"]}})))
        .await
        .expect("hold");
    let namespaces: Api<Namespace> = Api::all(cluster.client.clone());
    namespaces.delete(&cluster.namespace, &DeleteParams::default()).await.expect("delete");
    eventually("marked", || async { cluster.shelves().get("held").await.expect("get").metadata.deletion_timestamp })
        .await;
    let late = serde_json::from_value(json!({"metadata": {"name": "late"}})).expect("map");
    let error = status(maps.create(&PostParams::default(), &late).await.expect_err("terminating"));
    assert_eq!(error.0, 403);
    assert!(error.2.ends_with("because it is being terminated"), "{}", error.2);
    cluster
        .shelves()
        .patch("held", &plain(), &merge(json!({"metadata": {"finalizers": null}})))
        .await
        .expect("release");
    eventually("namespace gone", || async {
        namespaces.get_opt(&cluster.namespace).await.expect("get").is_none().then_some(())
    })
    .await;
    cluster.stop().await;
}

#[tokio::test]
async fn a_thousand_objects_are_no_burden() {
    let cluster = Cluster::start().await;
    if cluster.stand_in("a_thousand_objects_are_no_burden").is_none() {
        return;
    }
    let started = std::time::Instant::now();
    futures::stream::iter(0..1000)
        .for_each_concurrent(16, |n| {
            let cluster = &cluster;
            async move {
                let name = format!("s{n}");
                cluster.shelf(&name).await;
                let ready = json!({"apiVersion": "devstack.storefence.dev/v1", "kind": "Shelf", "status": {"observedGeneration": 1}});
                let params = PatchParams::apply("x").force();
                cluster.shelves().patch_status(&name, &params, &Patch::Apply(ready)).await.expect("status");
            }
        })
        .await;
    let listed = cluster.shelves().list(&ListParams::default()).await.expect("list").items.len();
    println!("1,000 objects created and reported on in {:?}", started.elapsed());
    assert_eq!(listed, 1000);
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    cluster.stop().await;
}
