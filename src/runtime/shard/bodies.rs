//! The bodies that connections of this shard have yet to write. Each counts once against the limit of unsent bytes,
//! however many connections hold it.

use std::{cell::RefCell, collections::HashMap};

use bytes::Bytes;
use foldhash::fast::RandomState;

use crate::runtime::limit::budget::Budget;

/// How many connections hold each body, by the address of its first byte: a body that is held keeps its address.
#[derive(Default)]
pub(super) struct Bodies(RefCell<HashMap<*const u8, u32, RandomState>>);

impl Bodies {
    /// One more connection holds the body; `false`, and nothing done, if the budget does not allow this.
    pub(super) fn hold(&self, body: &Bytes, budget: &Budget) -> bool {
        let mut bodies = self.0.borrow_mut();
        if let Some(holders) = bodies.get_mut(&body.as_ptr()) {
            *holders += 1;
            return true;
        }
        let fits = budget.take(body.len() as u64);
        if fits {
            bodies.insert(body.as_ptr(), 1);
        }
        fits
    }

    /// A connection holds the body no longer.
    pub(super) fn release(&self, body: &Bytes, budget: &Budget) {
        let mut bodies = self.0.borrow_mut();
        let Some(holders) = bodies.get_mut(&body.as_ptr()) else { return };
        *holders -= 1;
        if *holders == 0 {
            bodies.remove(&body.as_ptr());
            budget.give(body.len() as u64);
            if bodies.is_empty() {
                bodies.shrink_to_fit();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_counts_once() {
        let (bodies, budget) = (Bodies::default(), Budget::new(250));
        let (one, other, third) = (Bytes::from(vec![1; 100]), Bytes::from(vec![1; 100]), Bytes::from(vec![1; 100]));
        for body in [&one, &one, &other, &one] {
            assert!(bodies.hold(body, &budget));
        }
        assert!(!bodies.hold(&third, &budget), "the limit");
        bodies.release(&one, &budget);
        bodies.release(&one, &budget);
        assert!(!bodies.hold(&third, &budget), "one connection holds the first");
        bodies.release(&one, &budget);
        assert!(bodies.hold(&third, &budget));
        bodies.release(&third, &budget);
        bodies.release(&other, &budget);
        assert!(budget.take(250), "all is given back");
    }
}
