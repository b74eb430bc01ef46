//! Values with units, as people write them.

use std::{ops::RangeInclusive, time::Duration};

/// A parser of durations such as `5ms`, `2s`, `1m` within a range.
pub(crate) fn duration(
    range: RangeInclusive<Duration>,
) -> impl Fn(&str) -> Result<Duration, String> + Clone + Send + Sync {
    move |text| {
        let value = humantime::parse_duration(text).map_err(|error| {
            let reason = match text.parse::<f64>() {
                Ok(_) => format!("`{text}` has no unit"),
                Err(_) => error.to_string(),
            };
            format!("{reason}; a duration reads like 5ms, 2s, 1m or 1h30m")
        })?;
        if range.contains(&value) {
            return Ok(value);
        }
        let shown = humantime::format_duration;
        Err(format!("it must be between {} and {}", shown(*range.start()), shown(*range.end())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units_and_ends() {
        let parse = duration(Duration::from_secs(1)..=Duration::from_secs(3600));
        assert_eq!(parse("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(parse("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("2000").unwrap_err(), "`2000` has no unit; a duration reads like 5ms, 2s, 1m or 1h30m");
        for bad in ["", "5", "999ms", "3601s", "fast", "-1s"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
