//! How fast the machine's CPUs are, for a hint of what a service can do beside others.

/// The weight of one core of one GHz in the hint.
const WEIGHT: f64 = 10.0;

/// The frequency in a file of `cpufreq` (kHz), in GHz.
pub fn of_cpufreq(text: &str) -> Option<f64> {
    text.trim().parse::<u64>().ok().map(|khz| khz as f64 / 1e6).filter(is_plausible)
}

/// The frequency of the first CPU in `/proc/cpuinfo`, in GHz.
pub fn of_cpuinfo(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    line.split_once(':')?.1.trim().parse::<f64>().ok().map(|mhz| mhz / 1e3).filter(is_plausible)
}

fn is_plausible(ghz: &f64) -> bool {
    (0.01..1000.0).contains(ghz)
}

/// The weight that a service's cores are worth: ten for each GHz of each core, at least 1.
pub fn hint(cores: f64, ghz: f64) -> u16 {
    ((cores * ghz * WEIGHT).round() as u16).max(1) // `as` saturates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequencies() {
        assert_eq!(of_cpufreq("2600000\n"), Some(2.6));
        assert_eq!(of_cpuinfo("processor\t: 0\ncpu MHz\t\t: 2596.136\ncpu MHz\t\t: 1.0\n"), Some(2.596_136));
        for wrong in ["", "0", "x", "-5", "99999999999999"] {
            assert_eq!(of_cpufreq(wrong), None, "{wrong}");
            assert_eq!(of_cpuinfo(&format!("cpu MHz : {wrong}")), None, "{wrong}");
        }
        assert_eq!(of_cpuinfo("cpu MHz : inf"), None);
    }

    #[test]
    fn ten_for_each_gigahertz_of_each_core() {
        assert_eq!(hint(4.0, 2.5), 100);
        assert_eq!(hint(0.5, 2.6), 13);
        assert_eq!(hint(0.001, 1.0), 1);
        assert_eq!(hint(1e9, 5.0), u16::MAX);
    }
}
