//! Who may ask: TLS settings and the token, both replaced while requests come, and the connections.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use rustls::ServerConfig;

use super::connections::Connections;
use crate::config;

/// Who may ask.
#[derive(Default)]
pub struct Gate {
    pub(super) connections: Arc<Connections>,
    tls: Mutex<Option<Arc<ServerConfig>>>,
    token: Mutex<Option<Box<[u8]>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gate {
    /// With TLS settings for addresses that are not loopback, and a token that requests over TCP must show, if there are.
    pub fn new(admin: &config::Admin) -> Gate {
        let tls = admin.tls.as_ref().map(|tls| tls.config.clone());
        Gate { connections: Arc::default(), tls: Mutex::new(tls), token: Mutex::new(admin.token.clone()) }
    }

    /// The configuration for the next TLS session.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        lock(&self.tls).clone()
    }

    /// Replaces the TLS configuration, for new sessions.
    fn set_tls(&self, config: Arc<ServerConfig>) {
        *lock(&self.tls) = Some(config);
    }

    /// Replaces the token; says whether it is another one.
    fn set_token(&self, token: Option<Box<[u8]>>) -> bool {
        let before = std::mem::replace(&mut *lock(&self.token), token.clone());
        before != token
    }

    /// Whether this is the token; also if none is needed.
    pub(super) fn is_token(&self, shown: Option<&[u8]>) -> bool {
        match (&*lock(&self.token), shown) {
            (None, _) => true,
            (Some(token), Some(shown)) => aws_lc_rs::constant_time::verify_slices_are_equal(token, shown).is_ok(),
            (Some(_), None) => false,
        }
    }

    /// Reads the TLS files and the token again. What can not serve changes nothing.
    pub fn reload(&self, by: &str, admin: &mut config::Admin) {
        match admin.tls.as_ref().map(|tls| tls.read_again(SystemTime::now())) {
            Some(Ok(Some(new))) => {
                tracing::info!("{by}: new TLS files of the admin side are in force: {}", new.files);
                self.set_tls(new.config.clone());
                admin.tls = Some(new);
            }
            Some(Err(error)) => {
                tracing::error!(
                    "{by}: the old TLS files of the admin side stay in force: {}",
                    config::of_admin(&error)
                );
            }
            Some(Ok(None)) => tracing::info!("{by}: the TLS files of the admin side are as they were"),
            None => {}
        }
        match admin.read_token() {
            Ok(None) => {}
            Ok(token) => match self.set_token(token) {
                true => tracing::info!("{by}: a new token of the admin side is in force"),
                false => tracing::info!("{by}: the token of the admin side is as it was"),
            },
            Err(error) => tracing::error!("{by}: the old token of the admin side stays in force: {error}"),
        }
    }

    /// How many connections there are.
    pub fn connections(&self) -> usize {
        self.connections.len()
    }
}
