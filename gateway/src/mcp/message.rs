//! Reads the parts of a JSON-RPC message that the auth layer needs, without a tree of the rest.
//!
//! The whole body is parsed as strictly as [`Value`] parses it, numbers and depth included: what [`Value`] rejects is
//! rejected here. As in a [`Value`], the last of several members with the same name wins.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// A value whose type matters; of an object, the members that `M` takes.
#[derive(Debug)]
pub enum Seen<'a, M> {
    Text(Cow<'a, str>),
    Object(M),
    Null,
    Other,
}

impl<'a, M> Seen<'a, M> {
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The members that were taken of the object.
    pub fn object(&self) -> Option<&M> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }
}

/// Selects members of an object.
pub trait Members<'a>: Default {
    /// Reads the value of this member.
    fn take<A: MapAccess<'a>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error>;
}

/// Takes no members.
#[derive(Debug, Default)]
pub struct Nothing;

impl<'a> Members<'a> for Nothing {
    fn take<A: MapAccess<'a>>(&mut self, _: &str, map: &mut A) -> Result<(), A::Error> {
        map.next_value::<Text<'a>>().map(drop)
    }
}

/// A value that matters only if it is a string.
pub type Text<'a> = Seen<'a, Nothing>;

/// A JSON-RPC message.
#[derive(Debug, Default)]
pub struct Message<'a> {
    pub id: Option<Value>,
    pub jsonrpc: Option<Text<'a>>,
    pub method: Option<Text<'a>>,
    pub params: Option<Seen<'a, Params<'a>>>,
    /// Whether there is a `result`.
    pub result: bool,
    /// Whether there is an `error`.
    pub error: bool,
}

impl<'a> Members<'a> for Message<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "id" => self.id = Some(map.next_value()?),
            "jsonrpc" => self.jsonrpc = Some(map.next_value()?),
            "method" => self.method = Some(map.next_value()?),
            "params" => self.params = Some(map.next_value()?),
            other => {
                self.result |= other == "result";
                self.error |= other == "error";
                Nothing.take(other, map)?;
            }
        }
        Ok(())
    }
}

/// `params` of a message.
#[derive(Debug, Default)]
pub struct Params<'a> {
    pub name: Option<Text<'a>>,
    pub arguments: Option<Text<'a>>,
    /// `protocolVersion`, which only `initialize` sends here.
    pub version: Option<Text<'a>>,
    pub meta: Option<Seen<'a, Meta<'a>>>,
}

impl<'a> Members<'a> for Params<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "name" => self.name = Some(map.next_value()?),
            "arguments" => self.arguments = Some(map.next_value()?),
            "protocolVersion" => self.version = Some(map.next_value()?),
            "_meta" => self.meta = Some(map.next_value()?),
            other => Nothing.take(other, map)?,
        }
        Ok(())
    }
}

/// `_meta` of `params`.
#[derive(Debug, Default)]
pub struct Meta<'a> {
    /// The revision of the request.
    pub version: Option<Text<'a>>,
    /// W3C `traceparent`.
    pub parent: Option<Text<'a>>,
    /// W3C `tracestate`.
    pub state: Option<Text<'a>>,
}

impl<'a> Members<'a> for Meta<'a> {
    fn take<A: MapAccess<'a>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        match name {
            "io.modelcontextprotocol/protocolVersion" => self.version = Some(map.next_value()?),
            "traceparent" => self.parent = Some(map.next_value()?),
            "tracestate" => self.state = Some(map.next_value()?),
            other => Nothing.take(other, map)?,
        }
        Ok(())
    }
}

impl<'de, M: Members<'de>> Deserialize<'de> for Seen<'de, M> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Look(PhantomData))
    }
}

struct Look<M>(PhantomData<M>);

impl<'de, M: Members<'de>> Visitor<'de> for Look<M> {
    type Value = Seen<'de, M>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(Seen::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Seen::Other)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Seen::Other)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Seen::Other)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Seen::Other)
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Seen::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Seen::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
        while items.next_element::<Text<'de>>()?.is_some() {}
        Ok(Seen::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = M::default();
        // Object keys are always strings.
        while let Some(name) = map.next_key::<Text<'de>>()? {
            members.take(name.text().unwrap_or_default(), &mut map)?;
        }
        Ok(Seen::Object(members))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::{Message, Seen};

    #[test]
    fn what_is_json_to_a_value_is_json_here_and_nothing_else() {
        let deep = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        let within = |inner: &str| format!(r#"{{"params":{{"arguments":{inner}}}}}"#);
        for text in
            ["1", "-1.5e3", "1e999", "-1e999", "01", "1.", "18446744073709551616", "nul", "null", "true", "[1,2,]"]
                .map(str::to_owned)
                .into_iter()
                .chain(
                    [
                        r#""\ud800""#,
                        r#""\ud83d\ude00""#,
                        r#""a\qb""#,
                        "\"a\nb\"",
                        r#"{"a":1,}"#,
                        r#"{1:2}"#,
                        "{} x",
                        "",
                    ]
                    .map(str::to_owned),
                )
                .chain([120, 127, 128, 129, 500].map(deep))
        {
            for body in [text.clone(), within(&text), format!("[{text}]")] {
                let (value, seen) = (
                    serde_json::from_str::<Value>(&body).is_ok(),
                    serde_json::from_str::<Seen<Message>>(&body).is_ok(),
                );
                assert_eq!(value, seen, "{body:.80}");
            }
        }
        for body in [&b"\"\xff\""[..], b"{\"\xff\":1}", b"{\"a\":\"\xc3\"}"] {
            assert!(serde_json::from_slice::<Value>(body).is_err());
            assert!(serde_json::from_slice::<Seen<Message>>(body).is_err());
        }
    }

    #[test]
    fn the_last_member_of_a_name_counts() {
        let text = r#"{"method":"a","params":{"name":"x","_meta":{"traceparent":"p"},"_meta":7},"method":"b\u0063"}"#;
        let Ok(Seen::Object(message)) = serde_json::from_str::<Seen<Message>>(text) else { panic!("an object") };
        assert_eq!(message.method.as_ref().and_then(Seen::text), Some("bc"));
        let params = message.params.as_ref().and_then(Seen::object).expect("an object");
        assert_eq!(params.name.as_ref().and_then(Seen::text), Some("x"));
        assert!(params.meta.as_ref().and_then(Seen::object).is_none());
        assert!(message.id.is_none() && !message.result && !message.error);
    }
}
