//! Watches: a cursor into the history, written to the client line by line.

use std::{sync::Arc, time::Duration};

use axum::body::Body;
use bytes::Bytes;
use http::{Response, header};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    Answer, Server,
    request::{ResourceRequest, View},
};
use crate::kube_api::{
    resource::Resource,
    selector::Selector,
    status::ApiError,
    store::{Event, EventKind, Listing},
    table,
    write::meta,
};

const BOOKMARK_EVERY: Duration = Duration::from_secs(30);
const LONGEST: Duration = Duration::from_secs(1800);

struct Watch {
    server: Arc<Server>,
    resource: Arc<Resource>,
    namespace: Option<String>,
    selector: Selector,
    answer: Answer,
    bookmarks: bool,
    lines: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
    headings_sent: bool,
}

/// The client is gone: nothing more to write.
struct Gone;

/// Starts a watch and answers with its stream.
pub fn serve(
    server: &Arc<Server>,
    resource: Arc<Resource>,
    request: &ResourceRequest,
    answer: Answer,
) -> Result<Response<Body>, ApiError> {
    let query = &request.query;
    let from = query.number("resourceVersion")?;
    let initial = match query.get("sendInitialEvents") {
        Some("true") => {
            if query.get("resourceVersionMatch") != Some("NotOlderThan") {
                return Err(ApiError::new(
                    422,
                    "Invalid",
                    "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            true
        }
        _ => false,
    };
    let timeout = query.number("timeoutSeconds")?.map_or(LONGEST, Duration::from_secs);
    let (lines, receiver) = mpsc::channel(64);
    let mut watch = Watch {
        server: server.clone(),
        selector: Selector::parse(query.get("labelSelector"), query.get("fieldSelector"), &resource)?,
        namespace: Some(request.access.namespace.clone()).filter(|n| !n.is_empty()),
        resource,
        answer,
        bookmarks: query.flag("allowWatchBookmarks"),
        lines,
        headings_sent: false,
    };
    let start = match from {
        Some(version) if version > 0 && !initial => Start::After(version),
        _ => Start::Now { marked: initial },
    };
    tokio::spawn(async move {
        let deadline = tokio::time::Instant::now() + timeout;
        // A client that went away ends its watch; no error can be reported to it.
        let _ = watch.run(start, deadline).await;
    });
    Response::builder()
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CACHE_CONTROL, "no-cache, private")
        .body(Body::from_stream(ReceiverStream::new(receiver)))
        .map_err(|error| ApiError::new(500, "InternalError", error.to_string()))
}

enum Start {
    /// Everything that is there, then what happens; `marked` adds the bookmark that ends the first part.
    Now { marked: bool },
    /// What happened after a version.
    After(u64),
}

impl Watch {
    async fn run(&mut self, start: Start, deadline: tokio::time::Instant) -> Result<(), Gone> {
        let mut newest = self.server.cluster.store.subscribe(&self.resource.table);
        let mut dropped = self.server.faults.watch_generation();
        let mut cursor = match start {
            Start::After(version) => version,
            Start::Now { marked } => {
                let store = &self.server.cluster.store;
                let Listing { version, items } =
                    store.list(&self.resource.table, self.namespace.as_deref(), self.selector.name());
                for object in &items {
                    if self.selector.matches(object) {
                        self.send("ADDED", object).await?;
                    }
                }
                if marked {
                    self.bookmark(version, true).await?;
                }
                version
            }
        };
        let mut bookmarks = tokio::time::interval_at(tokio::time::Instant::now() + BOOKMARK_EVERY, BOOKMARK_EVERY);
        loop {
            newest.borrow_and_update();
            match self.server.cluster.store.since(&self.resource.table, cursor) {
                Ok((events, version)) => {
                    for event in &events {
                        self.event(event).await?;
                    }
                    cursor = cursor.max(version);
                }
                Err(oldest) => {
                    let status = ApiError::expired(cursor, oldest).to_status();
                    return self.line("ERROR", status).await;
                }
            }
            tokio::select! {
                changed = newest.changed() => if changed.is_err() { return Ok(()) },
                _ = dropped.changed() => return Ok(()),
                () = self.lines.closed() => return Err(Gone),
                () = self.server.stop.cancelled() => return Ok(()),
                _ = bookmarks.tick(), if self.bookmarks => self.bookmark(cursor, false).await?,
                () = tokio::time::sleep_until(deadline) => {
                    if self.bookmarks {
                        self.bookmark(cursor, false).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// An object that moves into or out of the selection appears or disappears for this watch.
    async fn event(&mut self, event: &Event) -> Result<(), Gone> {
        if self.namespace.as_deref().is_some_and(|n| n != meta(&event.object, "namespace")) {
            return Ok(());
        }
        let before = event.previous.as_ref().is_some_and(|o| self.selector.matches(o));
        let after = event.kind != EventKind::Deleted && self.selector.matches(&event.object);
        match (before, after) {
            (false, false) => Ok(()),
            (false, true) => self.send("ADDED", &event.object).await,
            (true, true) => self.send("MODIFIED", &event.object).await,
            (true, false) => self.send("DELETED", &event.object).await,
        }
    }

    async fn send(&mut self, kind: &str, object: &Value) -> Result<(), Gone> {
        let object = match self.answer.view {
            View::Table(_) => {
                let headings = !std::mem::replace(&mut self.headings_sent, true);
                self.answer.table(&self.resource, &[object], headings, meta(object, "resourceVersion"))
            }
            View::Metadata => table::partial(object),
            View::Object => self.answer.object(object),
        };
        self.line(kind, object).await
    }

    async fn bookmark(&mut self, version: u64, end_of_initial: bool) -> Result<(), Gone> {
        let mut object = json!({
            "kind": self.resource.kind,
            "apiVersion": self.answer.api_version(&self.resource),
            "metadata": {"resourceVersion": version.to_string(), "creationTimestamp": null},
        });
        match self.answer.view {
            View::Object => {}
            View::Metadata => {
                object["kind"] = json!("PartialObjectMetadata");
                object["apiVersion"] = json!("meta.k8s.io/v1");
            }
            // A table of no rows would only confuse printers; kubectl does not ask for these.
            View::Table(_) => return Ok(()),
        }
        if end_of_initial {
            object["metadata"]["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        self.line("BOOKMARK", object).await
    }

    async fn line(&mut self, kind: &str, object: Value) -> Result<(), Gone> {
        let mut line = json!({"type": kind, "object": object}).to_string();
        line.push('\n');
        self.lines.send(Ok(Bytes::from(line))).await.map_err(|_| Gone)
    }
}
