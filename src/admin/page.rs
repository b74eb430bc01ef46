//! The page for browsers: one file with its script and its style inside, and a policy that lets the browser run nothing
//! else.

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};

/// The page.
pub const HTML: &str = include_str!("page.html");

/// The content security policy of the page.
pub fn policy() -> String {
    policy_of(HTML)
}

/// The policy of everything else: a browser shows it as text, and it loads nothing.
pub const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

fn policy_of(html: &str) -> String {
    let hashes = |tag: &str| -> String {
        let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
        let inside = html.split(&*open).skip(1).filter_map(|rest| Some(rest.split_once(&*close)?.0));
        let hash = |text: &str| {
            let digest = digest::digest(&digest::SHA256, text.as_bytes());
            format!(" 'sha256-{}'", BASE64_STANDARD.encode(digest.as_ref()))
        };
        let hashes: String = inside.map(hash).collect();
        if hashes.is_empty() { " 'none'".into() } else { hashes }
    };
    format!(
        "default-src 'none'; script-src{}; style-src{}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'",
        hashes("script"),
        hashes("style")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_page_runs() {
        let policy = policy_of("<style>a{}</style><p>x</p><script>alert(1)</script><script>2</script>");
        // printf 'alert(1)' | openssl dgst -sha256 -binary | base64
        assert!(
            policy.contains("script-src 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI=' 'sha256-"),
            "{policy}"
        );
        assert!(policy.contains("style-src 'sha256-"));
        assert!(policy_of("<p>").contains("script-src 'none'; style-src 'none'"));
        assert!(!HTML.contains(" src=") && !HTML.contains("style=\""), "the policy would refuse it");
    }
}
