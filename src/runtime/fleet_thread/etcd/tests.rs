//! With the real etcd, if it is installed (CI has it).

use std::{
    env, fs,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use super::*;

/// An etcd with a directory of its own, until this value is dropped.
struct Etcd {
    child: Child,
    directory: PathBuf,
    endpoint: Endpoint,
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn etcd() -> Option<Etcd> {
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let (client, peer) = (free(), free());
    let directory = env::temp_dir().join(format!("gwm-etcd-{}-{}", std::process::id(), client.port()));
    let url = |address| format!("http://{address}");
    let mut command = Command::new("etcd");
    command.arg("--data-dir").arg(&directory).args(["--name", "one", "--log-level", "error"]);
    for (flag, address) in [
        ("--listen-client-urls", client),
        ("--advertise-client-urls", client),
        ("--listen-peer-urls", peer),
        ("--initial-advertise-peer-urls", peer),
    ] {
        command.args([flag, &url(address)]);
    }
    command.args(["--initial-cluster", &format!("one={}", url(peer)), "--unsafe-no-fsync"]);
    match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => {
            let endpoint = Endpoint { host: "127.0.0.1".into(), port: client.port() };
            Some(Etcd { child, directory, endpoint })
        }
        Err(error) => {
            assert!(env::var_os("CI").is_none(), "etcd is missing: install the Debian package etcd-server");
            eprintln!("left out: etcd: {error}");
            None
        }
    }
}

fn run(test: impl AsyncFnOnce(&Endpoint, Client)) {
    let Some(etcd) = etcd() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let security = Security { tls: None, credentials: None };
        let deadline = time::Instant::now() + Duration::from_secs(60);
        let client = loop {
            if let Ok(client) = Client::open(&etcd.endpoint, &security).await
                && client.get(Bytes::from_static(b"x")).await.is_ok()
            {
                break client;
            }
            assert!(time::Instant::now() < deadline, "etcd answers");
            time::sleep(Duration::from_millis(5)).await;
        };
        test(&etcd.endpoint, client).await;
    });
}

fn put(key: &'static str, expected: Option<i64>, value: &'static str) -> Operation {
    Operation { key: key.into(), expected, value: Some(value.into()), lease: 0, check_only: false }
}

#[test]
fn transactions_compare_and_watches_tell() {
    run(async |_, client| {
        let first = client.commit(&[put("/a/1", Some(0), "one"), put("/a/2", None, "two")]).await.unwrap().unwrap();
        assert_eq!(client.commit(&[put("/a/1", Some(0), "again")]).await.unwrap(), None);
        let (found, head) = client.get("/a/1".into()).await.unwrap();
        let found = found.unwrap();
        assert_eq!((&found.value[..], found.mod_revision, head.revision), (&b"one"[..], first, first));
        let (page, at, more) = client.page("/a/".into(), "/a0".into(), 0).await.unwrap();
        assert_eq!((page.len(), at, more), (2, first, false));
        let mut watch = client.watch("/a/".into(), "/a0".into(), first).await.unwrap();
        let delete = Operation { key: "/a/2".into(), expected: Some(first), value: None, lease: 0, check_only: false };
        let second = client.commit(&[delete]).await.unwrap().unwrap();
        assert_eq!(client.commit(&[put("/a/1", Some(first), "never"), put("/b", Some(7), "")]).await.unwrap(), None);
        let (mut told, mut upto) = (Vec::new(), None);
        while upto != Some(second) {
            let (events, revision) = watch.next().await.unwrap();
            told.extend(events);
            upto = revision.or(upto);
        }
        let told: Vec<_> = told.iter().map(|event| (event.kind, event.kv.as_ref().unwrap().key.clone())).collect();
        assert_eq!(told, [(0, "/a/1".into()), (0, "/a/2".into()), (1, "/a/2".into())]);
    });
}

#[test]
fn keys_go_with_their_lease() {
    run(async |endpoint, client| {
        let lease = client.grant(60).await.unwrap();
        assert!(client.renew(lease).await.unwrap());
        let leased = Operation { lease, ..put("/node", None, "me") };
        client.commit(&[leased]).await.unwrap().unwrap();
        assert_eq!(client.get("/node".into()).await.unwrap().0.unwrap().lease, lease);
        client.revoke(lease).await.unwrap();
        assert_eq!(client.get("/node".into()).await.unwrap().0, None);
        assert!(!client.renew(lease).await.unwrap());
        let credentials = Some(Credentials { user: "me".into(), password: "secret".into() });
        let refused = Client::open(endpoint, &Security { tls: None, credentials }).await;
        assert!(
            matches!(refused, Err(EtcdError::NotPermitted(text)) if text.contains("leave --fleet-credentials out"))
        );
    });
}

#[test]
fn a_long_listing_has_pages_and_a_compacted_one_begins_again() {
    run(async |_, client| {
        let value = Bytes::from(vec![b'x'; 100_000]);
        for number in 0..150 {
            let key = format!("/k/{number:03}").into();
            let value = Some(value.clone());
            client
                .commit(&[Operation { key, expected: None, value, lease: 0, check_only: false }])
                .await
                .unwrap()
                .unwrap();
        }
        let (mut from, mut at, mut keys) = (Bytes::from_static(b"/k/"), 0, 0);
        loop {
            let (page, revision, more) = client.page(from, "/k0".into(), at).await.unwrap();
            (keys, at) = (keys + page.len(), revision);
            if !more {
                break;
            }
            from = [&page.last().unwrap().key[..], &[0]].concat().into();
        }
        assert_eq!(keys, 150);
        client.compact(at).await;
        assert!(matches!(client.page("/k/".into(), "/k0".into(), 2).await, Err(EtcdError::Compacted)));
        let mut watch = client.watch("/k/".into(), "/k0".into(), 2).await.unwrap();
        // The first answer may be that the watch begins.
        let end = loop {
            match watch.next().await {
                Ok((events, _)) => assert!(events.is_empty(), "they are compacted away"),
                Err(end) => break end,
            }
        };
        assert!(matches!(end, EtcdError::Compacted), "{end}");
    });
}

impl Client {
    /// Has etcd forget what was before this revision.
    async fn compact(&self, revision: i64) {
        // A CompactionRequest has its revision where a LeaseRequest has its id.
        let question = LeaseRequest { id: revision };
        let _: Done = self.ask("/etcdserverpb.KV/Compact", question, PATIENCE).await.unwrap();
    }
}
