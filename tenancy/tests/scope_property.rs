//! Claims -> scope, against an oracle written the other way round: it asks of each store whether any rule grants it.

use proptest::prelude::*;
use serde_json::{Map, Value, json};
use storefence_tenancy::{
    Claims, RetailTenantSpec, Scope, TenantRules,
    claims::{Groups, TokenKind},
    resource::{
        AdoptionPolicy, ClaimMatch, ConnectionRef, DeletionPolicy, Entra, GatewayLimits, Mode, PrincipalRule, Role,
        Rotation, Store, ToolName,
    },
    scope::{NoScope, StoreSet},
};
use uuid::Uuid;

const TID: &str = "7d1c9a52-3b64-4f0e-8c21-5a9e0b7f4d13";
const OTHER: &str = "c2f4a86e-90d7-4b3a-9e55-1b6d8f02a7c4";

/// Few distinct identities, so that rules and tokens meet often.
fn id(n: u8) -> String {
    Uuid::from_u128(0x1000 + u128::from(n)).to_string()
}

fn store_id(n: u8) -> Uuid {
    Uuid::from_u128(0x2000 + u128::from(n))
}

fn store_name(n: u8) -> String {
    format!("Store {n}")
}

fn rule(stores: u8) -> impl Strategy<Value = PrincipalRule> {
    let role = prop_oneof![Just(Role::StoreManager), Just(Role::RegionalManager), Just(Role::HeadOffice)];
    let tools = prop::option::of(prop::collection::btree_set(prop::sample::select(&ToolName::ALL[..]), 1..4));
    (role, 0u8..6, 0u8..3, prop::collection::btree_set(0..stores, 1..=stores as usize), tools).prop_map(
        |(role, kind, who, granted, tools)| {
            let mut rule = PrincipalRule {
                name: String::new(),
                role,
                entra_group: None,
                entra_user: None,
                entra_application: None,
                app_role: None,
                claim: None,
                stores_from_claim: None,
                stores: granted.into_iter().map(store_name).collect(),
                tools: tools.map(|tools| tools.iter().map(ToString::to_string).collect()),
            };
            match kind {
                0 => rule.entra_user = Some(id(who)),
                1 => rule.entra_group = Some(id(who)),
                2 => rule.app_role = Some(format!("Role.{who}")),
                4 => rule.entra_application = Some(id(who)),
                3 => rule.claim = Some(ClaimMatch { name: "department".into(), value: format!("d{who}") }),
                _ => {
                    rule.stores_from_claim = Some("extn.storeIds".into());
                    rule.role = Role::StoreManager;
                }
            }
            if rule.role == Role::HeadOffice || kind == 5 {
                rule.stores.clear();
            }
            rule
        },
    )
}

fn spec() -> impl Strategy<Value = RetailTenantSpec> {
    (1u8..6).prop_flat_map(|stores| (Just(stores), prop::collection::vec(rule(stores), 0..6))).prop_map(
        |(stores, mut principals)| {
            for (i, principal) in principals.iter_mut().enumerate() {
                principal.name = format!("rule-{i}");
            }
            RetailTenantSpec {
                tenant_id: "zava".into(),
                display_name: None,
                entra: Entra { tenant_id: TID.into() },
                database_ref: ConnectionRef { name: "retail".into() },
                key_vault_ref: ConnectionRef { name: "main".into() },
                stores: (0..stores)
                    .map(|n| Store { name: store_name(n), id: store_id(n).to_string(), display_name: None })
                    .collect(),
                principals,
                gateway: GatewayLimits::default(),
                rotation: Rotation::default(),
                mode: Mode::default(),
                suspend: false,
                adoption_policy: AdoptionPolicy::default(),
                deletion_policy: DeletionPolicy::default(),
            }
        },
    )
}

/// What a store claim may hold: names, ids, and the near misses that must grant nothing.
fn store_claim() -> impl Strategy<Value = Value> {
    let value = prop_oneof![
        (0u8..6).prop_map(store_name),
        (0u8..6).prop_map(|n| store_id(n).to_string()),
        (0u8..6).prop_map(|n| store_name(n).to_uppercase()),
        (0u8..6).prop_map(|n| store_id(n).simple().to_string()),
        (0u8..6).prop_map(|n| format!("{} ", store_name(n))),
        Just("*".to_owned()),
        Just(String::new()),
        Just("Ѕtore 1".to_owned()),
    ];
    prop_oneof![
        Just(Value::Null),
        value.clone().prop_map(Value::String),
        prop::collection::vec(value, 0..4).prop_map(|values| json!(values)),
    ]
}

fn token() -> impl Strategy<Value = Map<String, Value>> {
    let tid = prop_oneof![9 => Just(TID), 1 => Just(OTHER)];
    let groups = prop::option::of(prop::collection::btree_set(0u8..3, 0..3));
    let roles = prop::collection::btree_set(0u8..3, 0..2);
    let scp = prop_oneof![7 => Just(Some("Retail.Query")), 3 => Just(None)];
    let idtyp = prop_oneof![8 => Just(None), 1 => Just(Some("app")), 1 => Just(Some("user"))];
    // Version and calling application; the claim of the other version must not count.
    let application = (prop::bool::ANY, 0u8..3, prop::option::of(0u8..3));
    (tid, 0u8..3, groups, roles, 0u8..4, store_claim(), (scp, idtyp, application), prop::bool::weighted(0.1)).prop_map(
        |(tid, oid, groups, roles, department, stores, (scp, idtyp, (v2, application, decoy)), overage)| {
            let (ver, its, other) = if v2 { ("2.0", "azp", "appid") } else { ("1.0", "appid", "azp") };
            let mut claims = json!({
                "ver": ver, its: id(application),
                "tid": tid, "oid": id(oid), "department": format!("d{department}"),
                "roles": roles.iter().map(|n| format!("Role.{n}")).collect::<Vec<_>>(),
            });
            if let Some(scp) = scp {
                claims["scp"] = scp.into();
            }
            if let Some(idtyp) = idtyp {
                claims["idtyp"] = idtyp.into();
            }
            if let Some(decoy) = decoy {
                claims[other] = id(decoy).into();
            }
            if let Some(groups) = groups {
                claims["groups"] = groups.iter().map(|n| id(*n)).collect::<Vec<_>>().into();
            }
            if overage {
                claims["_claim_names"] = json!({"groups": "src1"});
            }
            if !stores.is_null() {
                claims["extn.storeIds"] = stores;
            }
            let Value::Object(claims) = claims else { unreachable!() };
            claims
        },
    )
}

/// Whether the rule grants the store to the token, read off the words of the specification.
fn oracle(raw: &Map<String, Value>, rule: &PrincipalRule, store: &Store) -> bool {
    let text = |name: &str| raw.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let list = |name: &str| -> Vec<String> {
        match raw.get(name) {
            Some(Value::Array(items)) => items.iter().map(|v| v.as_str().unwrap().to_owned()).collect(),
            Some(Value::String(one)) => vec![one.clone()],
            _ => vec![],
        }
    };
    let overage = raw.contains_key("_claim_names");
    let app_only = !raw.contains_key("scp") || text("idtyp") == "app";
    if let Some(application) = &rule.entra_application {
        let caller = if text("ver") == "2.0" { text("azp") } else { text("appid") };
        return app_only
            && caller == *application
            && (rule.role == Role::HeadOffice || rule.stores.contains(&store.name));
    }
    if app_only {
        return false;
    }
    if rule.stores_from_claim.is_some() {
        return list("extn.storeIds").iter().any(|value| *value == store.name || *value == store.id);
    }
    let matches = rule.entra_user.as_ref().is_some_and(|oid| text("oid") == *oid)
        || rule.entra_group.as_ref().is_some_and(|group| !overage && list("groups").contains(group))
        || rule.app_role.as_ref().is_some_and(|role| list("roles").contains(role))
        || rule.claim.as_ref().is_some_and(|claim| list(&claim.name).contains(&claim.value));
    matches && (rule.role == Role::HeadOffice || rule.stores.contains(&store.name))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn scope_is_exactly_what_some_rule_grants(spec in spec(), raw in token()) {
        let rules = TenantRules::compile(&spec).expect("the generator makes valid specs");
        let Ok(claims) = Claims::from_payload(raw.clone()) else {
            prop_assert!(!raw.contains_key("scp") && raw["roles"] == json!([]));
            return Ok(());
        };
        let served = raw["tid"] == TID;
        let scope = Scope::compute(&claims, &rules);
        for store in &spec.stores {
            let expected = served && spec.principals.iter().any(|rule| oracle(&raw, rule, store));
            let id = Uuid::parse_str(&store.id).unwrap();
            let seen = scope.as_ref().is_ok_and(|scope| scope.stores().contains(&id));
            prop_assert_eq!(seen, expected, "{} {:?}", store.name, scope);
        }
        // A tool is granted where a rule that grants some store grants it, whatever the store.
        for tool in ToolName::ALL {
            let by = |rule: &PrincipalRule| rule.tools.as_ref().is_none_or(|tools| tools.iter().any(|name| name == tool.as_str()));
            let matches = |rule: &PrincipalRule| spec.stores.iter().any(|store| oracle(&raw, rule, store));
            let expected = served && spec.principals.iter().any(|rule| by(rule) && matches(rule));
            let seen = scope.as_ref().is_ok_and(|scope| scope.tools().contains(tool.as_str()));
            prop_assert_eq!(seen, expected, "{} {:?}", tool, scope);
        }
        if let Ok(scope) = &scope {
            prop_assert!(ToolName::EVERYBODYS.iter().all(|tool| scope.tools().contains(tool)));
        }
        match &scope {
            Ok(scope) => {
                prop_assert!(!scope.rules().is_empty());
                prop_assert_eq!(scope.stores() == &StoreSet::All, scope.role() == Role::HeadOffice);
                if let StoreSet::Some(ids) = scope.stores() {
                    prop_assert!(!ids.is_empty());
                    prop_assert!(ids.iter().all(|id| rules.stores().get(id).is_some()), "a store of nobody");
                }
            }
            Err(NoScope::GroupsOverage) => prop_assert_eq!(&claims.groups, &Groups::Overage),
            Err(NoScope::ForeignDirectory) => prop_assert_eq!(&raw["tid"], OTHER),
            Err(NoScope::AppOnly) => prop_assert_eq!(claims.kind, TokenKind::App),
            Err(NoScope::NoRule) => {}
        }
    }

    #[test]
    fn adding_a_rule_never_takes_a_store_away(spec in spec(), raw in token()) {
        prop_assume!(!spec.principals.is_empty());
        let Ok(claims) = Claims::from_payload(raw) else { return Ok(()) };
        let all = Scope::compute(&claims, &TenantRules::compile(&spec).unwrap());
        let mut fewer = spec.clone();
        fewer.principals.pop();
        let some = Scope::compute(&claims, &TenantRules::compile(&fewer).unwrap());
        if let Ok(some) = some {
            let all = all.expect("still a scope");
            prop_assert!(all.role() >= some.role());
            for id in TenantRules::compile(&spec).unwrap().stores().ids() {
                prop_assert!(!some.stores().contains(id) || all.stores().contains(id));
            }
        }
    }
}
