//! What `nft` lists.

use crate::connect::nft::{
    Service,
    rules::{of_service, read, slots},
};

/// Any listing is read or refused, and each rule of it has slots or none.
pub fn nft_listing(listing: &[u8]) {
    let text = String::from_utf8_lossy(listing);
    let service = Service::parse("10.0.0.1:80=web").expect("it is a service");
    if let Ok(present) = read(&text, "gwm") {
        of_service(&present.rules, &service);
        assert!(present.counts.len() <= text.matches("concat").count());
        for rule in &present.rules {
            assert!(slots(rule).len() <= text.matches("concat").count());
        }
    }
}
