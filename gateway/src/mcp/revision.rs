//! The revisions of MCP, and which features the clients of each know.
//!
//! A request names its revision in `_meta` or in the header `MCP-Protocol-Version`. Clients before 2025-06-18 and VS
//! Code send neither; for them the revision is read from the session id that `initialize` returned ([`session`]). If
//! that is missing too, the revision is unknown but no later than 2025-11-25: the answer gets fields that every known
//! client ignores if it does not know them, and no kind of content that some clients cannot read.

use http::HeaderMap;
use rmcp::{
    RoleServer,
    model::{Prompt, ProtocolVersion, Resource, ResourceTemplate, ServerConfig, Tool},
    service::RequestContext,
};
use uuid::Uuid;

/// The header by which the revisions with a handshake tell clients apart.
pub const SESSION: &str = "mcp-session-id";
pub const VERSION: &str = "mcp-protocol-version";

/// A revision of the protocol, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revision {
    /// Its own transport is no longer served; its clients use the transport of the next revision.
    V2024_11_05,
    /// Streamable HTTP, annotations of tools, batches.
    V2025_03_26,
    /// Structured content, titles, the version header; no batches.
    V2025_06_18,
    /// Icons.
    V2025_11_25,
    /// No handshake: each request carries everything.
    V2026_07_28,
}

impl Revision {
    /// All that are served, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];
    /// The names of all that are served.
    pub const NAMES: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];
    /// The newest revision that begins with `initialize`.
    const NEWEST_WITH_HANDSHAKE: Self = Self::V2025_11_25;

    /// The date that names it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The revision with this date.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == name)
    }

    /// The revision that `initialize` agrees to: the requested one, or the newest that has a handshake.
    #[must_use]
    pub fn negotiated(asked: Option<&str>) -> Self {
        let known = asked.and_then(Self::named).filter(|revision| *revision <= Self::NEWEST_WITH_HANDSHAKE);
        known.unwrap_or(Self::NEWEST_WITH_HANDSHAKE)
    }

    /// The revision of a request: the one that it names, or the one in its session id.
    #[must_use]
    pub fn of(version: Option<&str>, headers: &HeaderMap) -> Option<Self> {
        version.and_then(Self::named).or_else(|| read_session(headers).0)
    }
}

/// A session id for a client that agreed to a revision. There is no session: the id carries the agreed revision to
/// whichever replica serves the next request, and distinguishes clients that share a token. The client can send any
/// value, so it grants nothing.
#[must_use]
pub fn session(revision: Revision) -> String {
    format!("{}.{}", revision.as_str(), Uuid::new_v4())
}

/// The revision in a session id; `None` for an id that is not ours.
#[must_use]
pub fn read_session(headers: &HeaderMap) -> (Option<Revision>, Option<Uuid>) {
    let Some(text) = headers.get(SESSION).and_then(|value| value.to_str().ok()) else { return (None, None) };
    let Some((revision, id)) = text.split_once('.') else { return (None, None) };
    (Revision::named(revision), id.parse().ok())
}

/// What is known of the client of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// Its revision, if known.
    pub revision: Option<Revision>,
    /// Whether it accepts an event stream as an answer.
    pub streams: bool,
}

impl Client {
    #[must_use]
    pub fn of(context: &RequestContext<RoleServer>) -> Self {
        let parts = context.extensions.get::<http::request::Parts>();
        parts.and_then(|parts| parts.extensions.get::<Self>()).copied().unwrap_or_default()
    }

    /// Whether it knows what came with `revision`. A client of unknown revision counts as knowing it or ignoring it.
    #[must_use]
    pub fn knows(self, revision: Revision) -> bool {
        self.revision.is_none_or(|own| own >= revision)
    }

    /// Whether it may send batches. Only one revision has them.
    #[must_use]
    pub fn has_batches(self) -> bool {
        matches!(self.revision, None | Some(Revision::V2025_03_26))
    }

    /// Whether it knows `structuredContent` and output schemas.
    #[must_use]
    pub fn has_structured_content(self) -> bool {
        self.knows(Revision::V2025_06_18)
    }

    fn has_titles(self) -> bool {
        self.knows(Revision::V2025_06_18)
    }

    /// A tool in the form of this client's revision.
    #[must_use]
    pub fn tool(self, mut tool: Tool) -> Tool {
        if !self.has_titles() {
            (tool.title, tool.meta) = (None, None);
        }
        if !self.has_structured_content() {
            tool.output_schema = None;
        }
        if !self.knows(Revision::V2025_03_26) {
            tool.annotations = None;
        }
        if !self.knows(Revision::V2025_11_25) {
            tool.icons = None;
        }
        tool
    }

    /// A prompt in the form of this client's revision.
    #[must_use]
    pub fn prompt(self, mut prompt: Prompt) -> Prompt {
        if !self.has_titles() {
            prompt.title = None;
            prompt.arguments.iter_mut().flatten().for_each(|argument| argument.title = None);
        }
        prompt
    }

    /// A resource in the form of this client's revision.
    #[must_use]
    pub fn resource(self, mut resource: Resource) -> Resource {
        if !self.has_titles() {
            resource.title = None;
        }
        resource
    }

    /// A template in the form of this client's revision.
    #[must_use]
    pub fn template(self, mut template: ResourceTemplate) -> ResourceTemplate {
        if !self.has_titles() {
            template.title = None;
        }
        template
    }

    /// The answer to `initialize` in the form of the agreed revision.
    #[must_use]
    pub fn config(mut config: ServerConfig, agreed: &ProtocolVersion) -> ServerConfig {
        let client = Self { revision: Revision::named(agreed.as_str()), streams: false };
        if !client.has_titles() {
            config.server_info.title = None;
        }
        if !client.knows(Revision::V2025_03_26) {
            config.capabilities.completions = None;
        }
        config
    }
}

/// Tools in the form of one revision.
#[must_use]
pub fn tools(client: Client, tools: Vec<Tool>) -> Vec<Tool> {
    tools.into_iter().map(|tool| client.tool(tool)).collect()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};
    use rmcp::model::ProtocolVersion;

    use super::{Client, Revision, SESSION, read_session, session};

    #[test]
    fn the_library_knows_the_same_revisions() {
        let known: Vec<_> = ProtocolVersion::KNOWN_VERSIONS.iter().map(ProtocolVersion::as_str).collect();
        assert_eq!(known, Revision::NAMES);
        assert!(Revision::ALL.is_sorted());
    }

    #[test]
    fn what_is_agreed() {
        for (asked, agreed) in [
            (Some("2024-11-05"), Revision::V2024_11_05),
            (Some("2025-03-26"), Revision::V2025_03_26),
            (Some("2025-06-18"), Revision::V2025_06_18),
            (Some("2025-11-25"), Revision::V2025_11_25),
            (Some("2026-07-28"), Revision::V2025_11_25),
            (Some("2099-01-01"), Revision::V2025_11_25),
            (None, Revision::V2025_11_25),
        ] {
            assert_eq!(Revision::negotiated(asked), agreed, "{asked:?}");
        }
    }

    #[test]
    fn a_session_id_says_what_was_agreed_and_the_header_counts_before_it() {
        let mut headers = HeaderMap::new();
        assert_eq!(Revision::of(None, &headers), None);
        let id = session(Revision::V2025_03_26);
        headers.insert(SESSION, HeaderValue::try_from(&id).expect("visible ASCII"));
        let (revision, uuid) = read_session(&headers);
        assert_eq!(revision, Some(Revision::V2025_03_26));
        assert!(uuid.is_some_and(|uuid| id.ends_with(&uuid.to_string())));
        assert_eq!(Revision::of(None, &headers), Some(Revision::V2025_03_26));
        assert_eq!(Revision::of(Some("2025-11-25"), &headers), Some(Revision::V2025_11_25));
        for foreign in ["x", "1999-01-01.x", "", "...."] {
            headers.insert(SESSION, HeaderValue::from_static(foreign));
            assert_eq!(read_session(&headers), (None, None), "{foreign}");
        }
    }

    #[test]
    fn who_has_batches() {
        let of = |revision| Client { revision, streams: false }.has_batches();
        let with: Vec<_> = Revision::ALL.into_iter().filter(|revision| of(Some(*revision))).collect();
        assert_eq!(with, [Revision::V2025_03_26]);
        assert!(of(None), "who does not say, may");
    }
}
