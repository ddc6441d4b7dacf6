//! The values: what the schema accepts and refuses, that every one is used, and that Azure's values fit.

use regex::Regex;
use serde_json::{Value, json};

use crate::{
    objects::{SETS, of_kind},
    readme::{defaults, documented},
    render::{available, merge, objects, read, render, values},
};

/// A value at a path such as `gateway.pool.total`, and nothing else.
fn at(path: &[String], value: Value) -> Value {
    path.iter().rev().fold(value, |value, key| json!({key.as_str(): value}))
}

fn with(set: &str, path: &str, value: Value) -> Value {
    let path: Vec<String> = path.split('.').map(str::to_owned).collect();
    merge(&values(set), &at(&path, value))
}

#[test]
fn wrong_values_are_refused_in_words() {
    if !available() {
        return;
    }
    let database = |more: Value| merge(&json!({"name": "retail"}), &more);
    let cases = [
        ("operator.replica", json!(1), "replica"),
        ("gateway.ingress.hosts", json!([]), "hosts"),
        ("replicas", json!(1), "replicas"),
        ("gateway.pool.perTenant", json!(0), "perTenant"),
        ("gateway.pool.perTenant", json!("8"), "perTenant"),
        ("gateway.publicUrl", json!("https://mcp.zava.example/mcp"), "publicUrl"),
        ("gateway.publicUrl", json!(""), "gateway.publicUrl is not given"),
        ("gateway.audiences", json!([]), "gateway.audiences is empty"),
        ("gateway.scopes", json!(["one,two"]), "scopes"),
        ("gateway.scopes", json!([]), "gateway.scopes is empty"),
        ("gateway.authority", json!("http://login.example"), "authority"),
        ("gateway.authorizationServer", json!("http://login.example"), "authorizationServer"),
        ("gateway.jwksRefreshSeconds", json!(4), "jwksRefreshSeconds"),
        ("gateway.tokenCache", json!(0), "tokenCache"),
        ("devstack.signIn.url", json!("http://localhost:8081/path"), "signIn"),
        ("operator.resync", json!("5"), "resync"),
        ("azure.credential", json!("password"), "credential"),
        ("azure.caBundle", json!({"configMap": "ca"}), "caBundle"),
        ("config.keyVaults", json!([]), "config.keyVaults is empty"),
        ("config.keyVaults", json!([{"name": "main", "url": "http://vault"}]), "url"),
        ("config.embeddings", json!({"provider": "azureOpenAI", "endpoint": "https://a.example"}), "deployment"),
        (
            "config.embeddings",
            json!({"provider": "openAI", "endpoint": "https://a.example", "model": "m", "deployment": "d"}),
            "deployment",
        ),
        ("config.databases", json!([]), "config.databases is empty"),
        ("config.databases", json!([database(json!({}))]), "databases"),
        ("config.databases", json!([database(json!({"adminUrl": "postgresql://a:b@c/d"}))]), "adminUrl"),
        ("config.databases", json!([database(json!({"adminUrlFile": "relative"}))]), "adminUrlFile"),
        (
            "config.databases",
            json!([database(json!({"adminUrlFile": "/a", "adminUrlSecret": {"name": "a", "key": "b"}}))]),
            "databases",
        ),
        (
            "config.databases",
            json!([database(json!({"adminUrlFile": "/a", "caFile": "/b", "caSecret": {"name": "a", "key": "b"}}))]),
            "databases",
        ),
        ("config.databases", json!([{"name": "Retail", "adminUrlFile": "/a"}]), "name"),
        ("podSecurityContext.runAsUser", json!(0), "runAsUser"),
        ("podSecurityContext.privileged", json!(true), "privileged"),
        ("gateway.httpRoute.enabled", json!(true), "gateway.httpRoute.parentRefs is empty"),
        ("networkPolicy.egress.internet", json!({}), "internet"),
        ("tests.tokenSecret", json!({"name": "token"}), "tokenSecret"),
        ("profile", json!("staging"), "profile"),
        ("devstack.enabled", json!(true), "devstack.enabled is for development"),
        ("devstack.seed", json!(["fabrikam"]), "seed"),
        ("gateway.redisUrlSecret", json!({"name": "redis"}), "redisUrlSecret"),
        ("gateway.traces.otlpEndpoint", json!("collector:4317"), "otlpEndpoint"),
        (
            "config.databases",
            json!([database(json!({"adminUrlKeyVaultSecret": {"keyVault": "main", "name": "not a name"}}))]),
            "adminUrlKeyVaultSecret",
        ),
        ("gateway.auditFile", json!("audit.jsonl"), "auditFile"),
        ("gateway.clientTimeoutSeconds", json!(0), "clientTimeoutSeconds"),
        ("config.databases", json!([database(json!({"adminUrlFile": "/a", "hardening": "extreme"}))]), "hardening"),
        (
            "config.databases",
            json!([database(json!({"adminUrlFile": "/a", "protectedTables": [{"table": "crm.segments"}]}))]),
            "protectedTables",
        ),
    ];
    let sets: Vec<Value> = cases.iter().map(|(path, value, _)| with("minimal", path, value.clone())).collect();
    for ((path, value, words), answer) in cases.iter().zip(render(&sets)) {
        let error = answer.expect_err(&format!("{path} = {value} is accepted"));
        assert!(error.contains(words), "{path} = {value}: {error}");
    }
}

/// Maps whose keys are the installation's own: labels, annotations, and what goes into a pod as it stands.
const FREE: [&str; 10] = [
    "commonLabels",
    "annotations",
    "labels",
    "podLabels",
    "podAnnotations",
    "nodeSelector",
    "affinity",
    "requests",
    "limits",
    "global",
];

/// A misspelled key is refused wherever values have keys of ours.
#[test]
fn an_unknown_key_is_refused_in_every_map() {
    fn maps(value: &Value, path: &[String], found: &mut Vec<Vec<String>>) {
        let Some(map) = value.as_object() else { return };
        if path.last().is_some_and(|key| FREE.contains(&key.as_str())) {
            return;
        }
        found.push(path.to_vec());
        for (key, value) in map {
            maps(value, &[path, std::slice::from_ref(key)].concat(), found);
        }
    }
    if !available() {
        return;
    }
    let mut paths = Vec::new();
    maps(&defaults(), &[], &mut paths);
    assert!(paths.len() > 40, "{}", paths.len());
    let sets: Vec<Value> =
        paths.iter().map(|path| merge(&values("minimal"), &at(path, json!({"unknown": 1})))).collect();
    for (path, answer) in paths.iter().zip(render(&sets)) {
        let path = path.join(".");
        let error = answer.err().unwrap_or_else(|| panic!("{path}.unknown is accepted"));
        assert!(error.contains("unknown"), "{path}: {error}");
    }
}

/// Each value, changed, changes what is rendered.
#[test]
fn every_value_is_used() {
    if !available() {
        return;
    }
    // Where a value only acts beside another one.
    let around = json!({
        "gateway": {"httpRoute": {"enabled": true, "parentRefs": [{"name": "public"}]}, "service": {"type": "NodePort"}},
        "networkPolicy": {"enabled": true},
    });
    let production = merge(&values("production"), &around);
    let fixed = merge(&production, &json!({"gateway": {"autoscaling": {"enabled": false}}}));
    // Values that cannot be guessed from their defaults.
    let sample = |path: &str| -> Option<Value> {
        let peer = json!([{"ipBlock": {"cidr": "192.0.2.0/24"}}]);
        Some(match path {
            "config.databases" => json!([{"name": "other", "adminUrlFile": "/other"}]),
            // The production set has an administrator there.
            "config.keyVaults" => json!([{"name": "main", "url": "https://other.vault.azure.net"}]),
            "config.embeddings" => json!({"deployment": "other"}),
            "azure.credential" => json!("client-secret"),
            "azure.caBundle" => json!({"configMap": "other", "key": "other.pem"}),
            "azure.authorityHost" | "gateway.v1Issuer" | "gateway.authorizationServer" | "gateway.authority" => {
                json!("https://other.example")
            }
            "gateway.publicUrl" => json!("https://other.example"),
            "log.format" => json!("text"),
            "image.pullPolicy" => json!("Always"),
            "operator.clientId" | "gateway.clientId" => json!("11111111-2222-4333-8444-555555555555"),
            "operator.image.digest" | "gateway.image.digest" => json!(format!("sha256:{}", "0".repeat(64))),
            "operator.resources" | "gateway.resources" => json!({"requests": {"memory": "96Mi"}}),
            "gateway.service.type" => json!("LoadBalancer"),
            "gateway.service.nodePort" => json!(30999),
            "monitoring.interval" => json!("7s"),
            "monitoring.apiGroup" => json!("azmonitoring.coreos.com"),
            "tests.tokenSecret" => json!({"name": "other", "key": "other"}),
            "devstack.image.digest" => json!(format!("sha256:{}", "0".repeat(64))),
            "devstack.seed" => json!(["zava"]),
            "devstack.service.type" => json!("ClusterIP"),
            "devstack.service.nodePort" | "devstack.signIn.nodePort" => json!(30999),
            "devstack.signIn.url" => json!("http://localhost:30999"),
            "devstack.resources" | "devstack.postgres.resources" => json!({"requests": {"memory": "96Mi"}}),
            "gateway.redisUrlSecret" => json!({"name": "other", "key": "other"}),
            "gateway.traces.otlpEndpoint" => json!("http://other:4318"),
            "operator.embedInterval" | "operator.unclaimedGrace" => json!("77s"),
            "gateway.tenantsDirectory" | "gateway.auditFile" => json!("/other"),
            path if path.ends_with(".to") || path.ends_with("From") && path.starts_with("networkPolicy") => peer,
            path if path.ends_with("tolerations") => json!([{"key": "other"}]),
            path if path.ends_with("extraEnvFrom") => json!([{"secretRef": {"name": "other"}}]),
            path if path.ends_with("extraVolumes") => {
                // The production set mounts the first.
                json!([{"name": "retail-administrator", "emptyDir": {}}, {"name": "other", "emptyDir": {}}])
            }
            path if path.ends_with("extraVolumeMounts") => json!([{"name": "config", "mountPath": "/other"}]),
            path if path.ends_with("extraEgress") => json!([{"to": peer}]),
            path if path.ends_with("affinity") => json!({"nodeAffinity": {}}),
            path if path.ends_with("resync") || path.contains("retry") || path.ends_with("Timeout") => json!("77s"),
            path if path.ends_with("leaseDuration") => json!("77s"),
            path if path.ends_with("ports") => json!([7777]),
            path if path.ends_with("allowedHosts")
                || path.ends_with("allowedOrigins")
                || path.ends_with("audiences")
                || path.ends_with("scopes")
                || path.ends_with("hostnames") =>
            {
                json!(["other"])
            }
            _ => return None,
        })
    };
    let guess = |value: &Value| match value {
        Value::Bool(on) => json!(!on),
        Value::Number(number) if number.is_f64() => json!(0.123),
        Value::Number(number) => json!(number.as_i64().unwrap_or_default() + 1),
        Value::Null => json!(7),
        Value::String(text) => json!(format!("{text}other")),
        Value::Array(_) => json!([{"name": "other"}]),
        Value::Object(_) => json!({"other": "other"}),
    };
    let present = merge(&defaults(), &production);
    let mut names = Vec::new();
    let mut sets = vec![production, fixed, values("devstack")];
    for value in documented() {
        let name = value.path.join(".");
        if name == "profile" {
            // It changes nothing but what is refused: above.
            continue;
        }
        let now = present.pointer(&format!("/{}", value.path.join("/"))).unwrap();
        let changed = sample(&name).unwrap_or_else(|| guess(now));
        let base = match name.as_str() {
            // The number of replicas is the autoscaler's, where there is one.
            "gateway.replicas" => 1,
            name if name.starts_with("devstack.") => 2,
            _ => 0,
        };
        let changed = if name == "devstack.enabled" { json!(false) } else { changed };
        let changed = if name == "devstack.embeddings" { json!(false) } else { changed };
        sets.push(merge(&sets[base], &at(&value.path, changed)));
        names.push((name, base));
    }
    let mut rendered = render(&sets).into_iter();
    let unchanged = [rendered.next().unwrap(), rendered.next().unwrap(), rendered.next().unwrap()];
    let unused: Vec<String> = names
        .into_iter()
        .zip(rendered)
        .filter(|((name, base), answer)| {
            let answer = answer.as_ref().unwrap_or_else(|error| panic!("{name}: {error}"));
            unchanged[*base].as_ref() == Ok(answer)
        })
        .map(|((name, _), _)| name)
        .collect();
    assert!(unused.is_empty(), "not used by any template: {unused:?}");
}

/// The schema knows no value that values.yaml does not have.
#[test]
fn the_schema_has_no_more_than_the_values() {
    let schema: Value = serde_json::from_str(&read("charts/storefence/values.schema.json")).unwrap();
    fn walk(schema: &Value, values: &Value, path: &str) {
        for (key, below) in schema["properties"].as_object().into_iter().flatten() {
            if path.is_empty() && key == "global" {
                continue;
            }
            let value = values.get(key).unwrap_or_else(|| panic!("{path}.{key} stands in the schema only"));
            if below["properties"].is_object() {
                walk(below, value, &format!("{path}.{key}"));
            }
        }
    }
    walk(&schema, &defaults(), "");
}

/// Values that the documents show, beside the least that an installation says.
#[test]
fn values_in_the_documents_fit() {
    if !available() {
        return;
    }
    let mut shown = 0;
    for (path, text) in storefence_tests::documents::yaml_blocks() {
        let block: Value = serde_saphyr::from_str(&text).unwrap_or_default();
        let keys: Vec<&String> = block.as_object().map(|block| block.keys().collect()).unwrap_or_default();
        if keys.is_empty() || !keys.iter().all(|key| defaults().get(key.as_str()).is_some()) {
            continue;
        }
        shown += 1;
        let answer = render(&[merge(&values("minimal"), &block)]).remove(0);
        answer.unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()));
    }
    assert!(shown >= 4, "the pages show values: {shown}");
}

/// What `infra/deploy` writes is accepted and arrives.
#[test]
fn the_values_of_the_azure_deployment_fit() {
    if !available() {
        return;
    }
    let placeholder = Regex::new(r"\$\{([A-Z0-9_]+)\}").unwrap();
    let template = read("infra/templates/values.yaml");
    let filled = placeholder.replace_all(&template, |found: &regex::Captures<'_>| match &found[1] {
        "AZURE_KEY_VAULT_ENDPOINT" => "https://kv-dev.vault.azure.net/".to_owned(),
        "AZURE_OPENAI_ENDPOINT" => "https://oai-dev.openai.azure.com/".to_owned(),
        "AZURE_OPENAI_EMBEDDING_DEPLOYMENT" => "text-embedding-3-small".to_owned(),
        "AZURE_CONTAINER_REGISTRY_ENDPOINT" => "acrdev.azurecr.io".to_owned(),
        "STOREFENCE_PUBLIC_URL" => "https://mcp.zava.example".to_owned(),
        "STOREFENCE_SCOPE" => "api://storefence/Retail.Query".to_owned(),
        "STOREFENCE_HOST" => "mcp.zava.example".to_owned(),
        "STOREFENCE_INGRESS_ENABLED" | "AZURE_MANAGED_PROMETHEUS" => "true".to_owned(),
        _ => "11111111-2222-4333-8444-555555555555".to_owned(),
    });
    let objects = objects(&serde_saphyr::from_str(&filled).unwrap());
    let ingress = of_kind(&objects, "Ingress").next().expect("an Ingress");
    assert_eq!(ingress["spec"]["tls"][0]["secretName"], "storefence-gateway-tls");
    for config in of_kind(&objects, "ConfigMap") {
        let config: Value = serde_saphyr::from_str(config["data"]["config.yaml"].as_str().unwrap()).unwrap();
        let embeddings = json!({
            "provider": "azureOpenAI",
            "endpoint": "https://oai-dev.openai.azure.com/",
            "deployment": "text-embedding-3-small",
        });
        assert_eq!(config["embeddings"], embeddings);
    }
    for deployment in of_kind(&objects, "Deployment") {
        let image = deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap();
        assert!(image.starts_with("acrdev.azurecr.io/storefence-"), "{image}");
    }
    for kind in ["ServiceMonitor", "PodMonitor"] {
        let monitor = of_kind(&objects, kind).next().expect("managed Prometheus finds it");
        assert_eq!(monitor["apiVersion"], "azmonitoring.coreos.com/v1");
    }
    for account in of_kind(&objects, "ServiceAccount") {
        assert!(account["metadata"]["annotations"]["azure.workload.identity/client-id"].is_string(), "{account}");
    }
}

/// What `cargo xtask kind up --no-model` sets: nobody embeds, nobody is asked to.
#[test]
fn the_stand_ins_without_a_model() {
    if !available() {
        return;
    }
    let without = json!({"devstack": {"embeddings": false}, "config": {"embeddings": null}});
    let text = Value::from(objects(&merge(&values("devstack"), &without))).to_string();
    assert!(!text.contains("embeddings-port") && !text.contains("text-embedding"), "{text}");
}

/// A name of the release that is as long as Helm lets it be leaves names that Kubernetes takes.
#[test]
fn long_names_fit() {
    if !available() {
        return;
    }
    for set in SETS {
        let long = json!({"fullnameOverride": "a".repeat(53)});
        for object in objects(&merge(&values(set), &long)) {
            let name = object["metadata"]["name"].as_str().unwrap();
            assert!(name.len() <= 63, "{name}");
        }
    }
}
