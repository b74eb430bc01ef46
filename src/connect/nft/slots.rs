//! Shares as slots: a rule has a list of slots, and each new connection goes to the member of one of them.

use std::collections::HashMap;

use crate::connect::scale::apportion;

/// How many slots each member gets, of at most `most` (more if there are more members that serve): the least numbers with
/// the same proportions, if they fit.
pub(super) fn quotas(weights: &[u32], most: u32) -> Vec<u32> {
    let divided = |weights: &[u32]| {
        let divisor = weights.iter().copied().fold(0, gcd).max(1);
        weights.iter().map(|weight| weight / divisor).collect::<Vec<u32>>()
    };
    let least = divided(weights);
    let sum: u64 = least.iter().map(|weight| u64::from(*weight)).sum();
    if sum <= most.into() { least } else { divided(&apportion(weights, most.into())) }
}

/// As [`quotas`], with exactly `slots` slots in all if they are enough.
pub(super) fn fixed_quotas(weights: &[u32], slots: u32) -> Vec<u32> {
    apportion(weights, slots.into())
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// The members in turn, each as often as its quota and as evenly as can be (smooth weighted round robin).
pub(super) fn in_turn(quotas: &[u32]) -> Vec<usize> {
    let sum: i64 = quotas.iter().map(|quota| i64::from(*quota)).sum();
    let mut credit = vec![0_i64; quotas.len()];
    let mut slots = Vec::new();
    for _ in 0..sum {
        credit.iter_mut().zip(quotas).for_each(|(credit, quota)| *credit += i64::from(*quota));
        let next = (0..credit.len()).max_by_key(|at| (credit[*at], std::cmp::Reverse(*at)));
        let next = next.expect("a quota is above 0");
        credit[next] -= sum;
        slots.push(next);
    }
    slots
}

/// A list with these quotas that differs from `present` in as few slots as can be; so few clients change their server.
pub(super) fn near<M: Clone + Eq + std::hash::Hash>(present: &[M], members: &[M], quotas: &[u32]) -> Vec<M> {
    let in_order = || in_turn(quotas).into_iter().map(|at| members[at].clone());
    let total: u32 = quotas.iter().sum();
    if u32::try_from(present.len()) != Ok(total) {
        return in_order().collect();
    }
    let mut left: HashMap<&M, u32> = members.iter().zip(quotas.iter().copied()).collect();
    let mut take = |member: &M| match left.get_mut(member) {
        Some(left @ 1..) => {
            *left -= 1;
            true
        }
        _ => false,
    };
    let kept: Vec<Option<M>> = present.iter().map(|member| take(member).then(|| member.clone())).collect();
    let free: Vec<M> = in_order().filter(|member| take(member)).collect();
    let mut free = free.into_iter();
    kept.into_iter().map(|kept| kept.unwrap_or_else(|| free.next().expect("as many as are free"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_keep_proportions() {
        assert_eq!(quotas(&[75, 25], 100), [3, 1]);
        assert_eq!(quotas(&[40, 40, 40], 100), [1, 1, 1]);
        assert_eq!(quotas(&[65535, 65534], 100), [1, 1]);
        assert_eq!(quotas(&[65535, 1, 0], 100), [99, 1, 0]);
        assert_eq!(quotas(&[0, 0], 100), [0, 0]);
        assert_eq!(quotas(&[7; 300], 100), [1; 300]);
        assert_eq!(fixed_quotas(&[75, 25], 8), [6, 2]);
    }

    #[test]
    fn turns_are_even() {
        assert_eq!(in_turn(&[3, 1]), [0, 0, 1, 0]);
        assert_eq!(in_turn(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(in_turn(&[0, 2]), [1, 1]);
        assert_eq!(in_turn(&[0]), [0; 0]);
    }

    #[test]
    fn few_slots_move() {
        let mut random = fastrand::Rng::with_seed(5);
        let members: Vec<u32> = (0..8).collect();
        let mut present: Vec<u32> = Vec::new();
        let mut before = vec![0; 8];
        for _ in 0..500 {
            let mut weights: Vec<u32> = members.iter().map(|_| random.u32(0..50)).collect();
            weights[random.usize(..8)] += 1;
            let quotas = fixed_quotas(&weights, 100);
            let slots = near(&present, &members, &quotas);
            for (member, quota) in members.iter().zip(&quotas) {
                assert_eq!(slots.iter().filter(|slot| *slot == member).count(), *quota as usize);
            }
            if !present.is_empty() {
                let moved = slots.iter().zip(&present).filter(|(new, old)| new != old).count();
                let grown: u32 =
                    quotas.iter().zip(&before).map(|(new, old): (&u32, &u32)| new.saturating_sub(*old)).sum();
                assert_eq!(moved, grown as usize, "only what grows takes slots");
            }
            assert_eq!(near(&slots, &members, &quotas), slots, "the same weights change nothing");
            (present, before) = (slots, quotas);
        }
    }
}
