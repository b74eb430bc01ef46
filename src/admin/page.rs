//! The page for browsers: one document with its script and its style inside, joined from the files in `page/`, and a
//! policy that lets the browser run nothing else.
//!
//! | file | what it owns |
//! | --- | --- |
//! | `head.html`, `body.html`, `style.css` | the frame, the shapes of the states, the colours |
//! | `dom.js` | the document as a function of what is known |
//! | `states.js` | words, shapes and formats that all views share |
//! | `api.js` | requests to the daemon, and its stream of events |
//! | `live.js` | what the page knows, and how that stays true |
//! | `list.js`, `strip.js` | lists of any length; bars of weights |
//! | `dialog.js`, `words.js` | writes, each confirmed and with a reason; the operator's words in force |
//! | `findings.js` | what is not well |
//! | `overview.js`, `members.js`, `group.js`, `member.js`, `search.js`, `balancers.js`, `daemon.js` | the views |
//! | `main.js` | which view is shown, the header, and the beat that keeps all fresh |

use aws_lc_rs::digest;
use base64::{Engine, prelude::BASE64_STANDARD};

/// The page.
pub const HTML: &str = concat!(
    include_str!("page/head.html"),
    "<style>",
    include_str!("page/style.css"),
    "</style>\n",
    include_str!("page/body.html"),
    "<script type=\"module\">",
    include_str!("page/dom.js"),
    include_str!("page/states.js"),
    include_str!("page/api.js"),
    include_str!("page/live.js"),
    include_str!("page/list.js"),
    include_str!("page/strip.js"),
    include_str!("page/dialog.js"),
    include_str!("page/words.js"),
    include_str!("page/findings.js"),
    include_str!("page/overview.js"),
    include_str!("page/members.js"),
    include_str!("page/group.js"),
    include_str!("page/member.js"),
    include_str!("page/search.js"),
    include_str!("page/balancers.js"),
    include_str!("page/daemon.js"),
    include_str!("page/main.js"),
    "</script>\n</body>\n</html>\n",
);

/// The content security policy of the page.
pub fn policy() -> String {
    policy_of(HTML)
}

fn policy_of(html: &str) -> String {
    let hashes = |open: &str, close: &str| -> String {
        let inside = html.split(open).skip(1).filter_map(|rest| Some(rest.split_once(close)?.0));
        let hash = |text: &str| {
            let digest = digest::digest(&digest::SHA256, text.as_bytes());
            format!(" 'sha256-{}'", BASE64_STANDARD.encode(digest.as_ref()))
        };
        let hashes: String = inside.map(hash).collect();
        if hashes.is_empty() { " 'none'".into() } else { hashes }
    };
    format!(
        "default-src 'none'; script-src{}; style-src{}; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
        hashes("<script type=\"module\">", "</script>"),
        hashes("<style>", "</style>")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_page_runs() {
        let policy = policy_of("<style>a{}</style><p>x</p><script type=\"module\">alert(1)</script><script>2</script>");
        // printf 'alert(1)' | openssl dgst -sha256 -binary | base64
        assert!(
            policy.contains("script-src 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='; style-src 'sha256-")
        );
        assert!(policy_of("<p>").contains("script-src 'none'; style-src 'none'"));
        assert!(!HTML.contains(" src=") && !HTML.contains("style=\""), "the policy would refuse it");
    }

    #[test]
    fn the_page_is_whole_and_names_nothing_outside() {
        assert!(HTML.starts_with("<!doctype html>") && HTML.ends_with("</html>\n"));
        // A closing tag inside the script or the style would end it early.
        assert_eq!((HTML.matches("</script>").count(), HTML.matches("</style>").count()), (1, 1));
        let outside: Vec<&str> = HTML.split("//").skip(1).filter(|rest| rest.starts_with("www.")).collect();
        assert!(outside.iter().all(|rest| rest.starts_with("www.w3.org/")), "only names of XML spaces: {outside:?}");
    }
}
