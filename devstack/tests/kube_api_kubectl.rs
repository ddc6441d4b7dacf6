//! The Kubernetes API stand-in as kubectl sees it. Skipped, with a line that says so, where kubectl is not installed.
//! With `STOREFENCE_TEST_KUBECONFIG` set, the same tests run against that cluster.

mod kube_api_support;

use std::{path::PathBuf, process::Stdio, time::Duration};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Resource as _,
    api::{Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use kube_api_support::{Cluster, eventually};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    process::Command,
};

struct Kubectl {
    cluster: Cluster,
    directory: tempfile::TempDir,
}

struct Output {
    ok: bool,
    out: String,
    err: String,
}

impl Kubectl {
    async fn start(test: &str) -> Option<Self> {
        let found = Command::new("kubectl")
            .args(["version", "--client"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await;
        if !found.is_ok_and(|status| status.success()) {
            println!("SKIPPED {test}: kubectl is not installed");
            return None;
        }
        let cluster = Cluster::start().await;
        let directory = tempfile::tempdir().expect("directory");
        std::fs::write(directory.path().join("config"), &cluster.kubeconfig).expect("kubeconfig");
        Some(Self { cluster, directory })
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        std::fs::write(&path, content).expect("file");
        path
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .args(["--namespace", &self.cluster.namespace, "--cache-dir"])
            .arg(self.directory.path().join("cache"))
            .args(arguments)
            .env("KUBECONFIG", self.directory.path().join("config"))
            .env("HOME", self.directory.path())
            .kill_on_drop(true)
            .stdin(Stdio::null());
        command
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        self.finish(self.command(arguments), arguments).await
    }

    async fn finish(&self, mut command: Command, arguments: &[&str]) -> Output {
        let output = tokio::time::timeout(Duration::from_secs(60), command.output())
            .await
            .unwrap_or_else(|_| panic!("kubectl {arguments:?} hangs"))
            .expect("kubectl runs");
        Output {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The output of a command that succeeds.
    async fn good(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.ok, "kubectl {arguments:?}: {}{}", output.out, output.err);
        output.out
    }

    /// The complaint of a command that fails.
    async fn bad(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(!output.ok, "kubectl {arguments:?} succeeds: {}", output.out);
        output.err
    }

    async fn apply(&self, yaml: &str) -> Output {
        let mut command = self.command(&["apply", "-f", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("kubectl");
        let mut input = child.stdin.take().expect("stdin");
        input.write_all(yaml.as_bytes()).await.expect("written");
        drop(input);
        let output = child.wait_with_output().await.expect("kubectl ends");
        Output {
            ok: output.status.success(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    async fn shelf(&self, name: &str, spec: &str) -> Output {
        self.apply(&shelf(name, spec)).await
    }

    async fn stop(self) {
        self.cluster.stop().await;
    }
}

fn shelf(name: &str, spec: &str) -> String {
    format!("apiVersion: devstack.storefence.dev/v1\nkind: Shelf\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// The columns of a printed table.
fn cells(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
}

#[tokio::test]
async fn apply_creates_changes_and_leaves_alone() {
    let Some(kubectl) = Kubectl::start("apply_creates_changes_and_leaves_alone").await else { return };
    let first = "{code: oak, title: hello, boxes: [{name: a}, {name: b, weight: 3}]}";
    assert_eq!(kubectl.shelf("one", first).await.out, "shelf.devstack.storefence.dev/one created\n");
    assert_eq!(kubectl.shelf("one", first).await.out, "shelf.devstack.storefence.dev/one unchanged\n");
    let second = "{code: oak, boxes: [{name: b, weight: 4}]}";
    assert_eq!(kubectl.shelf("one", second).await.out, "shelf.devstack.storefence.dev/one configured\n");
    let spec = kubectl.good(&["get", "shf", "one", "-o", "jsonpath={.spec}"]).await;
    let spec: Value = serde_json::from_str(&spec).expect("json");
    assert_eq!(spec, json!({"code": "oak", "rows": 5, "boxes": [{"name": "b", "weight": 4}]}));

    let file = kubectl.file("one.yaml", &shelf("one", "{code: oak, rows: 7}"));
    let file = file.to_str().expect("path");
    let dry = kubectl.good(&["apply", "--dry-run=server", "-f", file]).await;
    assert_eq!(dry, "shelf.devstack.storefence.dev/one configured (server dry run)\n");
    assert_eq!(kubectl.good(&["get", "shelf/one", "-o", "jsonpath={.spec.rows}"]).await, "5");
    kubectl.stop().await;
}

#[tokio::test]
async fn apply_refuses_what_the_schema_refuses() {
    let Some(kubectl) = Kubectl::start("apply_refuses_what_the_schema_refuses").await else { return };
    let typo = kubectl.shelf("one", "{code: oak, titel: x}").await;
    assert!(!typo.ok && typo.err.contains("strict decoding error: unknown field \"spec.titel\""), "{}", typo.err);
    let several = kubectl.shelf("one", "{code: OAK, kind: Glass, rows: 11}").await.err;
    assert!(several.starts_with("The Shelf \"one\" is invalid:"), "{several}");
    for line in [
        "* spec.code: Invalid value: \"OAK\": spec.code in body should match '^[a-z]+$'",
        "* spec.kind: Unsupported value: \"Glass\": supported values: \"Wood\", \"Steel\"",
        "* spec.rows: Invalid value: 11: spec.rows in body should be less than or equal to 10",
    ] {
        assert!(several.contains(line), "{line}\nis not in\n{several}");
    }
    assert!(kubectl.shelf("one", "{code: oak}").await.ok);
    let immutable = kubectl.shelf("one", "{code: elm}").await.err;
    assert!(immutable.contains("The Shelf \"one\" is invalid: spec: Invalid value: code is immutable"), "{immutable}");
    kubectl.stop().await;
}

#[tokio::test]
async fn server_side_apply_names_the_other_manager() {
    let Some(kubectl) = Kubectl::start("server_side_apply_names_the_other_manager").await else { return };
    let file = kubectl.file("one.yaml", &shelf("one", "{code: oak, title: a}"));
    let other = kubectl.file("other.yaml", &shelf("one", "{code: oak, title: b}"));
    let (file, other) = (file.to_str().expect("path"), other.to_str().expect("path"));
    let applied = kubectl.good(&["apply", "--server-side", "--field-manager=first", "-f", file]).await;
    assert_eq!(applied, "shelf.devstack.storefence.dev/one serverside-applied\n");
    let conflict = kubectl.bad(&["apply", "--server-side", "--field-manager=second", "-f", other]).await;
    assert!(conflict.contains("Apply failed with 1 conflict: conflict with \"first\": .spec.title"), "{conflict}");
    kubectl.good(&["apply", "--server-side", "--field-manager=second", "--force-conflicts", "-f", other]).await;
    assert_eq!(kubectl.good(&["get", "shf", "one", "-o", "jsonpath={.spec.title}"]).await, "b");
    let fields = kubectl.good(&["get", "shf", "one", "-o", "yaml", "--show-managed-fields"]).await;
    assert!(fields.contains("manager: first") && fields.contains("manager: second"), "{fields}");
    kubectl.stop().await;
}

#[tokio::test]
async fn get_prints_the_columns_of_the_definition() {
    let Some(kubectl) = Kubectl::start("get_prints_the_columns_of_the_definition").await else { return };
    kubectl.shelf("one", "{code: oak, title: first}").await;
    kubectl.shelf("two", "{code: elm, rows: 2}").await;
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    kubectl.cluster.shelves().patch_status("one", &PatchParams::default(), &Patch::Merge(ready)).await.expect("status");
    let table = kubectl.good(&["get", "shelves"]).await;
    let lines: Vec<Vec<&str>> = table.lines().map(cells).collect();
    assert_eq!(lines[0], ["NAME", "READY", "ROWS", "AGE"]);
    assert_eq!(lines[1][..3], ["one", "True", "5"]);
    assert_eq!(lines[2][..2], ["two", "2"]);
    assert!(lines[1][3].ends_with('s'), "an age: {table}");
    let wide = kubectl.good(&["get", "shf", "-A", "-o", "wide"]).await;
    assert_eq!(cells(wide.lines().next().expect("heading")), ["NAMESPACE", "NAME", "READY", "ROWS", "TITLE", "AGE"]);
    assert_eq!(
        kubectl.good(&["get", "shf", "-o", "name"]).await,
        "shelf.devstack.storefence.dev/one\nshelf.devstack.storefence.dev/two\n"
    );
    assert!(kubectl.good(&["get", "storefence"]).await.contains("one"), "categories");
    let items: Value = serde_json::from_str(&kubectl.good(&["get", "shf", "-o", "json"]).await).expect("json");
    assert_eq!(items["items"].as_array().map(Vec::len), Some(2));
    kubectl.good(&["label", "shf", "two", "colour=red"]).await;
    assert_eq!(
        kubectl.good(&["get", "shf", "-l", "colour=red", "-o", "name"]).await,
        "shelf.devstack.storefence.dev/two\n"
    );
    assert!(
        kubectl.bad(&["get", "shf", "three"]).await.contains("shelves.devstack.storefence.dev \"three\" not found")
    );
    kubectl.stop().await;
}

#[tokio::test]
async fn get_watch_prints_changes_as_they_happen() {
    let Some(kubectl) = Kubectl::start("get_watch_prints_changes_as_they_happen").await else { return };
    kubectl.shelf("one", "{code: oak}").await;
    let mut watch = kubectl.command(&["get", "shf", "-w"]).stdout(Stdio::piped()).spawn().expect("kubectl");
    let mut lines = BufReader::new(watch.stdout.take().expect("stdout")).lines();
    let mut next = async || {
        let line = tokio::time::timeout(Duration::from_secs(30), lines.next_line()).await.expect("in time");
        line.expect("output").expect("a line")
    };
    assert_eq!(cells(&next().await), ["NAME", "READY", "ROWS", "AGE"]);
    assert_eq!(cells(&next().await)[..2], ["one", "5"]);
    kubectl.shelf("one", "{code: oak, rows: 8}").await;
    assert_eq!(cells(&next().await)[..2], ["one", "8"]);
    kubectl.shelf("two", "{code: elm}").await;
    assert_eq!(cells(&next().await)[..2], ["two", "5"]);
    watch.kill().await.expect("killed");
    kubectl.stop().await;
}

#[tokio::test]
async fn describe_lists_events() {
    let Some(kubectl) = Kubectl::start("describe_lists_events").await else { return };
    kubectl.shelf("one", "{code: oak}").await;
    let one = kubectl.cluster.shelves().get("one").await.expect("shelf");
    let reference: ObjectReference = one.object_ref(&());
    let reporter = Reporter { controller: "devstack-tests".into(), instance: None };
    let event = Event {
        type_: EventType::Warning,
        reason: "Bent".into(),
        note: Some("it bends".into()),
        action: "Look".into(),
        secondary: None,
    };
    Recorder::new(kubectl.cluster.client.clone(), reporter).publish(&event, &reference).await.expect("event");
    let described = kubectl.good(&["describe", "shelf", "one"]).await;
    for text in ["Name:         one", "Code:  oak", "Bent", "it bends", "devstack-tests"] {
        assert!(described.contains(text), "{text}\nis not in\n{described}");
    }
    let events = kubectl.good(&["events", "--for", "shelf/one"]).await;
    assert!(events.contains("it bends"), "{events}");
    let table = kubectl.good(&["get", "events"]).await;
    assert!(table.contains("shelf/one") && table.contains("it bends"), "{table}");
    kubectl.stop().await;
}

#[tokio::test]
async fn edit_annotate_patch_and_explain() {
    let Some(kubectl) = Kubectl::start("edit_annotate_patch_and_explain").await else { return };
    kubectl.shelf("one", "{code: oak, title: before}").await;
    let mut edit = kubectl.command(&["edit", "shf", "one"]);
    edit.env("KUBE_EDITOR", "sed -i s/before/after/");
    let edited = kubectl.finish(edit, &["edit"]).await;
    assert!(edited.ok, "{}", edited.err);
    assert_eq!(kubectl.good(&["get", "shf", "one", "-o", "jsonpath={.spec.title}"]).await, "after");
    kubectl.good(&["annotate", "shf", "one", "example.dev/rotate=now"]).await;
    kubectl.good(&["patch", "shf", "one", "--type=merge", "-p", r#"{"spec":{"rows":3}}"#]).await;
    kubectl
        .good(&["patch", "shf", "one", "--type=json", "-p", r#"[{"op":"replace","path":"/spec/rows","value":4}]"#])
        .await;
    kubectl
        .good(&[
            "patch",
            "shf",
            "one",
            "--subresource=status",
            "--type=merge",
            "-p",
            r#"{"status":{"observedGeneration":9}}"#,
        ])
        .await;
    let out = "jsonpath={.metadata.annotations.example\\.dev/rotate} {.spec.rows} {.status.observedGeneration}";
    assert_eq!(kubectl.good(&["get", "shf", "one", "-o", out]).await, "now 4 9");
    let explained = kubectl.good(&["explain", "shelf.spec"]).await;
    for text in [
        "KIND:       Shelf",
        "What stands on the shelf.",
        "code\t<string> -required-",
        "enum: Wood, Steel",
        "boxes\t<[]Object>",
    ] {
        assert!(explained.contains(text), "{text}\nis not in\n{explained}");
    }
    assert!(kubectl.good(&["explain", "secret.data"]).await.contains("<map[string]string>"));
    let kinds = kubectl.good(&["api-resources", "--api-group=devstack.storefence.dev"]).await;
    assert_eq!(
        cells(kinds.lines().nth(1).expect("row")),
        ["shelves", "shf", "devstack.storefence.dev/v1", "true", "Shelf"]
    );
    kubectl.stop().await;
}

#[tokio::test]
async fn wait_and_delete_see_conditions_and_finalizers() {
    let Some(kubectl) = Kubectl::start("wait_and_delete_see_conditions_and_finalizers").await else { return };
    kubectl.shelf("one", "{code: oak}").await;
    let shelves = kubectl.cluster.shelves();
    let mut wait = kubectl.command(&["wait", "--for=condition=Ready", "shf/one", "--timeout=30s"]);
    let waiting = tokio::spawn(async move { wait.output().await.expect("kubectl") });
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    shelves.patch_status("one", &PatchParams::default(), &Patch::Merge(ready)).await.expect("status");
    assert!(waiting.await.expect("joined").status.success());

    let hold = |list: Value| Patch::Merge(json!({"metadata": {"finalizers": list}}));
    shelves.patch("one", &PatchParams::default(), &hold(json!(["storefence.dev/x"]))).await.expect("hold");
    let mut delete = kubectl.command(&["delete", "shf", "one", "--wait=true", "--timeout=30s"]);
    let deleting = tokio::spawn(async move { delete.output().await.expect("kubectl") });
    eventually("marked", || async { shelves.get("one").await.expect("get").metadata.deletion_timestamp }).await;
    assert!(!deleting.is_finished(), "kubectl waits for the finalizer");
    shelves.patch("one", &PatchParams::default(), &hold(json!(null))).await.expect("release");
    let output = deleting.await.expect("joined");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(kubectl.bad(&["get", "shf", "one"]).await.contains("not found"));
    kubectl.stop().await;
}

const CHART: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      containers:
        - name: main
          image: registry.invalid/main:1
          env: [{name: LEVEL, value: "1"}]
          ports: [{containerPort: 8080}]
        - {name: side, image: "registry.invalid/side:1"}
---
apiVersion: v1
kind: Service
metadata: {name: app}
spec: {selector: {app: app}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: app}
data: {key: value}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: app}
rules: [{apiGroups: [""], resources: [configmaps], verbs: [get]}]
"#;

#[tokio::test]
async fn built_in_kinds_are_applied_created_and_deleted() {
    let Some(kubectl) = Kubectl::start("built_in_kinds_are_applied_created_and_deleted").await else { return };
    let created = kubectl.apply(CHART).await;
    assert!(created.ok && created.out.lines().all(|line| line.ends_with("created")), "{}{}", created.out, created.err);
    let unchanged = kubectl.apply(CHART).await;
    assert!(
        unchanged.ok && unchanged.out.lines().all(|line| line.ends_with("unchanged")),
        "{}{}",
        unchanged.out,
        unchanged.err
    );
    let changed = kubectl.apply(&CHART.replace("main:1", "main:2")).await;
    assert!(changed.out.contains("deployment.apps/app configured"), "{}{}", changed.out, changed.err);
    let images =
        kubectl.good(&["get", "deploy", "app", "-o", "jsonpath={.spec.template.spec.containers[*].image}"]).await;
    assert_eq!(images, "registry.invalid/main:2 registry.invalid/side:1");
    kubectl.good(&["set", "image", "deploy/app", "side=registry.invalid/side:2"]).await;
    let images =
        kubectl.good(&["get", "deploy", "app", "-o", "jsonpath={.spec.template.spec.containers[*].image}"]).await;
    assert_eq!(images, "registry.invalid/main:2 registry.invalid/side:2");

    kubectl.good(&["create", "secret", "generic", "plain", "--from-literal=key=value"]).await;
    assert_eq!(kubectl.good(&["get", "secret", "plain", "-o", "jsonpath={.data.key}"]).await, "dmFsdWU=");
    kubectl.good(&["create", "configmap", "plain", "--from-literal=key=value"]).await;
    let maps = kubectl.good(&["get", "cm", "plain"]).await;
    assert_eq!(cells(maps.lines().nth(1).expect("row"))[..2], ["plain", "1"]);
    assert_eq!(kubectl.good(&["auth", "can-i", "delete", "secrets"]).await, "yes\n");
    let file = kubectl.file("chart.yaml", CHART);
    kubectl.good(&["delete", "--wait=true", "-f", file.to_str().expect("path")]).await;
    assert!(kubectl.bad(&["get", "deploy", "app"]).await.contains("not found"));
    kubectl.stop().await;
}

/// The definitions that the project generates, as soon as there are any.
#[tokio::test]
async fn the_projects_own_definitions_are_accepted() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../crds");
    let files: Vec<_> = std::fs::read_dir(&directory)
        .map(|entries| {
            entries
                .filter_map(Result::ok)
                .map(|e| e.path())
                .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
                .collect()
        })
        .unwrap_or_default();
    if files.is_empty() {
        println!("SKIPPED the_projects_own_definitions_are_accepted: crds/ is empty");
        return;
    }
    let Some(kubectl) = Kubectl::start("the_projects_own_definitions_are_accepted").await else { return };
    for file in files {
        let path = file.to_str().expect("path");
        kubectl.good(&["apply", "--server-side", "--force-conflicts", "-f", path]).await;
        kubectl.good(&["wait", "--for=condition=Established", "--timeout=30s", "-f", path]).await;
        let plural = kubectl.good(&["get", "-f", path, "-o", "jsonpath={.spec.names.plural}"]).await;
        kubectl.good(&["explain", &plural]).await;
    }
    kubectl.stop().await;
}
