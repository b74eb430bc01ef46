//! A certificate authority for tests. Each run makes new ECDSA P-256 keys; none is kept.
#![allow(dead_code, reason = "each test crate uses its own part")]

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

/// A root authority, or one below another authority.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: String,
    /// The certificates from this authority up to the root, without the root.
    between: String,
}

impl Authority {
    /// A new root authority.
    pub(crate) fn new(name: &str) -> Authority {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let root = params.self_signed(&key).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), root, between: String::new() }
    }

    /// An authority below this one. Its certificates come with the chain up to the root.
    pub(crate) fn intermediate(&self, name: &str) -> Authority {
        let (params, key) = (authority(name), KeyPair::generate().unwrap());
        let own = params.signed_by(&key, &self.issuer).unwrap().pem();
        Authority { issuer: Issuer::new(params, key), root: self.root.clone(), between: own + &self.between }
    }

    /// The root's certificate (PEM), for peers that trust this authority.
    pub(crate) fn pem(&self) -> &str {
        &self.root
    }

    /// The root's certificate.
    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.root.as_bytes()).unwrap()
    }

    /// A server certificate for localhost, 127.0.0.1 and ::1.
    pub(crate) fn server(&self) -> Identity {
        self.issue(
            &Subject::server().dns("localhost").address(Ipv4Addr::LOCALHOST.into()).address(Ipv6Addr::LOCALHOST.into()),
        )
    }

    /// A client certificate with this dNSName as its only name.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.issue(&Subject::client().dns(name))
    }

    /// An authority without the right to be one: this authority issued its certificate for another use.
    pub(crate) fn impostor(&self, subject: &Subject) -> Authority {
        let key = KeyPair::generate().unwrap();
        let own = subject.params.signed_by(&key, &self.issuer).unwrap().pem();
        let issuer = Issuer::new(subject.params.clone(), key);
        Authority { issuer, root: self.root.clone(), between: own + &self.between }
    }

    /// A certificate for this subject, with a new key.
    pub(crate) fn issue(&self, subject: &Subject) -> Identity {
        let key = KeyPair::generate().unwrap();
        let chain = subject.params.signed_by(&key, &self.issuer).unwrap().pem() + &self.between;
        Identity { chain, key: key.serialize_pem() }
    }
}

/// Parameters of an authority's certificate.
fn authority(name: &str) -> CertificateParams {
    let mut params = params();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

/// Parameters without a name, valid from 1975 to 4096.
fn params() -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.distinguished_name = DistinguishedName::new();
    params
}

/// What a certificate says about its holder.
#[derive(Clone)]
pub(crate) struct Subject {
    params: CertificateParams,
}

impl Subject {
    fn with(purpose: ExtendedKeyUsagePurpose) -> Subject {
        let mut params = params();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        Subject { params }
    }

    /// A subject with the right to be a client.
    pub(crate) fn client() -> Subject {
        Subject::with(ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A subject with the right to be a server.
    pub(crate) fn server() -> Subject {
        Subject::with(ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// Adds a SAN dNSName.
    pub(crate) fn dns(mut self, name: &str) -> Subject {
        self.params.subject_alt_names.push(SanType::DnsName(name.try_into().unwrap()));
        self
    }

    /// Adds a SAN uniformResourceIdentifier.
    pub(crate) fn uri(mut self, uri: &str) -> Subject {
        self.params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        self
    }

    /// Adds a SAN iPAddress.
    pub(crate) fn address(mut self, address: IpAddr) -> Subject {
        self.params.subject_alt_names.push(SanType::IpAddress(address));
        self
    }

    /// Adds a CN; call this once at most.
    pub(crate) fn common_name(mut self, name: &str) -> Subject {
        self.params.distinguished_name.push(DnType::CommonName, name);
        self
    }

    /// Valid in the year 2000 only.
    pub(crate) fn expired(mut self) -> Subject {
        self.params.not_before = date_time_ymd(2000, 1, 1);
        self.params.not_after = date_time_ymd(2001, 1, 1);
        self
    }

    /// Valid up to this second of Unix time.
    pub(crate) fn until(mut self, second: u64) -> Subject {
        self.params.not_after = date_time_ymd(1970, 1, 1) + Duration::from_secs(second);
        self
    }

    /// Valid from the year 3000 on.
    pub(crate) fn not_yet(mut self) -> Subject {
        self.params.not_before = date_time_ymd(3000, 1, 1);
        self
    }
}

impl Subject {
    /// A certificate for this subject that its own key signs. `authority`: it may sign others, too, as those that
    /// `openssl req -x509` makes.
    pub(crate) fn self_signed(&self, authority: bool) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = self.params.clone();
        params.is_ca = if authority { IsCa::Ca(BasicConstraints::Unconstrained) } else { IsCa::ExplicitNoCa };
        Identity { chain: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A certificate chain and its private key, both PEM.
pub(crate) struct Identity {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Identity {
    /// Chain and key in rustls' types.
    pub(crate) fn der(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_slice_iter(self.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
        (chain, PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap())
    }
}

/// A folder for PEM files, removed with this value.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pem-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Folder(Path::new(env!("CARGO_TARGET_TMPDIR")).join(name));
        fs::create_dir_all(&folder.0).unwrap();
        folder
    }

    /// A file's path, for a flag.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).into_os_string().into_string().unwrap()
    }

    /// Writes a file, whole or not at all, and returns its path. A file of the same name is replaced.
    pub(crate) fn write(&self, name: &str, content: &str) -> String {
        let (path, new) = (self.path(name), self.path(&format!("{name}.new")));
        fs::write(&new, content).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    /// Writes `NAME.pem` (the chain) and `NAME.key`, and returns both paths.
    pub(crate) fn identity(&self, name: &str, identity: &Identity) -> (String, String) {
        let chain = self.write(&format!("{name}.pem"), &identity.chain);
        (chain, self.write(&format!("{name}.key"), &identity.key))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
