//! Weights in a narrower range.

use super::Standing;

/// The weights of a group in 0..=`max` of the real LB: the heaviest gets `max`, a member that may get new work at least 1,
/// all others 0. `usual` is the weight, in the real LB's range, that each member has without a GWM; as many as members.
pub fn scale(standings: &[Standing], usual: &[u32], max: u32) -> Vec<u32> {
    debug_assert_eq!(standings.len(), usual.len());
    let weights: Vec<u32> = standings.iter().map(|standing| weight(*standing)).collect();
    let scaled = to_range(&weights, max);
    let each = standings.iter().zip(scaled).zip(usual);
    each.map(|((standing, scaled), usual)| if *standing == Standing::Usual { (*usual).min(max) } else { scaled })
        .collect()
}

/// The weight by the GWM; 0 without one.
pub(super) fn weight(standing: Standing) -> u32 {
    match standing {
        Standing::Serving(weight) => weight.into(),
        Standing::Usual | Standing::Idle | Standing::Quiesced | Standing::Down => 0,
    }
}

/// The share of a member where all members have the same share without a GWM; 0 for none.
pub(super) fn share(standing: Standing) -> u32 {
    if standing == Standing::Usual { 1 } else { weight(standing) }
}

/// The weights in 0..=`max`, in proportion: the heaviest gets `max`, 0 stays 0, all others get at least 1.
pub fn to_range(weights: &[u32], max: u32) -> Vec<u32> {
    let heaviest = weights.iter().copied().max().unwrap_or(0);
    if heaviest == 0 || max == 0 {
        return vec![0; weights.len()];
    }
    let sum: u64 = weights.iter().map(|weight| u64::from(*weight)).sum();
    let total = u128::from(max) * u128::from(sum) / u128::from(heaviest);
    let total = u64::try_from(total).unwrap_or(u64::MAX); // at most `max` × members
    let mut parts = largest_remainder(weights, total);
    for (part, weight) in parts.iter_mut().zip(weights) {
        *part = (*part).max(u32::from(*weight > 0));
    }
    parts
}

/// `total` in whole parts. A weight above 0 gets at least 1, which the largest parts pay for; if there are fewer parts than
/// such weights, each of them gets 1.
pub fn apportion(weights: &[u32], total: u64) -> Vec<u32> {
    let mut parts = largest_remainder(weights, total);
    for at in 0..parts.len() {
        if parts[at] > 0 || weights[at] == 0 {
            continue;
        }
        parts[at] = 1;
        let largest = parts.iter_mut().max().expect("there is a part");
        *largest -= u32::from(*largest > 1);
    }
    parts
}

/// `total` in whole parts, in proportion to the weights (Hamilton's method): each is within 1 of its exact part.
fn largest_remainder(weights: &[u32], total: u64) -> Vec<u32> {
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum();
    if sum == 0 {
        return vec![0; weights.len()];
    }
    let exact = |weight: u32| u128::from(weight) * u128::from(total);
    let mut parts: Vec<u32> =
        weights.iter().map(|weight| u32::try_from(exact(*weight) / sum).unwrap_or(u32::MAX)).collect();
    let given: u64 = parts.iter().map(|part| u64::from(*part)).sum();
    let mut by_remainder: Vec<usize> = (0..weights.len()).collect();
    by_remainder.sort_by_key(|at| std::cmp::Reverse(exact(weights[*at]) % sum)); // stable: the first of equals comes first
    let left = usize::try_from(total.saturating_sub(given)).unwrap_or(usize::MAX);
    by_remainder.into_iter().take(left).for_each(|at| parts[at] += 1);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literal_ranges() {
        assert_eq!(to_range(&[30, 10], 256), [256, 85]);
        assert_eq!(to_range(&[65535, 1, 0], 256), [256, 1, 0]);
        assert_eq!(to_range(&[7], 100), [100]);
        assert_eq!(to_range(&[0, 0], 100), [0, 0]);
        assert_eq!(to_range(&[], 100), [0; 0]);
        assert_eq!(to_range(&[40, 40, 40], 1), [1, 1, 1]);
        assert_eq!(apportion(&[75, 25], 100), [75, 25]);
        assert_eq!(apportion(&[1, 1, 1], 100), [34, 33, 33]);
        assert_eq!(apportion(&[1000, 1, 1], 4), [2, 1, 1]);
        assert_eq!(apportion(&[5, 5, 5], 2), [1, 1, 1]);
    }

    #[test]
    fn usual_members_keep_the_weight_of_the_real_lb() {
        let standings = [Standing::Usual, Standing::Usual, Standing::Quiesced, Standing::Down];
        assert_eq!(scale(&standings, &[10, 300, 7, 7], 256), [10, 256, 0, 0]);
        let standings = [Standing::Serving(20), Standing::Serving(10), Standing::Idle];
        assert_eq!(scale(&standings, &[1, 1, 1], 100), [100, 50, 0]);
    }

    #[test]
    fn parts_are_within_one_of_exact_and_no_one_who_serves_gets_none() {
        let mut random = fastrand::Rng::with_seed(20);
        for _ in 0..5000 {
            let weights: Vec<u32> =
                (0..random.usize(1..40)).map(|_| random.u32(0..=65535) >> random.u32(0..16)).collect();
            let max = random.u32(1..=1000);
            let parts = to_range(&weights, max);
            let sum: f64 = weights.iter().map(|weight| f64::from(*weight)).sum();
            let heaviest = weights.iter().copied().max().unwrap();
            for (weight, part) in weights.iter().zip(&parts) {
                assert_eq!(*weight > 0, *part > 0, "{weights:?} {max}");
                assert!(*part <= max);
            }
            let raised = weights
                .iter()
                .filter(|weight| **weight > 0 && u64::from(**weight) * u64::from(max) < u64::from(heaviest));
            if raised.count() == 0 && sum > 0.0 {
                let total: f64 = parts.iter().map(|part| f64::from(*part)).sum();
                for (weight, part) in weights.iter().zip(&parts) {
                    let exact = f64::from(*weight) / sum * total;
                    assert!((f64::from(*part) - exact).abs() <= 1.0 + 1e-6, "{weights:?} in 0..={max}: {parts:?}");
                }
            }
        }
    }
}
