//! Large results pass rmcp as two short marks and are put in behind it.
//!
//! rmcp carries results as `serde_json::Value`, which would round `bigint` and `numeric` to a double and copy the rows
//! several times. The marks are random, so no value that a caller controls can pass for one.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use memchr::{memchr2, memmem};

/// Where a tool leaves its result for the response to one request.
#[derive(Clone, Debug)]
pub struct Slot(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    structured_mark: String,
    text_mark: String,
    payload: Mutex<Option<Payload>>,
}

#[derive(Debug)]
struct Payload {
    /// Absent for a client that does not know structured content.
    structured: Option<String>,
    text: String,
}

impl Default for Slot {
    fn default() -> Self {
        // The thread's generator, which is seeded by the system: asking the system itself costs a system call each
        // time.
        let mark = || format!("{:032x}", rand::random::<u128>());
        Self(Arc::new(Inner { structured_mark: mark(), text_mark: mark(), payload: Mutex::default() }))
    }
}

impl Slot {
    /// Stores raw JSON and its text form, and returns the marks to send instead: structured, text.
    #[must_use]
    pub fn put(&self, structured: String, text: String) -> (String, String) {
        self.hold(Payload { structured: Some(structured), text });
        (self.0.structured_mark.clone(), self.0.text_mark.clone())
    }

    /// Stores only the text form, and returns the mark to send instead.
    #[must_use]
    pub fn put_text(&self, text: String) -> String {
        self.hold(Payload { structured: None, text });
        self.0.text_mark.clone()
    }

    fn hold(&self, payload: Payload) {
        *self.0.payload.lock().unwrap_or_else(PoisonError::into_inner) = Some(payload);
    }

    /// Replaces the marks with the result. `None` if the body has no marks.
    #[must_use]
    pub fn splice(&self, body: &[u8]) -> Option<Bytes> {
        self.put_in(body, |json| json)
    }

    /// The same for an event of a stream, whose data has to stay on one line: the value of a `json` column keeps the
    /// line breaks of its writer.
    #[must_use]
    pub fn splice_line(&self, event: &[u8]) -> Option<Bytes> {
        self.put_in(event, |json| match memchr2(b'\n', b'\r', json.as_bytes()).is_some() {
            true => json.replace(['\n', '\r'], " "),
            false => json,
        })
    }

    fn put_in(&self, body: &[u8], form: fn(String) -> String) -> Option<Bytes> {
        let mut held = self.0.payload.lock().unwrap_or_else(PoisonError::into_inner);
        let structured_mark = held.as_ref()?.structured.is_some().then_some(&self.0.structured_mark);
        let mut marks = Vec::with_capacity(2);
        for (mark, is_structured) in
            structured_mark.map(|mark| (mark, true)).into_iter().chain([(&self.0.text_mark, false)])
        {
            marks.push((memmem::find(body, mark.as_bytes())?, is_structured, mark.len()));
        }
        let Payload { structured, text } = held.take()?;
        let (mut structured, mut text) = (form(structured.unwrap_or_default()), text);
        // Escaping usually makes text a little longer. Escaped into the body directly, the text is never held twice.
        let mut out = Vec::with_capacity(body.len() + structured.len() + text.len() + text.len() / 8);
        let mut rest = body;
        marks.sort_unstable_by_key(|(at, ..)| *at);
        let mut copied = 0;
        for (at, is_structured, length) in marks {
            // The mark is a JSON string, with a quote on each side.
            let start = at.checked_sub(1)?;
            out.extend_from_slice(&rest[..start - copied]);
            // Each is dropped as soon as it has been copied: both are as large as the answer.
            match is_structured {
                true => out.extend_from_slice(std::mem::take(&mut structured).as_bytes()),
                false => serde_json::to_writer(&mut out, &std::mem::take(&mut text)).ok()?,
            }
            copied = start + length + 2;
            rest = body.get(copied..)?;
        }
        out.extend_from_slice(rest);
        Some(out.into())
    }
}

#[cfg(test)]
mod tests {
    use super::Slot;

    #[test]
    fn marks_become_the_result() {
        let slot = Slot::default();
        assert_eq!(slot.splice(b"{}"), None);
        let put = || slot.put(r#"{"n":12345678901234567890}"#.to_owned(), "a\t\"b\"".to_owned());
        let (structured, text) = put();
        for (body, expected) in [
            (
                format!(r#"{{"t":"{text}","s":"{structured}","e":false}}"#),
                r#"{"t":"a\t\"b\"","s":{"n":12345678901234567890},"e":false}"#,
            ),
            (format!(r#"{{"s":"{structured}","t":"{text}"}}"#), r#"{"s":{"n":12345678901234567890},"t":"a\t\"b\""}"#),
        ] {
            let _ = put();
            assert_eq!(slot.splice(body.as_bytes()).expect("marks"), expected.as_bytes());
        }
        assert_eq!(slot.splice(b"{}"), None);
        let text = slot.put_text("a\"b".to_owned());
        assert_eq!(slot.splice(format!(r#"{{"t":"{text}"}}"#).as_bytes()).expect("a mark"), &br#"{"t":"a\"b"}"#[..]);
    }

    #[test]
    fn an_event_stays_on_one_line() {
        let slot = Slot::default();
        let (structured, text) = slot.put("{\"rows\":[{\r\n \"a\": \"b\\n\"}]}".to_owned(), "a\nb".to_owned());
        let event = format!("data: {{\"s\":\"{structured}\",\"t\":\"{text}\"}}\n\n");
        let spliced = slot.splice_line(event.as_bytes()).expect("marks");
        assert_eq!(spliced, &b"data: {\"s\":{\"rows\":[{   \"a\": \"b\\n\"}]},\"t\":\"a\\nb\"}\n\n"[..]);
    }
}
