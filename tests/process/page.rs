//! The page in a real browser: `tests/page/` drives Chromium on daemons that it starts itself.

use std::{env, path::Path, process::Command};

use crate::harness::Permit;

#[test]
fn page() {
    let _permit = Permit::take(1); // its tests run one after the other
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // tests/run installs them in the target directory.
    let modules = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("page");
    assert!(modules.join("node_modules").exists(), "{} is missing: run tests/run once", modules.display());
    let output = Command::new("node")
        .args(["--test", "--test-reporter=spec"])
        .arg(root.join("tests/page/page.test.mjs"))
        .env("GWM", env!("CARGO_BIN_EXE_gwm"))
        .env("GWM_PAGE_MODULES", &modules)
        .output()
        .expect("node runs: tests/run installs it");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
