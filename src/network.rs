//! Networks: addresses with a common prefix.
//!
//! People write an IPv4 address also as an IPv6 address: `::ffff:10.0.0.1`, or `::10.0.0.1` as on the wire. Each way to
//! write a network means the same one.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// All addresses with the same first bits, as in `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network {
    address: IpAddr,
    length: u8,
}

impl Network {
    /// The network with this first address; `None` if the prefix is too long, or if bits are set after the prefix.
    pub fn new(address: IpAddr, length: u8) -> Option<Network> {
        let network = Network::around(address, length);
        (network == Network { address, length }).then_some(network)
    }

    /// The network that has the address. A prefix that is too long means the address alone.
    pub fn around(address: IpAddr, length: u8) -> Network {
        let length = length.min(bits(address));
        let address = match address {
            IpAddr::V4(v4) => {
                let kept = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & kept).into()
            }
            IpAddr::V6(v6) => {
                let kept = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & kept).into()
            }
        };
        Network { address, length }
    }

    /// Reads a network as in `10.0.0.0/8`. IPv4 addresses that are written as IPv6 addresses are IPv4 addresses.
    pub fn parse(text: &str) -> Result<Network, NetworkError> {
        let malformed = || NetworkError::Malformed(text.into());
        let (address, length) = text.split_once('/').ok_or_else(malformed)?;
        let address: IpAddr = address.parse().map_err(|_| malformed())?;
        let length = length.parse().ok().filter(|length| *length <= bits(address)).ok_or_else(malformed)?;
        let network = Network::new(address, length).ok_or_else(|| NetworkError::BitsAfterPrefix {
            text: text.into(),
            network: Network::around(address, length),
        })?;
        match network.length.checked_sub(IPV4_PREFIX) {
            Some(length @ 0..=30) if network.address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) => {
                Err(NetworkError::TwoVersions {
                    text: text.into(),
                    network: Network::around(Ipv4Addr::UNSPECIFIED.into(), length),
                })
            }
            _ => Ok(network.canonical()),
        }
    }

    /// The network of the same addresses, of IPv4 if they are IPv4 addresses that are written as IPv6 addresses.
    fn canonical(self) -> Network {
        let IpAddr::V6(v6) = self.address else { return self };
        let Some(length) = self.length.checked_sub(IPV4_PREFIX) else { return self };
        match (v6.to_ipv4_mapped(), u32::try_from(v6.to_bits())) {
            (Some(v4), _) => Network { address: v4.into(), length },
            // `::` and `::1` are IPv6 addresses.
            (None, Ok(bits @ 2..)) => Network { address: Ipv4Addr::from_bits(bits).into(), length },
            _ => self,
        }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The length of the prefix, in bits.
    pub fn length(&self) -> u8 {
        self.length
    }
}

/// The addresses of this machine. Loopback addresses always belong to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses(BTreeSet<IpAddr>);

impl OwnAddresses {
    /// Whether the address is this machine's. An IPv4 address may be written as an IPv6 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_loopback() || self.0.contains(&address)
    }
}

impl FromIterator<IpAddr> for OwnAddresses {
    fn from_iter<T: IntoIterator<Item = IpAddr>>(addresses: T) -> OwnAddresses {
        OwnAddresses(addresses.into_iter().map(|address| address.to_canonical()).collect())
    }
}

/// Why a text is no network; each error has the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetworkError {
    /// The text is not an address, a slash and a prefix length.
    Malformed(Box<str>),
    /// The address has bits set after the prefix.
    BitsAfterPrefix {
        /// The text.
        text: Box<str>,
        /// The network with this prefix that has the address.
        network: Network,
    },
    /// The network has IPv4 addresses as they are on the wire, and also the IPv6 addresses `::` and `::1`.
    TwoVersions {
        /// The text.
        text: Box<str>,
        /// The network of the IPv4 addresses.
        network: Network,
    },
}

impl fmt::Display for NetworkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetworkError::Malformed(text) => {
                write!(f, "\"{text}\" is not a network such as 10.0.0.0/8 or 2001:db8::/32")
            }
            NetworkError::BitsAfterPrefix { text, network } => {
                write!(f, "\"{text}\" has bits set after its prefix: the network is {network}")
            }
            NetworkError::TwoVersions { text, network } => {
                write!(f, "\"{text}\" has IPv4 addresses and the IPv6 address ::1: write {network}, or ::1/128")
            }
        }
    }
}

impl std::error::Error for NetworkError {}

impl From<IpAddr> for Network {
    /// The address alone.
    fn from(address: IpAddr) -> Network {
        Network { address, length: bits(address) }.canonical()
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// The length of the prefix before an IPv4 address that is written as an IPv6 address.
const IPV4_PREFIX: u8 = 96;

/// The number of bits of an address of this version.
fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// The prefix lengths in use, longest first: a lookup by address tries each of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths([Vec<u8>; 2]);

impl Lengths {
    /// Adds the prefix length of a network.
    pub fn add(&mut self, network: Network) {
        let lengths = &mut self.0[usize::from(network.address.is_ipv6())];
        if let Err(at) = lengths.binary_search_by(|length| network.length.cmp(length)) {
            lengths.insert(at, network.length);
        }
    }

    /// The networks with these lengths that have the address, smallest first.
    pub fn around(&self, address: IpAddr) -> impl Iterator<Item = Network> {
        let lengths = &self.0[usize::from(address.is_ipv6())];
        lengths.iter().map(move |&length| Network::around(address, length))
    }
}

/// A value for each of some networks, found by an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Networks<T> {
    by_network: HashMap<Network, T>,
    lengths: Lengths,
}

impl<T: Default> Networks<T> {
    /// The value of a network; adds the network.
    pub fn entry(&mut self, network: Network) -> &mut T {
        self.lengths.add(network);
        self.by_network.entry(network).or_default()
    }
}

impl<T> Networks<T> {
    /// The values of the networks that have the address, smallest network first.
    pub fn around(&self, address: IpAddr) -> impl Iterator<Item = &T> {
        self.lengths.around(address).filter_map(|network| self.by_network.get(&network))
    }

    /// Whether some network has the address.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.around(address).next().is_some()
    }
}

impl<T> Default for Networks<T> {
    fn default() -> Networks<T> {
        Networks { by_network: HashMap::new(), lengths: Lengths::default() }
    }
}

impl FromIterator<Network> for Networks<()> {
    fn from_iter<I: IntoIterator<Item = Network>>(list: I) -> Networks<()> {
        let mut networks = Networks::default();
        list.into_iter().for_each(|network| *networks.entry(network) = ());
        networks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_prefix_is_a_network() {
        let new = |network: &str, length| Network::new(ip(network), length);
        assert!(new("10.0.0.0", 8).is_some() && new("10.0.0.1", 32).is_some() && new("0.0.0.0", 0).is_some());
        assert!(new("10.0.0.1", 8).is_none() && new("10.0.0.0", 33).is_none() && new("128.0.0.0", 0).is_none());
        assert!(new("::", 0).is_some() && new("::1", 128).is_some() && new("2001:db8::", 32).is_some());
        assert!(new("::1", 127).is_none() && new("::", 129).is_none());
        assert_eq!(Network::from(ip("10.0.0.1")).to_string(), "10.0.0.1/32");
        assert_eq!(Network::around(ip("2001:db8::1"), 200).to_string(), "2001:db8::1/128");
    }

    #[test]
    fn networks_read_as_people_write_them() {
        assert_eq!(Network::parse("10.0.0.0/8"), Ok(Network::new(ip("10.0.0.0"), 8).unwrap()));
        assert_eq!(Network::parse("::/0"), Ok(Network::new(ip("::"), 0).unwrap()));
        for text in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0/8", "::/129", "x/8", "/", ""] {
            assert_eq!(Network::parse(text), Err(NetworkError::Malformed(text.into())));
        }
        for (text, network) in [
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:0:0/96", "0.0.0.0/0"),
            ("::ffff:0.0.0.1/128", "0.0.0.1/32"),
            ("::2/128", "0.0.0.2/32"),
            ("::1/128", "::1/128"),
            ("::/127", "::/127"),
            ("::/128", "::/128"),
            ("::/95", "::/95"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(Network::parse(text).map(|network| network.to_string()).as_deref(), Ok(network), "{text}");
        }
        for (address, network) in
            [("::ffff:10.0.0.1", "10.0.0.1/32"), ("::10.0.0.1", "10.0.0.1/32"), ("::1", "::1/128")]
        {
            assert_eq!(Network::from(ip(address)).to_string(), network);
        }
        for (text, network) in [("::/96", "0.0.0.0/0"), ("::/104", "0.0.0.0/8"), ("::/126", "0.0.0.0/30")] {
            let error = Network::parse(text).unwrap_err().to_string();
            let expected = format!("has IPv4 addresses and the IPv6 address ::1: write {network}, or ::1/128");
            assert!(error.contains(&expected), "{error}");
        }
        let error = Network::parse("10.1.0.0/8").unwrap_err();
        assert_eq!(error.to_string(), "\"10.1.0.0/8\" has bits set after its prefix: the network is 10.0.0.0/8");
    }

    #[test]
    fn an_address_is_in_all_networks_around_it() {
        let mut networks = Networks::<u8>::default();
        for (number, text) in [(1, "0.0.0.0/0"), (2, "10.0.0.0/8"), (3, "10.0.0.1/32"), (4, "::/0")] {
            *networks.entry(Network::parse(text).unwrap()) = number;
        }
        let around = |address| networks.around(ip(address)).copied().collect::<Vec<_>>();
        assert_eq!(around("10.0.0.1"), [3, 2, 1]);
        assert_eq!(around("10.9.9.9"), [2, 1]);
        assert_eq!(around("192.0.2.1"), [1]);
        assert_eq!(around("::ffff:10.0.0.1"), [4], "another kind of address");
        let some: Networks<()> = [Network::parse("2001:db8::/32").unwrap()].into_iter().collect();
        assert!(some.contains(ip("2001:db8::1")) && !some.contains(ip("2001:db9::1")) && !some.contains(ip("1.2.3.4")));
    }
}
