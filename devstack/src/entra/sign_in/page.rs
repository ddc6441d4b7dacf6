//! What a person sees: plain HTML that works without scripts, by keyboard and with a screen reader.

use std::fmt::Write;

use base64::{Engine, engine::general_purpose::STANDARD};
use sha2::{Digest, Sha256};

use crate::entra::principals::{self, Principal};

/// Content-Security-Policy: the style in the page counts, by its hash, and nothing else loads or runs. `form-action` is
/// left out: browsers apply it to where the answer redirects to, which is the client.
pub(super) fn policy() -> String {
    let style = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{style}'; base-uri 'none'; frame-ancestors 'none'")
}

const STYLE: &str = "
  :root { color-scheme: light dark; }
  body { font: 1rem/1.5 system-ui, sans-serif; max-width: 42rem; margin: 2rem auto; padding: 0 1rem; }
  h1 { font-size: 1.5rem; } h2 { font-size: 1.125rem; margin-top: 2rem; }
  ul { list-style: none; padding: 0; } li { margin: .5rem 0; }
  button { font: inherit; text-align: start; width: 100%; padding: .75rem 1rem; border: 1px solid; border-radius: .5rem;
           background: Canvas; color: CanvasText; cursor: pointer; }
  button:hover { background: color-mix(in srgb, CanvasText 8%, Canvas); }
  button:focus-visible { outline: 3px solid Highlight; outline-offset: 2px; }
  button strong, button span { display: block; }
";

/// The page with a button for each person.
pub(super) fn sign_in(client: &str, host: &str, people: &[&Principal], handle: &str) -> String {
    let mut body = format!(
        "<h1>Sign in</h1>\n<p><strong>{}</strong> (at {}) asks to query retail data in your name.</p>\n\
         <p>This is the stand-in for Microsoft Entra ID of a local stack: no password is asked for. Choose who you are.</p>\n\
         <form method=\"post\">\n<input type=\"hidden\" name=\"request\" value=\"{}\">\n",
        escape(client),
        escape(host),
        escape(handle),
    );
    for (directory, tenant) in [(principals::ZAVA_TENANT_ID, "Zava"), (principals::CONTOSO_TENANT_ID, "Contoso")] {
        let mut staff = people.iter().filter(|person| person.tenant_id == directory).peekable();
        if staff.peek().is_none() {
            continue;
        }
        let _ = writeln!(body, "<h2>{tenant}</h2>\n<ul>");
        for person in staff {
            let _ = writeln!(
                body,
                "<li><button name=\"principal\" value=\"{}\"><strong>{}</strong> <span>{}: {}</span></button></li>",
                escape(person.name),
                escape(person.display_name),
                escape(person.role),
                escape(&person.stores.join(", ")),
            );
        }
        body.push_str("</ul>\n");
    }
    if people.is_empty() {
        body.push_str("<p>No sample principal is in this directory.</p>\n");
    }
    body.push_str(
        "<h2>Somebody else</h2>\n<p><button name=\"cancel\" value=\"1\">Cancel: sign nobody in</button></p>\n</form>",
    );
    document("Sign in to the local stack", &body)
}

/// The page that says why nobody can sign in.
pub(super) fn refused(number: u32, text: &str) -> String {
    let body = format!("<h1>Sorry, but this sign-in does not work</h1>\n<p>AADSTS{number}: {}</p>", escape(text));
    document("Sign-in refused", &body)
}

fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>{title}</title>\n\
         <style>{STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
}

/// Text as it may stand between tags and in quoted attributes.
fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_name_stays_text() {
        let page = sign_in("<script>alert('x')</script>\"", "127.0.0.1", &[], "handle");
        assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;"), "{page}");
        assert!(!page.contains("<script"), "{page}");
    }
}
