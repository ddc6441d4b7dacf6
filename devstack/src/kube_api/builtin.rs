//! The built-in kinds: schemas generated from k8s-openapi, with the list types that its output leaves out.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use k8s_openapi::{
    api::{
        apps::v1 as apps, authentication::v1 as authentication, authorization::v1 as authorization,
        autoscaling::v2 as autoscaling, batch::v1 as batch, coordination::v1 as coordination, core::v1 as core,
        events::v1 as events, networking::v1 as networking, policy::v1 as policy, rbac::v1 as rbac,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1 as apiextensions,
    apimachinery::pkg::apis::meta::v1 as meta,
};
use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    resource::{ALL_VERBS, Resource},
    schema::Schema,
};

/// Description of `apiVersion`.
pub const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources";
/// Description of `kind`.
pub const KIND: &str = "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds";

const REF: &str = "#/components/schemas/";
/// The component of `metadata`.
pub const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const JSON_SCHEMA_PROPS: &str = "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    categories: &'static [&'static str],
    namespaced: bool,
    has_status: bool,
    /// Create-only kinds answer a question and store nothing.
    question: bool,
    component: String,
}

/// How the server's names for one kind read in the table below.
struct Row(&'static str, &'static str, &'static str, &'static [&'static str], &'static str);

fn kind<T: schemars::JsonSchema>(generator: &mut SchemaGenerator, version: &'static str, row: Row) -> Kind {
    let Row(group, kind, plural, short, traits) = row;
    generator.subschema_for::<T>();
    let has = |word: &str| traits.split_whitespace().any(|t| t == word);
    Kind {
        group,
        version,
        kind,
        plural,
        short,
        categories: if has("all") { &["all"] } else { &[] },
        namespaced: !has("cluster"),
        has_status: has("status"),
        question: has("question"),
        component: T::schema_name().into_owned(),
    }
}

fn kinds(g: &mut SchemaGenerator) -> Vec<Kind> {
    const RBAC: &str = "rbac.authorization.k8s.io";
    vec![
        kind::<core::Namespace>(g, "v1", Row("", "Namespace", "namespaces", &["ns"], "cluster")),
        kind::<core::Secret>(g, "v1", Row("", "Secret", "secrets", &[], "")),
        kind::<core::ConfigMap>(g, "v1", Row("", "ConfigMap", "configmaps", &["cm"], "")),
        kind::<core::ServiceAccount>(g, "v1", Row("", "ServiceAccount", "serviceaccounts", &["sa"], "")),
        kind::<core::Event>(g, "v1", Row("", "Event", "events", &["ev"], "")),
        kind::<core::Pod>(g, "v1", Row("", "Pod", "pods", &["po"], "all status")),
        kind::<core::Service>(g, "v1", Row("", "Service", "services", &["svc"], "all status")),
        kind::<core::PersistentVolumeClaim>(
            g,
            "v1",
            Row("", "PersistentVolumeClaim", "persistentvolumeclaims", &["pvc"], "status"),
        ),
        kind::<events::Event>(g, "v1", Row("events.k8s.io", "Event", "events", &["ev"], "")),
        kind::<coordination::Lease>(g, "v1", Row("coordination.k8s.io", "Lease", "leases", &[], "")),
        kind::<apps::Deployment>(g, "v1", Row("apps", "Deployment", "deployments", &["deploy"], "all status")),
        kind::<apps::StatefulSet>(g, "v1", Row("apps", "StatefulSet", "statefulsets", &["sts"], "all status")),
        kind::<apps::ReplicaSet>(g, "v1", Row("apps", "ReplicaSet", "replicasets", &["rs"], "all status")),
        kind::<batch::Job>(g, "v1", Row("batch", "Job", "jobs", &[], "all status")),
        kind::<batch::CronJob>(g, "v1", Row("batch", "CronJob", "cronjobs", &["cj"], "all status")),
        kind::<autoscaling::HorizontalPodAutoscaler>(
            g,
            "v2",
            Row("autoscaling", "HorizontalPodAutoscaler", "horizontalpodautoscalers", &["hpa"], "all status"),
        ),
        kind::<networking::Ingress>(g, "v1", Row("networking.k8s.io", "Ingress", "ingresses", &["ing"], "status")),
        kind::<networking::NetworkPolicy>(
            g,
            "v1",
            Row("networking.k8s.io", "NetworkPolicy", "networkpolicies", &["netpol"], ""),
        ),
        kind::<policy::PodDisruptionBudget>(
            g,
            "v1",
            Row("policy", "PodDisruptionBudget", "poddisruptionbudgets", &["pdb"], "status"),
        ),
        kind::<rbac::Role>(g, "v1", Row(RBAC, "Role", "roles", &[], "")),
        kind::<rbac::RoleBinding>(g, "v1", Row(RBAC, "RoleBinding", "rolebindings", &[], "")),
        kind::<rbac::ClusterRole>(g, "v1", Row(RBAC, "ClusterRole", "clusterroles", &[], "cluster")),
        kind::<rbac::ClusterRoleBinding>(
            g,
            "v1",
            Row(RBAC, "ClusterRoleBinding", "clusterrolebindings", &[], "cluster"),
        ),
        kind::<apiextensions::CustomResourceDefinition>(
            g,
            "v1",
            Row(
                "apiextensions.k8s.io",
                "CustomResourceDefinition",
                "customresourcedefinitions",
                &["crd", "crds"],
                "cluster status",
            ),
        ),
        kind::<authentication::SelfSubjectReview>(
            g,
            "v1",
            Row("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", &[], "cluster question"),
        ),
        kind::<authorization::SelfSubjectAccessReview>(
            g,
            "v1",
            Row("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", &[], "cluster question"),
        ),
        kind::<authorization::SelfSubjectRulesReview>(
            g,
            "v1",
            Row("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", &[], "cluster question"),
        ),
    ]
}

/// `(component, property, keys)`; no keys for a set.
const LISTS: [(&str, &str, &[&str]); 18] = [
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "ownerReferences", &["uid"]),
    ("apimachinery.pkg.apis.meta.v1.ObjectMeta", "finalizers", &[]),
    ("api.core.v1.PodSpec", "containers", &["name"]),
    ("api.core.v1.PodSpec", "initContainers", &["name"]),
    ("api.core.v1.PodSpec", "volumes", &["name"]),
    ("api.core.v1.PodSpec", "imagePullSecrets", &["name"]),
    ("api.core.v1.PodSpec", "hostAliases", &["ip"]),
    ("api.core.v1.PodSpec", "topologySpreadConstraints", &["topologyKey", "whenUnsatisfiable"]),
    ("api.core.v1.Container", "env", &["name"]),
    ("api.core.v1.Container", "ports", &["containerPort", "protocol"]),
    ("api.core.v1.Container", "volumeMounts", &["mountPath"]),
    ("api.core.v1.ServiceSpec", "ports", &["port", "protocol"]),
    ("api.core.v1.ServiceAccount", "secrets", &["name"]),
    ("api.core.v1.NamespaceStatus", "conditions", &["type"]),
    ("api.core.v1.PodStatus", "conditions", &["type"]),
    ("api.apps.v1.DeploymentStatus", "conditions", &["type"]),
    ("api.batch.v1.JobStatus", "conditions", &["type"]),
    ("apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinitionStatus", "conditions", &["type"]),
];

const ATOMIC: [&str; 6] = [
    "io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector",
    "io.k8s.api.core.v1.SecretKeySelector",
    "io.k8s.api.core.v1.ConfigMapKeySelector",
    "io.k8s.api.core.v1.ObjectReference",
    "io.k8s.api.core.v1.LocalObjectReference",
    "io.k8s.api.core.v1.TypedLocalObjectReference",
];

struct Builtin {
    kinds: Vec<Kind>,
    components: Map<String, Value>,
    schemas: HashMap<String, Arc<Schema>>,
}

static BUILTIN: LazyLock<Builtin> = LazyLock::new(build);

fn build() -> Builtin {
    let mut generator = SchemaSettings::openapi3().into_generator();
    let kinds = kinds(&mut generator);
    generator.subschema_for::<meta::Status>();
    generator.subschema_for::<meta::DeleteOptions>();
    let mut components = generator.take_definitions(true);
    for (component, property, keys) in LISTS {
        let node = components
            .get_mut(&format!("io.k8s.{component}"))
            .and_then(|c| c.pointer_mut(&format!("/properties/{property}")));
        let Some(node) = node else { continue };
        // kubectl computes strategic merge patches from these.
        node["x-kubernetes-patch-strategy"] = json!("merge");
        if keys.is_empty() {
            node["x-kubernetes-list-type"] = json!("set");
        } else {
            node["x-kubernetes-patch-merge-key"] = json!(keys[0]);
            node["x-kubernetes-list-type"] = json!("map");
            node["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
    for name in ATOMIC {
        if let Some(component) = components.get_mut(name) {
            component["x-kubernetes-map-type"] = json!("atomic");
        }
    }
    for (component, path) in [("ContainerPort", "protocol"), ("ServicePort", "protocol")] {
        if let Some(node) = components.get_mut(&format!("io.k8s.api.core.v1.{component}")) {
            node["properties"][path]["default"] = json!("TCP");
        }
    }
    for kind in &kinds {
        if let Some(component) = components.get_mut(&kind.component) {
            component["x-kubernetes-group-version-kind"] =
                json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
        }
    }
    let mut schemas = HashMap::new();
    for name in kinds.iter().map(|k| k.component.as_str()).chain([OBJECT_META]) {
        let resolved = resolve(&components[name], &components);
        // The generated schemas have no patterns or rules, which are all that can fail to compile.
        let schema = Schema::compile(&resolved, "").unwrap_or_else(|_| Schema::anything());
        schemas.insert(name.to_owned(), Arc::new(schema));
    }
    Builtin { kinds, components, schemas }
}

/// Replaces references by their definitions. JSONSchemaProps refers to itself and is left open.
fn resolve(node: &Value, components: &Map<String, Value>) -> Value {
    match node {
        Value::Object(map) => {
            // A reference with siblings is wrapped: OpenAPI 3.0 ignores what stands beside `$ref`.
            if let Some([only]) = map.get("allOf").and_then(Value::as_array).map(Vec::as_slice) {
                let mut target = resolve(only, components);
                for (key, value) in map.iter().filter(|(key, _)| *key != "allOf") {
                    target[key] = value.clone();
                }
                return target;
            }
            if let Some(name) = map.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(REF)) {
                let open = name == JSON_SCHEMA_PROPS
                    || name.ends_with(".JSON")
                    || name.ends_with("RawExtension")
                    || name.ends_with("FieldsV1");
                return match components.get(name) {
                    Some(target) if !open => resolve(target, components),
                    _ => json!({"x-kubernetes-preserve-unknown-fields": true}),
                };
            }
            Value::Object(map.iter().map(|(k, v)| (k.clone(), resolve(v, components))).collect())
        }
        Value::Array(list) => Value::Array(list.iter().map(|v| resolve(v, components)).collect()),
        other => other.clone(),
    }
}

/// The schema of `metadata`, with a custom definition's own constraints on names.
pub fn object_meta_schema(constraints: Option<&Schema>) -> Arc<Schema> {
    let plain = BUILTIN.schemas[OBJECT_META].clone();
    let Some(own) = constraints.filter(|c| !c.properties.is_empty()) else { return plain };
    let resolved = resolve(&BUILTIN.components[OBJECT_META], &BUILTIN.components);
    let mut schema = Schema::compile(&resolved, "").unwrap_or_else(|_| Schema::anything());
    for (name, field) in &own.properties {
        schema.properties.insert(name.clone(), field.clone());
    }
    Arc::new(schema)
}

/// The OpenAPI components of the built-in kinds.
pub fn components() -> &'static Map<String, Value> {
    &BUILTIN.components
}

/// The component that describes a built-in kind.
pub fn component_of(resource: &Resource) -> Option<&'static str> {
    BUILTIN
        .kinds
        .iter()
        .find(|k| k.group == resource.group && k.kind == resource.kind && resource.crd.is_none())
        .map(|k| k.component.as_str())
}

/// The built-in kinds.
pub fn resources() -> Vec<Resource> {
    let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<String>>();
    BUILTIN
        .kinds
        .iter()
        .map(|k| Resource {
            group: k.group.into(),
            version: k.version.into(),
            plural: k.plural.into(),
            singular: k.kind.to_lowercase(),
            kind: k.kind.into(),
            list_kind: format!("{}List", k.kind),
            short_names: owned(k.short),
            categories: owned(k.categories),
            namespaced: k.namespaced,
            has_status: k.has_status,
            verbs: if k.question { &["create"] } else { ALL_VERBS },
            schema: BUILTIN.schemas[&k.component].clone(),
            openapi: Value::Null,
            columns: Vec::new(),
            crd: None,
            table: match (k.group, k.plural) {
                ("" | "events.k8s.io", plural) => plural.into(),
                (group, plural) => format!("{plural}.{group}").into(),
            },
        })
        .collect()
}
