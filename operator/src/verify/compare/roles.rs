//! Roles, memberships, logins and their settings.

use std::collections::BTreeSet;

use super::Report;
use crate::{
    roles::is_creator,
    verify::{
        Membership, Role, Severity,
        expected::{FORBIDDEN_SETTINGS, LOGIN_SETTINGS, ROLES},
        names::quoted,
    },
};

impl Report<'_> {
    pub(super) fn roles(&mut self) {
        for name in ROLES {
            match self.snapshot.roles.iter().find(|role| role.name == name) {
                None => self.add(
                    format!("role {name}"),
                    "no such role",
                    "the role",
                    "restore the role, then check its privileges again",
                ),
                Some(role) if !role.attributes.is_empty() => {
                    let undo: Vec<String> = role.attributes.iter().map(|attribute| format!("NO{attribute}")).collect();
                    self.add(
                        format!("role {name}"),
                        format!("attributes {}", role.attributes.join(", ")),
                        "no attribute",
                        format!("as superuser: ALTER ROLE {name} {}", undo.join(" ")),
                    );
                }
                Some(_) => {}
            }
        }
        // That there are none is no deviation: the administrator then makes the logins itself.
        for role in self.snapshot.roles.iter().filter(|role| is_creator(&role.name)) {
            if role.attributes != ["CREATEROLE"] {
                let found = match role.attributes.as_slice() {
                    [] => "no attribute".to_owned(),
                    attributes => format!("attributes {}", attributes.join(", ")),
                };
                let remedy = format!(
                    "as superuser: ALTER ROLE {} NOLOGIN NOINHERIT CREATEROLE NOSUPERUSER NOCREATEDB NOREPLICATION NOBYPASSRLS",
                    role.name
                );
                self.add(format!("role {}", role.name), found, "CREATEROLE alone", remedy);
            }
        }
        for login in &self.snapshot.logins {
            let name = &login.login;
            let Some(role) = self.snapshot.roles.iter().find(|role| &role.name == name) else {
                self.add(format!("login {name}"), "no such role", "the role", "let the operator reconcile the tenant");
                continue;
            };
            // a disabled slot has lost LOGIN: that is as it should be
            let bad: Vec<&String> = role.attributes.iter().filter(|attribute| *attribute != "LOGIN").collect();
            if !bad.is_empty() {
                let list: Vec<String> = bad.iter().map(ToString::to_string).collect();
                let undo: Vec<String> = bad.iter().map(|attribute| format!("NO{attribute}")).collect();
                self.add(
                    format!("login {name}"),
                    format!("attributes {}", list.join(", ")),
                    "at most LOGIN",
                    format!("as superuser: ALTER ROLE {name} {}", undo.join(" ")),
                );
            }
        }
        for role in &self.snapshot.roles {
            let has = |wanted: &str| role.attributes.iter().any(|attribute| attribute == wanted);
            let ours = self.concerns_us(&role.name);
            if !ours && has("BYPASSRLS") && !has("SUPERUSER") && !self.expectations.bypass_rls.contains(&role.name) {
                self.add(
                    format!("role {}", role.name),
                    "attribute BYPASSRLS",
                    "no role that ignores row-level security, but for those listed in the configuration",
                    format!("as superuser: ALTER ROLE {} NOBYPASSRLS, or list it", quoted(&role.name)),
                );
            }
        }
    }

    pub(super) fn memberships(&mut self) {
        for membership in &self.snapshot.memberships {
            let (role, member) = (membership.role.as_str(), membership.member.as_str());
            let object = format!("membership of {member} in {role}");
            let options = format!("ADMIN {}, INHERIT {}, SET {}", membership.admin, membership.inherit, membership.set);
            let revoke = self.revoke(membership);
            if ROLES.contains(&member) {
                self.add(object, options, "no membership: the fence's roles are members of nothing", revoke);
            } else if is_creator(member) {
                if role != "fence_login" || !membership.admin || membership.inherit || membership.set {
                    let expected =
                        "ADMIN true, INHERIT false, SET false in fence_login, ADMIN alone in the logins that it made";
                    self.add(object, options, expected, revoke);
                }
            } else if role == "fence_login" && self.is_login(member) {
                if membership.admin || membership.set || !membership.inherit {
                    let expected = "ADMIN false, INHERIT true, SET false";
                    self.add(
                        object,
                        options,
                        expected,
                        format!(
                            "{revoke}; GRANT {role} TO {} WITH INHERIT TRUE, SET FALSE, ADMIN FALSE",
                            quoted(member)
                        ),
                    );
                }
            } else if self.is_login(member) {
                self.add(object, options, "no membership but in fence_login", revoke);
            } else if ["fence_reader", "fence_runner"].contains(&role) && self.is_administrator(member) {
                if membership.inherit && !self.is_superuser(member) {
                    let remedy = format!("GRANT {role} TO {} WITH INHERIT FALSE", quoted(member));
                    self.add(
                        object,
                        options,
                        "INHERIT false: the readers' policies would ask the administrator for a context",
                        remedy,
                    );
                }
            } else if role == "fence_login" && is_login_name(member) && !membership.admin && !membership.set {
                // a login of another database of this cluster; this database does not know it and refuses its calls
            } else if !(self.is_administrator(member)
                || role == "retail_loader" && self.expectations.loaders.contains(member))
            {
                self.add(
                    object,
                    options,
                    "no membership but the administrators' and, in retail_loader, the loaders' in the configuration",
                    revoke,
                );
            }
        }
    }

    /// A membership is taken back by who gave it, or by a superuser in that one's name.
    fn revoke(&self, membership: &Membership) -> String {
        let Membership { role, member, grantors, .. } = membership;
        let (role, member) = (quoted(role), quoted(member));
        let own = grantors.iter().all(|grantor| *grantor == self.snapshot.observer);
        let statements: Vec<String> = grantors
            .iter()
            .map(|grantor| format!("REVOKE {role} FROM {member} GRANTED BY {}", quoted(grantor)))
            .collect();
        match own {
            _ if grantors.is_empty() => format!("REVOKE {role} FROM {member}"),
            true => statements.join("; "),
            false => format!("as superuser: {}", statements.join("; ")),
        }
    }

    pub(super) fn logins(&mut self) {
        for login in &self.snapshot.logins {
            let name = &login.login;
            let known = self.snapshot.roles.iter().any(|role| &role.name == name);
            let member = self
                .snapshot
                .memberships
                .iter()
                .any(|membership| membership.role == "fence_login" && &membership.member == name);
            if known && !member {
                let remedy = format!("GRANT fence_login TO {name} WITH INHERIT TRUE, SET FALSE, ADMIN FALSE");
                self.add(
                    format!("membership of {name} in fence_login"),
                    "none",
                    "ADMIN false, INHERIT true, SET false",
                    remedy,
                );
            }
            if login.dependencies > 0 {
                self.add(
                    format!("login {name}"),
                    format!("owns or may use {} objects by itself", login.dependencies),
                    "none",
                    format!(
                        "as superuser, in every database: REASSIGN OWNED BY {name} TO {}; DROP OWNED BY {name}",
                        quoted(&self.snapshot.observer)
                    ),
                );
            }
        }
    }

    pub(super) fn settings(&mut self) {
        for kept in &self.snapshot.settings {
            let name = kept.setting.split('=').next().unwrap_or_default();
            match &kept.role {
                Some(role) if !LOGIN_SETTINGS.contains(&name) => self.add(
                    format!("login {role}"),
                    format!("setting {}", kept.setting),
                    "no setting but limits and search_path",
                    format!("as superuser: ALTER ROLE {} RESET {name}", quoted(role)),
                ),
                None if FORBIDDEN_SETTINGS.contains(&name) => self.add(
                    format!("database {}", self.snapshot.database),
                    format!("setting {}", kept.setting),
                    "none of that name for everybody",
                    format!(
                        "as superuser: ALTER DATABASE {} RESET {name}; ALTER ROLE ALL RESET {name}",
                        quoted(&self.snapshot.database)
                    ),
                ),
                _ => {}
            }
        }
        self.temporary_files();
    }

    /// Told once for all logins: there may be thousands.
    fn temporary_files(&mut self) {
        let limits = self.snapshot.settings.iter().filter(|kept| kept.setting.starts_with("temp_file_limit="));
        let limited: BTreeSet<Option<&str>> = limits.map(|kept| kept.role.as_deref()).collect();
        let lets_in = |role: &&Role| role.attributes.iter().any(|attribute| attribute == "LOGIN");
        let roles = self.snapshot.roles.iter().filter(lets_in).map(|role| role.name.as_str());
        let open = roles.filter(|name| self.is_login(name) && !limited.contains(&Some(name))).count();
        if open > 0 && !limited.contains(&None) {
            self.add_as(
                Severity::Notice,
                format!("database {}", self.snapshot.database),
                format!("{open} logins without temp_file_limit"),
                "a limit of the temporary files of one session, which the operator sets where it may",
                format!(
                    "as superuser: GRANT SET ON PARAMETER temp_file_limit TO {}; where nobody may, set the server's own",
                    quoted(&self.snapshot.observer)
                ),
            );
        }
    }
}

/// `sf_`, twelve hexadecimal digits, `_a` or `_b`.
fn is_login_name(name: &str) -> bool {
    name.strip_prefix("sf_")
        .and_then(|rest| rest.strip_suffix("_a").or_else(|| rest.strip_suffix("_b")))
        .is_some_and(|hex| hex.len() == 12 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}
