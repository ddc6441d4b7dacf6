//! The revisions of MCP, and what a client of each knows.
//!
//! The revision of a request is that of its `_meta` or of its header `MCP-Protocol-Version`. Where it has neither, as
//! clients before 2025-06-18 and VS Code, it is the one in the session id that `initialize` was answered with
//! ([`session`]), and where that is missing too, nobody knows: the request is no later than 2025-11-25, it gets fields
//! that every known client ignores where it does not know them, and no kind of content that some cannot read.

use http::HeaderMap;
use rmcp::{
    RoleServer,
    model::{Prompt, ProtocolVersion, Resource, ResourceTemplate, ServerConfig, Tool},
    service::RequestContext,
};
use uuid::Uuid;

/// The header of the revisions with a handshake that tells one client from another.
pub const SESSION: &str = "mcp-session-id";
/// The header that names a request's revision.
pub const VERSION: &str = "mcp-protocol-version";

/// A revision of the protocol, the oldest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Revision {
    /// Its own transport is gone; clients of it speak the next one's.
    V2024_11_05,
    /// Streamable HTTP, annotations of tools, batches.
    V2025_03_26,
    /// Structured content, titles, the version header; no batches.
    V2025_06_18,
    /// Icons.
    V2025_11_25,
    /// No handshake: each request says all there is to know.
    V2026_07_28,
}

impl Revision {
    /// All that are served, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];
    /// Their names.
    pub const NAMES: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];
    /// The newest that begins with `initialize`.
    const NEWEST_WITH_HANDSHAKE: Self = Self::V2025_11_25;

    /// Its date.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// The revision of this date.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == name)
    }

    /// What `initialize` agrees to: what was asked for, or the newest that has a handshake.
    #[must_use]
    pub fn negotiated(asked: Option<&str>) -> Self {
        let known = asked.and_then(Self::named).filter(|revision| *revision <= Self::NEWEST_WITH_HANDSHAKE);
        known.unwrap_or(Self::NEWEST_WITH_HANDSHAKE)
    }

    /// The revision of a request: its own word, or its session id's.
    #[must_use]
    pub fn of(version: Option<&str>, headers: &HeaderMap) -> Option<Self> {
        version.and_then(Self::named).or_else(|| read_session(headers).0)
    }
}

/// A session id for a client that agreed to a revision. There is no session: the id says what was agreed, to whichever
/// replica is asked next, and tells the clients of one token apart. It is the client's own word and grants nothing.
#[must_use]
pub fn session(revision: Revision) -> String {
    format!("{}.{}", revision.as_str(), Uuid::new_v4())
}

/// What a session id says; nothing where it is none of ours.
#[must_use]
pub fn read_session(headers: &HeaderMap) -> (Option<Revision>, Option<Uuid>) {
    let Some(text) = headers.get(SESSION).and_then(|value| value.to_str().ok()) else { return (None, None) };
    let Some((revision, id)) = text.split_once('.') else { return (None, None) };
    (Revision::named(revision), id.parse().ok())
}

/// What is known of the client of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Client {
    /// The revision that it speaks, where that is known.
    pub revision: Option<Revision>,
    /// Whether it takes an event stream for an answer.
    pub streams: bool,
}

impl Client {
    /// The client of a request.
    #[must_use]
    pub fn of(context: &RequestContext<RoleServer>) -> Self {
        let parts = context.extensions.get::<http::request::Parts>();
        parts.and_then(|parts| parts.extensions.get::<Self>()).copied().unwrap_or_default()
    }

    /// Whether it knows what came with `revision`. One that is not known to be older does, or does not mind.
    #[must_use]
    pub fn knows(self, revision: Revision) -> bool {
        self.revision.is_none_or(|own| own >= revision)
    }

    /// Whether it may send several messages at once. The revisions before and after it have no batches.
    #[must_use]
    pub fn has_batches(self) -> bool {
        matches!(self.revision, None | Some(Revision::V2025_03_26))
    }

    /// `structuredContent` and what describes it.
    #[must_use]
    pub fn has_structured_content(self) -> bool {
        self.knows(Revision::V2025_06_18)
    }

    fn has_titles(self) -> bool {
        self.knows(Revision::V2025_06_18)
    }

    /// A tool as it knows tools.
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

    /// A prompt as it knows prompts.
    #[must_use]
    pub fn prompt(self, mut prompt: Prompt) -> Prompt {
        if !self.has_titles() {
            prompt.title = None;
            prompt.arguments.iter_mut().flatten().for_each(|argument| argument.title = None);
        }
        prompt
    }

    /// A resource as it knows resources.
    #[must_use]
    pub fn resource(self, mut resource: Resource) -> Resource {
        if !self.has_titles() {
            resource.title = None;
        }
        resource
    }

    /// A template as it knows templates.
    #[must_use]
    pub fn template(self, mut template: ResourceTemplate) -> ResourceTemplate {
        if !self.has_titles() {
            template.title = None;
        }
        template
    }

    /// The answer to `initialize` as the revision that was agreed to knows it.
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
