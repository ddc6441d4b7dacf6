//! The sample tenants and principals: one list for `xtask token`, the tests and the examples.
//!
//! `examples/zava.yaml` and `examples/contoso.yaml` name the same identifiers.

use serde_json::{Map, Value, json};

/// Directory of the sample tenant Zava.
pub const ZAVA_TENANT_ID: &str = "7d1c9a52-3b64-4f0e-8c21-5a9e0b7f4d13";
/// Directory of the sample tenant Contoso.
pub const CONTOSO_TENANT_ID: &str = "c2f4a86e-90d7-4b3a-9e55-1b6d8f02a7c4";

/// Client ID of the API registration: the audience of v2.0 tokens.
pub const AUDIENCE: &str = "3f8a1c6e-52d9-4e7b-a1f0-6c2b9d84e735";
/// Application ID URI of the API registration: the usual audience of v1.0 tokens.
pub const APPLICATION_ID_URI: &str = "api://storefence";
/// The delegated permission that clients ask for.
pub const SCOPE: &str = "Retail.Query";
/// The client application that asks: Visual Studio Code's own registration.
pub const CLIENT_APPLICATION: &str = "aebc6443-996d-45c2-90f0-388ff96faa56";

/// App role of Zava's head office.
pub const HEAD_OFFICE_ROLE: &str = "Storefence.HeadOffice";

/// Object ID of Zava's `seattle-manager`, named by an `entraUser` rule.
pub const SEATTLE_MANAGER_OID: &str = "5e0c2d9b-7a31-4f86-b4d2-90c1e8a7f352";
/// Group of the managers of Zava's Redmond store.
pub const REDMOND_MANAGERS_GROUP: &str = "b83f6a14-2c5e-4d07-9f91-3a7d0e5c8b26";
/// Group of Zava's managers for the Puget Sound region.
pub const PUGET_SOUND_GROUP: &str = "64d7e1f8-0b92-4a3c-8e57-c1f5a2093d7e";
/// Group of Contoso's head office.
pub const CONTOSO_HEAD_OFFICE_GROUP: &str = "a91c5d30-e84b-4276-b3f0-7d62c8e14f95";
/// Object ID of Contoso's `contoso-downtown-manager`, named by an `entraUser` rule.
pub const CONTOSO_DOWNTOWN_OID: &str = "d2860b7f-49c3-4e15-a7d8-5f13e9c04ba6";

/// A group that everybody at Zava is in and that no rule names.
const ZAVA_STAFF_GROUP: &str = "0c47f9e2-d615-4b8a-93e4-f8a20b6d5c71";
/// A group that everybody at Contoso is in and that no rule names.
const CONTOSO_STAFF_GROUP: &str = "f35b82d6-170e-4c9f-8a6d-29e4c7b1d058";

/// What a head office sees.
pub const ALL_STORES: &[&str] = &["all stores"];

/// What sets a sample principal's tokens apart from anybody else's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Grant {
    /// Nothing but the object ID.
    User,
    AppRole(&'static str),
    Group(&'static str),
    Claim(&'static str, &'static str),
    Stores(&'static [&'static str]),
}

/// A person whose tokens the stand-in issues by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The name that `xtask token` and `--as` take.
    pub name: &'static str,
    /// The Entra tenant.
    pub tenant_id: &'static str,
    /// The object ID.
    pub oid: &'static str,
    /// The name as people read it.
    pub display_name: &'static str,
    /// The role that the examples give this principal.
    pub role: &'static str,
    /// The stores that the examples give this principal, or what stands for all of them.
    pub stores: &'static [&'static str],
    grant: Grant,
}

const PRINCIPALS: [Principal; 8] = [
    Principal {
        name: "head-office",
        tenant_id: ZAVA_TENANT_ID,
        oid: "1f0d6b1e-8a52-4c39-9d47-0e6a3b5c7d91",
        display_name: "Hana Ito (Zava head office)",
        role: "HeadOffice",
        stores: ALL_STORES,
        grant: Grant::AppRole(HEAD_OFFICE_ROLE),
    },
    Principal {
        name: "seattle-manager",
        tenant_id: ZAVA_TENANT_ID,
        oid: SEATTLE_MANAGER_OID,
        display_name: "Sam Rivera (Zava Seattle)",
        role: "StoreManager",
        stores: &["Seattle"],
        grant: Grant::User,
    },
    Principal {
        name: "redmond-manager",
        tenant_id: ZAVA_TENANT_ID,
        oid: "8b25f3c7-6d90-4e1a-a2c4-d70f9b8e5163",
        display_name: "Robin Chen (Zava Redmond)",
        role: "StoreManager",
        stores: &["Redmond"],
        grant: Grant::Group(REDMOND_MANAGERS_GROUP),
    },
    Principal {
        name: "online-manager",
        tenant_id: ZAVA_TENANT_ID,
        oid: "c6e41a09-f25d-4738-bb60-83d5127fa9ce",
        display_name: "Olga Novak (Zava Online)",
        role: "StoreManager",
        stores: &["Online"],
        grant: Grant::Claim("department", "online"),
    },
    Principal {
        name: "puget-sound-regional",
        tenant_id: ZAVA_TENANT_ID,
        oid: "30a9d7e4-5c18-4b62-8f7d-e96b04c2a135",
        display_name: "Priya Shah (Zava Puget Sound)",
        role: "RegionalManager",
        stores: &["Seattle", "Bellevue", "Tacoma", "Everett", "Redmond", "Kirkland"],
        grant: Grant::Group(PUGET_SOUND_GROUP),
    },
    Principal {
        name: "claim-user",
        tenant_id: ZAVA_TENANT_ID,
        oid: "97f2c05b-e3a6-4d8c-9014-b8617de5f4a0",
        display_name: "Casey Brown (Zava, stores from the directory)",
        role: "StoreManager",
        stores: &["Seattle", "Redmond"],
        grant: Grant::Stores(&["Seattle", "Redmond"]),
    },
    Principal {
        name: "contoso-head-office",
        tenant_id: CONTOSO_TENANT_ID,
        oid: "4d1b8e76-a09f-4c53-b2e8-06f7c93d5a12",
        display_name: "Dana Weiss (Contoso head office)",
        role: "HeadOffice",
        stores: ALL_STORES,
        grant: Grant::Group(CONTOSO_HEAD_OFFICE_GROUP),
    },
    Principal {
        name: "contoso-downtown-manager",
        tenant_id: CONTOSO_TENANT_ID,
        oid: CONTOSO_DOWNTOWN_OID,
        display_name: "Drew Okafor (Contoso Downtown)",
        role: "StoreManager",
        stores: &["Downtown"],
        grant: Grant::User,
    },
];

/// Every sample principal.
pub fn all() -> &'static [Principal] {
    &PRINCIPALS
}

/// The sample principal of this name.
pub fn find(name: &str) -> Option<&'static Principal> {
    PRINCIPALS.iter().find(|principal| principal.name == name)
}

impl Principal {
    /// The claims that tell this principal apart; issuer, audience, times and the like come with every token.
    pub fn claims(&self) -> Map<String, Value> {
        let staff = if self.tenant_id == ZAVA_TENANT_ID { ZAVA_STAFF_GROUP } else { CONTOSO_STAFF_GROUP };
        let mut claims = Map::new();
        claims.insert(String::from("oid"), json!(self.oid));
        claims.insert(String::from("name"), json!(self.display_name));
        let domain = if self.tenant_id == ZAVA_TENANT_ID { "zava.example" } else { "contoso.example" };
        claims.insert(String::from("preferred_username"), json!(format!("{}@{domain}", self.name)));
        claims.insert(String::from("groups"), json!([staff]));
        match self.grant {
            Grant::User => {}
            Grant::AppRole(role) => {
                claims.insert(String::from("roles"), json!([role]));
            }
            Grant::Group(group) => {
                claims.insert(String::from("groups"), json!([staff, group]));
            }
            Grant::Claim(name, value) => {
                claims.insert(String::from(name), json!(value));
            }
            Grant::Stores(stores) => {
                claims.insert(String::from("extn.storeIds"), json!(stores));
            }
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use storefence_tenancy::{Claims, Scope, TenantRules, resource::RetailTenant};

    use super::*;

    /// The sign-in page must not promise what the examples do not give.
    #[test]
    fn roles_and_stores_are_those_of_the_examples() {
        for principal in all() {
            let example = if principal.tenant_id == ZAVA_TENANT_ID { "zava" } else { "contoso" };
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../examples/{example}.yaml"));
            let tenant: RetailTenant = serde_saphyr::from_str(&fs::read_to_string(path).unwrap()).unwrap();
            let rules = TenantRules::compile(&tenant.spec).unwrap();
            let mut claims = principal.claims();
            claims.insert(String::from("tid"), json!(principal.tenant_id));
            claims.insert(String::from("scp"), json!(SCOPE));
            let scope = Scope::compute(&Claims::from_payload(claims).unwrap(), &rules).unwrap();
            assert_eq!(json!(scope.role()), json!(principal.role), "{}", principal.name);
            for store in &tenant.spec.stores {
                let promised = principal.stores == ALL_STORES || principal.stores.contains(&store.name.as_str());
                let given = scope.stores().contains(&store.id.parse().unwrap());
                assert_eq!(promised, given, "{}: {}", principal.name, store.name);
            }
        }
    }
}
