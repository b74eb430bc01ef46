//! The hot paths of the codec allocate nothing: encoding a push into a reused buffer, decoding and walking a
//! registration. Counted for each thread, because tests run side by side.

#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use gwm::sasp::{
    Endpoint, EntryFlags, GroupData, MemberData, Message, SenderFlags, WeightEntry, WeightedMember, Writer,
};

/// The system's allocator, counting the calls of each thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|counter| counter.set(counter.get() + 1));
}

// SAFETY: every call is passed on to `System` unchanged; counting touches only a constant-initialised thread local
// without a destructor, which neither allocates nor can be gone.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller keeps the contract, which is `System`'s own.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// How often `work` allocates.
fn allocations(work: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.get();
    work();
    ALLOCATIONS.get() - before
}

fn member(number: u8) -> MemberData<'static> {
    MemberData { endpoint: Endpoint::new([10, 0, 0, number].into(), 6, 80), label: b"label" }
}

const GROUP: GroupData<'_> = GroupData { lb_uid: b"LB1", name: b"FARM1" };

fn send_weights(out: &mut Vec<u8>) {
    let mut writer = Writer::send_weights(out);
    writer.group(GROUP);
    for number in 0..100 {
        let entry = WeightEntry { state: 0, flags: EntryFlags::CONTACT, weight: number.into() };
        writer.entry(&WeightedMember { member: member(number), entry });
    }
    writer.finish().unwrap();
}

#[test]
fn a_push_into_a_reused_buffer_allocates_nothing() {
    let mut buffer = Vec::new();
    assert!(allocations(|| send_weights(&mut buffer)) > 0, "the counter counts");
    let first = buffer.clone();
    buffer.clear();
    assert_eq!(allocations(|| send_weights(&mut buffer)), 0);
    assert_eq!(buffer, first);
}

#[test]
fn decoding_and_walking_a_registration_allocates_nothing() {
    let mut bytes = Vec::new();
    let mut writer = Writer::registration_request(&mut bytes, 1, SenderFlags::LOAD_BALANCER);
    writer.group(GROUP);
    (0..100).for_each(|number| writer.entry(&member(number)));
    writer.finish().unwrap();
    let mut ports = 0;
    let count = allocations(|| {
        let (_, message) = Message::decode(&bytes).unwrap();
        let Message::RegistrationRequest(request) = message else { panic!("{message:?}") };
        for group in request.groups {
            ports += group.entries().map(|member| u32::from(member.endpoint.port)).sum::<u32>();
        }
    });
    assert_eq!((ports, count), (8000, 0));
}
