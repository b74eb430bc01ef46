//! What `gwm --version` says beside the number: the commit, the features and the target. Cargo runs this before the
//! build.
//!
//! The commit is that of `GWM_COMMIT`, or of the published crate, or of git. Builds without any of them say so, and so
//! do debug builds: to ask git in each would build gwm anew after each commit.

use std::{env, fs, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-changed=src/package/version.rs");
    println!("cargo::rerun-if-env-changed=GWM_COMMIT");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let features = env::vars().filter_map(|(name, _)| Some(name.strip_prefix("CARGO_FEATURE_")?.to_lowercase()));
    let mut features: Vec<String> = features.filter(|feature| feature != "default").collect();
    features.sort();
    let commit = commit().unwrap_or_else(|| match variable("PROFILE").as_str() {
        "release" => "unknown".into(),
        _ => "not looked at (a debug build)".into(),
    });
    println!("cargo::rustc-env=GWM_BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=GWM_BUILD_FEATURES={}", features.join(" "));
    println!("cargo::rustc-env=GWM_BUILD_TARGET={}", variable("TARGET"));
}

fn commit() -> Option<String> {
    if let Some(commit) = env::var("GWM_COMMIT").ok().filter(|commit| !commit.is_empty()) {
        return Some(commit);
    }
    let folder = env::var("CARGO_MANIFEST_DIR").ok()?;
    if let Ok(text) = fs::read_to_string(Path::new(&folder).join(".cargo_vcs_info.json")) {
        return text.split('"').find(|word| word.len() == 40).map(str::to_owned);
    }
    // Of a folder above, git would tell another project's commit.
    if env::var("PROFILE").ok()? != "release" || !Path::new(&folder).join(".git").exists() {
        return None;
    }
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(&folder).args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    println!("cargo::rerun-if-changed={}", Path::new(&folder).join(log).display());
    println!("cargo::rerun-if-changed=src");
    println!("cargo::rerun-if-changed=Cargo.lock");
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = !git(&["status", "--porcelain", "--untracked-files=no"])?.is_empty();
    Some(if changed { format!("{commit} with changes") } else { commit })
}
