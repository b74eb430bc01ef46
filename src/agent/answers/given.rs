//! What is told of a service, as flags and the TOML file say.

use std::{collections::HashSet, net::SocketAddr};

use super::Weight;
use crate::agent::load::{given, sampler};

/// The range of the nominal cores.
pub const NOMINAL_CORES: std::ops::RangeInclusive<f64> = 0.01..=65_536.0;

/// What is given; `None` and empty lists are not.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Given {
    /// Where the figures come from.
    pub load: given::Given,
    /// Where agent-checks about the service are answered.
    pub agent_listen: Vec<SocketAddr>,
    /// What the weight says.
    pub agent_weight: Option<Weight>,
    /// The cores that are 100 %.
    pub nominal_cores: Option<f64>,
}

/// What is told of a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// Where the figures come from.
    pub load: sampler::Settings,
    /// Where agent-checks about the service are answered.
    pub agent_listen: Vec<SocketAddr>,
    /// What the weight says.
    pub weight: Weight,
}

/// Where someone may ask.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| format!("`{text}` is no address and port such as 10.0.0.1:9777 or [::]:9777"))
}

/// The cores of a machine.
pub fn nominal_cores(cores: f64) -> Result<f64, String> {
    let (least, most) = (NOMINAL_CORES.start(), NOMINAL_CORES.end());
    NOMINAL_CORES.contains(&cores).then_some(cores).ok_or_else(|| format!("{cores} is not between {least} and {most}"))
}

impl Given {
    /// What this leaves out is taken from `flags`.
    pub fn or(self, flags: &Given) -> Given {
        let agent_listen = if self.agent_listen.is_empty() { flags.agent_listen.clone() } else { self.agent_listen };
        Given {
            load: self.load.or(&flags.load),
            agent_listen,
            agent_weight: self.agent_weight.or(flags.agent_weight),
            nominal_cores: self.nominal_cores.or(flags.nominal_cores),
        }
    }

    /// The settings, if nothing contradicts.
    pub fn settings(self) -> Result<Settings, String> {
        let weight = match (self.agent_weight.unwrap_or_default(), self.nominal_cores) {
            (weight, None) => weight,
            (Weight::Capacity(_), cores) => Weight::Capacity(cores),
            _ => return Err("nominal cores are for the agent weight `capacity`".into()),
        };
        Ok(Settings { load: self.load.settings()?, agent_listen: self.agent_listen, weight })
    }
}

/// An address that several services have, or one service twice. With port 0, each gets a port of its own.
pub fn twice<'a>(services: impl IntoIterator<Item = &'a Settings>) -> Option<SocketAddr> {
    let mut known = HashSet::new();
    let all = services.into_iter().flat_map(|settings| &settings.agent_listen).filter(|address| address.port() != 0);
    all.copied().find(|address| !known.insert(*address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_takes_from_the_flags_what_it_leaves_out() {
        let flags = Given {
            agent_listen: vec![address("127.0.0.1:9777").unwrap()],
            nominal_cores: Some(8.0),
            ..Given::default()
        };
        let own = Given { agent_listen: vec![address("[::1]:1").unwrap()], ..Given::default() }.or(&flags).settings();
        let own = own.unwrap();
        assert_eq!((own.weight, own.agent_listen[0].port()), (Weight::Capacity(Some(8.0)), 1));
        let flags = flags.settings().unwrap();
        assert_eq!(twice([&flags, &own]), None);
        assert_eq!(twice([&flags, &own, &flags]), Some(flags.agent_listen[0]));
        let wrong = Given { agent_weight: Some(Weight::Idle), nominal_cores: Some(8.0), ..Given::default() };
        assert!(wrong.settings().unwrap_err().contains("nominal cores"));
        assert_eq!(Given::default().settings().unwrap(), Settings::default());
        assert!(address("web:80").is_err() && nominal_cores(0.0).is_err() && nominal_cores(f64::NAN).is_err());
    }
}
