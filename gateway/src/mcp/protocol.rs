//! The checks that rmcp leaves out or answers in plain text: JSON-RPC framing, protocol versions.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};

use super::{
    message::{Message, Seen, Text},
    revision::{Revision, VERSION},
};
use crate::telemetry::spans::Carrier;

/// Methods that record their own metrics, with their outcome.
const COUNTED: [&str; 5] = ["tools/call", "tools/list", "resources/read", "prompts/get", "completion/complete"];
/// Methods that `notifications/cancelled` ends: those that may query the database.
const CANCELLABLE: [&str; 4] = ["tools/call", "resources/read", "prompts/get", "completion/complete"];
/// All methods that are served.
const METHODS: [&str; 14] = [
    "tools/call",
    "tools/list",
    "resources/read",
    "prompts/get",
    "completion/complete",
    "initialize",
    "server/discover",
    "logging/setLevel",
    "ping",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "notifications/initialized",
    "notifications/cancelled",
];

/// Served in the revisions with a handshake and removed in 2026-07-28, which requires HTTP 404 for them (transports,
/// "Sending Messages to the Server").
const REMOVED: [&str; 3] = ["initialize", "ping", "logging/setLevel"];

/// What the metrics and the checks in this module need to know of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Envelope {
    /// `id` as received, for error answers.
    pub id: Option<Value>,
    /// `method`; absent in responses.
    pub method: Option<String>,
    /// `params.name`, if present.
    pub name: Option<String>,
    /// The revision of the request, if known; for `initialize` the one that is agreed to.
    pub revision: Option<Revision>,
    /// The message for rmcp, where it differs from the one received.
    pub repaired: Option<Bytes>,
    /// The trace that the caller's span in `params._meta` belongs to.
    pub trace: Carrier,
}

impl Envelope {
    /// The method, or `other` if it is not served.
    #[must_use]
    pub fn known_method(&self) -> Option<&'static str> {
        let method = self.method.as_deref()?;
        Some(METHODS.into_iter().find(|known| *known == method).unwrap_or("other"))
    }

    /// The method for a metric, unless the method records its own.
    #[must_use]
    pub fn other_method(&self) -> Option<&'static str> {
        self.known_method().filter(|method| !COUNTED.contains(method))
    }
}

/// Whether requests of this method are served.
#[must_use]
pub fn is_known(method: &str) -> bool {
    METHODS.contains(&method)
}

/// Whether a request of this method is ended by `notifications/cancelled`.
#[must_use]
pub fn is_cancellable(method: &str) -> bool {
    CANCELLABLE.contains(&method)
}

/// An answer that ends a request before it reaches rmcp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub status: StatusCode,
    pub code: i64,
    pub message: String,
    pub data: Option<Value>,
    pub id: Option<Value>,
}

impl Refusal {
    fn new(code: i64, message: impl Into<String>, id: Option<Value>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, message: message.into(), data: None, id }
    }

    /// A refusal that clients read as the answer to their request: with an HTTP status below 400 the older SDKs keep
    /// their session.
    fn within(code: i64, message: impl Into<String>, id: Option<Value>) -> Self {
        Self { status: StatusCode::OK, ..Self::new(code, message, id) }
    }

    /// The body is not JSON.
    #[must_use]
    pub fn unreadable() -> Self {
        Self::new(-32700, "Parse error: the body is not JSON", None)
    }

    /// A batch that is not accepted.
    #[must_use]
    pub fn batch(problem: &str) -> Self {
        Self::new(-32600, format!("Invalid Request: {problem}"), None)
    }

    #[must_use]
    pub fn body(&self) -> Bytes {
        let mut error = json!({"code": self.code, "message": self.message});
        if let Some(data) = &self.data {
            error["data"] = data.clone();
        }
        json!({"jsonrpc": "2.0", "id": self.id, "error": error}).to_string().into()
    }
}

/// Reads the envelope and checks framing and version.
///
/// # Errors
/// [`Refusal`] with -32700, -32600 or -32022.
pub fn inspect(headers: &HeaderMap, body: &[u8]) -> Result<Envelope, Refusal> {
    let message: Seen<Message> = serde_json::from_slice(body).map_err(|_| Refusal::unreadable())?;
    let Seen::Object(message) = message else {
        return Err(Refusal::new(-32600, "Invalid Request: one JSON-RPC object is expected", None));
    };
    let Message { id: given, jsonrpc, method, params, result, error } = message;
    let has_id = given.is_some();
    let id = given.filter(|id| id.is_string() || id.is_i64() || id.is_u64());
    let invalid = |problem: &str| Refusal::new(-32600, format!("Invalid Request: {problem}"), id.clone());
    if jsonrpc.as_ref().and_then(Seen::text) != Some("2.0") {
        return Err(invalid("jsonrpc must be \"2.0\""));
    }
    if has_id && id.is_none() && !error {
        return Err(invalid("id must be a string or an integer"));
    }
    let Some(method) = method else {
        if result || error {
            return Err(invalid("this server sends no requests, so it takes no responses"));
        }
        return Err(invalid("method is missing"));
    };
    let Some(method) = method.text() else { return Err(invalid("method must be a string")) };
    let no_params = matches!(params, Some(Seen::Null));
    if !no_params && params.as_ref().is_some_and(|params| params.object().is_none()) {
        return Err(invalid("params must be an object"));
    }
    let params = params.as_ref().and_then(Seen::object);
    let name = params.and_then(|params| params.name.as_ref()?.text()).map(str::to_owned);
    let meta = params.and_then(|params| params.meta.as_ref()?.object());
    let owned = |text: Option<&Text>| text.and_then(Seen::text).map(str::to_owned);
    let trace = Carrier {
        parent: owned(meta.and_then(|meta| meta.parent.as_ref())),
        state: owned(meta.and_then(|meta| meta.state.as_ref())),
    };
    let in_meta = meta.and_then(|meta| meta.version.as_ref()?.text());
    // Checked before `params`: rmcp would take unreadable params for wrong params of a method that we serve.
    if REMOVED.contains(&method) && in_meta == Some(Revision::V2026_07_28.as_str()) {
        let message = format!("Method not found: {method} is not part of {}", Revision::V2026_07_28.as_str());
        return Err(Refusal { status: StatusCode::NOT_FOUND, ..Refusal::new(-32601, message, id) });
    }
    let revision = if method == "initialize" {
        // `initialize` negotiates: an unknown version is answered with a known one.
        Some(Revision::negotiated(params.and_then(|params| params.version.as_ref()?.text())))
    } else {
        let version = check_version(headers, in_meta, &id)?;
        Revision::of(version, headers)
    };
    let arguments = params.and_then(|params| params.arguments.as_ref()).filter(|_| WITH_ARGUMENTS.contains(&method));
    let repaired = match arguments {
        Some(Seen::Object(_)) | None if !no_params => None,
        _ => Some(repair(body).map_err(|problem| Refusal::within(-32602, problem, id.clone()))?),
    };
    Ok(Envelope { id: id.clone(), method: Some(method.to_owned()), name, revision, repaired, trace })
}

/// Methods whose parameters have `arguments`.
const WITH_ARGUMENTS: [&str; 2] = ["tools/call", "prompts/get"];

/// Normalizes what some clients send in place of an absent value: `null` for parameters; `null`, `[]` or an empty
/// string for arguments. Arguments in a string that holds their JSON, as some models write them, are unpacked.
fn repair(body: &[u8]) -> Result<Bytes, &'static str> {
    let mut message: Value = serde_json::from_slice(body).map_err(|_| "the message cannot be read")?;
    if message["params"].is_null() {
        message.as_object_mut().and_then(|message| message.remove("params"));
    }
    if let Some(arguments) = message.pointer_mut("/params/arguments") {
        let meant = match &*arguments {
            Value::Null => Some(json!({})),
            Value::Array(items) if items.is_empty() => Some(json!({})),
            Value::String(text) if text.trim().is_empty() => Some(json!({})),
            Value::String(text) => serde_json::from_str(text).ok(),
            other => Some(other.clone()),
        };
        let meant = meant.map(|meant| if meant.is_null() { json!({}) } else { meant }).filter(Value::is_object);
        *arguments = meant.ok_or("Invalid params: arguments must be an object")?;
    }
    Ok(message.to_string().into())
}

/// The version that the request names.
fn check_version<'a>(
    headers: &'a HeaderMap,
    in_meta: Option<&'a str>,
    id: &Option<Value>,
) -> Result<Option<&'a str>, Refusal> {
    let mut versions = headers.get_all(VERSION).iter();
    let header = match (versions.next(), versions.next()) {
        (None, _) => None,
        (Some(one), None) => Some(one.to_str().unwrap_or("not text")),
        _ => return Err(Refusal::new(-32020, "MCP-Protocol-Version must stand once", id.clone())),
    };
    // A contradiction is reported before an unknown version: it is unclear which of the two was meant.
    if header.is_some() && in_meta.is_some() && header != in_meta {
        let problem = "MCP-Protocol-Version does not match the protocolVersion in _meta";
        return Err(Refusal::new(-32020, problem, id.clone()));
    }
    let requested = in_meta.or(header);
    let Some(unknown) = requested.filter(|version| Revision::named(version).is_none()) else { return Ok(requested) };
    let unknown: String = unknown.chars().take(64).collect();
    let mut refusal = Refusal::new(-32022, "Unsupported protocol version", id.clone());
    refusal.data = Some(json!({"supported": Revision::NAMES, "requested": unknown}));
    Err(refusal)
}

/// Turns an answer that rmcp gave in plain text into the JSON-RPC error that clients read.
#[must_use]
pub fn refusal_from_text(status: StatusCode, text: &str, envelope: &Envelope) -> Refusal {
    // rmcp answers 415 where the body is JSON but not a message that it knows.
    let status = if status == StatusCode::UNSUPPORTED_MEDIA_TYPE { StatusCode::BAD_REQUEST } else { status };
    let message = match status {
        StatusCode::BAD_REQUEST if text.starts_with("fail to deserialize") => "Invalid Request: not an MCP message",
        _ => text,
    };
    Refusal { status, code: -32600, message: message.to_owned(), data: None, id: envelope.id.clone() }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use serde_json::json;

    use super::{Revision, inspect};

    fn headers(version: Option<&'static str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(version) = version {
            headers.insert("mcp-protocol-version", HeaderValue::from_static(version));
        }
        headers
    }

    #[test]
    fn what_the_newest_revision_removed_is_not_found() {
        for (method, params) in [("initialize", ""), ("logging/setLevel", ""), ("ping", r#","level":"info""#)] {
            let body = format!(
                r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}{params}}}}}"#
            );
            let refusal = inspect(&headers(Some("2026-07-28")), body.as_bytes()).expect_err(method);
            assert_eq!((refusal.status.as_u16(), refusal.code), (404, -32601), "{method}");
        }
    }

    #[test]
    fn framing() {
        for (body, code) in [
            ("{", -32700),
            ("", -32700),
            ("[]", -32600),
            ("1", -32600),
            (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, -32600),
            (r#"{"id":1,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":7}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, -32600),
        ] {
            assert_eq!(inspect(&headers(None), body.as_bytes()).expect_err(body).code, code, "{body}");
        }
        let call = r#"{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"list_stores"}}"#;
        let envelope = inspect(&headers(Some("2025-11-25")), call.as_bytes()).expect("a call");
        assert_eq!((envelope.id, envelope.name.as_deref()), (Some(json!("x")), Some("list_stores")));
    }

    #[test]
    fn versions() {
        let call = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        assert!(inspect(&headers(None), call).is_ok());
        assert!(inspect(&headers(Some("2026-07-28")), call).is_ok());
        for version in Revision::NAMES {
            let revision = inspect(&headers(Some(version)), call).expect(version).revision;
            assert_eq!(revision.map(Revision::as_str), Some(version));
        }
        assert_eq!(inspect(&headers(None), call).expect("a request").revision, None);
        for version in ["1999-01-01", "x", ""] {
            let refusal = inspect(&headers(Some(version)), call).expect_err(version);
            assert_eq!(refusal.code, -32022);
            assert_eq!(refusal.data, Some(json!({"supported": Revision::NAMES, "requested": version})));
        }
        let meta = br#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01"}}}"#;
        assert_eq!(inspect(&headers(Some("2099-01-01")), meta).expect_err("unknown").code, -32022);
        assert_eq!(inspect(&headers(Some("2026-07-28")), meta).expect_err("two versions").code, -32020);
        assert_eq!(inspect(&headers(None), meta).expect_err("unknown in _meta").code, -32022);
        let initialize = br#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"1999-01-01"}}"#;
        let agreed = inspect(&headers(Some("1999-01-01")), initialize).expect("it negotiates").revision;
        assert_eq!(agreed, Some(Revision::V2025_11_25));
    }

    #[test]
    fn nothing_is_nothing_however_it_is_written() {
        let repaired = |params: &str| {
            let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
            let envelope = inspect(&headers(None), body.as_bytes())?;
            Ok(envelope.repaired.map(|text| serde_json::from_slice::<serde_json::Value>(&text).expect("JSON")))
        };
        let arguments = |written: &str| {
            let message: Result<_, super::Refusal> = repaired(&format!(r#"{{"name":"x","arguments":{written}}}"#));
            message.map(|message| message.map(|message| message["params"]["arguments"].clone()))
        };
        assert_eq!(arguments("{}"), Ok(None));
        assert_eq!(arguments(r#"{"n":12345678901234567890.5}"#), Ok(None));
        for nothing in ["null", "[]", "\"\"", "\" \"", "\"null\"", "\"{}\""] {
            assert_eq!(arguments(nothing), Ok(Some(json!({}))), "{nothing}");
        }
        assert_eq!(arguments(r#""{\"n\":1}""#), Ok(Some(json!({"n": 1}))));
        for wrong in ["[1]", "7", "true", r#""x""#, r#""[1]""#] {
            let refusal = arguments(wrong).expect_err(wrong);
            assert_eq!((refusal.code, refusal.status.as_u16(), refusal.id), (-32602, 200, Some(json!(1))), "{wrong}");
        }
        let message = repaired("null").expect("taken").expect("repaired");
        assert!(message.get("params").is_none(), "{message}");
    }
}
