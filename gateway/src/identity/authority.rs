//! Where tokens come from: the issuers and the address of the signing keys, for each directory.

use url::Url;
use uuid::Uuid;

/// An Entra ID authority: the public cloud, a sovereign one, or a stand-in.
#[derive(Clone, Debug)]
pub struct Authority {
    base: String,
    v1: String,
}

impl Authority {
    /// `base` is for example `https://login.microsoftonline.com`; `v1` overrides the issuer of version 1.0 tokens.
    #[must_use]
    pub fn new(base: &Url, v1: Option<&Url>) -> Self {
        let trim = |url: &Url| url.as_str().trim_end_matches('/').to_owned();
        let v1 = v1.map_or_else(
            || match base.host_str() {
                // https://learn.microsoft.com/entra/identity-platform/access-token-claims-reference
                Some("login.microsoftonline.com" | "login.microsoftonline.us") => "https://sts.windows.net".to_owned(),
                Some("login.partner.microsoftonline.cn" | "login.chinacloudapi.cn") => {
                    "https://sts.chinacloudapi.cn".to_owned()
                }
                _ => trim(base),
            },
            trim,
        );
        Self { base: trim(base), v1 }
    }

    /// `iss` of version 2.0 tokens; also the authorization server's identifier.
    #[must_use]
    pub fn v2_issuer(&self, tid: Uuid) -> String {
        format!("{}/{tid}/v2.0", self.base)
    }

    /// `iss` of version 1.0 tokens.
    #[must_use]
    pub fn v1_issuer(&self, tid: Uuid) -> String {
        format!("{}/{tid}/", self.v1)
    }

    /// The address of a directory's signing keys.
    #[must_use]
    pub fn keys_url(&self, tid: Uuid) -> String {
        format!("{}/{tid}/discovery/v2.0/keys", self.base)
    }

    /// The authorization server named to clients: any work or school account, since the directory becomes known only
    /// with the token.
    #[must_use]
    pub fn organizations(&self) -> String {
        format!("{}/organizations/v2.0", self.base)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::Authority;

    #[test]
    fn addresses_of_every_cloud() {
        let tid = Uuid::from_u128(0x2f4e_6d8c_1a3b_4c7e_9f0a_b2d4_f6e8_c0a2);
        for (base, v1) in [
            ("https://login.microsoftonline.com", "https://sts.windows.net"),
            ("https://login.microsoftonline.us", "https://sts.windows.net"),
            ("https://login.partner.microsoftonline.cn", "https://sts.chinacloudapi.cn"),
            ("https://login.chinacloudapi.cn", "https://sts.chinacloudapi.cn"),
            ("https://127.0.0.1:8443", "https://127.0.0.1:8443"),
        ] {
            for written in [base.to_owned(), format!("{base}/")] {
                let authority = Authority::new(&written.parse().expect("URL"), None);
                assert_eq!(authority.v2_issuer(tid), format!("{base}/{tid}/v2.0"));
                assert_eq!(authority.v1_issuer(tid), format!("{v1}/{tid}/"));
                assert_eq!(authority.keys_url(tid), format!("{base}/{tid}/discovery/v2.0/keys"));
                assert_eq!(authority.organizations(), format!("{base}/organizations/v2.0"));
            }
        }
        let base = "https://login.microsoftonline.us".parse().expect("URL");
        let v1 = "https://sts.example.us/".parse().expect("URL");
        assert_eq!(Authority::new(&base, Some(&v1)).v1_issuer(tid), format!("https://sts.example.us/{tid}/"));
    }
}
