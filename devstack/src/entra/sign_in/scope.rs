//! Scopes, and the resource that they must belong to.

use crate::entra::{
    clients::{Refusal, refuse},
    principals::SCOPE,
};

/// What was asked for, found good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Scope {
    /// The API's scope, qualified as the client wrote it.
    pub(super) api: String,
    pub(super) openid: bool,
    pub(super) offline_access: bool,
}

impl Scope {
    /// Reads a `scope` parameter and checks the `resource` against it, as Entra ID does for version 2 endpoints.
    pub(super) fn parse(text: &str, resource: Option<&str>, resources: &[String]) -> Result<Self, Refusal> {
        let (mut api, mut openid, mut offline_access) = (None, false, false);
        for word in text.split_ascii_whitespace() {
            match word {
                "openid" => openid = true,
                "offline_access" => offline_access = true,
                "profile" | "email" => {}
                _ => {
                    let (owner, name) = word.rsplit_once('/').unwrap_or(("", word));
                    if owner.is_empty() {
                        // A bare name belongs to Microsoft Graph.
                        let text = format!(
                            "The application asked for scope '{name}' that doesn't exist on the resource \
                             '00000003-0000-0000-c000-000000000000'."
                        );
                        return Err(refuse(650_053, "invalid_client", 400, text));
                    }
                    if !resources.iter().any(|known| known == owner) {
                        let text = format!("The resource principal named {owner} was not found in the tenant.");
                        return Err(refuse(500_011, "invalid_resource", 400, text));
                    }
                    if ![SCOPE, ".default"].contains(&name) {
                        let text = format!(
                            "The application asked for scope '{name}' that doesn't exist on the resource '{owner}'."
                        );
                        return Err(refuse(650_053, "invalid_client", 400, text));
                    }
                    if resource.is_some_and(|resource| resource != owner) {
                        let text =
                            "The resource parameter provided in the request doesn't match with the requested scopes.";
                        return Err(refuse(9_010_010, "invalid_target", 400, text));
                    }
                    if api.as_deref().is_some_and(|api| api != word) {
                        let text =
                            "The provided value for the input parameter 'scope' is not valid: one resource at a time.";
                        return Err(refuse(28_000, "invalid_scope", 400, text));
                    }
                    api = Some(word.to_owned());
                }
            }
        }
        let Some(api) = api else {
            let text = format!("The provided value for the input parameter 'scope' names no permission: '{text}'.");
            return Err(refuse(70_011, "invalid_scope", 400, text));
        };
        Ok(Self { api, openid, offline_access })
    }

    /// What the token endpoint says was granted.
    pub(super) fn granted(&self) -> String {
        let mut words = vec![self.api.as_str()];
        words.extend(self.openid.then_some("openid"));
        words.extend(self.offline_access.then_some("offline_access"));
        words.join(" ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(scope: &str, resource: Option<&str>) -> Result<Scope, u32> {
        let resources = ["api://storefence", "http://127.0.0.1:8080/mcp"].map(str::to_owned);
        Scope::parse(scope, resource, &resources).map_err(|refusal| refusal.number)
    }

    #[test]
    fn the_resource_fits_the_scope() {
        let gateway = "http://127.0.0.1:8080/mcp";
        let scope = parse("http://127.0.0.1:8080/mcp/Retail.Query offline_access", Some(gateway)).unwrap();
        assert!(scope.offline_access && !scope.openid);
        assert_eq!(scope.granted(), "http://127.0.0.1:8080/mcp/Retail.Query offline_access");
        assert!(parse("api://storefence/Retail.Query openid profile", None).is_ok());
        assert!(parse("api://storefence/.default", Some("api://storefence")).is_ok());
        assert_eq!(
            parse("api://storefence/Retail.Query", Some(gateway)),
            Err(9_010_010),
            "the pitfall of docs/entra.md"
        );
        assert_eq!(parse("http://127.0.0.1:8080/mcp/Retail.Query", Some("http://127.0.0.1:8080/mcp/")), Err(9_010_010));
        assert_eq!(parse("api://storefence/Retail.Query http://127.0.0.1:8080/mcp/Retail.Query", None), Err(28_000));
    }

    #[test]
    fn unknown_scopes_are_refused_by_what_is_unknown() {
        assert_eq!(parse("Retail.Query", None), Err(650_053));
        assert_eq!(parse("api://other/Retail.Query", None), Err(500_011));
        assert_eq!(parse("api://storefence/Retail.Write", None), Err(650_053));
        assert_eq!(parse("api://storefence/Retail.Query.All", None), Err(650_053));
        assert_eq!(parse("openid offline_access", None), Err(70_011));
        assert_eq!(parse("", None), Err(70_011));
    }
}
